"""A log with any byte flipped, or cut or zeroed from any byte on, is repaired or reported; never misread.

*Repaired* means: everything up to the last batch but one is there, and the log can be used on. *Reported*
means: `CorruptLog` with the file and an offset within it, and not a byte was changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from oarlock.errors import CorruptLog
from oarlock.raft.types import HardState
from oarlock.storage import DiskStorage, LoopWorker, MemoryFiles
from oarlock.storage.record import MAGIC
from oarlock.testing.storage_suite import make_entries

from .helpers import SAMPLE, WAL, loaded, open_storage, run_log, states, write_batches

STATES = states(SAMPLE)


class Damaged:
    """A sample log, one file of which can be damaged again and again."""

    def __init__(self, close: bool) -> None:
        self.closed = close
        self.runner = asyncio.Runner()
        """One event loop for thousands of runs."""
        self.files = MemoryFiles()
        run_log(self.files, SAMPLE, close=close)
        self.paths = [WAL / name for name in self.files.list_dir(WAL) if name.endswith(".log")]
        self.sound = {path: self.files.contents(path) for path in self.paths}
        self.warnings: list[str] = []

    def load(self, path: Path, data: bytes) -> int | None:
        """How many batches are there when ``path`` holds ``data``, or None if it is reported as corrupt.

        If the log is usable, it is used: the repair must last, and appending must work.
        """
        for each, sound in self.sound.items():
            self.files.overwrite(each, data if each == path else sound)
        before = self.everything()
        try:
            state = loaded(open_storage(self.files))
        except CorruptLog as error:
            self.check_report(error)
            assert self.everything() == before, "a corrupt log is left as it is"
            return None
        assert state in STATES, "what was read was never stored"
        count = STATES.index(state)
        self.runner.run(self.use(count))
        return count

    def check_report(self, error: CorruptLog) -> None:
        assert error.path in self.paths
        assert 0 <= error.offset <= len(self.sound[error.path])
        assert str(error.path) in str(error)
        assert f"offset {error.offset}" in str(error)

    def everything(self) -> dict[Path, bytes]:
        return {path: self.files.contents(path) for path in self.paths}

    async def use(self, count: int) -> None:
        self.warnings.clear()
        storage = open_storage(self.files)
        assert loaded(storage) == STATES[count], "a second start finds the same"
        assert not self.warnings, "the repair lasts"
        # Whatever fits behind the state that was found.
        state, entries = STATES[count]
        more = [
            (HardState(9, 9, state.commit_index), make_entries(len(entries) + 1, len(entries) + 2, term=9))
        ]
        await write_batches(storage, more)
        expected = states([*SAMPLE[:count], *more])[-1]
        assert loaded(open_storage(self.files)) == expected, "what is appended after a repair is there"
        for name in self.files.list_dir(WAL):
            if WAL / name not in self.paths:
                self.files.remove(WAL / name)


@pytest.fixture(params=[False, True], ids=["killed", "closed"])
def damaged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Damaged]:
    damaged = Damaged(request.param)

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            damaged.warnings.append(record.getMessage())

    handler = Collect()
    logger = logging.getLogger("oarlock.storage.recovery")
    logger.addHandler(handler)
    logger.propagate = False
    yield damaged
    damaged.runner.close()
    logger.removeHandler(handler)
    logger.propagate = True


def last_record_begin(damaged: Damaged) -> int:
    """Where the last record with data begins, in the last file."""
    last = damaged.paths[-1]
    return find_records(damaged.sound[last])[-2 if damaged.closed else -1]


def find_records(data: bytes) -> list[int]:
    return [offset for offset in range(0, len(data), 8) if data[offset : offset + 4] == MAGIC]


def test_sample_spans_segments_and_has_several_records_in_each(damaged: Damaged) -> None:
    assert len(damaged.paths) >= 3
    assert all(len(find_records(data)) >= 2 for data in damaged.sound.values())


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_every_flipped_byte_is_repaired_or_reported(damaged: Damaged, mask: int) -> None:
    everything = len(SAMPLE)
    reported = 0
    for path, sound in damaged.sound.items():
        last = path == damaged.paths[-1]
        for offset in range(len(sound)):
            data = bytearray(sound)
            data[offset] ^= mask
            count = damaged.load(path, bytes(data))
            reported += count is None
            if count is None or count == everything:
                continue
            assert count == everything - 1, f"flip at {offset} of {path.name} lost more than the last batch"
            assert last, f"flip at {offset} of {path.name} lost a batch that others follow"
            assert offset >= last_record_begin(damaged), f"flip at {offset} lost a batch behind it"
            assert not damaged.closed, "after a clean close nothing is taken for torn"
    records = sum(len(find_records(data)) for data in damaged.sound.values())
    assert reported >= (records - 1) * 64, "nearly every flip within a record is noticed"


def test_every_flip_within_a_record_that_others_follow_is_reported_at_that_record(damaged: Damaged) -> None:
    path = damaged.paths[0]
    sound = damaged.sound[path]
    starts = find_records(sound)
    for begin, end in pairwise(starts):
        for offset in range(begin, end):
            data = bytearray(sound)
            data[offset] ^= 0x10
            damaged.files.overwrite(path, bytes(data))
            with pytest.raises(CorruptLog) as caught:
                open_storage(damaged.files).load()
            assert (caught.value.path, caught.value.offset) == (path, begin)


def test_every_cut_is_repaired_or_reported(damaged: Damaged) -> None:
    for path, sound in damaged.sound.items():
        for size in range(len(sound)):
            assert damaged.load(path, sound[:size]) in (None, len(SAMPLE))


def test_last_record_torn_at_any_byte_is_cut(request: pytest.FixtureRequest) -> None:
    """What a crash leaves: the record's first bytes, and zeros from there on."""
    damaged = Damaged(close=False)
    request.addfinalizer(damaged.runner.close)
    path = damaged.paths[-1]
    sound = damaged.sound[path]
    begin = last_record_begin(damaged)
    end = len(sound.rstrip(b"\0"))
    for offset in range(begin, end):
        count = damaged.load(path, sound[:offset] + bytes(len(sound) - offset))
        assert count == len(SAMPLE) - 1


