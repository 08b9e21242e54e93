"""What may be declared, what may be submitted, and what becomes of it as bytes."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.errors import CommandFailed, UsageError
from oarlock.machine import Command, MachineAdapter, StateMachine, command, encode_call, query, run_query

if TYPE_CHECKING:
    from fractions import Fraction as OnlyForTheTypeChecker


class Item(msgspec.Struct):
    name: str
    count: int = 1


class Shop(StateMachine):
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.calls: list[tuple[Any, ...]] = []

    @command
    def order(self, name: str, count: int = 1, note: str = "none") -> int:
        self.calls.append((name, count, note))
        return count

    @command
    def stock(self, items: list[Item]) -> list[Item]:
        self.items.extend(items)
        return self.items

    @command
    def weigh(self, grams: float, when: datetime.datetime) -> str:
        return f"{type(grams).__name__} {when.year}"

    @command
    def anything(self, value) -> Any:  # type: ignore[no-untyped-def]
        return value

    @query
    def all_items(self) -> list[Item]:
        return self.items

    @query
    def named(self, name: str) -> Item | None:
        return next((item for item in self.items if item.name == name), None)

    def plain(self) -> None: ...


def run(machine: StateMachine, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Encode, then apply what was encoded, as the member that proposed it does."""
    data = encode_call(function, args, kwargs)
    [result] = MachineAdapter(machine).apply([Command(1, 1, data, request=True)], 1)
    return result


def test_arguments_arrive_as_the_annotated_types() -> None:
    shop = Shop()
    assert run(shop, Shop.stock, [Item("a", 2)]) == [Item("a", 2)]
    assert isinstance(shop.items[0], Item)
    assert run(shop, Shop.weigh, 3, datetime.datetime(2020, 1, 1)) == "float 2020"


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        (("a",), {}, ("a", 1, "none")),
        (("a", 2), {}, ("a", 2, "none")),
        (("a", 2, "n"), {}, ("a", 2, "n")),
        (("a",), {"note": "n"}, ("a", 1, "n")),
        ((), {"note": "n", "name": "a"}, ("a", 1, "n")),
        ((), {"count": 3, "name": "a"}, ("a", 3, "none")),
    ],
)
def test_named_arguments_reach_the_parameter_they_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """A gap of defaults before a named argument once lost the argument."""
    shop = Shop()
    run(shop, Shop.order, *args, **kwargs)
    assert shop.calls == [expected]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_whatever_can_be_encoded_arrives_equal(value: Any) -> None:
    assert run(Shop(), Shop.anything, value) == value


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((), "missing a required argument: 'name'"),
        (("a", 1, "n", 4), "too many positional arguments"),
        ((1,), "Expected `str`, got `int`"),
        (("a", True), "Expected `int`, got `bool`"),
        (("a", "1"), "Expected `int`, got `str`"),
        (("a", 1 << 64), "serialize ints"),
        (("\ud800",), "surrogates"),
        ((object(),), "unsupported"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_submitted(
    args: tuple[Any, ...], complaint: str
) -> None:
    with pytest.raises(UsageError, match=f"order.*{complaint}"):
        encode_call(Shop.order, args, {})


def test_an_endless_argument_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UsageError, match="recursion"):
        encode_call(Shop.anything, (endless,), {})


def test_only_commands_are_submitted_and_only_queries_asked() -> None:
    no_commands: list[Any] = [Shop.all_items, Shop.plain, print, None]
    for function in no_commands:
        with pytest.raises(UsageError, match="is not a command"):
            encode_call(function, (), {})
    no_queries: list[Any] = [Shop.order, Shop.plain, print, None]
    for function in no_queries:
        with pytest.raises(UsageError, match="is not a query"):
            run_query(Shop(), function, (), {})


def test_nobody_gets_hold_of_the_state_itself() -> None:
    shop = Shop()
    run(shop, Shop.stock, [Item("a")]).clear()
    run_query(shop, Shop.all_items, (), {}).clear()
    run_query(shop, Shop.named, ("a",), {}).count = 99
    assert shop.items == [Item("a", 1)]


