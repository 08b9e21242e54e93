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
from oarlock.raft.types import Entry, EntryKind, HardState, Recovered


class Storage(Protocol):
    """The port, as far as the suite uses it: `oarlock.replica.ports.LogStorage`."""

    def load(self) -> Recovered: ...

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: Callable[[BaseException | None], None],
    ) -> None: ...

    async def close(self) -> None: ...


def make_entries(first: int, last: int, term: int = 1, data: bytes = b"data") -> tuple[Entry, ...]:
    """Commands at the indexes from ``first`` to ``last``."""
    return tuple(
        Entry(index, term, EntryKind.COMMAND, data + b" %d" % index) for index in range(first, last + 1)
    )


async def store(storage: Storage, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
    """Append and wait until it is durable; raises what `on_durable` is given."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_durable(error: BaseException | None) -> None:
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    storage.append(hard_state, entries, on_durable)
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

    async def test_close_may_be_called_twice_and_before_load(self) -> None:
        storage = self.open()
        await storage.close()
        await storage.close()


def _check(recovered: Recovered, hard_state: HardState, entries: Sequence[Entry]) -> None:
    if recovered.hard_state != hard_state:
        raise AssertionError(f"hard state {recovered.hard_state}, expected {hard_state}")
    if list(recovered.entries) != list(entries):
        raise AssertionError(f"entries {list(recovered.entries)}, expected {list(entries)}")