def test_last_record_torn_in_the_middle_is_cut(request: pytest.FixtureRequest) -> None:
    """Sectors reach the disk in any order: the end of the record may be there and its beginning not."""
    damaged = Damaged(close=False)
    request.addfinalizer(damaged.runner.close)
    path = damaged.paths[-1]
    sound = damaged.sound[path]
    begin = last_record_begin(damaged)
    end = len(sound.rstrip(b"\0"))
    for hole in range(begin, end):
        data = sound[:begin] + bytes(hole - begin) + sound[hole:]
        assert damaged.load(path, data) == len(SAMPLE) - (1 if hole > begin else 0)


def test_zeroed_record_with_others_behind_it_is_reported(damaged: Damaged) -> None:
    for path, sound in damaged.sound.items():
        starts = find_records(sound)
        for begin, end in pairwise(starts):
            assert damaged.load(path, sound[:begin] + bytes(end - begin) + sound[end:]) is None


def test_missing_and_misnamed_segments_are_reported_by_name(damaged: Damaged) -> None:
    first, second, *_ = damaged.paths
    damaged.files.rename(second, WAL / "aside")
    with pytest.raises(CorruptLog, match=r"00002\.log.*missing"):
        open_storage(damaged.files).load()
    damaged.files.overwrite(first, damaged.sound[second])
    damaged.files.rename(WAL / "aside", second)
    with pytest.raises(CorruptLog, match=r"00001\.log.*another name"):
        open_storage(damaged.files).load()


