"""The LMDB environment of a store: opening it, and having disk space before it is mapped.

The file is written through the memory map, and a page that the disk has no room for would end the process
with SIGBUS. So all of a map is allocated first.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import lmdb

from oarlock.errors import DataDirError, DiskFull, invariant
from oarlock.kv.records import MAX_STORED_KEY

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
INITIAL_MAP_BYTES = 16 << 20
"""Small enough for a demonstration on a laptop, large enough for about 40,000 small keys."""

_HEAD_BYTES = 2 << 16
"""Both of LMDB's meta pages, whatever the page size."""


def open_at(path: Path) -> lmdb.Environment:
    """An environment in directory `path`, its map as large as its file and all of it allocated.

    Raises:
        DataDirError: what is there is no LMDB file, or cannot be read or written.
        DiskFull: there is no room for the map.
    """
    env: lmdb.Environment | None = None
    try:
        file = path / DATA_FILE
        _discard_unborn(file)
        size = max(INITIAL_MAP_BYTES, file.stat().st_size if file.exists() else 0)
        env = lmdb.open(
            str(path),
            map_size=size,
            max_dbs=3,
            sync=False,
            metasync=False,
            writemap=True,
            max_spare_txns=2,
            mode=0o600,
        )
        reserve(file, size)  # LMDB takes a file with anything in it for a store: so not earlier
        invariant(env.max_key_size() >= MAX_STORED_KEY, "this LMDB was built with shorter keys")
        return env
    except (lmdb.Error, OSError) as error:
        if env is not None:
            env.close()
        raise DataDirError(f"{path}: cannot open the key-value store: {error}") from error
    except BaseException:
        if env is not None:
            env.close()
        raise


def clear(directory: Path) -> None:
    """Remove it, if it is there. Raises `OSError`."""
    if directory.exists():
        shutil.rmtree(directory)


def sync_names(directory: Path) -> None:
    """Have the names of its files durable: an installed store got its by a rename. Raises `OSError`."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _discard_unborn(file: Path) -> None:
    """Remove a file whose creation was cut short by a kill: it has a size, but not its first pages."""
    if file.exists():
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
        if not head.strip(b"\0"):
            file.unlink()


def reserve(path: Path, size: int) -> int:
    """Have at least `size` bytes allocated for `path`; returns the size of the file. Raises `DiskFull`."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(fd).st_size
        size = max(size, before)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        return size
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            os.ftruncate(fd, before)  # it may have got half-way, and others need the space
            raise DiskFull(f"{path}: no space left for the key-value store ({size >> 20} MiB)") from error
        raise
    finally:
        os.close(fd)
