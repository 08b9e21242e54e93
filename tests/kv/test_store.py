"""What the store promises: one point of the log, at any time; clear errors; equal members."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from oarlock.errors import DataDirError, InvariantViolated
from oarlock.etcd_pb import rpc_pb2
from oarlock.kv import (
    Compacted,
    FutureRevision,
    MalformedCommand,
    PutResult,
    RangeResult,
    Store,
    commands,
    environment,
    store,
)
from oarlock.machine.ports import Command

from .conftest import Feeder, pairs, put_command


def test_an_empty_store_is_at_revision_one_and_index_zero(kv: Feeder) -> None:
    assert (kv.store.revision, kv.store.applied_index) == (1, 0)


def test_state_and_applied_index_survive_reopening(tmp_path: Path) -> None:
    first = Store.open(tmp_path)
    Feeder(first).put(b"k", b"v")
    first.apply([], 9)
    digest = first.hash()
    first.close()
    second = Store.open(tmp_path)
    assert (second.applied_index, second.revision, second.hash()) == (9, 2, digest)
    assert pairs(Feeder(second).range(b"k"))[0].value == b"v"
    second.close()


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    opened = Store.open(tmp_path)
    opened.close()
    opened.close()


def test_a_killed_process_leaves_exactly_a_prefix_of_its_batches(tmp_path: Path) -> None:
    """Every batch puts ten keys; the child is killed somewhere in the middle of its work."""
    code = textwrap.dedent(
        """
        import sys
        from oarlock.kv import PUT, Store
        from oarlock.machine.ports import Command
        from oarlock.etcd_pb import rpc_pb2
        store, index = Store.open(sys.argv[1]), 0
        while True:
            batch = []
            for _ in range(10):
                index += 1
                put = rpc_pb2.PutRequest(key=b"%d" % index, value=bytes(300))
                batch.append(Command(index, 1, PUT + put.SerializeToString()))
            store.apply(batch, index)
            print(index, flush=True)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "kv")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    told = 0
    while told < 5000:
        told = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read().split("\n")
    told = max([told, *(int(line) for line in rest[:-1] if line)])
    child.wait()
    child.stdout.close()
    opened = Store.open(tmp_path / "kv")
    assert opened.applied_index >= told
    assert opened.applied_index % 10 == 0
    assert opened.revision == 1 + opened.applied_index
    everything = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", count_only=True)
    assert opened.range(everything).count == opened.applied_index
    opened.close()


def test_a_creation_cut_short_by_a_kill_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(bytes(1 << 20))
    opened = Store.open(tmp_path)
    assert opened.applied_index == 0
    opened.close()


def test_a_file_that_is_no_store_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 10_000)
    with pytest.raises(DataDirError, match="cannot open the key-value store") as caught:
        Store.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_store_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store.open(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(store, "FORMAT", 77)
        opened.apply([], 1)
        opened.close()
    with pytest.raises(DataDirError, match="format 77; this version knows format 1"):
        Store.open(tmp_path)


def test_a_path_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="cannot open"):
        Store.open(tmp_path / "file" / "kv")


def test_destroy_removes_the_store_and_only_a_new_one_is_left(tmp_path: Path) -> None:
    first = Store.open(tmp_path / "kv")
    Feeder(first).put(b"k")
    first.close()
    Store.destroy(tmp_path / "kv")
    Store.destroy(tmp_path / "kv")
    second = Store.open(tmp_path / "kv")
    assert second.revision == 1
    second.close()


def test_the_log_is_never_applied_backwards_or_twice(kv: Feeder) -> None:
    kv.put(b"k")
    with pytest.raises(InvariantViolated, match="twice"):
        kv.store.apply([Command(1, 1, put_command(b"k"))], 5)
    with pytest.raises(InvariantViolated, match="backwards"):
        kv.store.apply([], 0)
    with pytest.raises(InvariantViolated, match="behind"):
        kv.store.apply([Command(3, 1, put_command(b"k"))], 2)
    assert kv.store.revision == 2


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x01\xff\xff", commands.DELETE_RANGE + b"\x0a\x05k"])
def test_a_malformed_command_is_answered_and_the_batch_goes_on(kv: Feeder, data: bytes) -> None:
    results = kv.apply(put_command(b"a"), data, put_command(b"b"))
    assert [type(result) for result in results] == [PutResult, MalformedCommand, PutResult]
    assert kv.keys(b"a", b"\0") == [b"a", b"b"]


def test_the_decoded_request_stands_in_for_the_bytes(kv: Feeder) -> None:
    request = rpc_pb2.PutRequest(key=b"k", value=b"v")
    kv.store.apply([Command(1, 1, b"", request)], 1)
    assert kv.keys(b"k") == [b"k"]


def test_members_that_applied_the_same_log_in_different_batches_are_equal(tmp_path: Path) -> None:
    log = [put_command(b"k%d" % (n % 7), b"v%d" % n, prev_kv=True) for n in range(50)]
    log[10:10] = [
        commands.DELETE_RANGE + rpc_pb2.DeleteRangeRequest(key=b"k", range_end=b"l").SerializeToString()
    ]
    members = [Store.open(tmp_path / name) for name in ("a", "b")]
    one, other = map(Feeder, members)
    assert one.apply(*log) == [other.apply(data)[0] for data in log]
    assert members[0].hash() == members[1].hash()
    assert members[0].hash(20) == members[1].hash(20) != members[0].hash(21)
    other.put(b"k")
    assert members[0].hash() != members[1].hash()
    for member in members:
        member.close()


