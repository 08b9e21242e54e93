"""Running a `StateMachine` behind the `Machine` port: commands, client sessions, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from oarlock.errors import CommandFailed, RequestError, UsageError, invariant
from oarlock.machine.declare import Call, Spec, StateMachine, commands_of, spec_of
from oarlock.machine.ports import Command
from oarlock.machine.sessions import CLOSE, FAILED, MANAGEMENT, OPEN, UNFIT, VALUE, Outcome, Sessions
from oarlock.machine.snapshot import Restored, SnapshotMethods, StateCapture

_decoder = msgspec.msgpack.Decoder(Call)
_timeout = msgspec.msgpack.Decoder(int)


class MachineAdapter:
    """Feeds stored commands to a state machine's methods.

    Keeps nothing on disk: at a restart everything is restored or applied anew, so `applied_index` starts at
    0. Commands are proposed with a `request` that is not None, so that their proposer gets a copy of the
    result.

    A command in a session (`oarlock.machine.sessions`) is executed at most once. Its outcome is stored on
    every member: the result as bytes, or the text of an error, so the cause of a `CommandFailed` is known
    only where it ran.

    Raises:
        UsageError: a command's parameters or the state cannot be stored; better now than in production.
    """

    def __init__(self, machine: StateMachine) -> None:
        self.machine = machine
        self._commands: dict[str, Callable[..., Any]] = commands_of(type(machine))
        for function in self._commands.values():
            spec_of(function)
        self._methods = SnapshotMethods.of(machine)
        self._sessions = Sessions()
        self._applied_index = 0

    @property
    def applied_index(self) -> int:
        return self._applied_index

    def apply(self, commands: Sequence[Command], applied_index: int) -> list[Any]:
        results = [self._apply_one(command) for command in commands]
        self._applied_index = applied_index
        return results

    def close(self) -> None:
        pass

    # ---- Snapshots

    @property
    def can_snapshot(self) -> bool:
        """Whether the machine's class has `snapshot` and `restore`."""
        return self._methods is not None

    def capture(self) -> StateCapture:
        """The state as it is now. Takes as long as encoding it. Raises `CaptureFailed`."""
        return self._need_methods().capture(self._sessions)

    def prepare(self, chunks: Iterable[bytes]) -> Restored:
        """Raises `StorageError` if it was not made by this class, or one that stores the same."""
        return self._need_methods().decode(chunks)

    def install(self, prepared: Restored, applied_index: int) -> None:
        """Raises `StorageError` if the machine's `restore` raises: this member cannot go on."""
        self._need_methods().restore(prepared.state)
        self._sessions = prepared.sessions
        self._applied_index = applied_index

    def _need_methods(self) -> SnapshotMethods:
        invariant(self._methods is not None, "a state machine that cannot be stored was asked for its state")
        return self._methods  # type: ignore[return-value]

    # ---- Commands

    def _apply_one(self, command: Command) -> Any:
        """The result, or the error as the result. A copy is made only where someone waits for it."""
        if command.time > self._sessions.now:
            self._sessions.advance(command.time)
        try:
            call = _decoder.decode(command.data)
        except (msgspec.DecodeError, ValueError) as error:  # the latter: a text that is none
            return _failure(error)
        try:
            if call.session or call.name in MANAGEMENT:
                return self._apply_in_session(call, command)
            spec, result = self._execute(call)
            return result if command.request is None else spec.hand_out(result)
        except (RequestError, UsageError) as error:
            return error

    def _execute(self, call: Call) -> tuple[Spec, Any]:
        """Call the method. Raises `CommandFailed`."""
        try:
            function = self._commands.get(call.name)
            if function is None:
                raise UsageError(f"{type(self.machine).__name__} has no command {call.name!r}")
            spec = spec_of(function)
            return spec, function(self.machine, *spec.check(call.arguments))
        except (MemoryError, RecursionError):
            raise  # this member's trouble, not the command's outcome: it must not go on
        except Exception as error:
            # Equal on every member, because it follows from the command and the state alone.
            raise _failure(error) from error

    # ---- Sessions

    def _manage(self, call: Call, index: int) -> int | None:
        """Raises `SessionExpired`, `Busy`, `UsageError`."""
        if call.name == OPEN:
            try:
                [timeout] = call.arguments
                return self._sessions.open(index, _timeout.decode(timeout))
            except (ValueError, msgspec.DecodeError) as error:
                raise UsageError(f"cannot open a session: {error}") from None
        if call.name == CLOSE:
            self._sessions.close(call.session)
        else:
            self._sessions.use(call.session)
        return None

    def _apply_in_session(self, call: Call, command: Command) -> Any:
        """The outcome of a command in a session, which is executed unless it was before.

        Raises: SessionExpired, Busy, CommandFailed, UsageError.
        """
        if call.name in MANAGEMENT:
            return self._manage(call, command.index)
        id_, serial = call.session, call.serial
        known = self._sessions.enter(id_, serial, call.lowest)
        if known is not None:
            return None if command.request is None else self._tell_again(call, known)
        try:
            spec, result = self._execute(call)
            encoded = spec.encode_result(result)
        except CommandFailed as failure:
            self._sessions.leave(id_, serial, Outcome.of_error(FAILED, failure))
            raise
        except UsageError as unfit:
            self._sessions.leave(id_, serial, Outcome.of_error(UNFIT, unfit))
            raise
        self._sessions.leave(id_, serial, Outcome(VALUE, encoded))
        return None if command.request is None else spec.decode_result(encoded)

    def _tell_again(self, call: Call, outcome: Outcome) -> Any:
        if error := outcome.error():
            raise error
        function = self._commands.get(call.name)
        if function is None:
            raise UsageError(f"{type(self.machine).__name__} has no command {call.name!r}")
        return spec_of(function).decode_result(outcome.data)


def _failure(error: Exception) -> CommandFailed:
    failure = CommandFailed(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
