"""A hot copy of a store's file, and the way back: `StoreCapture` and `Prepared`.

**A snapshot is a store.** Its bytes are those of LMDB's file up to the last page in use, as they were when
the capture was made. LMDB never changes a page that a read transaction can see, so an open one *pins* the
state of its moment, and the pages can be read from the file in a thread, one after the other, while batches
go on being applied. Pages that were free at that moment may be written meanwhile: nobody looks at them in the
copy, and nobody cares what they hold. Only the first two pages are changed in place (they take turns at
pointing to the newest state), so these are read at once.

**The pin is never waited for.** The thread that reads does not touch the memory map or the transaction, so
the loop can end the capture at any moment, without a word: the reader looks after every piece whether the pin
still holds, and if not, raises. This is needed when the map has to grow, which ends all transactions; the
store makes room ahead so that it is rare (`Store.capture`).

**The way back** builds a complete store in a directory beside the real one, opened and checked. Putting it in
place is then one rename of the data file: whenever the process dies, the directory holds the one store or the
other.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import lmdb

from oarlock.errors import DiskFailure, StorageError
from oarlock.kv import environment
from oarlock.kv.environment import DATA_FILE, LOCK_FILE
from oarlock.machine.ports import CaptureFailed

PIECE_BYTES = 1 << 20
"""Of one chunk. Reading that much from the page cache takes well under a millisecond."""
ROOM_BYTES = 128 << 20
"""At most so much of a prepared store's file is left free, lest it has to grow as soon as it is installed."""
META_PAGES = 2


class StoreCapture:
    """Implements `oarlock.machine.ports.Capture` for a store's file.

    Made on the loop's thread, between two batches.

    Args:
        file: the data file.
        pin: a read transaction that was begun just now, and is nobody else's.
        size: bytes of the file that are in use.
        page_size: LMDB's.
    """

    def __init__(self, file: Path, pin: lmdb.Transaction[bytes], size: int, page_size: int) -> None:
        self._file = file
        self.size = size
        self._pin: lmdb.Transaction[bytes] | None = pin
        self._cancelled = False
        self._ending = threading.Lock()
        with file.open("rb", buffering=0) as opened:
            self._head = opened.read(META_PAGES * page_size)

    @property
    def open(self) -> bool:
        """Whether it still pins the state, and so keeps the store from using freed pages again."""
        return self._pin is not None

    def chunks(self) -> Iterator[bytes]:
        # Opened here, so that the thread that reads is the one that closes: a number of a file that was
        # closed meanwhile may already be somebody's socket.
        try:
            with self._file.open("rb", buffering=0) as opened:
                opened.seek(len(self._head))
                piece = self._head
                left = self.size
                while True:
                    self._check(piece)
                    yield piece
                    left -= len(piece)
                    if not left:
                        return
                    piece = opened.read(min(left, PIECE_BYTES))
        except OSError as error:
            raise DiskFailure(f"{self._file}: cannot read the key-value store: {error}") from error

    def _check(self, piece: bytes) -> None:
        """After reading: what was read while the pin held is right."""
        if self._pin is None:
            why = "the store needed the room" if self._cancelled else "it was closed"
            raise CaptureFailed(f"{self._file}: the copy was given up: {why}")
        if not piece:
            raise DiskFailure(f"{self._file}: the file of the key-value store is shorter than it should be")

    def close(self) -> None:
        with self._ending:
            pin, self._pin = self._pin, None
            if pin is not None:
                pin.abort()

    def cancel(self) -> None:
        """Give it up: its next chunk raises `CaptureFailed`. In any thread; never waits."""
        self._cancelled = True
        self.close()


class Prepared:
    """A store that waits to be put in the place of another: opened, checked, in a directory of its own."""

    def __init__(self, directory: Path, env: lmdb.Environment, applied_index: int) -> None:
        self.directory = directory
        self.env: lmdb.Environment | None = env
        self.applied_index = applied_index

    def move_to(self, directory: Path) -> lmdb.Environment:
        """Replace the files there, whose environment stays usable until it is closed.

        The data file goes last. LMDB starts its lock file anew whenever nobody else has it open, so after a
        crash in between it does not matter whose it was.
        """
        env, self.env = self.env, None
        if env is None:
            raise StorageError(f"{self.directory}: this copy was installed or dropped before")
        os.replace(self.directory / LOCK_FILE, directory / LOCK_FILE)
        os.replace(self.directory / DATA_FILE, directory / DATA_FILE)
        self.directory.rmdir()
        return env

    def drop(self) -> None:
        """It is not needed. Idempotent."""
        env, self.env = self.env, None
        if env is not None:
            env.close()
            shutil.rmtree(self.directory, ignore_errors=True)


def directory_beside(path: Path) -> Path:
    """Where a store for `path` is prepared; what is there at a start is of no use."""
    return path.with_name(path.name + ".new")


def prepare(
    path: Path,
    chunks: Iterable[bytes],
    applied_index_of: Callable[[lmdb.Environment], int],
) -> Prepared:
    """Write what a `StoreCapture` gave to a directory beside `path`, and open it.

    Args:
        applied_index_of: reads the store's record of where it stands. Raises `DataDirError`.

    Raises:
        StorageError: the bytes are no store, or not all of one, or found no room.
    """
    directory = directory_beside(path)
    try:
        environment.clear(directory)
        directory.mkdir(mode=0o700, parents=True)
        written = 0
        with (directory / DATA_FILE).open("xb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o600)
            for chunk in chunks:
                written += _write_all(file.fileno(), chunk)
            os.ftruncate(file.fileno(), written + min(written // 2, ROOM_BYTES))
        env = environment.open_at(directory)
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise StorageError(f"{directory}: cannot store the snapshot: {error}") from error
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    prepared = Prepared(directory, env, 0)
    try:
        expected = (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"])
        if written != expected:
            raise StorageError(f"{path}: a snapshot of {written} bytes for a store of {expected}")
        prepared.applied_index = applied_index_of(env)
        return prepared
    except lmdb.Error as error:
        prepared.drop()
        raise StorageError(f"{path}: the snapshot holds no key-value store: {error}") from error
    except BaseException:
        prepared.drop()
        raise


def _write_all(fd: int, chunk: bytes) -> int:
    """A write to a file may be cut short, by a full disk say: the next one then tells why."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(fd, rest) :]
    return len(chunk)
