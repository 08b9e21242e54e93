"""Snapshots: the contract, held by every implementation; and what only the ones on disk can do wrong."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import (
    CorruptSnapshot,
    DataDirError,
    DiskFailure,
    DiskFull,
    InvariantViolated,
    StorageError,
)
from oarlock.raft.types import StoredSnapshot
from oarlock.replica.ports import SnapshotReader, SnapshotReceiver, SnapshotStorage
from oarlock.storage import DiskSnapshots, MemoryFiles, MemorySnapshots
from oarlock.testing.snapshot_suite import SnapshotSuite, in_pieces, make_data, make_snapshot, transfer

DIRECTORY = Path("/data/snapshots")


class TestMemory(SnapshotSuite):
    def setup_method(self) -> None:
        self.last: MemorySnapshots | None = None

    def open(self) -> MemorySnapshots:
        self.last = MemorySnapshots(self.last)
        return self.last


class TestDisk(SnapshotSuite):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "snapshots"

    def open(self) -> DiskSnapshots:
        return DiskSnapshots(self.directory)


class TestDiskInMemoryFiles(SnapshotSuite):
    def setup_method(self) -> None:
        self.files = MemoryFiles()

    def open(self) -> DiskSnapshots:
        return DiskSnapshots(DIRECTORY, files=self.files, block_bytes=1000)


def test_implementations_are_what_the_runtime_asks_for(tmp_path: Path) -> None:
    storages: list[SnapshotStorage] = [MemorySnapshots(), DiskSnapshots(tmp_path / "snapshots")]
    for snapshots in storages:
        snapshots.load()
        stored = snapshots.write(make_snapshot(1), [b"data"])
        reader: SnapshotReader | None = snapshots.open(1)
        assert reader is not None
        reader.close()
        receiver: SnapshotReceiver = snapshots.receive(make_snapshot(2), stored.size, stored.checksum)
        receiver.close()


def open_snapshots(files: MemoryFiles, block_bytes: int = 100) -> DiskSnapshots:
    return DiskSnapshots(DIRECTORY, files=files, block_bytes=block_bytes)


def written(files: MemoryFiles, index: int, data: bytes) -> StoredSnapshot:
    snapshots = open_snapshots(files)
    snapshots.load()
    return snapshots.write(make_snapshot(index), in_pieces(data, 70))


class Stop(SystemExit):
    """The power goes: no handler of ours runs."""


class Fuse:
    """Counts file operations; at the one of that number something happens instead."""

    def __init__(self, blows_at: int, error: BaseException | None = None) -> None:
        self.blows_at = blows_at
        self.error = error or Stop()
        self.count = 0

    def __call__(self, operation: str, path: Path) -> None:
        self.count += 1
        if self.count == self.blows_at:
            raise self.error


DATA = make_data(950)
OLD = b"what was before"


def receive_and_tidy(files: MemoryFiles) -> None:
    """All that a follower does: an old snapshot, a try that breaks, one that does not, and tidying up."""
    snapshots = open_snapshots(files)
    snapshots.load()
    snapshots.write(make_snapshot(10), [OLD])
    stored = StoredSnapshot(make_snapshot(20), len(DATA), written(MemoryFiles(), 20, DATA).checksum)
    transfer(snapshots, stored, DATA, upto=500).close()
    transfer(snapshots, stored, DATA).finish()
    snapshots.keep([])


def write_and_tidy(files: MemoryFiles) -> None:
    snapshots = open_snapshots(files)
    snapshots.load()
    snapshots.write(make_snapshot(10), [OLD])
    snapshots.write(make_snapshot(20), in_pieces(DATA, 300))
    snapshots.keep([])


@pytest.mark.parametrize("seed", [None, *range(8)])
@pytest.mark.parametrize("work", [write_and_tidy, receive_and_tidy])
def test_power_cut_at_every_operation_leaves_whole_snapshots(work: object, seed: int | None) -> None:
    assert callable(work)
    fuse = Fuse(0)
    work(MemoryFiles(fuse))
    newest = 0
    for blows_at in range(1, fuse.count + 1):
        files = MemoryFiles(Fuse(blows_at))
        with pytest.raises(Stop):
            work(files)
        files.before = lambda operation, path: None
        files.crash(None if seed is None else Random(f"{seed} {blows_at}"))
        snapshots = open_snapshots(files)
        found = snapshots.load()
        index = found.snapshot.index if found else 0
        if found:
            assert b"".join(snapshots.chunks(index)) == {10: OLD, 20: DATA}[index]
        if seed is None:
            assert index >= newest, "what was durable stays"
            newest = index
        stored = StoredSnapshot(make_snapshot(20), len(DATA), written(MemoryFiles(), 20, DATA).checksum)
        if index < 20:
            transfer(snapshots, stored, DATA).finish()
            assert b"".join(snapshots.chunks(20)) == DATA, "resuming on whatever was left works"
        snapshots.keep([])
        assert files.list_dir(DIRECTORY) == [f"{20:016x}.snap"], "nothing is left behind"
        assert open_snapshots(files).load() == stored


def test_the_one_before_stays_until_the_next_is_durable() -> None:
    """At no point between two snapshots is there none."""
    fuse = Fuse(0)
    files = MemoryFiles(fuse)
    written(files, 10, OLD)
    begin = fuse.count
    receive_and_tidy(MemoryFiles(total := Fuse(0)))
    for blows_at in range(begin + 1, total.count + 1):
        files = MemoryFiles()
        written(files, 10, OLD)
        files.before = Fuse(blows_at)
        with pytest.raises(Stop):
            receive_and_tidy(files)
        files.before = lambda operation, path: None
        files.crash()
        assert open_snapshots(files).load() is not None


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_noticed_when_loading_and_when_reading(mask: int) -> None:
    files = MemoryFiles()
    written(files, 20, DATA)
    path = DIRECTORY / f"{20:016x}.snap"
    sound = files.contents(path)
    snapshots = open_snapshots(files)
    snapshots.load()
    noticed = 0
    for offset in range(len(sound)):
        damaged = bytearray(sound)
        damaged[offset] ^= mask
        files.overwrite(path, bytes(damaged))
        with pytest.raises(CorruptSnapshot) as caught:
            open_snapshots(files).load()
        assert caught.value.path == path
        assert str(path) in str(caught.value)
        assert files.contents(path) == bytes(damaged), "a damaged snapshot is left as it is"
        # Damage that comes after loading: never handed out.
        try:
            assert b"".join(snapshots.chunks(20)) == DATA
        except CorruptSnapshot:
            noticed += 1
    assert noticed == len(DATA) + 4 * 10, "each byte of the data and of its ten checksums"
    files.overwrite(path, sound)
    assert open_snapshots(files).load() is not None


def test_every_cut_is_noticed() -> None:
    files = MemoryFiles()
    written(files, 20, DATA)
    path = DIRECTORY / f"{20:016x}.snap"
    sound = files.contents(path)
    for size in range(len(sound)):
        files.overwrite(path, sound[:size])
        with pytest.raises(CorruptSnapshot):
            open_snapshots(files).load()
    files.overwrite(path, sound + b"\0")
    with pytest.raises(CorruptSnapshot):
        open_snapshots(files).load()


def test_newest_index_is_known_before_loading(tmp_path: Path) -> None:
    assert DiskSnapshots(tmp_path / "snapshots").newest_index() == 0
    snapshots = DiskSnapshots(tmp_path / "snapshots")
    snapshots.load()
    for index in (20, 10):
        snapshots.write(make_snapshot(index), [DATA])
    transfer(snapshots, StoredSnapshot(make_snapshot(30), len(DATA), 0), DATA).close()
    assert DiskSnapshots(tmp_path / "snapshots").newest_index() == 20
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="file"):
        DiskSnapshots(tmp_path / "file").newest_index()


def test_damaged_newest_is_reported_though_an_older_one_is_there() -> None:
    files = MemoryFiles()
    written(files, 10, OLD)
    written(files, 20, DATA)
    # As after a power cut before the older one was deleted.
    again = MemoryFiles()
    written(again, 10, OLD)
    files.create(DIRECTORY / f"{10:016x}.snap").pwrite(again.contents(DIRECTORY / f"{10:016x}.snap"), 0)
    path = DIRECTORY / f"{20:016x}.snap"
    files.overwrite(path, files.contents(path)[:-1])
    before = files.list_dir(DIRECTORY)
    with pytest.raises(CorruptSnapshot, match=f"{20:016x}.snap"):
        open_snapshots(files).load()
    assert files.list_dir(DIRECTORY) == before, "nothing is deleted"


def test_blocks_in_another_order_are_noticed_wherever_they_are_read() -> None:
    files = MemoryFiles()
    written(files, 20, DATA)
    path = DIRECTORY / f"{20:016x}.snap"
    sound = files.contents(path)
    snapshots = open_snapshots(files)
    snapshots.load()
    files.overwrite(path, sound[:104] + sound[208:312] + sound[104:208] + sound[312:])
    reader = snapshots.open(20)
    assert reader is not None
    assert reader.read(0, 100) == DATA[:100]
    for offset in (100, 250, 90):
        with pytest.raises(CorruptSnapshot, match=r"block [12] has a wrong checksum"):
            reader.read(offset, 20)
    assert reader.read(300, 650) == DATA[300:]


def test_snapshot_under_another_name_is_not_taken_for_a_newer_one() -> None:
    files = MemoryFiles()
    written(files, 10, OLD)
    files.rename(DIRECTORY / f"{10:016x}.snap", DIRECTORY / f"{30:016x}.snap")
    with pytest.raises(CorruptSnapshot, match="another name"):
        open_snapshots(files).load()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 400), st.booleans()), max_size=6),
    st.integers(0, 1500),
    st.integers(0, 2**32),
)
def test_any_transfer_in_any_pieces_with_any_breaks_gives_the_bytes_that_were_sent(
    tries: list[tuple[int, int, bool]], size: int, seed: int
) -> None:
    """Each try goes on where the storage says, in chunks of some size, and ends in a break or a power cut."""
    data = make_data(size)
    promised = written(MemoryFiles(), 7, data)
    files = MemoryFiles()
    random = Random(seed)
    snapshots = open_snapshots(files)
    snapshots.load()
    for upto, chunk_bytes, power_cut in tries:
        receiver = snapshots.receive(promised.snapshot, promised.size, promised.checksum)
        assert receiver.received <= size
        for chunk in in_pieces(data[receiver.received : upto], chunk_bytes):
            receiver.add(chunk)
        at_least = receiver.received - receiver.received % 100
        receiver.close()
        if power_cut:
            files.crash(random)
            snapshots = open_snapshots(files)
            assert snapshots.load() is None
        else:
            again = snapshots.receive(promised.snapshot, promised.size, promised.checksum)
            assert again.received >= at_least, "whole blocks are kept"
            again.close()
    assert transfer(snapshots, promised, data).finish() == promised
    files.crash()
    snapshots = open_snapshots(files)
    assert snapshots.load() == promised
    assert b"".join(snapshots.chunks(7)) == data


def test_rotten_block_of_a_broken_try_is_fetched_again() -> None:
    promised = written(MemoryFiles(), 20, DATA)
    for offset in range(0, 600, 7):
        files = MemoryFiles()
        snapshots = open_snapshots(files)
        snapshots.load()
        transfer(snapshots, promised, DATA, upto=650).close()
        (name,) = files.list_dir(DIRECTORY)
        damaged = bytearray(files.contents(DIRECTORY / name))
        damaged[offset] ^= 1
        files.overwrite(DIRECTORY / name, bytes(damaged))
        receiver = transfer(snapshots, promised, DATA, upto=0)
        assert receiver.received == offset // 104 * 100
        receiver.close()
        transfer(snapshots, promised, DATA).finish()
        assert b"".join(snapshots.chunks(20)) == DATA


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, DiskFailure)]
)
@pytest.mark.parametrize("work", ["write", "receive"])
def test_failing_disk_breaks_nothing_and_leaves_nothing(
    work: str, number: int, expected: type[DiskFailure]
) -> None:
    promised = written(MemoryFiles(), 20, DATA)

    def run(snapshots: DiskSnapshots) -> None:
        if work == "write":
            snapshots.write(make_snapshot(20), in_pieces(DATA, 300))
        else:
            transfer(snapshots, promised, DATA).finish()

    for blows_at in range(1, 100):
        files = MemoryFiles()
        written(files, 10, OLD)
        snapshots = open_snapshots(files)
        snapshots.load()
        fuse = Fuse(blows_at, OSError(number, "injected"))
        files.before = fuse
        try:
            run(snapshots)
        except expected as error:
            message, kind = str(error), type(error)
        else:
            assert fuse.count < blows_at
            break
        assert str(DIRECTORY) in message
        assert kind is expected
        files.before = lambda operation, path: None
        assert not [name for name in files.list_dir(DIRECTORY) if not name.endswith(".snap")]
        assert b"".join(snapshots.chunks(10)) == OLD
        run(snapshots)
        assert b"".join(snapshots.chunks(20)) == DATA, "with room again, it works"
    assert blows_at > 5


def test_no_room_for_what_is_promised_is_noticed_before_it_is_sent(tmp_path: Path) -> None:
    snapshots = DiskSnapshots(tmp_path / "snapshots")
    snapshots.load()
    with pytest.raises(DiskFull):
        # More than any disk has.
        snapshots.receive(make_snapshot(20), 1 << 55, 0)
    assert os.listdir(tmp_path / "snapshots") == []


def test_files_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        snapshots = DiskSnapshots(tmp_path / "snapshots")
        snapshots.load()
        stored = snapshots.write(make_snapshot(10), [DATA])
        promised = StoredSnapshot(make_snapshot(20), stored.size, stored.checksum)
        transfer(snapshots, promised, DATA, upto=500).close()
        receiver = transfer(snapshots, promised, DATA)
        receiver.finish()
        receiver.close()
        reader = snapshots.open(20)
        assert reader is not None
        reader.close()
        reader.close()
        chunks = snapshots.chunks(20)
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        snapshots.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_second_receiver_for_a_snapshot_takes_over_from_the_first() -> None:
    """Whoever was cancelled while it got the first one cannot close it."""
    promised = written(MemoryFiles(), 20, DATA)
    snapshots = open_snapshots(MemoryFiles())
    snapshots.load()
    first = transfer(snapshots, promised, DATA, upto=450)
    second = snapshots.receive(promised.snapshot, promised.size, promised.checksum)
    assert second.received == 400
    for call in (lambda: first.add(b"x"), first.finish):
        with pytest.raises(StorageError, match="over"):
            call()
    first.close()
    second.add(DATA[400:])
    assert second.finish() == promised
    assert b"".join(snapshots.chunks(20)) == DATA


def test_tidying_up_leaves_a_transfer_alone_that_is_just_beginning() -> None:
    """Going on behind what is there means reading it, which takes a while; another thread tidies up then."""
    promised = written(MemoryFiles(), 20, DATA)
    files = MemoryFiles()
    snapshots = open_snapshots(files)
    snapshots.load()
    transfer(snapshots, promised, DATA, upto=450).close()
    tidying = threading.Thread(target=snapshots.keep, args=([],))

    def meanwhile(operation: str, path: Path) -> None:
        if operation == "preallocate":
            tidying.start()
            tidying.join(0.1)

    files.before = meanwhile
    receiver = transfer(snapshots, promised, DATA)
    tidying.join(20)
    assert receiver.finish() == promised
    assert open_snapshots(files).load() == promised


def test_tidying_up_never_deletes_a_snapshot_that_is_just_being_published() -> None:
    snapshots = open_snapshots(MemoryFiles())
    snapshots.load()
    publishing = threading.Thread(target=snapshots.write, args=(make_snapshot(30), [DATA]))

    class Racing(dict[int, tuple[StoredSnapshot, int]]):
        looks = 0

        def __iter__(self) -> Iterator[int]:
            self.looks += 1
            if self.looks == 2:  # which is the newest has been found out
                publishing.start()
                publishing.join(0.1)
            return super().__iter__()

    snapshots._stored = Racing()
    for index in (10, 20):
        snapshots.write(make_snapshot(index), [OLD])
    snapshots.keep([])
    publishing.join(20)
    assert b"".join(snapshots.chunks(30)) == DATA
    assert snapshots.open(10) is None


def test_unfinished_file_with_another_versions_footer_is_begun_anew() -> None:
    """Ours would be shorter: the rest of the other's would stay behind it, and the end of the file lie."""
    promised = written(MemoryFiles(), 20, DATA)
    files = MemoryFiles()
    snapshots = open_snapshots(files)
    snapshots.load()
    transfer(snapshots, promised, DATA).close()
    [part] = files.list_dir(DIRECTORY)
    longer = files.contents(DIRECTORY / part) + bytes(1000)
    files.overwrite(DIRECTORY / part, longer)
    transfer(snapshots, promised, DATA).finish()
    assert open_snapshots(files).load() == promised


