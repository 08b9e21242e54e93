"""The state of a machine as bytes and back, on whatever member."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oarlock.errors import InvariantViolated, StorageError, UsageError
from oarlock.machine import (
    CaptureFailed,
    Command,
    MachineAdapter,
    StateMachine,
    command,
    encode_call,
    encode_open,
    query,
)


class Item(msgspec.Struct):
    name: str
    count: int = 0


class Store(StateMachine):
    """Its state holds a struct and keys that are no texts: what only the annotation brings back."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}

    @command
    def put(self, number: int, name: str) -> None:
        self.items[number] = Item(name, self.items[number].count + 1 if number in self.items else 1)

    def snapshot(self) -> dict[int, Item]:
        return self.items

    def restore(self, items: dict[int, Item]) -> None:
        self.items = items


class Plain(StateMachine):
    @command
    def nothing(self) -> None: ...


def apply(adapter: MachineAdapter, *datas: bytes, time: int = 0) -> list[Any]:
    first = adapter.applied_index + 1
    commands = [Command(first + n, 1, data, True, time) for n, data in enumerate(datas)]
    return adapter.apply(commands, first + len(datas) - 1)


def put(number: int, name: str) -> bytes:
    return encode_call(Store.put, (number, name), {})


def copied(source: MachineAdapter, target: MachineAdapter) -> None:
    capture = source.capture()
    target.install(target.prepare(capture.chunks()), source.applied_index)
    capture.close()


def test_a_restored_machine_is_equal_and_its_own() -> None:
    one, other = MachineAdapter(Store()), MachineAdapter(Store())
    apply(one, put(1, "a"), put(2, "b"), put(1, "c"))
    copied(one, other)
    assert other.applied_index == 3
    assert other.machine.items == {1: Item("c", 2), 2: Item("b", 1)}
    apply(one, put(1, "later"))
    assert other.machine.items[1] == Item("c", 2)


def test_what_was_released_before_it_was_read_is_no_empty_snapshot() -> None:
    capture = MachineAdapter(Store()).capture()
    capture.close()
    with pytest.raises(CaptureFailed, match="released"):
        list(capture.chunks())


def test_what_is_applied_after_the_capture_does_not_show_although_snapshot_makes_no_copy() -> None:
    one, other = MachineAdapter(Store()), MachineAdapter(Store())
    apply(one, put(1, "a"))
    capture = one.capture()
    apply(one, put(1, "b"), put(2, "c"))
    other.install(other.prepare(capture.chunks()), 1)
    assert other.machine.items == {1: Item("a", 1)}


def test_sessions_and_the_clock_are_part_of_it() -> None:
    one, other = MachineAdapter(Store()), MachineAdapter(Store())
    [session] = apply(one, encode_open(100), time=50)
    data = encode_call(Store.put, (1, "a"), {}, session=session, serial=1, lowest=1)
    apply(one, data, time=60)
    copied(one, other)
    apply(other, data, time=100)
    assert other.machine.items == {1: Item("a", 1)}


def test_pieces_are_of_a_megabyte_at_most() -> None:
    one, other = MachineAdapter(Store()), MachineAdapter(Store())
    apply(one, *(put(n, "x" * 100_000) for n in range(25)))
    capture = one.capture()
    pieces = list(capture.chunks())
    assert [len(piece) for piece in pieces[:2]] == [1 << 20, 1 << 20]
    assert len(pieces) == 3
    other.install(other.prepare(iter(pieces)), 25)
    assert other.machine.items == one.machine.items
    capture.close()
    capture.close()


def test_a_machine_without_the_methods_says_so() -> None:
    adapter = MachineAdapter(Plain())
    assert not adapter.can_snapshot
    assert MachineAdapter(Store()).can_snapshot
    with pytest.raises(InvariantViolated):
        adapter.capture()


def test_commands_and_queries_of_these_names_are_not_meant() -> None:
    class Old(StateMachine):
        @query
        def snapshot(self) -> int:
            return 1

        @command
        def restore(self) -> None: ...

    assert not MachineAdapter(Old()).can_snapshot


def machine(**methods: Any) -> StateMachine:
    return type("Odd", (StateMachine,), methods)()


def raises(self: Any) -> int:
    raise KeyError("no")


async def late(self: Any) -> int:
    return 1


