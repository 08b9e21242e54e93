"""The write-ahead log, snapshots, the data directory, and the file system as a port.

Reading order: `record` (bytes of one batch), `segment` (files of records), `state` (how a log can begin
in the middle), `recovery` (torn or corrupt?), `writer` (appending), `disk` (group commit); `snapshot_file`
(bytes of a snapshot), `snapshots` (the directory of them); `datadir` (lock and identity).
`docs/internals/storage.md` has the crash cases one by one.
"""

from __future__ import annotations

from oarlock.storage.datadir import DataDir, Identity
from oarlock.storage.disk import DiskStorage
from oarlock.storage.files import File, Files, RealFiles
from oarlock.storage.memory import MemoryStorage
from oarlock.storage.memory_files import MemoryFiles
from oarlock.storage.memory_snapshots import MemorySnapshots
from oarlock.storage.snapshots import DiskSnapshots
from oarlock.storage.worker import LoopWorker, ThreadWorker, Worker

__all__ = [
    "DataDir",
    "DiskSnapshots",
    "DiskStorage",
    "File",
    "Files",
    "Identity",
    "LoopWorker",
    "MemoryFiles",
    "MemorySnapshots",
    "MemoryStorage",
    "RealFiles",
    "ThreadWorker",
    "Worker",
]