def test_a_query_is_checked_for_the_number_of_its_arguments() -> None:
    with pytest.raises(UsageError, match=r"named.*missing"):
        run_query(Shop(), Shop.named, (), {})


def test_a_command_is_stored_as_its_name_and_arguments() -> None:
    """The stored form. If this test has to change, logs written before can no longer be read."""
    assert msgspec.msgpack.decode(encode_call(Shop.order, ("a",), {})) == ["order", ["a"]]
    assert msgspec.msgpack.decode(encode_call(Shop.order, ("a", 2), {})) == ["order", ["a", 2]]


class TestDeclaration:
    """What cannot work is refused when the class is made or first used, not when a command is applied."""

    @pytest.mark.parametrize("mark", [command, query])
    def test_what_depends_on_timing_is_refused(self, mark: Callable[[Any], Any]) -> None:
        async def coroutine(self: Any) -> None: ...

        async def async_generator(self: Any) -> Any:
            yield

        def generator(self: Any) -> Any:
            yield

        for function in (coroutine, async_generator, generator):
            with pytest.raises(UsageError, match=r"cannot be async|cannot yield"):
                mark(function)

    def test_a_mark_belongs_on_a_method(self) -> None:
        for thing in (property(lambda self: 1), staticmethod(len), len, 1):
            with pytest.raises(UsageError, match="an ordinary method"):
                command(thing)  # type: ignore[type-var]

    def test_variable_parameters_are_refused(self) -> None:
        class Machine(StateMachine):
            @command
            def many(self, *values: int) -> None: ...

        with pytest.raises(UsageError, match="parameter values must be an ordinary one"):
            MachineAdapter(Machine())

    def test_a_type_that_cannot_be_stored_is_refused(self) -> None:
        class Machine(StateMachine):
            @command
            def call(self, back: int | list[int] | tuple[int, ...]) -> None: ...

        with pytest.raises(UsageError, match=r"call: a type in its annotations cannot be stored"):
            MachineAdapter(Machine())

    def test_an_annotation_that_does_not_exist_at_run_time_is_refused(self) -> None:
        class Machine(StateMachine):
            @command
            def halve(self, whole: OnlyForTheTypeChecker) -> None: ...

        with pytest.raises(UsageError, match="halve: name 'OnlyForTheTypeChecker' is not defined"):
            MachineAdapter(Machine())

    def test_a_second_name_for_a_command_is_refused(self) -> None:
        class Machine(StateMachine):
            @command
            def old(self) -> None: ...

            new = old

        with pytest.raises(UsageError, match="a command has one name: old"):
            MachineAdapter(Machine())

    @pytest.mark.parametrize("other", [lambda function: function, query])
    def test_an_override_must_be_a_command_too(self, other: Callable[[Any], Any]) -> None:
        class Base(StateMachine):
            @command
            def act(self) -> str:
                return "base"

        class Changed(Base):
            @other
            def act(self) -> str:
                return "changed"

        with pytest.raises(UsageError, match="act is a command in one class and not in another"):
            MachineAdapter(Changed())

    def test_an_override_runs_instead(self) -> None:
        class Base(StateMachine):
            @command
            def act(self) -> str:
                return "base"

        class Changed(Base):
            @command
            def act(self) -> str:
                return f"changed {super().act()}"

        assert run(Changed(), Base.act) == "changed base"


def test_a_new_parameter_with_a_default_reads_an_old_log() -> None:
    class Old(StateMachine):
        @command
        def act(self, one: int) -> int:
            return one

    class New(StateMachine):
        @command
        def act(self, one: int, two: int = 20) -> int:
            return one + two

    class Narrowed(StateMachine):
        @command
        def act(self) -> int:
            return 0

    old = encode_call(Old.act, (1,), {})
    assert MachineAdapter(New()).apply([Command(1, 1, old)], 1) == [21]
    [failure] = MachineAdapter(Narrowed()).apply([Command(1, 1, old)], 1)
    assert isinstance(failure, CommandFailed)
    assert "act takes 0 to 0 arguments, but 1 were given" in str(failure)
