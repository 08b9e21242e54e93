"""The data directory: who may use it, for what, and whether the last user left in good order.

::

    LOCK          held with flock while a process uses the directory; contains its process id
    IDENTITY      format version, cluster id and member id; written once
    LAST_USE      boot id of the machine when it was last opened, and whether it was closed in good order
    wal/          the write-ahead log: the truth, from its base on
    snapshots/    what the log before its base amounts to: the newest snapshot, and one on its way in
    kv/           the state machine's own store: derived from the two, and never synced

**The rule for the store.** It is written without syncing, so it survives a killed process but not a lost
page cache. Hence: opened in the same boot, or closed in good order (which syncs it) → it is taken as it is.
Otherwise nothing is known about it → `DataDir.open` throws it away, and it is rebuilt: the newest snapshot is
installed into the empty store, and the log behind it is applied as it is found to be committed. That needs
nothing else, because the log is only ever cut behind a durable snapshot. It happens here, before this use is
recorded, so that a crash in between cannot make a bad store look good.

**The rule for the ids.** A member keeps the ids that it was made with. Its flags may name another cluster by
now, since members came and went; so whoever starts a member reads `DataDir.identity` first.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from pathlib import Path
from typing import TypeVar

import msgspec

from oarlock.errors import DataDirError, DiskFailure
from oarlock.storage.files import RealFiles

FORMAT_VERSION = 1
T = TypeVar("T")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_files = RealFiles()
_logger = logging.getLogger(__name__)


class Identity(msgspec.Struct, frozen=True):
    """Contents of IDENTITY. Ids are in hexadecimal: JSON numbers of 64 bits do not survive every tool."""

    format_version: int
    cluster_id: str
    member_id: str
    token: str = ""
    """The founders' own name for the cluster; empty if they did not say."""

    @property
    def ids(self) -> tuple[int, int]:
        """Of the cluster and of the member. Raises ValueError: they are not in hexadecimal."""
        return int(self.cluster_id, 16), int(self.member_id, 16)


class LastUse(msgspec.Struct, frozen=True):
    """Contents of LAST_USE."""

    boot_id: str
    closed: bool


