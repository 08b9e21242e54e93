"""What every `LogStorage` has to do.

Inherit, and say how to make one::

    class TestMine(StorageSuite):
        def open(self):
            return MyStorage(self.somewhere)    # what was stored before must be there again
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from oarlock.errors import invariant
from oarlock.raft.types import Entry, EntryKind, HardState, Index, LogBase, Recovered


class Storage(Protocol):
    """The port, as far as the suite uses it: `oarlock.replica.ports.LogStorage`."""

    def load(self) -> Recovered: ...

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: Callable[[BaseException | None], None],
        base: LogBase | None = None,
    ) -> None: ...

    def compact(self, index: Index) -> None: ...

    async def close(self) -> None: ...


def make_entries(first: int, last: int, term: int = 1, data: bytes = b"data") -> tuple[Entry, ...]:
    """Commands at the indexes from ``first`` to ``last``."""
    return tuple(
        Entry(index, term, EntryKind.COMMAND, data + b" %d" % index) for index in range(first, last + 1)
    )


async def store(
    storage: Storage, hard_state: HardState | None, entries: Sequence[Entry], base: LogBase | None = None
) -> None:
    """Append and wait until it is durable; raises what `on_durable` is given."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_durable(error: BaseException | None) -> None:
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    storage.append(hard_state, entries, on_durable, base)
    invariant(not done.done(), "on_durable is not called from within append")
    await done


