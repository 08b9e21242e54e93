"""A disk that hangs on demand, under real files: for tests of what a process does about it.

A disk that is about to die, a saturated volume or a frozen network mount does not fail: it does not answer.
Reads still come from the page cache and writes still go there; only the syncs never return. This is that,
as a `Files` that can be put under a storage in a real process and switched from outside of it::

    storage = DiskStorage(directory, files=HangingFiles(RealFiles(), Path("/tmp/hang")))

and then ``touch /tmp/hang``; ``rm /tmp/hang`` to let the disk recover.
"""

from __future__ import annotations

import time
from pathlib import Path

from oarlock.storage.files import File, Files

POLL_SECONDS = 0.005


class HangingFiles:
    """`Files` whose syncs do not return while a file exists.

    Args:
        inner: the file system below.
        switch: while this path exists, `File.fdatasync` and `File.write_through` block.
    """

    def __init__(self, inner: Files, switch: Path) -> None:
        self._inner = inner
        self._switch = switch

    def open(self, path: Path) -> HangingFile:
        return HangingFile(self._inner.open(path), self._switch)

    def create(self, path: Path) -> HangingFile:
        return HangingFile(self._inner.create(path), self._switch)

    def rename(self, source: Path, target: Path) -> None:
        self._inner.rename(source, target)

    def remove(self, path: Path) -> None:
        self._inner.remove(path)

    def list_dir(self, path: Path) -> list[str]:
        return self._inner.list_dir(path)

    def make_dir(self, path: Path) -> None:
        self._inner.make_dir(path)

    def sync_dir(self, path: Path) -> None:
        self._inner.sync_dir(path)


class HangingFile:
    """`File` of a `HangingFiles`."""

    def __init__(self, inner: File, switch: Path) -> None:
        self._inner = inner
        self._switch = switch

    def size(self) -> int:
        return self._inner.size()

    def read(self, offset: int, size: int) -> bytes:
        return self._inner.read(offset, size)

    def pwrite(self, data: bytes, offset: int) -> None:
        self._inner.pwrite(data, offset)

    def write_through(self, data: bytes, offset: int) -> None:
        self._hang()
        self._inner.write_through(data, offset)

    def fdatasync(self) -> None:
        self._hang()
        self._inner.fdatasync()

    def preallocate(self, size: int) -> None:
        self._inner.preallocate(size)

    def close(self) -> None:
        self._inner.close()

    def _hang(self) -> None:
        # In the storage's own thread: the event loop goes on.
        while self._switch.exists():
            time.sleep(POLL_SECONDS)
