"""The storage contract, held by every implementation."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from oarlock.storage import DiskStorage, LoopWorker, MemoryFiles, MemoryStorage
from oarlock.testing.storage_suite import StorageSuite


class TestMemory(StorageSuite):
    def setup_method(self) -> None:
        self.last: MemoryStorage | None = None

    def open(self) -> MemoryStorage:
        self.last = MemoryStorage(self.last)
        return self.last


class TestDisk(StorageSuite):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "wal"

    def open(self) -> DiskStorage:
        return DiskStorage(self.directory, segment_bytes=1 << 20)


class TestDiskWithTinySegments(TestDisk):
    """Nearly every batch begins a segment, and some are larger than one."""

    def open(self) -> DiskStorage:
        return DiskStorage(self.directory, segment_bytes=512)


class TestDiskInMemoryFiles(StorageSuite):
    """What the simulator uses."""

    def setup_method(self) -> None:
        self.files = MemoryFiles()

    def open(self) -> DiskStorage:
        return DiskStorage(
            Path("/data/wal"), segment_bytes=4096, files=self.files, worker=LoopWorker(), random=Random(1)
        )