class StorageSuite:
    """Inherit and implement `open`."""

    def open(self) -> Storage:
        """A storage with what the previous one of this test held. The previous one is closed."""
        raise NotImplementedError

    async def reopen(self, storage: Storage) -> tuple[Storage, Recovered]:
        await storage.close()
        storage = self.open()
        return storage, storage.load()

    async def test_new_storage_is_empty(self) -> None:
        storage = self.open()
        recovered = storage.load()
        _check(recovered, HardState(), [])
        await storage.close()

    async def test_stored_state_and_entries_are_there_after_reopening(self) -> None:
        storage = self.open()
        storage.load()
        state, entries = HardState(3, 7, 2), make_entries(1, 5, term=3)
        await store(storage, state, entries)
        storage, recovered = await self.reopen(storage)
        _check(recovered, state, entries)
        await storage.close()

    async def test_state_without_entries_and_entries_without_state_are_kept(self) -> None:
        storage = self.open()
        storage.load()
        await store(storage, HardState(1, 2, 0), ())
        await store(storage, None, make_entries(1, 2))
        await store(storage, HardState(2, 0, 0), ())
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(2, 0, 0), make_entries(1, 2))
        await storage.close()

    async def test_entries_of_every_kind_and_size_come_back_as_they_were(self) -> None:
        storage = self.open()
        storage.load()
        entries = (
            Entry(1, 1, EntryKind.NOOP, b""),
            Entry(2, 1, EntryKind.CONFIGURATION, b"\x00\xff" * 7),
            Entry(3, 2**40, EntryKind.COMMAND, bytes(range(256)) * 5000),
        )
        await store(storage, HardState(2**63, 2**64 - 1, 1), entries)
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(2**63, 2**64 - 1, 1), entries)
        await storage.close()

    async def test_later_entries_replace_what_is_stored_at_and_after_their_first_index(self) -> None:
        storage = self.open()
        storage.load()
        await store(storage, HardState(1, 1, 0), make_entries(1, 9))
        await store(storage, HardState(2, 0, 0), make_entries(4, 5, term=2, data=b"other"))
        expected = make_entries(1, 3) + make_entries(4, 5, term=2, data=b"other")
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(2, 0, 0), expected)
        await storage.close()

    async def test_replacing_works_within_appends_that_become_durable_together(self) -> None:
        storage = self.open()
        storage.load()
        await store(storage, None, make_entries(1, 3))
        done: list[BaseException | None] = []
        storage.append(None, make_entries(4, 8), done.append)
        storage.append(HardState(2, 0, 1), make_entries(6, 7, term=2), done.append)
        storage.append(None, make_entries(3, 3, term=3), done.append)
        storage.append(None, make_entries(4, 6, term=3), done.append)
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(2, 0, 1), make_entries(1, 2) + make_entries(3, 6, term=3))
        if done != [None] * 4:
            raise AssertionError(f"close() delivers everything first, got {done}")
        await storage.close()

    async def test_callbacks_come_in_order_and_never_from_within_append(self) -> None:
        storage = self.open()
        storage.load()
        order: list[int] = []
        finished = asyncio.Event()

        def on_durable(number: int, error: BaseException | None) -> None:
            if error is not None:
                raise error
            order.append(number)
            if number == 50:
                finished.set()

        for index in range(1, 51):
            before = len(order)
            storage.append(None, make_entries(index, index), lambda error, n=index: on_durable(n, error))  # type: ignore[misc]
            if len(order) != before:
                raise AssertionError("on_durable was called from within append")
            if index % 7 == 0:
                await asyncio.sleep(0)
        await finished.wait()
        if order != list(range(1, 51)):
            raise AssertionError(f"callbacks out of order: {order}")
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(), make_entries(1, 50))
        await storage.close()

    async def test_appending_goes_on_after_reopening(self) -> None:
        storage = self.open()
        storage.load()
        for index in range(1, 8):
            await store(storage, HardState(index, 0, index - 1), make_entries(index, index, term=index))
            storage, recovered = await self.reopen(storage)
            expected = [make_entries(i, i, term=i)[0] for i in range(1, index + 1)]
            _check(recovered, HardState(index, 0, index - 1), expected)
        await storage.close()

    async def test_log_that_begins_anew_has_nothing_of_what_was_before(self) -> None:
        storage = self.open()
        storage.load()
        await store(storage, HardState(2, 1, 3), make_entries(1, 9))
        await store(storage, HardState(4, 0, 50), (), LogBase(50, 3))
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(4, 0, 50), [], LogBase(50, 3))
        await store(storage, None, make_entries(51, 53, term=4))
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(4, 0, 50), make_entries(51, 53, term=4), LogBase(50, 3))
        await store(storage, None, make_entries(71, 72, term=5), LogBase(70, 5))
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(4, 0, 50), make_entries(71, 72, term=5), LogBase(70, 5))
        await storage.close()

    async def test_beginning_anew_works_within_appends_that_become_durable_together(self) -> None:
        storage = self.open()
        storage.load()
        done: list[BaseException | None] = []
        storage.append(HardState(2, 1, 1), make_entries(1, 9, term=2), done.append)
        storage.append(None, make_entries(21, 25, term=2), done.append, LogBase(20, 2))
        storage.append(None, make_entries(24, 26, term=3), done.append)
        storage.append(None, (), done.append, LogBase(40, 3))
        storage.append(HardState(3, 0, 40), make_entries(41, 42, term=3), done.append)
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(3, 0, 40), make_entries(41, 42, term=3), LogBase(40, 3))
        if done != [None] * 5:
            raise AssertionError(f"close() delivers everything first, got {done}")
        await storage.close()

    async def test_compacting_drops_nothing_behind_the_index_and_keeps_the_hard_state(self) -> None:
        storage = self.open()
        storage.load()
        every = [make_entries(index, index, term=1 + index // 4)[0] for index in range(1, 41)]
        for entry in every:
            await store(storage, HardState(entry.term, 7, entry.index - 1), (entry,))
        for index in (13, 5, 30):
            storage.compact(index)
            await asyncio.sleep(0)
        every[39:] = make_entries(40, 41, term=11)
        await store(storage, HardState(11, 7, 39), every[39:])
        every += await self._fill(storage, 42, 60)
        storage, recovered = await self.reopen(storage)
        base = recovered.base
        if base.index > 30:
            raise AssertionError(f"the log begins behind {base.index}, and 31 is still needed")
        term = every[base.index - 1].term if base.index else 0
        _check(recovered, HardState(11, 7, 39), every[base.index :], LogBase(base.index, term))
        await storage.close()

    async def test_compacting_behind_the_end_of_the_log_is_allowed(self) -> None:
        storage = self.open()
        storage.load()
        await self._fill(storage, 1, 9)
        storage.compact(100)
        await store(storage, None, make_entries(101, 102, term=2), LogBase(100, 2))
        storage, recovered = await self.reopen(storage)
        _check(recovered, HardState(), make_entries(101, 102, term=2), LogBase(100, 2))
        await storage.close()

    async def _fill(self, storage: Storage, first: Index, last: Index) -> list[Entry]:
        entries = make_entries(first, last, term=11)
        for entry in entries:
            await store(storage, None, (entry,))
        return list(entries)

    async def test_close_may_be_called_twice_and_before_load(self) -> None:
        storage = self.open()
        await storage.close()
        await storage.close()


def _check(
    recovered: Recovered, hard_state: HardState, entries: Sequence[Entry], base: LogBase | None = None
) -> None:
    if recovered.base != (base or LogBase()):
        raise AssertionError(f"the log begins behind {recovered.base}, expected {base}")
    if recovered.hard_state != hard_state:
        raise AssertionError(f"hard state {recovered.hard_state}, expected {hard_state}")
    if list(recovered.entries) != list(entries):
        raise AssertionError(f"entries {list(recovered.entries)}, expected {list(entries)}")
