"""The replicated key-value store of one member, on LMDB: `Store`.

Every batch of commands is one LMDB transaction, and the applied index is written in the same transaction: the
store is always at exactly one point of the log. Nothing is synced: after `kill -9` the page cache still holds
every commit, and after a power cut the store is thrown away and rebuilt from the log (design, section 4; who
decides that is the data directory, which knows the boot id).

`meta` holds one record, "state": format version, applied index, revision and compacted revision.

**Disk space.** The file is written through the memory map, which saves about a quarter of the cost of a batch
but would end the process with SIGBUS if a page could not be had. So space is allocated *before* it is mapped,
the map growing ahead of need. If that fails, `full` is set while there still is headroom for commands that
are under way: who serves requests refuses new ones and may `try_to_grow` again. Only a member that has
used up the headroom cannot go on, and `apply` raises `DiskFull` with nothing changed.

**Snapshots.** `capture` pins the state and copies the file in a thread (`oarlock.kv.snapshot`). While one is
under way, pages that are freed are not used again, so the file grows faster; and growing the map ends it. So
there is room made for it before, and if it has to end all the same, for twice as much before the next one. No
write ever waits for it.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from oarlock.errors import DataDirError, DiskFailure, DiskFull, StorageError, invariant
from oarlock.etcd_pb import rpc_pb2
from oarlock.kv import commands as log_commands
from oarlock.kv import environment, ranges
from oarlock.kv.environment import DATA_FILE
from oarlock.kv.errors import Compacted, FutureRevision, KvError
from oarlock.kv.records import revision_key
from oarlock.kv.results import RangeResult
from oarlock.kv.scan import Index
from oarlock.kv.snapshot import Prepared, StoreCapture, directory_beside, prepare
from oarlock.kv.writer import Writer
from oarlock.machine.ports import CaptureFailed, Command

FORMAT = 1
"""Version of the layout in `oarlock.kv.records`. A store of another version is refused, not guessed at."""
LARGEST_GROWTH_BYTES = 256 << 20
"""The map doubles up to steps of this size: small stores grow quickly, large ones reserve little in vain."""
MOST_HEADROOM_BYTES = 64 << 20
"""The map grows when less than a quarter of it is left, or less than this."""
HOLD_OFF_SECONDS = 0.2
"""How long threads that want to read let a store that has to grow go first."""
FIRST_REVISION = 1
"""The revision of an empty store, as in etcd: the first put makes revision 2."""

_STATE = b"state"
_state = struct.Struct(">IQQQ")
_EMPTY_STATE = _state.pack(FORMAT, 0, FIRST_REVISION, 0)


class Store:
    """An MVCC key-value store; implements `oarlock.machine.ports.Machine`.

    All methods belong to one thread, but for `hash`, `range_in_thread` and `prepare`. `apply` and `install`
    alone change state.
    """

    applied_index: int
    """The last log index whose effects are in the store."""
    revision: int
    """The main revision: how many changes there were, from `FIRST_REVISION`."""
    compact_revision: int
    """Reads below it fail with `Compacted`. 0: nothing was compacted yet."""
    size: int
    """Bytes of the file in use, free pages inside it included."""
    _map_size: int
    full: bool
    """Whether the disk had no room when the store last tried to grow ahead."""

    def __init__(self, path: Path, env: lmdb.Environment) -> None:
        """Use `Store.open`."""
        self.path = path
        self._closed = False
        self._reader: lmdb.Transaction[bytes] | None = None
        # Growing the map moves it: nobody may be reading then. Held by the one thread that reads.
        self._mapping = threading.Lock()
        # Where the other threads wait for their turn, so that they do not compete with the loop for the map.
        self._readers = threading.Lock()
        self._may_read = threading.Event()
        self._may_read.set()
        self.full = False
        self._captures: list[StoreCapture] = []
        self._capture_room = 0
        """What captures need beside the usual headroom, as experience has shown."""
        self._prepared: Prepared | None = None
        self._attach(env)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open the store in directory `path`, made if it is not there.

        Raises:
            DataDirError: what is there is no store, or of another format; it can be rebuilt from the log.
            DiskFull: there is no room for even an empty one.
        """
        path = Path(path)
        try:
            environment.clear(directory_beside(path))
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataDirError(f"{path}: cannot open the key-value store: {error}") from error
        env = environment.open_at(path)
        try:
            return cls(path, env)
        except lmdb.Error as error:
            env.close()
            raise DataDirError(f"{path}: cannot open the key-value store: {error}") from error
        except BaseException:
            env.close()
            raise

    @staticmethod
    def destroy(path: Path | str) -> None:
        """Remove the store in `path`, if there is one, so that the next `open` starts an empty one."""
        for directory in (Path(path), directory_beside(Path(path))):
            environment.clear(directory)

    def close(self) -> None:
        """Sync to disk and release everything. Idempotent.

        Raises: DiskFailure if syncing failed: what the disk holds is unknown.
        """
        with self._alone():
            if self._closed:
                return
            self._closed = True
            self._cancel_captures()
            self._drop_reader()
            if self._prepared is not None:
                self._prepared.drop()
            try:
                self._env.sync(True)
                environment.sync_names(self.path)
            except (lmdb.Error, OSError) as error:
                raise DiskFailure(f"{self.path}: cannot sync the key-value store: {error}") from error
            finally:
                self._env.close()

    # ---- Writing

    def apply(self, commands: Sequence[Command], applied_index: int) -> list[Any]:
        """Apply a batch in one transaction: a `PutResult`, `DeleteResult` or `KvError` for each command.

        Raises:
            DiskFull: the file cannot grow. Nothing of the batch was applied.
            DiskFailure: LMDB failed otherwise.
        """
        invariant(applied_index >= self.applied_index, "the log was applied backwards")
        if commands:
            invariant(commands[0].index > self.applied_index, "a command was applied twice")
            invariant(commands[-1].index <= applied_index, "the applied index is behind its commands")
        elif applied_index == self.applied_index:
            return []
        requests = [_request(command) for command in commands]
        self._drop_reader()
        while True:
            try:
                results, revision = self._write(requests, applied_index)
                break
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                raise DiskFailure(f"{self.path}: cannot write the key-value store: {error}") from error
        self.applied_index = applied_index
        self.revision = revision
        self.size = (self._env.info()["last_pgno"] + 1) * self._page_size
        if not self.full and self._is_tight():
            self.try_to_grow()
        return results

    def try_to_grow(self) -> bool:
        """Make room ahead of need, if it is tight; returns whether there is some. Sets `full`.

        Raises: DiskFailure if it failed for another reason than a full disk.
        """
        self.full = False
        if self._is_tight():
            if self._mapping.locked():
                # A thread is reading. This is ahead of need, so there is time until a later call; the next
                # thread holds off for a moment, so that this call finds none.
                self._may_read.clear()
                return True
            try:
                self._grow()
            except DiskFull:
                self.full = True
        return not self.full

    def _is_tight(self) -> bool:
        headroom = self._headroom()
        if any(capture.open for capture in self._captures):
            headroom //= 2  # growing would end it: not before it has to be
        return self._map_size - self.size < headroom

    def _headroom(self) -> int:
        return min(self._map_size // 4, MOST_HEADROOM_BYTES)

    def _write(self, requests: list[Any], applied_index: int) -> tuple[list[Any], int]:
        with self._env.begin(write=True) as txn:
            writer = Writer(txn, self._index, self._revisions, self.revision)
            results = [writer.run(request) for request in requests]
            state = _state.pack(FORMAT, applied_index, writer.revision, self.compact_revision)
            txn.put(_STATE, state, db=self._meta)
        return results, writer.revision

    def _grow(self, at_least: int = 0) -> None:
        with self._alone():
            self._drop_reader()
            if self._cancel_captures():
                self._capture_room = min(max(2 * self._capture_room, self._headroom()), self.size)
            try:
                size = self._map_size + max(min(self._map_size, LARGEST_GROWTH_BYTES), at_least)
                size = environment.reserve(self.path / DATA_FILE, size)
                self._env.set_mapsize(size)
                self._map_size = size
            except (lmdb.Error, OSError) as error:
                raise DiskFailure(f"{self.path}: cannot grow the key-value store: {error}") from error

    # ---- Snapshots

    @property
    def can_snapshot(self) -> bool:
        return True

    def capture(self) -> StoreCapture:
        """Pin the state as of `applied_index`, to be copied in a thread.

        It is given up if the map has to grow meanwhile (its `chunks` raise `CaptureFailed`): that is made
        rare by growing ahead, here, and rarer by each time that it happened.
        """
        invariant(not self._closed, "the store is closed")
        self._captures = [capture for capture in self._captures if capture.open]
        lacking = self._headroom() + self._capture_room - (self._map_size - self.size)
        if lacking > 0 and not self._captures and not self._mapping.locked():
            try:
                self._grow(lacking)
            except DiskFull:
                pass  # with what there is, then
        try:
            pin = self._env.begin()
        except lmdb.Error as error:
            raise CaptureFailed(f"{self.path}: cannot read the key-value store: {error}") from error
        try:
            capture = StoreCapture(self.path / DATA_FILE, pin, self.size, self._page_size)
        except OSError as error:
            pin.abort()
            raise CaptureFailed(f"{self.path}: cannot read the key-value store: {error}") from error
        self._captures.append(capture)
        return capture

    def _cancel_captures(self) -> bool:
        """End those under way: did any have to be?"""
        ended = [capture for capture in self._captures if capture.open]
        for capture in ended:
            capture.cancel()
        self._captures.clear()
        return bool(ended)

    def prepare(self, chunks: Iterable[bytes]) -> Prepared:
        """Build a store from what another one's capture gave, beside this one. In a worker thread.

        What was prepared before and not installed is dropped. Nothing is synced, as nothing of the store is.

        Raises:
            StorageError: the bytes are no store, or not all of one, or of a format that this version does not
                know; or there was no room.
        """
        if self._prepared is not None:
            self._prepared.drop()
        self._prepared = prepared = prepare(self.path, chunks, self._applied_index_in)
        if self._closed:
            prepared.drop()
            raise StorageError(f"{self.path}: the key-value store was closed meanwhile")
        return prepared

    def _applied_index_in(self, env: lmdb.Environment) -> int:
        with env.begin() as txn:
            return _read_state(self.path, txn, env.open_db(b"meta", txn, create=False))[1]

    def install(self, prepared: Prepared, applied_index: int) -> None:
        """Take `prepared` as this store from now on. Takes milliseconds, or until one reading thread is done.

        Captures under way are given up.

        Raises:
            StorageError: it is another index's. Nothing was changed.
            DiskFailure: its files could not be moved.
        """
        if prepared.applied_index != applied_index:
            raise StorageError(
                f"{self.path}: a snapshot of index {applied_index} holds a store of {prepared.applied_index}"
            )
        with self._alone():
            invariant(not self._closed, "the store is closed")
            self._cancel_captures()
            self._drop_reader()
            try:
                # A large file takes its time to be freed, which happens with its last user: not on the loop.
                held = os.open(self.path / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
                env = prepared.move_to(self.path)
                self._env.close()
                self._attach(env)
            except (lmdb.Error, OSError) as error:
                raise DiskFailure(f"{self.path}: cannot install a snapshot: {error}") from error
            self._prepared = None
        threading.Thread(target=os.close, args=(held,), name="oarlock-kv-free").start()

    # ---- Reading

    def range(self, request: rpc_pb2.RangeRequest, at_most: int = 0, bytes_max: int = 0) -> RangeResult:
        """Answer from the current state, or as of `request.revision`.

        Raises:
            KvError: KeyNotProvided, InvalidSortOption, FutureRevision, Compacted.
            TooManyKeys: the range has more than `at_most` keys or `bytes_max` bytes (unless 0):
                `range_in_thread` can wait for it.
        """
        self._check_revision(request.revision)
        return ranges.read(self._current_view(), request, self.revision, at_most, bytes_max)

    def get(self, key: bytes) -> bytes | None:
        """The encoded pair of one key now, or None: `range` for a request with nothing but a key."""
        view = self._current_view()
        entry = view.current(key)
        return None if entry is None else view.record(entry)

    def range_in_thread(self, request: rpc_pb2.RangeRequest) -> RangeResult:
        """As `range`, for another thread: sees at least what `range` would have seen when this was called."""
        with self._reading():
            invariant(not self._closed, "the store is closed")
            with self._env.begin() as txn:
                _, _, revision, _ = _state.unpack(txn.get(_STATE, db=self._meta) or _EMPTY_STATE)
                self._check_revision(request.revision)
                return ranges.read(Index(txn, self._index, self._revisions), request, revision)

    def hash(self, revision: int = 0) -> int:
        """CRC-32 of the whole history up to `revision` (0: all of it): equal on all members that are there.

        Takes time in proportion to the store. May run in another thread while batches are applied.
        Raises: FutureRevision, Compacted.
        """
        value = 0
        with self._reading():
            invariant(not self._closed, "the store is closed")
            self._check_revision(revision)
            stop = revision_key(revision + 1, 0) if revision > 0 else b""
            with self._env.begin() as txn, txn.cursor(self._revisions) as cursor:
                for key, record in cursor:
                    if stop and key >= stop:
                        break
                    value = zlib.crc32(record, zlib.crc32(key, value))
        return value

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A thread's turn to read."""
        with self._readers:
            if not self._may_read.wait(HOLD_OFF_SECONDS):
                self._may_read.set()  # nothing was written since: no need to wait for it
            with self._mapping:
                yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The loop's turn, before all threads but the one that is reading."""
        self._may_read.clear()
        try:
            with self._mapping:
                yield
        finally:
            self._may_read.set()

    def _check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevision(revision, self.revision)
        if 0 < revision < self.compact_revision:
            raise Compacted(revision, self.compact_revision)

    def _current_view(self) -> Index:
        if self._reader is None:
            self._reader = self._env.begin()
            self._view = Index(self._reader, self._index, self._revisions)
        return self._view

    def _drop_reader(self) -> None:
        """End the read transaction: it is behind, and what it sees could not be used again."""
        if self._reader is not None:
            self._reader.abort()
            self._reader = None

    def _attach(self, env: lmdb.Environment) -> None:
        """Work on `env` from now on. Raises `DataDirError`."""
        self._env = env
        self._revisions = env.open_db(b"revisions")
        self._index = env.open_db(b"index", dupsort=True, dupfixed=True)
        self._meta = env.open_db(b"meta")
        self._page_size = int(env.stat()["psize"])
        self._map_size = int(env.info()["map_size"])
        with env.begin() as txn:
            state = _read_state(self.path, txn, self._meta)
        _, self.applied_index, self.revision, self.compact_revision = state
        self.size = (int(env.info()["last_pgno"]) + 1) * self._page_size


def _read_state(path: Path, txn: lmdb.Transaction[bytes], meta: lmdb._Database) -> tuple[int, int, int, int]:
    """Format, applied index, revision, compacted revision. Raises `DataDirError` for another format."""
    try:
        found = _state.unpack(txn.get(_STATE, db=meta) or _EMPTY_STATE)
    except struct.error:
        found = (0, 0, 0, 0)
    if found[0] != FORMAT:
        raise DataDirError(
            f"{path}: a key-value store of format {found[0]}; this version knows format {FORMAT}"
        )
    return found


def _request(command: Command) -> Any:
    """The decoded request, or the `KvError` that its bytes earned."""
    if command.request is not None:
        return command.request
    try:
        return log_commands.decode(command.data)
    except KvError as error:
        return error