def test_reads_beyond_the_known_revisions_are_refused(kv: Feeder) -> None:
    kv.put(b"k")
    with pytest.raises(FutureRevision) as caught:
        kv.range(b"k", revision=3)
    assert (caught.value.revision, caught.value.current) == (3, 2)
    with pytest.raises(FutureRevision):
        kv.store.hash(3)
    kv.put(b"k")
    kv.store.compact_revision = 3
    with pytest.raises(Compacted):
        kv.range(b"k", revision=2)
    assert kv.keys(b"k", revision=3) == [b"k"]


def test_the_file_grows_as_far_as_it_has_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "INITIAL_MAP_BYTES", 1 << 18)
    opened = Store.open(tmp_path)
    feeder = Feeder(opened)
    feeder.put(b"first", b"1")
    assert feeder.keys(b"first") == [b"first"]
    results = feeder.apply(*(put_command(b"k%d" % n, bytes(100_000)) for n in range(20)))
    assert [result.revision for result in results] == list(range(3, 23))
    assert feeder.keys(b"first") == [b"first"]
    assert len(feeder.keys(b"k", b"l")) == 20
    assert opened.size > 2_000_000
    opened.close()


def test_a_full_disk_is_noticed_ahead_told_before_anything_is_changed_and_got_over(tmp_path: Path) -> None:
    """The real allocation fails: the file may not grow beyond the process's limit on file sizes."""
    code = textwrap.dedent(
        """
        import resource, signal, sys
        from oarlock.errors import DiskFull
        from oarlock.etcd_pb import rpc_pb2
        from oarlock.kv import PUT, Store, environment
        from oarlock.machine.ports import Command
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        environment.INITIAL_MAP_BYTES = 1 << 18
        store = Store.open(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, resource.RLIM_INFINITY))
        value = bytes(20_000)
        noticed_at = index = 0
        def put():
            global index
            request = rpc_pb2.PutRequest(key=b"%d" % (index + 1), value=value).SerializeToString()
            store.apply([Command(index + 1, 1, PUT + request)], index + 1)
            index += 1
        try:
            while index < 1000:
                put()
                if store.full and not noticed_at:
                    noticed_at = index
        except DiskFull as error:
            assert "\\n" not in str(error) and "no space" in str(error), error
        assert 0 < noticed_at < index < 1000, (noticed_at, index)
        assert (store.applied_index, store.revision) == (index, index + 1)
        everything = rpc_pb2.RangeRequest(key=b"\\0", range_end=b"\\0")
        assert store.range(everything).count == index
        assert not store.try_to_grow() and store.full
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert store.try_to_grow() and not store.full
        put()
        assert store.range(everything).count == index
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr


def test_hashing_in_a_thread_does_not_disturb_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "INITIAL_MAP_BYTES", 1 << 18)
    opened = Store.open(tmp_path)
    feeder = Feeder(opened)
    feeder.apply(*(put_command(b"k%d" % n, bytes(100)) for n in range(500)))
    expected = opened.hash(501)
    hashes: list[int] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            hashes.append(opened.hash(501))

    thread = threading.Thread(target=work)
    thread.start()
    for n in range(30):
        feeder.put(b"big%d" % n, bytes(100_000))
    stop.set()
    thread.join()
    assert set(hashes) == {expected}
    opened.close()


def test_growing_waits_for_one_reading_thread_not_for_all_that_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop is what waits here: with six threads at it, it stood still for three seconds."""
    opened = Store.open(tmp_path)
    order: list[str] = []
    begun, may_end = threading.Event(), threading.Event()
    read, reserve = store.ranges.read, environment.reserve

    def slow_read(*arguments: Any) -> RangeResult:
        order.append("read")
        begun.set()
        assert may_end.wait(20)
        return read(*arguments)

    def noted_reserve(path: Path, size: int) -> int:
        order.append("grow")
        return reserve(path, size)

    monkeypatch.setattr(store.ranges, "read", slow_read)
    monkeypatch.setattr(environment, "reserve", noted_reserve)
    monkeypatch.setattr(store, "HOLD_OFF_SECONDS", 20.0)
    request = rpc_pb2.RangeRequest(key=b"k")
    readers = [threading.Thread(target=opened.range_in_thread, args=(request,)) for _ in range(6)]
    for reader in readers:
        reader.start()
    assert begun.wait(20)
    grower = threading.Thread(target=opened._grow)
    grower.start()
    while opened._may_read.is_set():
        time.sleep(0.001)
    may_end.set()
    for thread in (*readers, grower):
        thread.join(20)
    assert order == ["read", "grow", *["read"] * 5]
    opened.close()


def test_growth_ahead_of_need_that_finds_a_reader_keeps_the_next_one_out_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Store.open(tmp_path)
    monkeypatch.setattr(store, "HOLD_OFF_SECONDS", 0.01)
    monkeypatch.setattr(opened, "_is_tight", lambda: True)
    before = opened._map_size
    with opened._mapping:
        assert opened.try_to_grow()
        assert opened._map_size == before, "it does not wait: this runs on the event loop"
    assert not opened._may_read.is_set()
    opened.range_in_thread(rpc_pb2.RangeRequest(key=b"k"))  # nothing was written: it waits a moment at most
    assert opened._may_read.is_set()
    assert opened.try_to_grow()
    assert opened._map_size > before
    opened.close()
