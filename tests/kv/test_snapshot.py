"""A hot copy is the state of one index, whatever is written meanwhile, and never in the way of a write."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oarlock.errors import DataDirError, DiskFailure, StorageError
from oarlock.etcd_pb import rpc_pb2
from oarlock.kv import DELETE_RANGE, Store, snapshot, store
from oarlock.kv.snapshot import directory_beside
from oarlock.machine import CaptureFailed

from .conftest import Feeder, put_command


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """A second member's store, that holds something else."""
    opened = Store.open(tmp_path / "other")
    Feeder(opened).put(b"old", b"old")
    yield opened
    opened.close()


def copy_of(source: Store) -> list[bytes]:
    capture = source.capture()
    try:
        return list(capture.chunks())
    finally:
        capture.close()


def churn(feeder: Feeder, dice: random.Random, batches: int) -> None:
    """Puts, overwrites and deletions of all sizes: pages are freed and used again."""
    for _ in range(batches):
        commands = [
            put_command(b"k%d" % dice.randrange(300), bytes(dice.choice((0, 100, 1000, 9000))))
            for _ in range(dice.randrange(1, 8))
        ]
        request = rpc_pb2.DeleteRangeRequest(key=b"k%d" % dice.randrange(30), range_end=b"k5")
        feeder.apply(*commands, DELETE_RANGE + request.SerializeToString())


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_is_the_state_when_it_was_captured_whatever_is_written_meanwhile(
    kv: Feeder, other: Store, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PIECE_BYTES", 1 << 15)
    dice = random.Random(seed)
    churn(kv, dice, 40)
    capture = kv.store.capture()
    index, revision, digest = kv.store.applied_index, kv.store.revision, kv.store.hash()
    pieces = []
    for piece in capture.chunks():
        pieces.append(piece)
        churn(kv, dice, 2)
    capture.close()
    assert len(pieces) > 5
    other.install(other.prepare(iter(pieces)), index)
    assert (other.applied_index, other.revision, other.hash()) == (index, revision, digest)
    assert other.get(b"old") is None
    assert kv.store.hash(revision) == digest


def test_an_installed_store_goes_on_where_the_copy_ends_and_stays_after_reopening(
    kv: Feeder, other: Store, tmp_path: Path
) -> None:
    kv.put(b"k", b"1")
    other.install(other.prepare(copy_of(kv.store)), 1)
    for member in (kv.store, other):
        Feeder(member).put(b"k", b"2")
        Feeder(member).apply(*(put_command(b"k%d" % n, bytes(100_000)) for n in range(300)))
    assert other.hash() == kv.store.hash()
    other.close()
    again = Store.open(tmp_path / "other")
    assert (again.applied_index, again.hash()) == (302, kv.store.hash())
    assert not directory_beside(again.path).exists()
    again.install(again.prepare(copy_of(kv.store)), 302)
    assert again.hash() == kv.store.hash()
    again.close()


def test_pieces_are_small_and_all_of_the_pages_in_use(kv: Feeder) -> None:
    kv.apply(*(put_command(b"k%d" % n, bytes(100_000)) for n in range(50)))
    pieces = copy_of(kv.store)
    assert max(map(len, pieces)) == 1 << 20
    assert sum(map(len, pieces)) == kv.store.size < kv.store._map_size


def test_a_write_that_needs_room_ends_the_capture_and_does_not_wait_for_it(
    kv: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who copies stands still for good: a write that waited for him would never return."""
    kv.apply(*(put_command(b"k%d" % n, bytes(10_000)) for n in range(200)))
    capture = kv.store.capture()
    chunks = capture.chunks()
    next(chunks)
    before = kv.store._map_size
    while kv.store._map_size == before:
        kv.put(b"k", bytes(100_000))
    assert not capture.open
    with pytest.raises(CaptureFailed, match="needed the room"):
        list(chunks)
    capture.close()
    assert sum(map(len, copy_of(kv.store))) == kv.store.size


def test_after_a_capture_that_had_to_end_there_is_more_room_made_for_the_next(
    kv: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv.apply(*(put_command(b"k%d" % n, bytes(10_000)) for n in range(200)))
    survived = []
    for _ in range(6):
        capture = kv.store.capture()
        left = kv.store._map_size - kv.store.size
        count = 0
        while capture.open and count < 300:
            kv.put(b"k", bytes(100_000))
            count += 1
        survived.append(capture.open)
        capture.close()
        assert left >= kv.store._headroom() // 2
    assert survived == sorted(survived)
    assert survived[0] is False
    assert survived[-1] is True


def test_room_is_made_before_a_capture_and_growth_ahead_of_need_is_put_off_during_it(kv: Feeder) -> None:
    while not kv.store._is_tight():
        kv.store._headroom = lambda: 0  # type: ignore[method-assign]
        kv.put(b"k", bytes(100_000))
        del kv.store._headroom  # type: ignore[method-assign]
    before = kv.store._map_size
    capture = kv.store.capture()
    assert kv.store._map_size > before
    before = kv.store._map_size
    while capture.open and kv.store._map_size - kv.store.size > kv.store._headroom() - 200_000:
        kv.put(b"k", bytes(100_000))
    assert capture.open
    assert kv.store._map_size == before
    capture.close()
    kv.put(b"k")
    assert kv.store._map_size > before


def test_a_capture_that_was_closed_gives_nothing_more_and_frees_its_pages(kv: Feeder) -> None:
    capture = kv.store.capture()
    chunks = capture.chunks()
    capture.close()
    capture.close()
    with pytest.raises(CaptureFailed, match="closed"):
        next(chunks)
    sizes = []
    for _ in range(3):
        for _ in range(50):
            kv.store.apply([], kv.store.applied_index + 1)
        sizes.append(kv.store.size)
    assert sizes[1] == sizes[2], "pages are used again"


def test_closing_the_store_ends_captures_and_drops_what_was_prepared(tmp_path: Path) -> None:
    opened = Store.open(tmp_path / "kv")
    Feeder(opened).put(b"k")
    capture = opened.capture()
    chunks = capture.chunks()
    opened.prepare(copy_of(opened))
    opened.close()
    with pytest.raises(CaptureFailed):
        list(chunks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kv"]


def test_copying_in_a_thread_while_batches_are_applied(kv: Feeder, other: Store) -> None:
    kv.apply(*(put_command(b"k%d" % n, bytes(1000)) for n in range(3000)))
    digest, index = kv.store.hash(), kv.store.applied_index
    capture = kv.store.capture()
    prepared = []
    thread = threading.Thread(target=lambda: prepared.append(other.prepare(capture.chunks())))
    thread.start()
    while thread.is_alive():
        kv.put(b"k", bytes(500))
        Feeder(other).put(b"meanwhile")
    thread.join()
    capture.close()
    other.install(prepared[0], index)
    assert other.hash() == digest


def whole(pieces: list[bytes]) -> bytes:
    return b"".join(pieces)


@pytest.mark.parametrize("damage", ["nothing", "garbage", "zeros", "cut", "long", "half a page", "format"])
def test_what_is_no_store_is_refused_and_changes_nothing(kv: Feeder, other: Store, damage: str) -> None:
    kv.apply(*(put_command(b"k%d" % n, bytes(1000)) for n in range(100)))
    if damage == "format":
        with kv.store._env.begin(write=True) as txn:
            txn.put(b"state", store._state.pack(store.FORMAT + 1, 1, 1, 1), db=kv.store._meta)
    good = whole(copy_of(kv.store))
    bad = {
        "nothing": b"",
        "garbage": random.Random(1).randbytes(100_000),
        "zeros": bytes(100_000),
        "cut": good[:-4096],
        "long": good + bytes(4096),
        "half a page": good[:2000],
        "format": good,
    }[damage]
    before = other.hash()
    with pytest.raises(StorageError) as caught:
        other.prepare([bad[:3000], bad[3000:]])
    assert "\n" not in str(caught.value)
    assert not directory_beside(other.path).exists()
    assert (other.hash(), other.applied_index) == (before, 1)


def test_a_copy_that_breaks_off_leaves_nothing(kv: Feeder, other: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield whole(copy_of(kv.store))
        raise StorageError("the disk it comes from")

    with pytest.raises(StorageError, match="comes from"):
        other.prepare(broken())
    assert not directory_beside(other.path).exists()


def test_a_copy_of_another_index_is_not_installed(kv: Feeder, other: Store) -> None:
    kv.put(b"k")
    prepared = other.prepare(copy_of(kv.store))
    with pytest.raises(StorageError, match="of index 7 holds a store of 1"):
        other.install(prepared, 7)
    assert other.get(b"old") is not None
    other.install(prepared, 1)
    with pytest.raises(StorageError, match="before"):
        other.install(prepared, 1)


def test_preparing_again_drops_what_was_prepared_before(kv: Feeder, other: Store) -> None:
    kv.put(b"k")
    first = other.prepare(copy_of(kv.store))
    kv.put(b"l")
    second = other.prepare(copy_of(kv.store))
    with pytest.raises(StorageError, match="dropped"):
        other.install(first, 1)
    other.install(second, 2)
    assert other.get(b"l") is not None


def test_threads_that_read_see_the_one_store_or_the_other(kv: Feeder, other: Store) -> None:
    kv.apply(*(put_command(b"k%d" % n, bytes(100)) for n in range(500)))
    Feeder(other).apply(*(put_command(b"k%d" % n, bytes(100)) for n in range(100)))
    counts: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            counts.append(other.range_in_thread(rpc_pb2.RangeRequest(key=b"k", range_end=b"l")).count)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        other.install(other.prepare(copy_of(kv.store)), kv.store.applied_index)
        kv.put(b"k1")
    stop.set()
    for thread in threads:
        thread.join()
    assert set(counts) <= {100, 500}
    assert counts[-1] == 500


@pytest.mark.parametrize("survives", [0, 1])
def test_a_failure_between_the_renames_leaves_the_store_that_was(
    kv: Feeder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    victim = Store.open(tmp_path / "victim")
    Feeder(victim).put(b"old")
    prepared = victim.prepare(copy_of(kv.store))
    replace, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > survives:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(DiskFailure, match="cannot install"):
        victim.install(prepared, 0)
    monkeypatch.undo()
    victim.close()
    again = Store.open(tmp_path / "victim")
    assert again.get(b"old") is not None
    assert not directory_beside(again.path).exists()
    again.close()


def test_a_process_killed_at_any_moment_of_installing_leaves_one_store_or_the_other(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        from oarlock.kv import PUT, Store
        from oarlock.machine.ports import Command
        from oarlock.etcd_pb import rpc_pb2
        root = sys.argv[1]
        def put(store, index):
            put = rpc_pb2.PutRequest(key=b"k", value=bytes(3000))
            store.apply([Command(index, 1, PUT + put.SerializeToString())], index)
        source, target = Store.open(root + "/source"), Store.open(root + "/target")
        index = target.applied_index
        put(source, max(source.applied_index, index) + 1)
        while True:
            put(source, source.applied_index + 1)
            capture = source.capture()
            target.install(target.prepare(capture.chunks()), source.applied_index)
            capture.close()
            print(source.applied_index, target.revision, flush=True)
        """
    )
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(10)]
        child.send_signal(signal.SIGKILL)
        last = (lines + child.stdout.readlines())[-1]
        child.wait()
        child.stdout.close()
        index, revision = map(int, last.split())
        found = Store.open(tmp_path / "target")
        assert index <= found.applied_index <= index + 1
        assert revision <= found.revision <= revision + 1
        found.hash()
        found.close()


