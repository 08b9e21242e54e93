"""Running stored commands: failures are results, equal on every member, and never stop one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.errors import CommandFailed, UsageError
from oarlock.machine import Command, MachineAdapter, StateMachine, command, encode_call


class Account(StateMachine):
    def __init__(self) -> None:
        self.balance = 0

    @command
    def pay_in(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @command
    def draw(self, amount: int) -> int:
        if amount > self.balance:
            raise ValueError(f"only {self.balance} left")
        self.balance -= amount
        return self.balance

    @command
    def half_done(self) -> None:
        self.balance += 1000
        raise RuntimeError("too late")

    @command
    def exhaust(self) -> None:
        raise MemoryError

    @command
    def dig(self) -> None:
        self.dig()

    @command
    def quit(self) -> None:
        raise SystemExit(3)

    @command
    def give_exception(self) -> Any:
        return ValueError("as a value")

    @command
    def give_object(self) -> object:
        self.balance += 1
        return object()


def call(function: Any, *args: Any, request: Any = True) -> Command:
    return Command(1, 1, encode_call(function, args, {}), request)


def apply(machine: StateMachine, *commands: Command) -> list[Any]:
    return MachineAdapter(machine).apply(commands, len(commands))


def test_one_result_per_command_in_order_and_a_failure_stops_none() -> None:
    account = Account()
    results = apply(account, call(Account.pay_in, 5), call(Account.draw, 9), call(Account.draw, 2))
    assert results[0] == 5
    assert results[2] == 3
    assert isinstance(results[1], CommandFailed)
    assert str(results[1]) == "ValueError: only 5 left"
    assert isinstance(results[1].__cause__, ValueError)


def test_what_a_failing_command_changed_stays_changed() -> None:
    account = Account()
    [failure] = apply(account, call(Account.half_done))
    assert isinstance(failure, CommandFailed)
    assert account.balance == 1000


@pytest.mark.parametrize("function", [Account.exhaust, Account.dig, Account.quit])
def test_trouble_of_this_member_alone_is_not_a_result(function: Any) -> None:
    """Other members may have had the memory or the stack: going on would make the copies differ."""
    with pytest.raises((MemoryError, RecursionError, SystemExit)):
        apply(Account(), call(function))


def test_an_unknown_command_fails_and_names_itself() -> None:
    """A member with older code, or a renamed command."""
    [failure] = apply(Account(), Command(1, 1, msgspec.msgpack.encode(["renamed", []])))
    assert isinstance(failure, CommandFailed)
    assert "Account has no command 'renamed'" in str(failure)


@pytest.mark.parametrize("name", ["balance", "__init__", "__class__", "plain", ""])
def test_only_what_is_marked_can_be_called(name: str) -> None:
    [failure] = apply(Account(), Command(1, 1, msgspec.msgpack.encode([name, []])))
    assert isinstance(failure, CommandFailed)
    assert "has no command" in str(failure)


@given(st.binary(max_size=40) | st.builds(lambda tail: msgspec.msgpack.encode("pay_in") + tail, st.binary()))
def test_no_bytes_do_more_than_fail(data: bytes) -> None:
    account = Account()
    [failure] = apply(account, Command(1, 1, data))
    assert isinstance(failure, CommandFailed)
    assert account.balance == 0


@given(st.binary(max_size=20))
def test_arguments_are_checked_again_before_they_run(raw: bytes) -> None:
    """Whoever wrote the log may have had other annotations."""
    data = msgspec.msgpack.encode(["pay_in", [raw]])
    [failure] = apply(Account(), Command(1, 1, data))
    assert isinstance(failure, CommandFailed)
    assert "Expected `int`, got `bytes`" in str(failure)


@pytest.mark.parametrize("function", [Account.give_exception, Account.give_object])
def test_a_result_that_cannot_be_handed_out_is_an_error_for_its_caller_only(function: Any) -> None:
    [error] = apply(Account(), call(function))
    assert isinstance(error, UsageError)
    assert "ran, but its result cannot be handed out" in str(error)


def test_state_does_not_depend_on_who_waits_for_the_result() -> None:
    here, there = Account(), Account()
    apply(here, call(Account.give_object), call(Account.pay_in, 2))
    apply(there, call(Account.give_object, request=None), call(Account.pay_in, 2, request=None))
    assert here.balance == there.balance == 3


def test_it_knows_where_it_stands_and_keeps_nothing_over_a_restart() -> None:
    adapter = MachineAdapter(Account())
    adapter.apply([call(Account.pay_in, 1)], 7)
    assert adapter.applied_index == 7
    adapter.close()
    assert MachineAdapter(Account()).applied_index == 0
