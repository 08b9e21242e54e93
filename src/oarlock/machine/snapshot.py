"""A state machine's state as bytes and back: its two methods `snapshot` and `restore`, and the sessions.

The state is encoded at once, when it is captured, although a thread would wait for the result anyway: the
encoder does not let go of the interpreter, so a thread would hold up the loop just as long (figures are in
``docs/guide/embed.md``), and the user would have to make a copy first, or forget it and have members that
differ.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from oarlock.errors import StorageError, UsageError
from oarlock.machine.declare import StateMachine, kind_of
from oarlock.machine.ports import CaptureFailed
from oarlock.machine.sessions import SessionRecord, Sessions

FORMAT = 1
"""Of `Stored`. Another one is refused."""
PIECE_BYTES = 1 << 20


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """What a snapshot of a `StateMachine` holds."""

    format: int
    now: int
    """The cluster's clock, as the sessions know it."""
    sessions: list[SessionRecord]
    state: msgspec.Raw


class Restored(msgspec.Struct, frozen=True):
    """A decoded snapshot that waits to be installed."""

    sessions: Sessions
    state: Any


class StateCapture:
    """A state that is bytes already."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded: bytes | None = encoded

    def chunks(self) -> Iterator[bytes]:
        whole = self._encoded
        if whole is None:
            raise CaptureFailed("the copy of the state was released before it was read")
        for start in range(0, len(whole), PIECE_BYTES):
            yield whole[start : start + PIECE_BYTES]

    def close(self) -> None:
        self._encoded = None


class SnapshotMethods:
    """The methods `snapshot` and `restore` of one class.

    Raises:
        UsageError: they cannot work: their parameters, their annotations, or what they give for `machine`,
            which is in its initial state.
    """

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine
        self._name = type(machine).__qualname__
        snapshot, restore = _method(machine, "snapshot", 0), _method(machine, "restore", 1)
        self._snapshot: Callable[[], Any] = snapshot
        self._restore: Callable[[Any], None] = restore
        type_ = _type_of_state(snapshot, restore)
        try:
            self._decoder = msgspec.msgpack.Decoder(type_)
        except TypeError as error:
            raise UsageError(f"{self._name}.restore: its annotation cannot be stored: {error}") from None
        self._encoder = msgspec.msgpack.Encoder()
        self._stored = msgspec.msgpack.Decoder(Stored)
        try:
            self._decoder.decode(self._encoder.encode(snapshot()))
        except Exception as error:
            raise UsageError(
                f"{self._name}.snapshot: what it returns for the initial state cannot be stored for restore: "
                f"{type(error).__name__}: {error}"
            ) from error

    @staticmethod
    def of(machine: StateMachine) -> SnapshotMethods | None:
        """None if the machine's class has neither. Commands and queries of these names are not meant."""
        there = [name for name in ("snapshot", "restore") if _has(machine, name)]
        if len(there) == 1:
            raise UsageError(
                f"{type(machine).__qualname__} has {there[0]}, but not the other of snapshot and restore"
            )
        return SnapshotMethods(machine) if there else None

    def capture(self, sessions: Sessions) -> StateCapture:
        """Raises `CaptureFailed` if the user's method does, or returns what cannot be stored."""
        try:
            stored = (FORMAT, sessions.now, sessions.records(), self._snapshot())
            return StateCapture(self._encoder.encode(stored))
        except Exception as error:
            raise CaptureFailed(f"{self._name}.snapshot failed: {type(error).__name__}: {error}") from error

    def decode(self, chunks: Iterable[bytes]) -> Restored:
        """Raises `StorageError` if the bytes make no sense."""
        try:
            stored = self._stored.decode(b"".join(chunks))
            if stored.format != FORMAT:
                raise StorageError(
                    f"a snapshot of format {stored.format}; this version knows format {FORMAT}"
                )
            state = self._decoder.decode(stored.state)
        except (msgspec.DecodeError, ValueError) as error:  # the latter: a text that is none
            raise StorageError(f"a snapshot does not fit {self._name}.restore: {error}") from error
        return Restored(Sessions.from_records(stored.now, stored.sessions), state)

    def restore(self, state: Any) -> None:
        """Raises `StorageError` if the user's method does: what the state is now, nobody knows."""
        try:
            self._restore(state)
        except Exception as error:
            raise StorageError(f"{self._name}.restore failed: {type(error).__name__}: {error}") from error


def _has(machine: StateMachine, name: str) -> bool:
    found = getattr(type(machine), name, None)
    return found is not None and kind_of(found) is None


def _method(machine: StateMachine, name: str, parameters: int) -> Callable[..., Any]:
    """A bound method that takes as many arguments."""
    label = f"{type(machine).__qualname__}.{name}"
    method = getattr(machine, name)
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        raise UsageError(f"{label} cannot be async: the state has to stand still")
    try:
        inspect.signature(method).bind(*[None] * parameters)
    except (TypeError, ValueError):
        wanted = "no argument" if parameters == 0 else "one argument, the state,"
        raise UsageError(f"{label} takes {wanted} beside self") from None
    return typing.cast("Callable[..., Any]", method)


def _type_of_state(snapshot: Callable[..., Any], restore: Callable[..., Any]) -> Any:
    """What `restore` says that it takes; else what `snapshot` says that it returns."""
    try:
        given = typing.get_type_hints(snapshot, include_extras=True)
        taken = typing.get_type_hints(restore, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"{restore.__qualname__}: {error}: annotations are read when the program runs, "
            "so what they name has to be imported in its module"
        ) from None
    parameter = next(iter(inspect.signature(restore).parameters))
    return taken.get(parameter, given.get("return", Any))