def test_closing_a_reader_waits_for_the_read_under_way(tmp_path: Path) -> None:
    """A transfer is cancelled on the loop while a worker thread reads for it: the descriptor must not be
    given to another file in between."""
    snapshots = DiskSnapshots(tmp_path / "snapshots")
    snapshots.load()
    snapshots.write(make_snapshot(10), [DATA])
    reader = snapshots.open(10)
    assert reader is not None
    inner, entered, go = reader._file, threading.Event(), threading.Event()

    class Slow:
        def read(self, offset: int, size: int) -> bytes:
            entered.set()
            assert go.wait(20)
            return inner.read(offset, size)

        def close(self) -> None:
            inner.close()

    reader._file = Slow()  # type: ignore[assignment]
    results: list[bytes] = []
    reading = threading.Thread(target=lambda: results.append(reader.read(0, 10)))
    reading.start()
    assert entered.wait(20)
    closing = threading.Thread(target=reader.close)
    closing.start()
    go.set()
    reading.join(20)
    closing.join(20)
    assert results == [DATA[:10]]
    with pytest.raises(InvariantViolated):
        reader.read(0, 10)


def test_directory_that_cannot_be_used_and_newer_formats_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataDirError, match=str(file)):
        DiskSnapshots(file).load()
    files = MemoryFiles()
    with monkeypatch.context() as patch:
        patch.setattr("oarlock.storage.snapshot_file.FORMAT_VERSION", 2)
        written(files, 10, DATA)
    with pytest.raises(DataDirError, match=r"format 2.*newer version"):
        open_snapshots(files).load()
