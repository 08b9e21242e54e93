"""What every `SnapshotStorage` has to do.

Inherit, and say how to make one::

    class TestMine(SnapshotSuite):
        def open(self):
            return MySnapshots(self.somewhere)    # what was stored before must be there again
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import google_crc32c

from oarlock.errors import StorageError, WireError
from oarlock.raft.types import Configuration, Index, Member, Snapshot, StoredSnapshot

CONFIGURATION = Configuration(
    (1, 2**64 - 1), members=(Member(1, "a", ("http://a:2380",)), Member(2**64 - 1, "b", priority=3))
)


class Reader(Protocol):
    """`oarlock.replica.ports.SnapshotReader`."""

    size: int

    def read(self, offset: int, size: int) -> bytes: ...

    def close(self) -> None: ...


class Receiver(Protocol):
    """`oarlock.replica.ports.SnapshotReceiver`."""

    received: int

    def add(self, chunk: bytes) -> None: ...

    def finish(self) -> StoredSnapshot: ...

    def close(self) -> None: ...


class Snapshots(Protocol):
    """`oarlock.replica.ports.SnapshotStorage`."""

    def load(self) -> StoredSnapshot | None: ...

    def write(self, snapshot: Snapshot, chunks: Iterable[bytes]) -> StoredSnapshot: ...

    def open(self, index: Index) -> Reader | None: ...

    def receive(self, snapshot: Snapshot, size: int, checksum: int) -> Receiver: ...

    def chunks(self, index: Index) -> Iterator[bytes]: ...

    def keep(self, indexes: Iterable[Index]) -> None: ...

    def close(self) -> None: ...


def make_snapshot(index: Index, term: int = 3) -> Snapshot:
    return Snapshot(index, term, CONFIGURATION, configuration_index=index - 1, time=12345)


def make_data(size: int) -> bytes:
    """Bytes in which no part looks like another."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


def transfer(snapshots: Snapshots, stored: StoredSnapshot, data: bytes, upto: int | None = None) -> Receiver:
    """Receive ``data`` from where the storage has got to; stop before byte ``upto``, if it is given."""
    receiver = snapshots.receive(stored.snapshot, stored.size, stored.checksum)
    for chunk in in_pieces(data[receiver.received : upto], 1000):
        receiver.add(chunk)
    return receiver