def test_copy_of_a_record_in_a_value_is_not_taken_for_a_record() -> None:
    """A torn last record whose value contains a valid record's bytes is still torn, not corrupt."""
    files = MemoryFiles()
    run_log(files, SAMPLE[:1], close=False, segment_bytes=4096)
    path = WAL / "00000000000000000001.log"
    data = files.contents(path)
    begin = find_records(data)[1]
    record = data[begin : len(data.rstrip(b"\0")) + 8]
    hostile = [*SAMPLE[:1], (None, make_entries(4, 4, data=record * 8 + bytes(1) + record * 8))]
    files = MemoryFiles()
    run_log(files, hostile, close=False, segment_bytes=8192)
    data = files.contents(path)
    start = find_records(data)[1]
    second = next(offset for offset in find_records(data) if offset > start)
    damaged = bytearray(data)
    damaged[second + 20] ^= 1
    files.overwrite(path, bytes(damaged))
    assert loaded(open_storage(files, 8192)) == states(hostile)[1]


def test_torn_write_is_reported_in_one_warning_with_file_offset_and_size(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = MemoryFiles()
    run_log(files, SAMPLE[:2], close=False, segment_bytes=4096)
    path = WAL / "00000000000000000001.log"
    data = files.contents(path)
    second = find_records(data)[2]
    files.overwrite(path, data[: second + 100] + bytes(len(data) - second - 100))
    assert loaded(open_storage(files, 4096)) == STATES[1]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in (str(path), f"offset {second}", "100 bytes"):
        assert part in record.getMessage()


def test_cutting_below_the_commit_index_is_refused() -> None:
    """No torn write can reach entries that an intact record calls committed."""
    files = MemoryFiles()
    batches = [(HardState(1, 1, 4), make_entries(1, 3)), (None, make_entries(4, 5))]
    run_log(files, batches, close=False, segment_bytes=4096)
    path = WAL / "00000000000000000001.log"
    data = bytearray(files.contents(path))
    second = find_records(bytes(data))[2]
    data[second + 70] ^= 1
    files.overwrite(path, bytes(data))
    with pytest.raises(CorruptLog, match="up to 4 are known to be durable"):
        open_storage(files, 4096).load()


def test_large_torn_write_is_zeroed_to_its_end() -> None:
    """Nothing of it may be left behind the record that is written in its place."""
    files = MemoryFiles()
    batches = [(None, make_entries(1, 1)), (None, make_entries(2, 2, data=b"x" * (2 << 20)))]
    run_log(files, batches, close=False, segment_bytes=4 << 20)
    path = WAL / "00000000000000000001.log"
    data = bytearray(files.contents(path))
    second = find_records(bytes(data))[2]
    data[second + 1000] ^= 1
    files.overwrite(path, bytes(data))
    assert loaded(open_storage(files, 4 << 20)) == states(batches)[1]
    files.crash()
    assert files.contents(path)[second:] == bytes(len(data) - second)


def test_cutting_below_what_the_state_machine_has_applied_is_refused() -> None:
    """The last record, damaged after the process was killed, would pass for torn; its entries were used."""
    files = MemoryFiles()
    batches = [(None, make_entries(1, 3)), (None, make_entries(4, 5))]
    run_log(files, batches, close=False, segment_bytes=4096)
    path = WAL / "00000000000000000001.log"
    data = bytearray(files.contents(path))
    second = find_records(bytes(data))[2]
    data[second + 70] ^= 1
    files.overwrite(path, bytes(data))
    with pytest.raises(CorruptLog, match="up to 5 are known to be durable") as caught:
        DiskStorage(WAL, files=files, worker=LoopWorker(), durable_index=5).load()
    assert caught.value.offset == second
    assert files.contents(path) == bytes(data)
    storage = DiskStorage(WAL, files=files, worker=LoopWorker(), durable_index=3, segment_bytes=4096)
    assert loaded(storage) == states(batches)[1]
