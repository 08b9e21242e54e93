"""Disk storage with real files and its thread."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from oarlock.errors import DataDirError, DiskFailure, InvariantViolated
from oarlock.raft.types import HardState
from oarlock.storage import DiskStorage, MemoryFiles, RealFiles
from oarlock.storage.disk import Append, merge
from oarlock.storage.files import RealFile
from oarlock.testing.storage_suite import make_entries, store

from .helpers import open_storage


class SlowFile(RealFile):
    """Waits for permission before each durable write."""

    gate = threading.Event()
    writes = 0

    def write_through(self, data: bytes, offset: int) -> None:
        assert self.gate.wait(20)
        type(self).writes += 1
        super().write_through(data, offset)


class SlowFiles(RealFiles):
    def create(self, path: Path) -> RealFile:
        return SlowFile(super().create(path)._fd)


async def test_appends_that_wait_for_the_disk_share_one_write(tmp_path: Path) -> None:
    SlowFile.gate.clear()
    SlowFile.writes = 0
    storage = DiskStorage(tmp_path / "wal", segment_bytes=1 << 20, files=SlowFiles())
    storage.load()
    done: list[int] = []
    last = asyncio.Event()
    for index in range(1, 101):
        storage.append(
            None,
            make_entries(index, index),
            lambda error, n=index: (done.append(n), last.set() if n == 100 else None),  # type: ignore[misc,func-returns-value]
        )
    await asyncio.sleep(0)
    assert not done
    SlowFile.gate.set()
    await last.wait()
    assert done == list(range(1, 101))
    assert SlowFile.writes <= 3, "one for what the thread had seen at first, one for the rest"
    await storage.close()


async def test_a_backlog_larger_than_a_record_may_be_is_stored_in_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What gathers while a disk hangs for minutes."""
    monkeypatch.setattr("oarlock.storage.writer.PAYLOAD_BYTES_MAX", 2000)
    monkeypatch.setattr("oarlock.storage.disk.BATCH_BYTES_MAX", 1000)
    files = MemoryFiles()
    storage = open_storage(files, 4096)
    storage.load()
    outcomes: list[BaseException | None] = []
    entries = make_entries(1, 100, data=b"x" * 60)
    for first in range(0, 100, 4):
        storage.append(HardState(1, 1, first), entries[first : first + 4], outcomes.append)
    await store(storage, HardState(2, 2, 50), make_entries(99, 101, term=2))
    assert outcomes == [None] * 25
    await storage.close()
    found = open_storage(files, 4096).load()
    assert found.hard_state == HardState(2, 2, 50)
    assert [entry.index for entry in found.entries] == list(range(1, 102))
    assert [entry.term for entry in found.entries][97:] == [1, 2, 2, 2]


async def test_a_callback_that_raises_does_not_keep_the_news_from_others(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "wal", segment_bytes=4096)
    storage.load()
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def fail(error: BaseException | None) -> None:
        raise ValueError("mine")

    storage.append(None, make_entries(1, 1), fail)
    await store(storage, None, make_entries(2, 2))
    assert [str(context["exception"]) for context in reported] == ["mine"]
    await storage.close()


async def test_entries_that_leave_a_gap_are_a_bug_of_the_caller_and_end_it(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "wal", segment_bytes=4096)
    storage.load()
    with pytest.raises(InvariantViolated, match="gap"):
        await store(storage, None, make_entries(2, 2))
    await storage.close()


async def test_append_needs_load_first_and_no_close(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "wal", segment_bytes=4096)
    with pytest.raises(InvariantViolated):
        storage.append(None, (), lambda error: None)
    storage.load()
    await storage.close()
    with pytest.raises(InvariantViolated):
        storage.append(None, (), lambda error: None)


async def test_directories_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "wal"
    file.write_text("")
    with pytest.raises(DataDirError, match=str(file)):
        DiskStorage(file).load()


async def test_no_thread_and_no_file_remain_after_close(tmp_path: Path) -> None:
    threads = threading.active_count()
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        storage = DiskStorage(tmp_path / "wal", segment_bytes=2048)
        recovered = storage.load()
        first = len(recovered.entries) + 1
        for index in range(first, first + 50):
            await store(storage, HardState(1, 1, 1), make_entries(index, index))
        await storage.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files
    assert not (tmp_path / "wal" / "next.tmp").exists()


async def test_real_disk_failure_is_reported(tmp_path: Path) -> None:
    """/dev/full behind the log's file: every write gets ENOSPC from the kernel."""
    storage = DiskStorage(tmp_path / "wal", segment_bytes=1 << 16)
    storage.load()
    file = storage._writer._file  # type: ignore[union-attr]
    fd = os.open("/dev/full", os.O_RDWR)
    os.dup2(fd, file._fd)  # type: ignore[attr-defined]
    os.close(fd)
    with pytest.raises(DiskFailure):
        await store(storage, None, make_entries(1, 1))
    await storage.close()


def test_loop_that_is_closed_does_not_trouble_the_thread(tmp_path: Path) -> None:
    """A program that forgets to close: its thread ends with it, in silence."""
    before = set(threading.enumerate())

    async def forget() -> DiskStorage:
        storage = DiskStorage(tmp_path / "wal", segment_bytes=4096)
        storage.load()
        storage.append(None, make_entries(1, 1), lambda error: None)
        return storage

    storage = asyncio.run(forget())
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    storage._worker._queue.put(None)  # type: ignore[attr-defined]
    thread.join(20)
    assert not thread.is_alive()


async def test_failure_to_make_the_segment_for_the_closing_record_is_reported_as_what_it_is() -> None:
    def fail(operation: str, path: Path) -> None:
        if operation == "sync_dir":
            raise OSError(errno.EIO, "injected")

    files = MemoryFiles()
    storage = open_storage(files, segment_bytes=368)
    storage.load()
    await store(storage, None, make_entries(1, 1, data=bytes(100)))
    files.before = fail
    with pytest.raises(DiskFailure, match="injected"):
        await storage.close()


@pytest.mark.parametrize(
    ("appends", "expected"),
    [
        ([(1, 3), (4, 5)], [1, 2, 3, 4, 5]),
        ([(1, 3), (2, 2)], [1, 2]),
        ([(5, 8), (3, 4)], [3, 4]),
        ([(5, 8), (0, 0), (8, 9)], [5, 6, 7, 8, 9]),
        ([(0, 0), (4, 4)], [4]),
    ],
)
def test_merged_appends_have_the_effect_of_all(appends: list[tuple[int, int]], expected: list[int]) -> None:
    calls = [
        Append(HardState(n, 0, 0), make_entries(first, last) if first else (), lambda error: None)
        for n, (first, last) in enumerate(appends)
    ]
    hard_state, entries, base = merge(calls)
    assert base is None
    assert hard_state == HardState(len(appends) - 1, 0, 0)
    assert [entry.index for entry in entries] == expected
