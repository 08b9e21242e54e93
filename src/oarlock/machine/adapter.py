"""Running a `StateMachine` behind the `Machine` port."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from oarlock.errors import CommandFailed, UsageError
from oarlock.machine.declare import Call, StateMachine, commands_of, spec_of
from oarlock.machine.ports import Command

_decoder = msgspec.msgpack.Decoder(Call)


class MachineAdapter:
    """Feeds stored commands to a state machine's methods.

    Keeps nothing on disk: at a restart everything is applied anew, so `applied_index` starts at 0. Commands
    are proposed with a `request` that is not None, so that their proposer gets a copy of the result.

    Raises:
        UsageError: a command's parameters cannot be stored; better now than in production.
    """

    def __init__(self, machine: StateMachine) -> None:
        self.machine = machine
        self._commands: dict[str, Callable[..., Any]] = commands_of(type(machine))
        for function in self._commands.values():
            spec_of(function)

    @property
    def applied_index(self) -> int:
        return 0

    def apply(self, commands: Sequence[Command], applied_index: int) -> list[Any]:
        return [self._apply_one(command) for command in commands]

    def close(self) -> None:
        pass

    def _apply_one(self, command: Command) -> Any:
        """The result, or the error as the result. A copy is made only where someone waits for it."""
        try:
            call = _decoder.decode(command.data)
            function = self._commands.get(call.name)
            if function is None:
                raise UsageError(f"{type(self.machine).__name__} has no command {call.name!r}")
            spec = spec_of(function)
            arguments = spec.check(call.arguments)
            result = function(self.machine, *arguments)
        except (MemoryError, RecursionError):
            raise  # this member's trouble, not the command's outcome: it must not go on
        except Exception as error:
            # Equal on every member, because it follows from the command and the state alone.
            failure = CommandFailed(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            return failure
        if command.request is None:
            return result
        try:
            return spec.hand_out(result)
        except UsageError as error:
            return error