def unresolved(self: Any, state: NotThere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def wide(self: Any, state: dict[Any, Any] | Item | Store) -> None: ...


def of_items(self: Any, state: list[Item]) -> None: ...


def gives(value: Any) -> Callable[[Any], Any]:
    return lambda self: value


def takes(self: Any, state: Any) -> None: ...


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"snapshot": gives(1)}, "has snapshot, but not the other"),
        ({"restore": takes}, "has restore, but not the other"),
        ({"snapshot": lambda self, more: 1, "restore": takes}, "snapshot takes no argument beside self"),
        ({"snapshot": gives(1), "restore": lambda self: None}, "restore takes one argument"),
        ({"snapshot": gives(1), "restore": lambda self, a, b: None}, "restore takes one argument"),
        ({"snapshot": late, "restore": takes}, "cannot be async"),
        ({"snapshot": gives(1), "restore": unresolved}, "imported in its module"),
        ({"snapshot": gives(1), "restore": wide}, "cannot be stored"),
        ({"snapshot": raises, "restore": takes}, "KeyError: 'no'"),
        ({"snapshot": gives(object()), "restore": takes}, "cannot be stored for restore"),
        ({"snapshot": gives([1]), "restore": of_items}, r"Expected `object`, got `int`"),
    ],
)
def test_methods_that_cannot_work_are_refused_at_once(methods: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        MachineAdapter(machine(**methods))
    assert "\n" not in str(caught.value)


def test_the_annotation_of_snapshot_counts_if_restore_has_none() -> None:
    class Half(Store):
        def restore(self, items):  # type: ignore[no-untyped-def]
            self.items = items

    one, other = MachineAdapter(Half()), MachineAdapter(Half())
    apply(one, put(1, "a"))
    copied(one, other)
    assert other.machine.items == {1: Item("a", 1)}


class Fragile(Store):
    broken = False

    def snapshot(self) -> Any:
        if self.broken:
            raise RuntimeError("not now")
        return self.items

    def restore(self, items: dict[int, Item]) -> None:
        raise RuntimeError("never")


def test_a_snapshot_method_that_fails_is_a_capture_that_failed_and_nothing_else() -> None:
    adapter = MachineAdapter(Fragile())
    adapter.machine.broken = True
    with pytest.raises(CaptureFailed, match=r"Fragile\.snapshot failed: RuntimeError: not now"):
        adapter.capture()
    adapter.machine.broken = False
    adapter.machine.items[1] = object()
    with pytest.raises(CaptureFailed, match="object"):
        adapter.capture()
    adapter.machine.items.clear()
    apply(adapter, put(1, "a"))
    adapter.capture().close()


def test_a_restore_method_that_fails_is_an_error_of_this_member() -> None:
    adapter = MachineAdapter(Fragile())
    prepared = adapter.prepare(adapter.capture().chunks())
    with pytest.raises(StorageError, match=r"Fragile\.restore failed: RuntimeError: never"):
        adapter.install(prepared, 1)


def test_a_snapshot_of_another_format_or_class_is_refused() -> None:
    class Other(StateMachine):
        def snapshot(self) -> list[int]:
            return [1]

        def restore(self, numbers: list[int]) -> None: ...

    pieces = list(MachineAdapter(Store()).capture().chunks())
    with pytest.raises(StorageError, match=r"does not fit .*Other\.restore"):
        MachineAdapter(Other()).prepare(pieces)
    newer = msgspec.msgpack.encode([2, *msgspec.msgpack.decode(b"".join(pieces))[1:]])
    with pytest.raises(StorageError, match="format 2"):
        MachineAdapter(Store()).prepare([newer])


@example(b"\x94\x01\x00\x90\x81\x01\x81\xa4name\xa1\xff")  # a text that is none
@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda tail: b"\x94\x01\x00\x90" + tail))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    adapter = MachineAdapter(Store())
    with contextlib.suppress(StorageError):
        adapter.prepare([data])
    assert adapter.machine.items == {}


def test_the_stored_form_of_a_snapshot() -> None:
    """If this test has to change, snapshots written before can no longer be read."""
    adapter = MachineAdapter(Store())
    [session] = apply(adapter, encode_open(100), time=5)
    apply(adapter, encode_call(Store.put, (3, "a"), {}, session=session, serial=2, lowest=2), time=7)
    stored = msgspec.msgpack.decode(b"".join(adapter.capture().chunks()), strict=False)
    assert stored == [1, 7, [[1, 100, 7, 2, [[2, [0, b"\xc0"]]]]], {3: {"name": "a", "count": 1}}]


@pytest.mark.parametrize("seed", range(5))
def test_a_member_that_is_restored_again_and_again_stays_equal(seed: int) -> None:
    dice = random.Random(seed)
    one, other = MachineAdapter(Store()), MachineAdapter(Store())
    for _ in range(300):
        data = put(dice.randrange(10), str(dice.random()))
        apply(one, data)
        if dice.random() < 0.2:
            copied(one, other)
        else:
            apply(other, data)
    assert one.machine.items == other.machine.items
