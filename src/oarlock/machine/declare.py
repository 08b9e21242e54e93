"""Declaring a state machine: an ordinary class whose methods are marked as commands or queries.

A command may change the object and must be deterministic: same state, same arguments, same outcome; no clock,
no randomness, no iteration over sets. It runs once on every member, in the same order. A query must not
change anything; it runs on one member.

A command travels as MessagePack, as the list of its name and its arguments, and is checked against the
method's annotations (by msgspec) before it is submitted and again before it runs. The name and the
parameters of a command are therefore part of what is stored: renaming one orphans the log. New parameters
go at the end, with a default.

What a command or query returns reaches the caller as a copy, made by the return annotation: nobody gets
hold of the state itself, and changes it on one member only.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from oarlock.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

_KIND = "__oarlock_kind__"
_SPEC = "__oarlock_spec__"
_encoder = msgspec.msgpack.Encoder()


class StateMachine:
    """Base class of replicated state machines: mark methods with `command` and `query`.

    The state is whatever `__init__` and the commands make of it. It is kept in memory and rebuilt at a
    restart, so `__init__` must always produce the same initial state.

    Rebuilt from what? From the whole log, unless the class has two more methods, unmarked::

        def snapshot(self) -> dict[str, int]:      # everything that the commands have made
            return self.stock

        def restore(self, stock: dict[str, int]) -> None:
            self.stock = stock

    With them the state is stored from time to time, and the log before it dropped. The value is turned into
    bytes as soon as `snapshot` returns, so it need not be a copy; `restore` gets one of its own, checked
    against the annotation of its parameter.
    """


def command(function: Function) -> Function:
    """Mark a method as a command: it may change the state, and is replicated.

    If it raises, the submitter gets `CommandFailed`; whatever it changed before stays changed, on every
    member alike, so check first and change then.
    """
    return _mark(function, "command")


def query(function: Function) -> Function:
    """Mark a method as a query: it only looks, and is answered by one member."""
    return _mark(function, "query")


def _mark(function: Function, kind: str) -> Function:
    if not inspect.isfunction(function):
        raise UsageError(f"{function!r}: a {kind} is an ordinary method, and its mark is the innermost one")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{function.__qualname__}: a {kind} cannot be async: it must not depend on timing")
    if inspect.isgeneratorfunction(function):
        raise UsageError(f"{function.__qualname__}: a {kind} cannot yield: it has to be done when it returns")
    setattr(function, _KIND, kind)
    return function


def kind_of(function: object) -> str | None:
    """``"command"``, ``"query"``, or None for anything else."""
    return getattr(function, _KIND, None)


def commands_of(machine: type) -> dict[str, Callable[..., Any]]:
    """A class's commands by name, inherited ones included.

    Raises:
        UsageError: a method cannot be found by the name that it is stored under.
    """
    found = {}
    for name in dir(machine):
        marked = {kind_of(base.__dict__[name]) for base in machine.__mro__ if name in base.__dict__}
        if "command" not in marked:
            continue
        if marked != {"command"}:
            raise UsageError(
                f"{machine.__qualname__}.{name} is a command in one class and not in another: "
                "mark it with @oarlock.command in all"
            )
        function = inspect.getattr_static(machine, name)
        if function.__name__ != name:
            raise UsageError(f"{machine.__qualname__}.{name}: a command has one name: {function.__name__}")
        found[name] = function
    return found


_ATOMS = frozenset({int, str, bytes, float, bool, type(None)})
"""Nobody can change these: they need no copy."""


class Spec:
    """How one method's arguments are checked and turned into bytes and back, and its result is handed out."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self._qualname = function.__qualname__
        self.signature = inspect.signature(function)
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except NameError as error:
            raise UsageError(
                f"{function.__qualname__}: {error}: annotations are read when the program runs, "
                "so what they name has to be imported in its module"
            ) from None
        parameters = list(self.signature.parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                raise UsageError(
                    f"{function.__qualname__}: parameter {parameter.name} must be an ordinary one: "
                    "neither keyword-only nor * nor **"
                )
        fields = [(parameter.name, hints.get(parameter.name, Any)) for parameter in parameters]
        try:
            self._types = [msgspec.msgpack.Decoder(type_) for _, type_ in fields]
            self._result = msgspec.msgpack.Decoder(hints.get("return", Any))
        except TypeError as error:
            raise UsageError(
                f"{function.__qualname__}: a type in its annotations cannot be stored: {error}"
            ) from None
        self._required = sum(1 for parameter in parameters if parameter.default is parameter.empty)

    def check(self, raw: list[msgspec.Raw]) -> list[Any]:
        """The arguments in a stored command. Raises `UsageError` if they do not fit the method."""
        if not self._required <= len(raw) <= len(self._types):
            raise UsageError(
                f"{self.name} takes {self._required} to {len(self._types)} arguments, "
                f"but {len(raw)} were given"
            )
        try:
            return [decoder.decode(value) for decoder, value in zip(self._types, raw, strict=False)]
        except msgspec.DecodeError as error:
            raise UsageError(f"{self.name}: an argument does not fit: {error}") from None

    def hand_out(self, result: Any) -> Any:
        """The caller's own copy of a result. Raises `UsageError` if it does not fit the annotation."""
        if type(result) in _ATOMS:
            return result
        return self.decode_result(self.encode_result(result))

    def encode_result(self, result: Any) -> bytes:
        """A result as bytes. Raises `UsageError` if there are none for it."""
        try:
            return _encoder.encode(result)
        except _UNFIT as error:
            raise self._unfit(error) from None

    def decode_result(self, encoded: bytes) -> Any:
        """A result from its bytes. Raises `UsageError` if it does not fit the annotation."""
        try:
            return self._result.decode(encoded)
        except (*_UNFIT, msgspec.DecodeError) as error:
            raise self._unfit(error) from None

    def _unfit(self, error: Exception) -> UsageError:
        return UsageError(f"{self._qualname} ran, but its result cannot be handed out: {error}")


_UNFIT = (TypeError, ValueError, OverflowError, RecursionError, msgspec.EncodeError)
"""What encoding a value that MessagePack cannot hold raises."""


def spec_of(function: Callable[..., Any]) -> Spec:
    spec = function.__dict__.get(_SPEC)
    if spec is None:
        spec = Spec(function)
        setattr(function, _SPEC, spec)
    return typing.cast(Spec, spec)


class Call(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A command as it is stored: its name and its arguments in order; and its place in a client's session."""

    name: str
    arguments: list[msgspec.Raw] = []
    session: int = 0
    """0: the command is in no session, and executed as often as it is in the log."""
    serial: int = 0
    """From 1, within the session."""
    lowest: int = 0
    """The lowest serial to which the client had no answer when it sent this."""


def encode_call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    session: int = 0,
    serial: int = 0,
    lowest: int = 0,
) -> bytes:
    """A command as bytes for the log.

    Args:
        session, serial, lowest: as in `Call`; `oarlock.machine.sessions` says how to use them.

    Raises:
        UsageError: not a command, or the arguments do not fit its annotations.
    """
    name = getattr(function, "__qualname__", repr(function))
    if kind_of(function) != "command":
        raise UsageError(f"{name} is not a command: mark it with @oarlock.command")
    spec = spec_of(function)
    try:
        bound = spec.signature.bind(None, *args, **kwargs)
        if bound.kwargs:
            bound.apply_defaults()  # arguments are stored by position: fill the gaps before a named one
        raw = [msgspec.Raw(_encoder.encode(value)) for value in bound.args[1:]]
    except _UNFIT as error:
        raise UsageError(f"{name}: {error}") from None
    spec.check(raw)
    if session == 0:
        return _encoder.encode((spec.name, raw))
    return _encoder.encode(Call(spec.name, raw, session, serial, lowest))


def run_query(
    machine: StateMachine, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Ask the local state. What the query itself raises passes through.

    Raises:
        UsageError: not a query, or the arguments or the result do not fit its annotations.
    """
    name = getattr(function, "__qualname__", repr(function))
    if kind_of(function) != "query":
        raise UsageError(f"{name} is not a query: mark it with @oarlock.query")
    spec = spec_of(function)
    try:
        spec.signature.bind(machine, *args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from None
    return spec.hand_out(function(machine, *args, **kwargs))
