"""The write-ahead log, the data directory, and the file system as a port.

Reading order: `record` (bytes of one batch), `segment` (files of records), `recovery` (torn or corrupt?),
`writer` (appending), `disk` (group commit), `datadir` (lock and identity). `docs/internals/storage.md` has
the crash cases one by one.
"""

from __future__ import annotations

from oarlock.storage.datadir import DataDir
from oarlock.storage.disk import DiskStorage
from oarlock.storage.files import File, Files, RealFiles
from oarlock.storage.memory import MemoryStorage
from oarlock.storage.memory_files import MemoryFiles
from oarlock.storage.worker import LoopWorker, ThreadWorker, Worker

__all__ = [
    "DataDir",
    "DiskStorage",
    "File",
    "Files",
    "LoopWorker",
    "MemoryFiles",
    "MemoryStorage",
    "RealFiles",
    "ThreadWorker",
    "Worker",
]