class DataDir:
    """An opened and locked data directory. Make one with `open`; give it back with `close`.

    Attributes:
        path: the directory.
        wal_dir: for `DiskStorage`.
        snapshots_dir: for `DiskSnapshots`.
        kv_dir: for the state machine's store. Exists, and is empty if the store has to be rebuilt.
        created: True if this call made the directory's identity: a new member.
        boot_id_matches: the last use was in the same boot of this machine.
        clean_shutdown: the last use was closed in good order.
        store_discarded: a store was found, could not be trusted, and was thrown away.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.wal_dir = path / "wal"
        self.snapshots_dir = path / "snapshots"
        self.kv_dir = path / "kv"
        self.created = False
        self.boot_id_matches = False
        self.clean_shutdown = False
        self.store_discarded = False
        self._lock = lock
        self._boot_id = ""

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        cluster_id: int,
        member_id: int,
        token: str = "",
        create: bool = True,
        boot_id: str | None = None,
    ) -> DataDir:
        """Lock the directory and make sure that it belongs to this member.

        Args:
            token: the founders' name for the cluster, kept in a new directory.
            create: make it if there is none, or an empty directory.
            boot_id: of the machine; only tests need to give one.

        Raises:
            DataDirError: in use, of another cluster or member, of a newer version, damaged, missing or not
                writable. One line that names the directory.
        """
        path = Path(path)
        try:
            return cls._open(
                path, cluster_id, member_id, token, create, current_boot_id() if boot_id is None else boot_id
            )
        except OSError as error:
            raise DataDirError(f"{path}: cannot use this data directory: {error.strerror or error}") from None

    @classmethod
    def _open(
        cls, path: Path, cluster_id: int, member_id: int, token: str, create: bool, boot_id: str
    ) -> DataDir:
        if create:
            _files.make_dir(path)
            _files.sync_dir(path.parent)
        elif not cls.in_use_before(path):
            raise DataDirError(f"{path}: there is no data directory of a member here")
        directory = cls(path, _lock(path))
        try:
            directory._boot_id = boot_id
            directory._check_identity(cluster_id, member_id, token)
            directory._begin_use()
        except BaseException:
            os.close(directory._lock)
            raise
        return directory

    @staticmethod
    def in_use_before(path: Path) -> bool:
        """Whether a member has been here. An empty directory, such as a fresh volume is, tells of none."""
        return os.path.exists(path / "IDENTITY")

    @staticmethod
    def identity(path: Path | str) -> Identity | None:
        """Whose directory this is, or None if no member has been here. Neither locks nor makes anything.

        Raises:
            DataDirError: damaged, unreadable or of a newer version.
        """
        path = Path(path)
        try:
            found = _read(path / "IDENTITY", Identity)
        except NotADirectoryError:
            return None
        except OSError as error:
            raise DataDirError(f"{path}: cannot use this data directory: {error.strerror or error}") from None
        if found is None:
            return None
        if found.format_version > FORMAT_VERSION:
            raise DataDirError(
                f"{path}: data format {found.format_version} is newer than this program's "
                f"{FORMAT_VERSION}: use the newer version of Oarlock"
            )
        try:
            _ = found.ids
        except ValueError as error:
            raise DataDirError(f"{path / 'IDENTITY'}: damaged: {error}") from None
        return found

    def close(self, *, clean: bool) -> None:
        """Unlock. Idempotent.

        Args:
            clean: the log is closed *and* the store is synced and closed. When in doubt, False: it only costs
                time at the next start, and only after a reboot.
        """
        if self._lock < 0:
            return
        try:
            if clean:
                self._write("LAST_USE", LastUse(self._boot_id, True))
        except OSError as error:
            raise DiskFailure(
                f"{self.path}: cannot record the end of use: {error.strerror or error}"
            ) from error
        finally:
            os.close(self._lock)
            self._lock = -1

    def _check_identity(self, cluster_id: int, member_id: int, token: str) -> None:
        wanted = Identity(FORMAT_VERSION, f"{cluster_id:x}", f"{member_id:x}", token)
        found = self.identity(self.path)
        if found is None:
            if self.wal_dir.exists() and any(self.wal_dir.iterdir()):
                raise DataDirError(f"{self.path}: has a log but no IDENTITY file: not a sound data directory")
            self._write("IDENTITY", wanted)
            self.created = True
        elif found.cluster_id != wanted.cluster_id:
            raise DataDirError(
                f"{self.path}: belongs to cluster {found.cluster_id}, not to {wanted.cluster_id}: "
                "give this member its own data directory, or the settings it was made with"
            )
        elif found.member_id != wanted.member_id:
            raise DataDirError(
                f"{self.path}: belongs to member {found.member_id}, not to {wanted.member_id}: "
                "give this member its own data directory, or the settings it was made with"
            )

    def _begin_use(self) -> None:
        last = _read(self.path / "LAST_USE", LastUse)
        if last is not None:
            self.boot_id_matches = bool(self._boot_id) and last.boot_id == self._boot_id
            self.clean_shutdown = last.closed
        if not (self.boot_id_matches or self.clean_shutdown) and self.kv_dir.exists():
            if any(self.kv_dir.iterdir()):
                self.store_discarded = True
                _logger.warning(
                    "%s: this machine restarted without a clean shutdown: "
                    "the store is rebuilt from the snapshot and the log",
                    self.path,
                )
            shutil.rmtree(self.kv_dir)
        for made in (self.wal_dir, self.snapshots_dir, self.kv_dir):
            made.mkdir(mode=0o700, exist_ok=True)
        _files.sync_dir(self.path)
        self._write("LAST_USE", LastUse(self._boot_id, False))

    def _write(self, name: str, content: Identity | LastUse) -> None:
        """Replace a file so that a crash leaves the old one or the new one."""
        aside = self.path / (name + ".tmp")
        file = _files.create(aside)
        try:
            file.pwrite(msgspec.json.encode(content) + b"\n", 0)
            file.fdatasync()
        finally:
            file.close()
        _files.rename(aside, self.path / name)
        _files.sync_dir(self.path)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataDirError(f"{path}: damaged: {error}") from None


def current_boot_id() -> str:
    """This boot's random id, or "" where the system has none: then no use is ever of the same boot."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _lock(path: Path) -> int:
    """Descriptor of the locked LOCK file. The lock goes with the process, however it ends."""
    fd = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            by = f"process {holder}" if holder else "another process"
            raise DataDirError(f"{path}: in use by {by}: two members cannot share a data directory") from None
        raise
    return fd
