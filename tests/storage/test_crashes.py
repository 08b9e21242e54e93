"""Power cuts at every point: what was acknowledged is there, what was not may be, and nothing else is."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import CorruptLog, DiskFailure, DiskFull
from oarlock.raft.types import Entry, HardState
from oarlock.storage import MemoryFiles
from oarlock.testing.storage_suite import make_entries, store

from .helpers import SAMPLE, WAL, Batch, State, loaded, open_storage, run_log, states


class PowerCut(SystemExit):
    """Everything stops: the event loop lets it through."""


class Fuse:
    """Counts file operations; cuts the power before the one of that number."""

    def __init__(self, blows_at: int) -> None:
        self.blows_at = blows_at
        self.count = 0

    def __call__(self, operation: str, path: Path) -> None:
        self.count += 1
        if self.count == self.blows_at:
            raise PowerCut


def run_until_power_cut(files: MemoryFiles, batches: list[Batch], segment_bytes: int = 656) -> int:
    """Append one by one, close. Returns how many were acknowledged before the power went."""
    acknowledged = 0

    async def main() -> None:
        nonlocal acknowledged
        storage = open_storage(files, segment_bytes)
        storage.load()
        for hard_state, entries in batches:
            await store(storage, hard_state, entries)
            acknowledged += 1
        await storage.close()

    try:
        asyncio.run(main())
    except PowerCut:
        pass
    return acknowledged


def fits(state: State, batches: list[Batch], acknowledged: int) -> bool:
    """All that was acknowledged, and at most the one batch that was being written."""
    return state in states(batches)[acknowledged : acknowledged + 2]


@pytest.mark.parametrize("seed", [None, *range(12)])
def test_power_cut_at_every_operation_loses_nothing_acknowledged(seed: int | None) -> None:
    fuse = Fuse(0)
    run_until_power_cut(MemoryFiles(fuse), SAMPLE)
    for blows_at in range(1, fuse.count + 1):
        files = MemoryFiles(Fuse(blows_at))
        acknowledged = run_until_power_cut(files, SAMPLE)
        files.before = lambda operation, path: None
        files.crash(None if seed is None else Random(f"{seed} {blows_at}"))
        found = loaded(open_storage(files))
        assert fits(found, SAMPLE, acknowledged), f"power cut before operation {blows_at}"
        assert loaded(open_storage(files)) == found, "a second start finds the same"


@pytest.mark.parametrize("seed", range(6))
def test_power_cut_during_repair_is_repaired(seed: int) -> None:
    """A torn tail, then power cuts at every operation of the recovery from it."""
    random = Random(seed)
    fuse = Fuse(0)
    run_until_power_cut(MemoryFiles(fuse), SAMPLE)
    for blows_at in range(1, fuse.count + 1, 3):
        files = MemoryFiles(Fuse(blows_at))
        acknowledged = run_until_power_cut(files, SAMPLE)
        for again in range(1, 8):
            files.crash(random)
            files.before = Fuse(again)
            try:
                open_storage(files).load()
            except PowerCut:
                pass
        files.before = lambda operation, path: None
        files.crash(random)
        assert fits(loaded(open_storage(files)), SAMPLE, acknowledged)


@pytest.mark.parametrize("segment_bytes", [656, 1024])
def test_what_a_killed_process_left_is_durable_when_the_next_one_has_loaded_it(segment_bytes: int) -> None:
    """A kill leaves records and names in the page cache that were never synced. The next process reads them
    like all others, and the core counts what it read as stored: so the power may go right after."""
    fuse = Fuse(0)
    run_until_power_cut(MemoryFiles(fuse), SAMPLE, segment_bytes)
    for blows_at in range(1, fuse.count + 1):
        files = MemoryFiles(Fuse(blows_at))
        run_until_power_cut(files, SAMPLE, segment_bytes)
        files.before = lambda operation, path: None  # killed: what was written is still there
        found = loaded(open_storage(files, segment_bytes))
        files.crash()
        assert loaded(open_storage(files, segment_bytes)) == found, f"killed before operation {blows_at}"


def test_what_is_stored_after_a_kill_is_there_after_a_power_cut() -> None:
    fuse = Fuse(0)
    run_until_power_cut(MemoryFiles(fuse), SAMPLE)
    for blows_at in range(1, fuse.count + 1):
        files = MemoryFiles(Fuse(blows_at))
        run_until_power_cut(files, SAMPLE)
        files.before = lambda operation, path: None
        _, entries = loaded(open_storage(files))
        index = len(entries) + 1
        run_log(files, [(HardState(9, 1, 0), make_entries(index, index, term=9))], close=False)
        files.crash()
        hard_state, entries = loaded(open_storage(files))
        assert (hard_state.term, len(entries)) == (9, index), f"killed before operation {blows_at}"


@pytest.mark.parametrize("segment_bytes", [656, 4096])
async def test_record_whose_sync_failed_does_not_count_as_stored_because_the_cache_still_has_it(
    segment_bytes: int,
) -> None:
    """Linux marks pages clean when writing them back failed: they can be read, and are never written again.
    So the next process must write what it wants to keep, or it would count on bytes that no disk has."""
    files = MemoryFiles()
    storage = open_storage(files, segment_bytes)
    storage.load()
    await store(storage, HardState(1, 1, 0), make_entries(1, 2))
    disk = FailingDisk("fdatasync", errno.EIO)
    disk.armed = True

    def fail_writing_back(operation: str, path: Path) -> None:
        if operation == "fdatasync":
            files.forget_unsynced(WAL / "00000000000000000001.log")
        disk(operation, path)

    files.before = fail_writing_back
    with pytest.raises(DiskFailure):
        await store(storage, HardState(2, 2, 0), make_entries(3, 3, term=2))
    await storage.close()
    files.before = lambda operation, path: None
    found = loaded(open_storage(files, segment_bytes))
    files.crash()
    assert loaded(open_storage(files, segment_bytes)) == found


def batches_strategy() -> st.SearchStrategy[list[Batch]]:
    """Sequences of batches as a Raft core makes them: terms rise, suffixes are replaced."""
    step = st.tuples(
        st.booleans(), st.integers(0, 3), st.integers(0, 5), st.integers(0, 400), st.binary(max_size=3)
    )

    def build(steps: list[tuple[bool, int, int, int, bytes]]) -> list[Batch]:
        batches: list[Batch] = []
        log: list[Entry] = []
        term = 1
        for with_state, back, count, size, data in steps:
            term += bool(back)
            first = max(len(log) + 1 - back, 1)
            entries = make_entries(first, first + count - 1, term=term, data=data + b"." * size)
            if entries:
                log = log[: first - 1] + list(entries)
            batches.append((HardState(term, 1, 0) if with_state or not entries else None, entries))
        return batches

    return st.lists(step, max_size=12).map(build)


@settings(max_examples=150, deadline=None)
@given(batches_strategy(), st.integers(0, 80), st.integers(0, 2**32))
def test_any_log_with_power_cuts_agrees_with_the_obvious_model(
    batches: list[Batch], blows_at: int, seed: int
) -> None:
    files = MemoryFiles(Fuse(blows_at))
    acknowledged = run_until_power_cut(files, batches)
    files.before = lambda operation, path: None
    files.crash(Random(seed))
    assert fits(loaded(open_storage(files)), batches, acknowledged)


@settings(max_examples=100, deadline=None)
@given(batches_strategy(), st.data())
def test_any_log_with_any_damage_is_read_right_or_reported(batches: list[Batch], data: st.DataObject) -> None:
    files = MemoryFiles()
    run_until_power_cut(files, batches)
    paths = [Path("/data/wal") / name for name in files.list_dir(Path("/data/wal"))]
    path = data.draw(st.sampled_from(paths))
    contents = bytearray(files.contents(path))
    offset = data.draw(st.integers(0, len(contents) - 1))
    junk = data.draw(st.binary(max_size=64))
    contents[offset : offset + len(junk)] = junk
    files.overwrite(path, bytes(contents))
    try:
        found = loaded(open_storage(files))
    except CorruptLog:
        return
    # Closed in good order, so nothing passes for torn, except where the junk hit the closing mark.
    assert found == states(batches)[-1]


class FailingDisk:
    """Fails one kind of operation from a moment on."""

    def __init__(self, operation: str, number: int) -> None:
        self.operation = operation
        self.number = number
        self.armed = False
        self.calls = 0

    def __call__(self, operation: str, path: Path) -> None:
        if self.armed and operation == self.operation:
            self.calls += 1
            raise OSError(self.number, "injected")


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
@pytest.mark.parametrize(("number", "expected"), [(errno.EIO, DiskFailure), (errno.ENOSPC, DiskFull)])
async def test_failed_write_or_sync_fails_everything_after_it_and_is_never_retried(
    operation: str, number: int, expected: type[DiskFailure]
) -> None:
    disk = FailingDisk(operation, number)
    files = MemoryFiles(disk)
    storage = open_storage(files)
    storage.load()
    await store(storage, None, make_entries(1, 1))
    disk.armed = True
    outcomes: list[BaseException | None] = []
    storage.append(None, make_entries(2, 2), outcomes.append)
    storage.append(None, make_entries(3, 3), outcomes.append)
    with pytest.raises(expected, match=str(files and "/data/wal")):
        await store(storage, None, make_entries(4, 4))
    disk.armed = False
    with pytest.raises(expected):
        await store(storage, None, make_entries(2, 2))
    assert [type(outcome) for outcome in outcomes] == [expected, expected]
    assert disk.calls == 1, "one failure is final"
    await storage.close()


async def test_full_disk_when_a_segment_is_needed_is_reported_as_such() -> None:
    disk = FailingDisk("preallocate", errno.ENOSPC)
    storage = open_storage(MemoryFiles(disk), segment_bytes=1024)
    storage.load()
    disk.armed = True
    with pytest.raises(DiskFull):  # noqa: PT012
        for index in range(1, 100):
            await store(storage, None, make_entries(index, index))
    assert 4 < index < 20, "it goes on as long as there is room"
    assert disk.calls == 2, "once in advance, which is not fatal, and once in need, which is"
    await storage.close()


async def test_full_disk_is_told_while_there_is_room_left_and_so_is_its_end() -> None:
    disk = FailingDisk("preallocate", errno.ENOSPC)
    files = MemoryFiles(disk)
    storage = open_storage(files, segment_bytes=2048)
    storage.load()
    disk.armed = True
    index = 1
    while not storage.full:
        await store(storage, None, make_entries(index, index))
        index += 1
    assert 5 < index < 20, "half a segment is left"
    assert "next.tmp" not in files.list_dir(WAL), "what it could not have, it gives back"
    await store(storage, None, make_entries(index, index))
    assert not storage.try_to_grow()
    await asyncio.sleep(0)
    assert disk.calls == 2, "it looks when it is asked to, not with every batch"
    assert storage.full
    disk.armed = False
    assert not storage.try_to_grow(), "the worker is about to look"
    await asyncio.sleep(0)
    assert storage.try_to_grow()
    assert not storage.full
    for later in range(index + 1, index + 40):
        await store(storage, None, make_entries(later, later))
    await storage.close()
    _, entries = loaded(open_storage(files))
    assert len(entries) == later
