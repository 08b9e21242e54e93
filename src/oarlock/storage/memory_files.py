"""Files in memory that lose what was not synced.

The fault model: a file is a durable image and a list of writes since the last sync; a directory is a
durable and a current set of names. `crash` forgets or keeps each unsynced write as it likes, sector by
sector, because that is what a disk with a cache does; it never touches what was synced. Renames and
removals that were not followed by `sync_dir` may be undone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

SECTOR_BYTES = 512


class _Inode:
    """One file's contents, named or not."""

    __slots__ = ("current", "durable", "unsynced")

    def __init__(self) -> None:
        self.current = bytearray()
        self.durable = bytearray()
        self.unsynced: list[tuple[int, bytes]] = []
        """Writes as (offset, data), oldest first; without data one only makes the file that long."""

    def apply(self, change: tuple[int, bytes], image: bytearray) -> None:
        offset, data = change
        if len(image) < offset:
            image.extend(bytes(offset - len(image)))
        image[offset : offset + len(data)] = data

    def change(self, change: tuple[int, bytes]) -> None:
        self.apply(change, self.current)
        self.unsynced.append(change)

    def sync(self) -> None:
        for change in self.unsynced:
            self.apply(change, self.durable)
        self.unsynced.clear()


class MemoryFile:
    """`File` over an inode."""

    def __init__(self, files: MemoryFiles, inode: _Inode, path: Path) -> None:
        self._files = files
        self._inode = inode
        self._path = path

    def size(self) -> int:
        return len(self._inode.current)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._inode.current[offset : offset + size])

    def pwrite(self, data: bytes, offset: int) -> None:
        self._files.before("pwrite", self._path)
        self._inode.change((offset, data))

    def write_through(self, data: bytes, offset: int) -> None:
        self.pwrite(data, offset)
        self.fdatasync()

    def fdatasync(self) -> None:
        self._files.before("fdatasync", self._path)
        self._inode.sync()

    def preallocate(self, size: int) -> None:
        self._files.before("preallocate", self._path)
        self._inode.change((max(size, self.size()), b""))

    def close(self) -> None:
        pass


class MemoryFiles:
    """`Files` in memory, with `crash`.

    Attributes:
        before: called with an operation's name and path before it happens; what it raises comes out of the
            operation instead. For fault injection: count operations, fail one, or stop the world there.
    """

    def __init__(self, before: Callable[[str, Path], None] | None = None) -> None:
        self.before: Callable[[str, Path], None] = before or (lambda operation, path: None)
        self._current: dict[Path, _Inode] = {}
        self._durable: dict[Path, _Inode] = {}
        self._directories: set[Path] = set()

    def open(self, path: Path) -> MemoryFile:
        self.before("open", path)
        return MemoryFile(self, self._inode(path), path)

    def create(self, path: Path) -> MemoryFile:
        self.before("create", path)
        self._current[path] = inode = _Inode()
        return MemoryFile(self, inode, path)

    def rename(self, source: Path, target: Path) -> None:
        self.before("rename", source)
        inode = self._inode(source)
        del self._current[source]
        self._current[target] = inode

    def remove(self, path: Path) -> None:
        self.before("remove", path)
        self._inode(path)
        del self._current[path]

    def list_dir(self, path: Path) -> list[str]:
        return sorted(name.name for name in self._current if name.parent == path)

    def make_dir(self, path: Path) -> None:
        self._directories.add(path)

    def sync_dir(self, path: Path) -> None:
        self.before("sync_dir", path)
        for name in [name for name in self._durable if name.parent == path]:
            del self._durable[name]
        for name, inode in self._current.items():
            if name.parent == path:
                self._durable[name] = inode

    def crash(self, random: Random | None = None) -> None:
        """The power goes: unsynced writes are lost.

        Args:
            random: decides what of them reached the disk all the same, whole sectors each, in any order, and
                whether unsynced names did. Without it nothing did.
        """
        if random is None or random.random() < 0.5:
            self._current = dict(self._durable)
        else:
            self._durable = dict(self._current)
        for path in sorted(self._current):
            inode = self._current[path]
            image = bytearray(inode.durable)
            if random is not None:
                for change in inode.unsynced:
                    _survive(inode, change, image, random)
            inode.current, inode.durable = image, bytearray(image)
            inode.unsynced.clear()

    def contents(self, path: Path) -> bytes:
        """What a file holds now. For tests, like `overwrite`."""
        return bytes(self._inode(path).current)

    def overwrite(self, path: Path, data: bytes) -> None:
        """Replace a file's durable contents: bit rot, or a cut."""
        inode = self._inode(path)
        inode.current[:] = data
        inode.durable[:] = data
        inode.unsynced.clear()

    def forget_unsynced(self, path: Path) -> None:
        """A failed write-back as Linux has it: what was written can still be read, but is taken for clean, so
        no later sync makes it durable."""
        self._inode(path).unsynced.clear()

    def _inode(self, path: Path) -> _Inode:
        try:
            return self._current[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None


def _survive(inode: _Inode, change: tuple[int, bytes], image: bytearray, random: Random) -> None:
    """Let some sectors of one unsynced change reach the disk."""
    offset, data = change
    if not data and random.random() < 0.5:
        inode.apply(change, image)
    position = 0
    while position < len(data):
        piece = min(SECTOR_BYTES - (offset + position) % SECTOR_BYTES, len(data) - position)
        if random.random() < 0.5:
            inode.apply((offset + position, data[position : position + piece]), image)
        position += piece
