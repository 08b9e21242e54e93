"""Logs whose beginning was dropped, or that began anew: through power cuts, kills and damage.

The model of what may be found: the hard state and the log as of the last acknowledged batch, or of the one
behind it; and of that log any part may be missing at its beginning that a `compact` gave free.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import CorruptLog
from oarlock.raft.types import Entry, HardState, LogBase, Recovered
from oarlock.storage import DiskStorage, MemoryFiles
from oarlock.storage.disk import Append
from oarlock.testing.storage_suite import make_entries, store

from .helpers import WAL, open_storage
from .test_crashes import FailingDisk, Fuse, PowerCut


class Step(NamedTuple):
    """A batch; then, with `compact`, the log up to there is given free."""

    hard_state: HardState | None
    entries: Sequence[Entry]
    base: LogBase | None = None
    compact: int = 0


class Model(NamedTuple):
    hard_state: HardState
    base: LogBase
    entries: Sequence[Entry]
    free: int

    def fits(self, found: Recovered) -> bool:
        dropped = found.base.index - self.base.index
        if not 0 <= dropped <= max(self.free - self.base.index, 0) or dropped > len(self.entries):
            return False
        term = self.entries[dropped - 1].term if dropped else self.base.term
        return (found.hard_state, found.base.term, list(found.entries)) == (
            self.hard_state,
            term,
            list(self.entries[dropped:]),
        )


def models(steps: Sequence[Step]) -> list[Model]:
    """Before the first step, and after each."""
    model = Model(HardState(), LogBase(), [], 0)
    result = [model]
    for step in steps:
        base, entries = (model.base, model.entries) if step.base is None else (step.base, [])
        if step.entries:
            entries = [*entries[: step.entries[0].index - base.index - 1], *step.entries]
        free = max(model.free, step.compact)
        model = Model(step.hard_state or model.hard_state, base, entries, free)
        result.append(model)
    return result


def run(files: MemoryFiles, steps: Sequence[Step], *, close: bool = True, segment_bytes: int = 656) -> int:
    """Returns how many steps were acknowledged before the power went."""
    acknowledged = 0

    async def main() -> None:
        nonlocal acknowledged
        storage = open_storage(files, segment_bytes)
        storage.load()
        for step in steps:
            await store(storage, step.hard_state, step.entries, step.base)
            acknowledged += 1
            if step.compact:
                storage.compact(step.compact)
        for _ in range(10):
            await asyncio.sleep(0)
        if close:
            await storage.close()

    try:
        asyncio.run(main())
    except PowerCut:
        pass
    return acknowledged


def load(files: MemoryFiles, segment_bytes: int = 656) -> Recovered:
    return open_storage(files, segment_bytes).load()


def fits(found: Recovered, steps: Sequence[Step], acknowledged: int) -> bool:
    return any(model.fits(found) for model in models(steps)[acknowledged : acknowledged + 2])


def segments(files: MemoryFiles) -> list[int]:
    return [int(name[:20]) for name in files.list_dir(WAL) if name.endswith(".log")]


def filler(first: int, last: int, term: int) -> list[Step]:
    """One entry a step, each a third of a segment."""
    return [
        Step(HardState(term, 1, index - 1), make_entries(index, index, term=term, data=b"x" * 80))
        for index in range(first, last + 1)
    ]


SAMPLE: list[Step] = [
    *filler(1, 7, term=1),
    Step(HardState(2, 3, 7), make_entries(8, 9, term=2), compact=7),
    *filler(9, 12, term=3),  # replaces 9
    Step(None, (), compact=11),
    Step(HardState(4, 0, 30), make_entries(31, 32, term=4), LogBase(30, 4), compact=30),
    *filler(33, 35, term=4),
    Step(HardState(5, 0, 34), (), LogBase(60, 5), compact=60),
    *filler(61, 64, term=5),
    Step(None, make_entries(65, 66, term=5), compact=63),
]


def test_sample_drops_segments_several_times() -> None:
    files = MemoryFiles()
    run(files, SAMPLE)
    assert segments(files)[0] > 5
    found = load(files)
    assert fits(found, SAMPLE, len(SAMPLE))
    assert 60 < found.base.index <= 63


@pytest.mark.parametrize("seed", [None, *range(6)])
def test_power_cut_at_every_operation_loses_nothing_that_is_needed(seed: int | None) -> None:
    fuse = Fuse(0)
    run(MemoryFiles(fuse), SAMPLE)
    for blows_at in range(1, fuse.count + 1):
        files = MemoryFiles(Fuse(blows_at))
        acknowledged = run(files, SAMPLE)
        files.before = lambda operation, path: None
        files.crash(None if seed is None else Random(f"{seed} {blows_at}"))
        found = load(files)
        assert fits(found, SAMPLE, acknowledged), f"power cut before operation {blows_at}"
        assert load(files) == found, "a second start finds the same"
        last = found.base.index + len(found.entries)
        more = filler(last + 1, last + 9, term=9)
        assert run(files, more) == 9
        assert list(load(files).entries) == [*found.entries, *(step.entries[0] for step in more)]


def test_what_a_killed_process_left_is_durable_when_the_next_one_has_loaded_it() -> None:
    fuse = Fuse(0)
    run(MemoryFiles(fuse), SAMPLE)
    for blows_at in range(1, fuse.count + 1):
        files = MemoryFiles(Fuse(blows_at))
        acknowledged = run(files, SAMPLE)
        files.before = lambda operation, path: None
        found = load(files)
        assert fits(found, SAMPLE, acknowledged)
        files.crash()
        assert load(files) == found, f"killed before operation {blows_at}"


def steps_strategy() -> st.SearchStrategy[list[Step]]:
    """What a Raft core does: committed entries are never replaced, and only they are given free."""
    step = st.tuples(
        st.integers(0, 5),  # how far back the batch begins
        st.integers(0, 4),  # how many entries
        st.integers(0, 250),  # of what size
        st.integers(0, 9),  # how far the commit index moves
        st.sampled_from(["", "", "compact", "reset"]),
        st.booleans(),
    )

    def build(drawn: list[tuple[int, int, int, int, str, bool]]) -> list[Step]:
        steps: list[Step] = []
        begin, last, commit, term = 0, 0, 0, 1
        for back, count, size, forward, what, with_state in drawn:
            base = None
            if what == "reset":
                term += 1
                begin = last = commit = max(last + back - 2, commit + 1)
                base = LogBase(begin, term)
            first = max(last + 1 - back, commit + 1)
            term += first <= last
            entries = make_entries(first, first + count - 1, term=term, data=b"." * size)
            last = first + count - 1 if entries else last
            commit = max(commit, min(last, commit + forward))
            state = HardState(term, 1, commit) if with_state or not entries else None
            steps.append(Step(state, entries, base, commit if what else 0))
        return steps

    return st.lists(step, max_size=15).map(build)


@settings(max_examples=200, deadline=None)
@given(steps_strategy(), st.integers(0, 150), st.integers(0, 2**32))
def test_any_log_with_power_cuts_agrees_with_the_model(steps: list[Step], blows_at: int, seed: int) -> None:
    files = MemoryFiles(Fuse(blows_at))
    acknowledged = run(files, steps)
    files.before = lambda operation, path: None
    files.crash(Random(seed))
    assert fits(load(files), steps, acknowledged)


@settings(max_examples=100, deadline=None)
@given(steps_strategy(), st.integers(0, 15))
def test_writing_goes_on_over_restarts(steps: list[Step], middle: int) -> None:
    """The writer that continues a log knows as much of its segments as the one that made them."""
    files = MemoryFiles()
    run(files, steps[:middle], close=False)
    run(files, steps[middle:], close=False)
    assert models(steps)[-1].fits(load(files))


def compacted() -> MemoryFiles:
    files = MemoryFiles()
    run(files, [*filler(1, 20, term=1), Step(None, (), compact=12)])
    assert 1 < segments(files)[0] < segments(files)[-2]
    return files


def test_missing_first_segment_is_told_from_a_dropped_one() -> None:
    files = compacted()
    first = segments(files)[0]
    files.remove(WAL / f"{first:020}.log")
    with pytest.raises(CorruptLog, match=rf"{first:020}\.log.*missing") as caught:
        load(files)
    assert caught.value.path == WAL / f"{first:020}.log"


def test_segment_of_another_log_is_noticed_by_its_summary() -> None:
    """Put back from an old copy of the directory, say: number, sequence and indexes all fit."""
    files, other = MemoryFiles(), MemoryFiles()
    run(files, filler(1, 20, term=1))
    run(other, filler(1, 20, term=2))
    path = WAL / f"{3:020}.log"
    files.overwrite(path, other.contents(path))
    with pytest.raises(CorruptLog, match="does not fit the records before it") as caught:
        load(files)
    assert caught.value.path == path


def test_every_segment_but_the_last_that_is_lost_is_missed() -> None:
    files = MemoryFiles()
    run(files, filler(1, 20, term=1))
    for number in segments(files)[:-1]:
        files = MemoryFiles()
        run(files, filler(1, 20, term=1))
        for lost in range(1, number + 1):
            files.remove(WAL / f"{lost:020}.log")
        with pytest.raises(CorruptLog, match="missing"):
            load(files)


def test_log_that_is_gone_is_missed_if_something_else_is_there() -> None:
    """A member that forgot its vote and its log must not come back as if it were new."""
    for arguments in ({"durable_index": 5}, {"snapshot_index": 5}, {"durable_index": 5, "snapshot_index": 9}):
        with pytest.raises(CorruptLog, match="missing"):
            open_storage(MemoryFiles(), **arguments).load()
    assert open_storage(MemoryFiles()).load().entries == []


def test_log_that_ends_before_what_was_applied_is_corrupt_unless_a_snapshot_has_it() -> None:
    files = MemoryFiles()
    run(files, filler(1, 5, term=1), close=False)
    with pytest.raises(CorruptLog, match="up to 6 are known to be durable"):
        open_storage(files, durable_index=6).load()
    with pytest.raises(CorruptLog, match="up to 9 are known to be durable"):
        open_storage(files, durable_index=9, snapshot_index=8).load()
    for durable_index in (5, 6, 9):
        assert len(open_storage(files, durable_index=durable_index, snapshot_index=9).load().entries) == 5


def test_torn_reset_leaves_the_log_as_it_was() -> None:
    """The power went between the snapshot and the record that begins the log anew."""
    files = MemoryFiles()
    steps = [*filler(1, 3, term=1), Step(HardState(2, 0, 50), (), LogBase(50, 2))]
    run(files, steps, close=False, segment_bytes=4096)
    path = WAL / f"{1:020}.log"
    data = files.contents(path)
    end = len(data.rstrip(b"\0"))
    files.overwrite(path, data[: end - 20] + bytes(len(data) - end + 20))
    storage = open_storage(files, 4096, durable_index=50, snapshot_index=50)
    assert models(steps)[3].fits(storage.load())


@pytest.mark.parametrize("close", [False, True], ids=["killed", "closed"])
def test_every_flipped_byte_of_a_log_that_was_compacted_is_repaired_or_reported(close: bool) -> None:
    """Never misread. A flip in the record that allows the first segment to be missing is the worst place."""
    logging.getLogger("oarlock.storage.recovery").disabled = True
    try:
        for steps in (SAMPLE, SAMPLE[:14], [*filler(1, 20, term=1), Step(None, (), compact=12)]):
            files = MemoryFiles()
            run(files, steps, close=close)
            for number in segments(files):
                check_every_flip(files, WAL / f"{number:020}.log", steps, close)
    finally:
        logging.getLogger("oarlock.storage.recovery").disabled = False


def check_every_flip(files: MemoryFiles, path: Path, steps: Sequence[Step], close: bool) -> None:
    sound = files.contents(path)
    for offset in range(len(sound)):
        damaged = bytearray(sound)
        damaged[offset] ^= 0x04
        files.overwrite(path, bytes(damaged))
        try:
            found = load(files)
        except CorruptLog:
            assert files.contents(path) == bytes(damaged), "a corrupt log is left as it is"
        else:
            lost = 0 if close else 1
            assert any(model.fits(found) for model in models(steps)[len(steps) - lost :]), f"{path} {offset}"
    files.overwrite(path, sound)


async def test_segments_are_deleted_between_batches_and_the_size_falls() -> None:
    files = MemoryFiles()
    removed: list[str] = []
    files.before = lambda operation, path: removed.append(path.name) if operation == "remove" else None
    storage = open_storage(files)
    storage.load()
    for step in filler(1, 30, term=1):
        await store(storage, step.hard_state, step.entries)
    before, numbers = storage.size, segments(files)
    assert before == 656 * len(numbers)
    storage.compact(25)
    assert not removed, "not on the caller's time"
    done: list[int] = []
    for index in range(31, 34):
        await store(storage, None, make_entries(index, index))
        done.append(len(removed))
    assert done[0] < done[1] < done[2], "one at a time: no batch waits for all of them"
    for _ in numbers:
        await asyncio.sleep(0)
    assert storage.size <= 656 * 4
    assert storage.size == 656 * len(segments(files))
    assert [f"{number:020}.log" for number in numbers[: len(removed)]] == removed, "the oldest first"
    storage.compact(10)
    await storage.close()
    assert load(files).base.index <= 25


async def test_beginning_anew_deletes_what_was_before() -> None:
    files = MemoryFiles()
    storage = open_storage(files)
    storage.load()
    for step in filler(1, 12, term=1):
        await store(storage, step.hard_state, step.entries)
    await store(storage, HardState(2, 0, 40), (), LogBase(40, 2))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(segments(files)) == 1
    await storage.close()
    assert load(files) == Recovered(HardState(2, 0, 40), [], LogBase(40, 2))


async def test_compacting_makes_room_on_a_full_disk() -> None:
    disk = FailingDisk("preallocate", errno.ENOSPC)
    files = MemoryFiles(disk)
    storage = open_storage(files, segment_bytes=1024)
    storage.load()
    index = 1
    while len(segments(files)) < 5 or not storage.full:
        disk.armed = len(segments(files)) >= 5
        await store(storage, None, make_entries(index, index, data=b"x" * 80))
        index += 1
    storage.compact(index - 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(segments(files)) == 1
    disk.armed = False
    storage.try_to_grow()
    await asyncio.sleep(0)
    assert not storage.full
    await storage.close()


async def test_compacting_waits_for_the_next_segment_if_this_one_is_used_up_and_the_disk_full() -> None:
    """The record that allows it does not fit, and a segment for it alone would end it all."""
    disk = FailingDisk("preallocate", errno.ENOSPC)
    files = MemoryFiles(disk)
    storage = open_storage(files, segment_bytes=1024)
    storage.load()
    for step in filler(1, 6, term=1):
        await store(storage, step.hard_state, step.entries)
    assert segments(files) == [1, 2]
    disk.armed = True
    writer = storage._writer
    assert writer is not None
    index = 7
    while writer._capacity - writer._offset >= 112:
        await store(storage, None, make_entries(index, index, data=b""))
        index += 1
    numbers = segments(files)
    storage.compact(index - 1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert segments(files) == numbers
    disk.armed = False
    await store(storage, None, make_entries(index, index))
    for _ in range(10):
        await asyncio.sleep(0)
    assert segments(files)[0] >= numbers[-1]
    await storage.close()


async def test_segment_whose_beginning_was_replaced_is_never_the_first() -> None:
    """Its summary names an entry that is none any more."""
    files = MemoryFiles()
    storage = open_storage(files)
    storage.load()
    for step in filler(1, 9, term=1):
        await store(storage, step.hard_state, step.entries)
    second = storage._writer._state.segments[1]  # type: ignore[union-attr]
    assert second.covered == 3
    for index in (3, 4, 5, 6, 7, 8):
        await store(storage, HardState(2, 0, 0), make_entries(index, index, term=2, data=b"y" * 80))
    assert second.covered is None
    storage.compact(4)
    await storage.close()
    assert segments(files)[0] == 1
    found = load(files)
    assert found.base == LogBase()
    assert [entry.term for entry in found.entries] == [1, 1, 2, 2, 2, 2, 2, 2]


async def test_crash_between_two_deletions_does_not_have_the_log_begin_with_such_a_segment() -> None:
    files = MemoryFiles()
    storage = open_storage(files)
    storage.load()
    for step in filler(1, 9, term=1):
        await store(storage, step.hard_state, step.entries)
    for index in range(3, 16):
        await store(storage, HardState(2, 0, 2), make_entries(index, index, term=2, data=b"y" * 80))
    writer = storage._writer
    assert writer is not None
    state = writer._state
    assert [segment.covered is None for segment in state.segments[:5]] == [False, True, True, True, False]

    def stop(operation: str, path: Path) -> None:
        if operation == "remove" and path.name == f"{2:020}.log":
            raise PowerCut

    files.before = stop
    assert writer.compact(14)
    with pytest.raises(PowerCut):
        writer.compact(14)
    files.before = lambda operation, path: None
    assert segments(files)[0] == 2
    found = load(files)
    assert found.base == LogBase(14, 2)
    assert [entry.index for entry in found.entries] == [15]
    assert segments(files) == [state.segments[-1].number], "what is left over is deleted"


class HandWorker:
    """Takes as many appends as it is told to, then does what comes between two batches."""

    def __init__(self) -> None:
        self.items: list[Append] = []
        self.submit = self.items.append

    def start(
        self, work: Callable[[list[Append]], Callable[[], None]], afterwards: Callable[[], None]
    ) -> None:
        self.work, self.afterwards = work, afterwards

    def take(self, count: int) -> None:
        taken = self.items[:count]
        del self.items[:count]
        self.work(taken)()
        self.afterwards()

    async def stop(self) -> None:
        self.take(len(self.items))


def test_nothing_is_dropped_for_a_snapshot_before_the_log_has_begun_anew_behind_it() -> None:
    """A batch that waits before it may replace entries behind which the log would then begin."""
    files, worker = MemoryFiles(), HandWorker()
    storage = DiskStorage(WAL, segment_bytes=656, files=files, worker=worker, random=Random(7))
    storage.load()
    delivered: list[BaseException | None] = []
    old, new, more = (
        make_entries(1, 9, data=b"x" * 80),
        make_entries(4, 4, term=2),
        make_entries(51, 51, term=3),
    )
    for entry in old:
        storage.append(HardState(1, 0, 3), (entry,), delivered.append)
        worker.take(1)
    storage.append(HardState(2, 0, 3), (), delivered.append)
    storage.append(HardState(2, 0, 3), new, delivered.append)
    storage.append(HardState(3, 0, 50), more, delivered.append, LogBase(50, 3))
    worker.take(1)
    worker.take(1)
    assert load(files) == Recovered(HardState(2, 0, 3), [*old[:3], *new], LogBase())
    before = segments(files)
    while worker.items:
        worker.take(1)
    assert len(segments(files)) < len(before)
    assert load(files) == Recovered(HardState(3, 0, 50), list(more), LogBase(50, 3))
    assert delivered == [None] * 12
