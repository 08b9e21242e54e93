"""Logs in memory, made and read back by the tests of this package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

from oarlock.raft.types import Entry, HardState
from oarlock.storage import DiskStorage, LoopWorker, MemoryFiles
from oarlock.testing.storage_suite import make_entries, store

WAL = Path("/data/wal")

Batch = tuple[HardState | None, Sequence[Entry]]
State = tuple[HardState, list[Entry]]


def open_storage(
    files: MemoryFiles, segment_bytes: int = 656, *, durable_index: int = 0, snapshot_index: int = 0
) -> DiskStorage:
    return DiskStorage(
        WAL,
        durable_index=durable_index,
        snapshot_index=snapshot_index,
        segment_bytes=segment_bytes,
        files=files,
        worker=LoopWorker(),
        random=Random(7),
    )


def states(batches: Sequence[Batch]) -> list[State]:
    """The obvious model: what is stored before the first batch, and after each."""
    hard_state, entries = HardState(), list[Entry]()
    result = [(hard_state, list(entries))]
    for new_state, new_entries in batches:
        if new_state is not None:
            hard_state = new_state
        if new_entries:
            entries = entries[: new_entries[0].index - 1] + list(new_entries)
        result.append((hard_state, list(entries)))
    return result


async def write_batches(storage: DiskStorage, batches: Sequence[Batch]) -> None:
    for hard_state, entries in batches:
        await store(storage, hard_state, entries)


def loaded(storage: DiskStorage) -> State:
    recovered = storage.load()
    return recovered.hard_state, list(recovered.entries)


def run_log(files: MemoryFiles, batches: Sequence[Batch], *, close: bool, segment_bytes: int = 656) -> None:
    """Write a log, batch by batch; close it in good order, or abandon it as a killed process does."""

    async def main() -> None:
        storage = open_storage(files, segment_bytes)
        storage.load()
        await write_batches(storage, batches)
        if close:
            await storage.close()

    asyncio.run(main())


SAMPLE: list[Batch] = [
    (HardState(1, 1, 0), make_entries(1, 3)),
    (HardState(1, 1, 1), make_entries(4, 4, data=b"x" * 150)),
    (HardState(2, 0, 2), ()),
    (None, make_entries(5, 9, data=b"")),
    (HardState(3, 2, 4), make_entries(6, 7, term=3)),
    (HardState(3, 2, 5), make_entries(8, 8, term=3, data=b"y" * 300)),
    (HardState(3, 2, 8), make_entries(9, 10, term=3)),
    (HardState(3, 2, 9), make_entries(11, 13, term=3, data=b"zz")),
    (HardState(3, 2, 13), make_entries(14, 14, term=3)),
]
"""Nine batches that fill two segments of 656 bytes and begin a third."""
