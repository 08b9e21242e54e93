"""Snapshots in a directory: each is there wholly or not at all.

::

    00000000000186a0.snap                      a snapshot, named by its index: durable before it got the name
    00000000000186a0.tmp                       one that is being made here; worthless after a crash
    00000000000186a0-3-5f5e100-8a9136aa.part   one on its way in: index, term, size and checksum, hexadecimal

Bytes: `oarlock.storage.snapshot_file`. A file is written aside, synced, renamed, and the directory is synced;
the one before is deleted only after that (`DiskSnapshots.keep`). So a damaged file is damaged, never half
made, and what is found at the start is what to go by.

**No falling back.** If the newest snapshot is damaged, an older one would be no help: the log has been cut
behind the newest, and what is between the two is on no disk of this member. So it is an error that
names the file, and the member is restored from the others.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from oarlock.errors import CorruptSnapshot, DataDirError, StorageError, WireError, invariant
from oarlock.raft.types import Index, Snapshot, StoredSnapshot
from oarlock.storage.files import FULL, File, Files, RealFiles
from oarlock.storage.snapshot_file import (
    BLOCK_BYTES,
    BlockReader,
    BlockWriter,
    checksum_of,
    data_bytes,
    good_beginning,
    read_footer,
    snapshot_failure,
)

_NAME = re.compile(r"([0-9a-f]{16})\.snap")
_ASIDE = re.compile(r"[0-9a-f]{16}\.tmp")
_PART = re.compile(r"([0-9a-f]{16})-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+\.part")


class DiskSnapshots:
    """Snapshots on disk (implements `oarlock.replica.ports.SnapshotStorage`).

    Args:
        directory: made if it does not exist. One process at a time: `DataDir` holds the lock.
        files: the file system.
        block_bytes: how much one checksum covers, in new snapshots; only tests need to choose.
    """

    def __init__(
        self, directory: Path, *, files: Files | None = None, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self._directory = directory
        self._files: Files = RealFiles() if files is None else files
        self._block_bytes = block_bytes
        self._stored: dict[Index, tuple[StoredSnapshot, int]] = {}
        """What is here, with its block size."""
        self._receivers: dict[str, DiskReceiver] = {}
        """Those under way, by the names of their files."""
        self._receiving = threading.Lock()
        """Held while unfinished transfers are begun or removed."""
        self._naming = threading.Lock()
        """Held while snapshots get their names or are removed. Nobody waits for another lock meanwhile."""
        self._loaded = False

    def newest_index(self) -> Index:
        """What the newest one covers, going by its name; 0 if there is none. May be called before `load`.

        Raises DataDirError.
        """
        try:
            return _newest(self._files.list_dir(self._directory))
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise self._unusable(error) from None

    def load(self) -> StoredSnapshot | None:
        """See `oarlock.replica.ports.SnapshotStorage.load`. Reads the newest wholly, in pieces.

        Removes all else, but for what the latest broken try to get a newer one left: that can be resumed.
        """
        invariant(not self._loaded, "load() is called once, before anything else")
        self._loaded = True
        try:
            self._files.make_dir(self._directory)
            self._files.sync_dir(self._directory.parent)
            # A process that was killed may have left names that are not durable yet.
            self._files.sync_dir(self._directory)
            names = self._files.list_dir(self._directory)
            newest = _newest(names)
            stored = self._check(newest) if newest else None
            self._tidy(names, newest)
            return stored
        except OSError as error:
            if error.errno in FULL or error.errno == errno.EIO:
                raise snapshot_failure(error, self._directory) from error
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> DataDirError:
        return DataDirError(f"{self._directory}: cannot use the snapshots: {error.strerror or error}")

    def _check(self, index: Index) -> StoredSnapshot:
        path = self._path(index)
        file = self._files.open(path)
        try:
            footer = read_footer(file, path)
            if footer.stored.snapshot.index != index:
                raise CorruptSnapshot(
                    path, f"this is snapshot {footer.stored.snapshot.index} by another name"
                )
            reader = BlockReader(file, path, footer.stored.size, footer.block_bytes)
            if checksum_of(reader.pieces()) != footer.stored.checksum:
                raise CorruptSnapshot(path, "the data has a wrong checksum")
        finally:
            file.close()
        self._stored[index] = footer.stored, footer.block_bytes
        return footer.stored

    def _tidy(self, names: list[str], newest: Index) -> None:
        """Remove what the newest snapshot supersedes, and leftovers."""
        parts = [name for name in names if (match := _PART.fullmatch(name)) and int(match[1], 16) > newest]
        for name in names:
            match = _NAME.fullmatch(name)
            older = match is not None and int(match[1], 16) < newest
            leftover = _ASIDE.fullmatch(name) or (_PART.fullmatch(name) and name not in parts[-1:])
            if older or leftover:
                self._files.remove(self._directory / name)

    def write(self, snapshot: Snapshot, chunks: Iterable[bytes]) -> StoredSnapshot:
        """See `oarlock.replica.ports.SnapshotStorage.write`. If it fails, nothing of it is left.

        Raises:
            DiskFull, DiskFailure: only this snapshot is lost. What ``chunks`` raises comes through.
        """
        aside = self._path(snapshot.index).with_suffix(".tmp")
        try:
            file = self._files.create(aside)
            try:
                writer = BlockWriter(file, self._block_bytes)
                for chunk in chunks:
                    writer.add(chunk)
                stored = writer.finish(snapshot)
            finally:
                file.close()
            self._publish(aside, stored)
        except OSError as error:
            self._discard(aside)
            raise snapshot_failure(error, aside) from error
        except Exception:
            self._discard(aside)
            raise
        return stored

    def open(self, index: Index) -> BlockReader | None:
        """See `oarlock.replica.ports.SnapshotStorage.open`. Raises DiskFailure."""
        found = self._stored.get(index)
        if found is None:
            return None
        stored, block_bytes = found
        path = self._path(index)
        try:
            return BlockReader(self._files.open(path), path, stored.size, block_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise snapshot_failure(error, path) from error

    def receive(self, snapshot: Snapshot, size: int, checksum: int) -> DiskReceiver:
        """See `oarlock.replica.ports.SnapshotStorage.receive`. What broken tries for others left goes.

        It takes over from a receiver for the very same snapshot that was not closed.

        Raises:
            DiskFull, DiskFailure: there is no room for it; nothing of it is left.
        """
        with self._receiving:
            return self._receive(snapshot, size, checksum)

    def _receive(self, snapshot: Snapshot, size: int, checksum: int) -> DiskReceiver:
        name = f"{snapshot.index:016x}-{snapshot.term:x}-{size:x}-{checksum:08x}.part"
        if (before := self._receivers.get(name)) is not None:
            before.close()
        path = self._directory / name
        file: File | None = None
        try:
            names = self._files.list_dir(self._directory)
            self._remove_parts(other for other in names if other != name)
            file = self._files.open(path) if name in names else self._files.create(path)
            room = data_bytes(size, self._block_bytes)
            if file.size() > room:
                # It has got its footer, but not its name. Another version's may be longer than ours.
                file.close()
                file = self._files.create(path)
            file.preallocate(room)
            blocks, so_far = good_beginning(file, size, self._block_bytes) if name in names else (0, 0)
        except OSError as error:
            if file is not None:
                file.close()
            self._discard(path)
            raise snapshot_failure(error, path) from error
        writer = BlockWriter(file, self._block_bytes, blocks=blocks, checksum=so_far)
        promised = StoredSnapshot(snapshot, size, checksum)
        self._receivers[name] = receiver = DiskReceiver(self, promised, path, file, writer)
        return receiver

    def chunks(self, index: Index) -> Iterator[bytes]:
        """See `oarlock.replica.ports.SnapshotStorage.chunks`.

        Raises:
            CorruptSnapshot: the bytes are not those that were written.
            DiskFailure: the disk failed.
            StorageError: it is not here.
        """
        reader = self.open(index)
        if reader is None:
            raise StorageError(f"{self._path(index)}: this snapshot is not here")
        try:
            yield from reader.pieces()
        finally:
            reader.close()

    def keep(self, indexes: Iterable[Index]) -> None:
        """See `oarlock.replica.ports.SnapshotStorage.keep`. Raises DiskFailure."""
        indexes = list(indexes)
        try:
            with self._naming:
                newest = max(self._stored, default=0)
                wanted = {*indexes, newest}
                for index in [index for index in self._stored if index not in wanted]:
                    del self._stored[index]
                    self._files.remove(self._path(index))
            with self._receiving:
                names = self._files.list_dir(self._directory)
                self._remove_parts(
                    name for name in names if (match := _PART.fullmatch(name)) and int(match[1], 16) <= newest
                )
        except OSError as error:
            raise snapshot_failure(error, self._directory) from error

    def close(self) -> None:
        """Readers and receivers have their own `close`. Idempotent."""

    def _path(self, index: Index) -> Path:
        return self._directory / f"{index:016x}.snap"

    def _publish(self, aside: Path, stored: StoredSnapshot) -> None:
        """Give a finished file its name."""
        index = stored.snapshot.index
        with self._naming:
            self._files.rename(aside, self._path(index))
            self._files.sync_dir(self._directory)
            self._stored[index] = stored, self._block_bytes

    def _discard(self, path: Path) -> None:
        """Remove what a failure left, if it can be: others need the space. `load` removes what stays."""
        try:
            self._files.remove(path)
        except OSError:
            pass

    def _remove_parts(self, names: Iterable[str]) -> None:
        for name in names:
            if _PART.fullmatch(name) and name not in self._receivers:
                self._files.remove(self._directory / name)


def _newest(names: list[str]) -> Index:
    return max((int(match[1], 16) for name in names if (match := _NAME.fullmatch(name))), default=0)


class DiskReceiver:
    """A snapshot on its way in (implements `oarlock.replica.ports.SnapshotReceiver`).

    Threads: one method at a time runs; `close` waits for the one that does.
    """

    def __init__(
        self, storage: DiskSnapshots, promised: StoredSnapshot, path: Path, file: File, writer: BlockWriter
    ) -> None:
        self._storage = storage
        self._promised = promised
        self._path = path
        self._file = file
        self._writer = writer
        self.received = writer.size
        self._lock = threading.Lock()
        self._closed = False

    def add(self, chunk: bytes) -> None:
        """Raises:
        WireError: this is more than was promised; what is here is thrown away.
        DiskFull, DiskFailure: nothing of it is left.
        StorageError: it is closed, or another receiver has taken over.
        """
        with self._lock:
            self._check_open()
            if self.received + len(chunk) > self._promised.size:
                self._throw_away()
                raise WireError(f"a snapshot of {self._promised.size} bytes goes on behind its end")
            try:
                self._writer.add(chunk)
            except OSError as error:
                self._throw_away()
                raise snapshot_failure(error, self._path) from error
            self.received = self._writer.size

    def finish(self) -> StoredSnapshot:
        """See `oarlock.replica.ports.SnapshotReceiver.finish`."""
        with self._lock:
            self._check_open()
            promised = self._promised
            if (self._writer.size, self._writer.checksum) != (promised.size, promised.checksum):
                self._throw_away()
                raise WireError(
                    f"a snapshot of {promised.size} bytes, checksum {promised.checksum:08x}, was promised; "
                    f"{self._writer.size} came, checksum {self._writer.checksum:08x}"
                )
            try:
                stored = self._writer.finish(promised.snapshot)
                self._storage._publish(self._path, stored)
            except OSError as error:
                self._throw_away()
                raise snapshot_failure(error, self._path) from error
            self._release()
            return stored

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._release()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self._path}: this try to receive it is over")

    def _release(self) -> None:
        self._closed = True
        self._file.close()
        del self._storage._receivers[self._path.name]

    def _throw_away(self) -> None:
        # In this order: once it is released, the file of this name may be another receiver's.
        self._storage._discard(self._path)
        self._release()
