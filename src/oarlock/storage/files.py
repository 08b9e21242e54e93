"""The file operations that the log needs, as a port: real files, and files in memory that can crash.

The log's whole knowledge of the operating system is in these two small protocols, so a test or the simulator
puts lost syncs, torn writes, full disks and bit rot under the production code. What a call promises is
what POSIX promises and no more: data is safe after a sync of the file, a name (of a new or renamed file)
only after a sync of its directory.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

_ZEROS = bytes(1 << 20)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a disk without room."""


class File(Protocol):
    """An open file. Every failure is an `OSError`."""

    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end of the file."""

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of ``data``. Not durable before `fdatasync`."""

    def write_through(self, data: bytes, offset: int) -> None:
        """Write all of ``data`` and return when it is durable: `pwrite` and `fdatasync` in one call."""

    def fdatasync(self) -> None:
        """Make everything written so far durable, and the size."""

    def preallocate(self, size: int) -> None:
        """Make the file at least ``size`` bytes long, with zeros, and reserve the space for it."""

    def close(self) -> None: ...


class Files(Protocol):
    """The file system. Every failure is an `OSError`."""

    def open(self, path: Path) -> File:
        """An existing file, for reading and writing."""

    def create(self, path: Path) -> File:
        """A new, empty file; one of that name is emptied."""

    def rename(self, source: Path, target: Path) -> None:
        """Atomically; durable after `sync_dir`."""

    def remove(self, path: Path) -> None: ...

    def list_dir(self, path: Path) -> list[str]:
        """Names, sorted."""

    def make_dir(self, path: Path) -> None:
        """With its parents; no error if it exists. The names of those that it makes are durable."""

    def sync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""


def write_zeros(file: File, offset: int, size: int) -> None:
    """Fill a range with zeros, in pieces."""
    end = offset + size
    while offset < end:
        piece = min(len(_ZEROS), end - offset)
        file.pwrite(_ZEROS if piece == len(_ZEROS) else _ZEROS[:piece], offset)
        offset += piece


class RealFile:
    """`File` on a descriptor of the operating system."""

    __slots__ = ("_fd", "_writes_through")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._writes_through = hasattr(os, "RWF_DSYNC")

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        pieces = []
        while size > 0 and (piece := os.pread(self._fd, size, offset)):
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pwrite(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._fd, data, offset)
        while written < len(data):
            more = os.pwrite(self._fd, data[written:], offset + written)
            if more == 0:
                raise OSError(errno.EIO, "a write made no progress")
            written += more

    def write_through(self, data: bytes, offset: int) -> None:
        # One system call instead of two: RWF_DSYNC is a write followed by fdatasync of what it wrote. The
        # disk takes as long as before, but each call gives up the interpreter lock and has to win it back
        # from a busy event loop, which can cost more than the sync.
        if self._writes_through:
            try:
                if os.pwritev(self._fd, [data], offset, os.RWF_DSYNC) == len(data):
                    return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                self._writes_through = False  # nothing was written: the system does not know the flag
        self.pwrite(data, offset)
        self.fdatasync()

    def fdatasync(self) -> None:
        os.fdatasync(self._fd)

    def preallocate(self, size: int) -> None:
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            # A file system that cannot reserve: the file grows, and a full disk is noticed later.
            os.ftruncate(self._fd, max(size, self.size()))

    def close(self) -> None:
        os.close(self._fd)


class RealFiles:
    """`Files` of the operating system."""

    def open(self, path: Path) -> RealFile:
        return RealFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def create(self, path: Path) -> RealFile:
        return RealFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def list_dir(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def make_dir(self, path: Path) -> None:
        made = [each for each in (path, *path.parents) if not os.path.exists(each)]
        os.makedirs(path, mode=0o700, exist_ok=True)
        for each in made:
            self.sync_dir(each.parent)

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
