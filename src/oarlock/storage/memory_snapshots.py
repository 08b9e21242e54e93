"""`SnapshotStorage` without a disk: for members that keep nothing, and for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import google_crc32c

from oarlock.errors import StorageError, WireError, invariant
from oarlock.raft.types import Index, Snapshot, StoredSnapshot

_PIECE_BYTES = 1 << 20


class MemorySnapshots:
    """Snapshots in memory (implements `oarlock.replica.ports.SnapshotStorage`).

    Args:
        previous: a storage whose contents this one continues, as after a restart.
    """

    def __init__(self, previous: MemorySnapshots | None = None) -> None:
        self._stored: dict[Index, tuple[StoredSnapshot, bytes]] = {}
        self._parts: dict[StoredSnapshot, bytearray] = {}
        self._changing = threading.Lock()
        """Held while one of these is changed: by a thread that writes, one that receives, one that tidies."""
        if previous is not None:
            self._stored.update(previous._stored)
            self._parts.update(previous._parts)

    def load(self) -> StoredSnapshot | None:
        self.keep([])
        return self._stored[max(self._stored)][0] if self._stored else None

    def write(self, snapshot: Snapshot, chunks: Iterable[bytes]) -> StoredSnapshot:
        data = b"".join(chunks)
        stored = StoredSnapshot(snapshot, len(data), google_crc32c.value(data))
        self.publish(stored, data)
        return stored

    def publish(self, stored: StoredSnapshot, data: bytes) -> None:
        """It is whole, and one of ours from now on."""
        with self._changing:
            self._stored[stored.snapshot.index] = stored, data

    def open(self, index: Index) -> MemoryReader | None:
        found = self._stored.get(index)
        return None if found is None else MemoryReader(found[1])

    def receive(self, snapshot: Snapshot, size: int, checksum: int) -> MemoryReceiver:
        promised = StoredSnapshot(snapshot, size, checksum)
        with self._changing:
            part = self._parts.get(promised, bytearray())
            self._parts = {promised: part}
        return MemoryReceiver(self, promised, part)

    def chunks(self, index: Index) -> Iterator[bytes]:
        found = self._stored.get(index)
        if found is None:
            raise StorageError(f"snapshot {index} is not here")
        data = found[1]
        for offset in range(0, len(data), _PIECE_BYTES):
            yield data[offset : offset + _PIECE_BYTES]

    def keep(self, indexes: Iterable[Index]) -> None:
        indexes = list(indexes)
        with self._changing:
            newest = max(self._stored, default=0)
            wanted = {*indexes, newest}
            self._stored = {index: found for index, found in self._stored.items() if index in wanted}
            self._parts = {part: data for part, data in self._parts.items() if part.snapshot.index > newest}

    def close(self) -> None:
        """Nothing to release."""


class MemoryReader:
    """Implements `oarlock.replica.ports.SnapshotReader`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def close(self) -> None:
        """Nothing to release."""


class MemoryReceiver:
    """Implements `oarlock.replica.ports.SnapshotReceiver`."""

    def __init__(self, storage: MemorySnapshots, promised: StoredSnapshot, part: bytearray) -> None:
        self._storage = storage
        self._promised = promised
        self._part = part
        self.received = len(part)
        self._closed = False

    def add(self, chunk: bytes) -> None:
        """Raises WireError: this is more than was promised; what is here is thrown away."""
        invariant(not self._closed, "add() is called before finish() and close()")
        if len(self._part) + len(chunk) > self._promised.size:
            self._throw_away()
            raise WireError(f"a snapshot of {self._promised.size} bytes goes on behind its end")
        self._part += chunk
        self.received = len(self._part)

    def finish(self) -> StoredSnapshot:
        invariant(not self._closed, "finish() is called once, before close()")
        data, promised = bytes(self._part), self._promised
        self._throw_away()
        if (len(data), google_crc32c.value(data)) != (promised.size, promised.checksum):
            raise WireError(f"a snapshot of {promised.size} bytes was promised, and these are not it")
        self._storage.publish(promised, data)
        return promised

    def close(self) -> None:
        self._closed = True

    def _throw_away(self) -> None:
        self._closed = True
        self._storage._parts.pop(self._promised, None)