class SnapshotSuite:
    """Inherit and implement `open`."""

    size = 300_000
    """Of the snapshots that are written."""

    def open(self) -> Snapshots:
        """A storage with what the previous one of this test held. The previous one is closed."""
        raise NotImplementedError

    def reopen(self, snapshots: Snapshots) -> tuple[Snapshots, StoredSnapshot | None]:
        snapshots.close()
        snapshots = self.open()
        return snapshots, snapshots.load()

    def test_new_storage_has_none(self) -> None:
        snapshots = self.open()
        _same(snapshots.load(), None)
        _same(snapshots.open(1), None)
        snapshots.keep([1, 2])
        snapshots.close()
        snapshots.close()

    def test_snapshot_that_was_written_is_there_after_reopening(self) -> None:
        for size in (0, 1, 65_536, self.size):
            snapshots = self.open()
            snapshots.load()
            data = make_data(size)
            stored = snapshots.write(make_snapshot(10 + size), in_pieces(data, 7777))
            _same(stored, _stored(10 + size, data))
            _same(b"".join(snapshots.chunks(10 + size)), data)
            snapshots, found = self.reopen(snapshots)
            _same(found, stored)
            _same(b"".join(snapshots.chunks(10 + size)), data)
            snapshots.close()

    def test_any_range_can_be_read(self) -> None:
        snapshots = self.open()
        snapshots.load()
        data = make_data(self.size)
        snapshots.write(make_snapshot(10), [data])
        reader = _not_none(snapshots.open(10))
        _same(reader.size, len(data))
        for offset in (0, 1, 65_535, 65_536, 131_072, self.size - 1, self.size, self.size + 5):
            for size in (1, 65_536, 65_537, self.size):
                _same(reader.read(offset, size), data[offset : offset + size])
        reader.close()
        _same(snapshots.open(9), None)
        snapshots.close()

    def test_newest_is_loaded_and_never_deleted(self) -> None:
        snapshots = self.open()
        snapshots.load()
        for index in (10, 20, 30):
            snapshots.write(make_snapshot(index), [b"data %d" % index])
        reader = _not_none(snapshots.open(10))
        snapshots.keep([20])
        _same(snapshots.open(10), None)
        _same(reader.read(0, 100), b"data 10")
        reader.close()
        _same(b"".join(snapshots.chunks(20)), b"data 20")
        snapshots.keep([])
        _same(snapshots.open(20), None)
        snapshots, found = self.reopen(snapshots)
        _same(found, _stored(30, b"data 30"))
        snapshots.close()

    def test_snapshot_whose_writing_fails_leaves_the_one_before(self) -> None:
        snapshots = self.open()
        snapshots.load()
        stored = snapshots.write(make_snapshot(10), [b"ten"])

        def chunks() -> Iterator[bytes]:
            yield make_data(self.size)
            raise RuntimeError("the machine gave up")

        try:
            snapshots.write(make_snapshot(20), chunks())
        except RuntimeError:
            pass
        else:
            raise AssertionError("what the chunks raise comes through")
        _same(snapshots.open(20), None)
        snapshots, found = self.reopen(snapshots)
        _same(found, stored)
        snapshots.close()

    def test_snapshot_that_was_received_is_there_after_reopening(self) -> None:
        for size in (0, 1, 65_536, self.size):
            snapshots = self.open()
            snapshots.load()
            data = make_data(size)
            promised = _stored(10 + size, data)
            receiver = transfer(snapshots, promised, data)
            _same(receiver.received, size)
            _same(receiver.finish(), promised)
            receiver.close()
            _same(b"".join(snapshots.chunks(10 + size)), data)
            snapshots, found = self.reopen(snapshots)
            _same(found, promised)
            snapshots.close()

    def test_broken_transfer_is_resumed_in_the_same_process_and_in_the_next(self) -> None:
        data = make_data(self.size)
        promised = _stored(50, data)
        snapshots = self.open()
        snapshots.load()
        stored = snapshots.write(make_snapshot(10), [b"ten"])
        transfer(snapshots, promised, data, upto=100_000).close()
        receiver = transfer(snapshots, promised, data, upto=200_000)
        _check(receiver.received == 200_000, "the second try goes on behind the first")
        receiver.close()
        snapshots, found = self.reopen(snapshots)
        _same(found, stored)
        snapshots.keep([])
        receiver = snapshots.receive(promised.snapshot, promised.size, promised.checksum)
        got = receiver.received
        _check(100_000 <= got <= 200_000, f"the next process goes on behind what is there, not at {got}")
        receiver.add(data[got:])
        _same(receiver.finish(), promised)
        _same(b"".join(snapshots.chunks(50)), data)
        snapshots.close()

    def test_only_the_very_same_snapshot_is_resumed(self) -> None:
        data = make_data(self.size)
        promised = _stored(50, data)
        others = (
            _stored(51, data),
            StoredSnapshot(make_snapshot(50, term=4), promised.size, promised.checksum),
            StoredSnapshot(promised.snapshot, promised.size + 1, promised.checksum),
            StoredSnapshot(promised.snapshot, promised.size, promised.checksum ^ 1),
        )
        snapshots = self.open()
        snapshots.load()
        for other in others:
            transfer(snapshots, promised, data, upto=200_000).close()
            receiver = snapshots.receive(other.snapshot, other.size, other.checksum)
            _same(receiver.received, 0)
            receiver.close()
        snapshots.close()

    def test_other_bytes_than_promised_are_thrown_away(self) -> None:
        data = make_data(self.size)
        promised = _stored(50, data)
        snapshots = self.open()
        snapshots.load()
        stored = snapshots.write(make_snapshot(10), [b"ten"])
        wrong = data[:150_000] + b"!" + data[150_001:]
        for bad in (wrong, data[:-1], b""):
            receiver = transfer(snapshots, promised, bad)
            _raises(receiver.finish)
            receiver.close()
            receiver = snapshots.receive(promised.snapshot, promised.size, promised.checksum)
            _same(receiver.received, 0)
            receiver.close()
        receiver = transfer(snapshots, promised, data)
        _raises(lambda: receiver.add(b"more"))
        receiver.close()
        _same(snapshots.open(50), None)
        snapshots, found = self.reopen(snapshots)
        _same(found, stored)
        transfer(snapshots, promised, data).finish()
        _same(b"".join(snapshots.chunks(50)), data)
        snapshots.close()

    def test_keep_removes_what_broken_tries_for_older_ones_left(self) -> None:
        data = make_data(self.size)
        promised = _stored(50, data)
        snapshots = self.open()
        snapshots.load()
        for newest, expected in ((49, 65_536), (51, 0)):
            transfer(snapshots, promised, data, upto=150_000).close()
            snapshots.write(make_snapshot(newest), [b"newest"])
            snapshots.keep([])
            receiver = snapshots.receive(promised.snapshot, promised.size, promised.checksum)
            _check(receiver.received >= expected if expected else receiver.received == 0, f"behind {newest}")
            receiver.close()
        transfer_under_way = transfer(snapshots, promised, data)
        snapshots.keep([])
        _same(transfer_under_way.finish(), promised)
        _same(b"".join(snapshots.chunks(50)), data)
        snapshots.close()

    def test_chunks_of_a_snapshot_that_is_not_here_are_refused(self) -> None:
        snapshots = self.open()
        snapshots.load()
        try:
            list(snapshots.chunks(10))
        except StorageError:
            pass
        else:
            raise AssertionError("there is no snapshot 10")
        snapshots.close()


def _stored(index: Index, data: bytes) -> StoredSnapshot:
    return StoredSnapshot(make_snapshot(index), len(data), google_crc32c.value(data))


def _not_none(reader: Reader | None) -> Reader:
    if reader is None:
        raise AssertionError("the snapshot is not there")
    return reader


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"found {found!r:.200}, expected {expected!r:.200}")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _raises(call: Callable[[], object]) -> None:
    try:
        call()
    except WireError:
        return
    raise AssertionError("these are not the bytes that were promised")