def test_closing_makes_the_name_of_an_installed_store_durable(
    kv: Feeder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the file that it replaced, which was never synced, could be back after a power cut, and trusted."""
    kv.put(b"key", b"value")
    other = Store.open(tmp_path / "other")
    other.install(other.prepare(copy_of(kv.store)), kv.store.applied_index)
    synced = []
    really = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), really(fd)))
    other.close()
    assert synced == [(tmp_path / "other").stat().st_ino]


def test_leftovers_beside_a_store_go_with_it_and_at_its_start(tmp_path: Path) -> None:
    beside = directory_beside(tmp_path / "kv")
    for act in (lambda: Store.open(tmp_path / "kv").close(), lambda: Store.destroy(tmp_path / "kv")):
        beside.mkdir()
        (beside / "data.mdb").write_bytes(b"half")
        act()
        assert not beside.exists()


def test_a_directory_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="cannot open"):
        Store.open(tmp_path / "file" / "kv")


def test_a_full_disk_while_preparing_is_an_error_that_leaves_nothing_and_no_harm(tmp_path: Path) -> None:
    """The real write fails, or the real allocation: files may not grow beyond the process's limit."""
    code = textwrap.dedent(
        """
        import os, resource, signal, sys
        from oarlock.errors import StorageError
        from oarlock.etcd_pb import rpc_pb2
        from oarlock.kv import PUT, Store
        from oarlock.machine.ports import Command
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        root = sys.argv[1]
        source, target = Store.open(root + "/source"), Store.open(root + "/target")
        put = PUT + rpc_pb2.PutRequest(key=b"k", value=bytes(1 << 20)).SerializeToString()
        for index in range(1, 21):
            source.apply([Command(index, 1, put)], index)
        pieces = list(source.capture().chunks())
        for limit in (5 << 20, source.size + 4096):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                target.prepare(pieces)
                raise SystemExit("it was prepared without room")
            except StorageError as error:
                assert "\\n" not in str(error), error
            assert sorted(os.listdir(root)) == ["source", "target"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        target.apply([Command(1, 1, PUT + rpc_pb2.PutRequest(key=b"l").SerializeToString())], 1)
        target.install(target.prepare(pieces), 20)
        assert target.hash() == source.hash()
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
