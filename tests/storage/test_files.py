"""The file port: the real one, and the one in memory that can crash."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from oarlock.storage import File, Files, MemoryFiles, RealFiles
from oarlock.storage.files import write_zeros


@pytest.fixture(params=[RealFiles, MemoryFiles])
def files(request: pytest.FixtureRequest) -> Files:
    made: Files = request.param()
    return made


def test_every_directory_that_is_made_has_a_durable_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log is lost with any of the directories that it is in."""
    synced: list[Path] = []
    monkeypatch.setattr(RealFiles, "sync_dir", lambda self, path: synced.append(path))
    RealFiles().make_dir(tmp_path / "a" / "b" / "c")
    assert sorted(synced) == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    RealFiles().make_dir(tmp_path / "a" / "b")
    assert len(synced) == 3


def test_both_file_systems_behave_alike(files: Files, tmp_path: Path) -> None:
    files.make_dir(tmp_path / "a")
    path = tmp_path / "a" / "file"
    file: File = files.create(path)
    file.pwrite(b"hello", 3)
    assert file.read(0, 100) == b"\0\0\0hello"
    file.write_through(b"HE", 3)
    file.preallocate(12)
    file.preallocate(5)
    assert file.size() == 12
    assert file.read(2, 4) == b"\0HEl"
    write_zeros(file, 4, 2)
    file.fdatasync()
    assert file.read(0, 12) == b"\0\0\0H\0\0lo\0\0\0\0"
    file.close()
    files.rename(path, tmp_path / "a" / "other")
    files.sync_dir(tmp_path / "a")
    assert files.list_dir(tmp_path / "a") == ["other"]
    with pytest.raises(FileNotFoundError):
        files.open(path)
    again = files.open(tmp_path / "a" / "other")
    assert again.size() == 12
    again.close()
    files.remove(tmp_path / "a" / "other")
    assert files.list_dir(tmp_path / "a") == []


def test_write_through_does_without_the_flag_where_the_system_does_not_know_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "pwritev", refuse)
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real(fd)))
    file = RealFiles().create(tmp_path / "file")
    file.write_through(b"one", 0)
    file.write_through(b"two", 3)
    assert file.read(0, 9) == b"onetwo"
    assert len(synced) == 2
    file.close()


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    monkeypatch.setattr(os, "pwritev", lambda fd, data, offset, flags: real(fd, data[0][:1], offset))
    file = RealFiles().create(tmp_path / "file")
    file.write_through(b"hello world", 1)
    assert file.read(0, 100) == b"\0hello world"
    file.close()


def test_file_system_without_reservation_still_gives_a_file_of_that_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = RealFiles().create(tmp_path / "file")
    file.preallocate(1000)
    file.preallocate(500)
    assert file.size() == 1000
    file.close()


class TestCrash:
    path = Path("/d/file")

    def test_synced_data_under_a_synced_name_survives(self) -> None:
        files = MemoryFiles()
        files.create(self.path).write_through(b"data", 0)
        files.sync_dir(self.path.parent)
        files.crash(Random(1))
        assert files.contents(self.path) == b"data"

    def test_unsynced_data_names_and_renames_are_lost(self) -> None:
        files = MemoryFiles()
        file = files.create(self.path)
        file.write_through(b"data", 0)
        files.sync_dir(self.path.parent)
        file.pwrite(b"DATA, and more", 0)
        files.rename(self.path, Path("/d/other"))
        files.create(Path("/d/new")).write_through(b"x", 0)
        files.crash()
        assert files.list_dir(Path("/d")) == ["file"]
        assert files.contents(self.path) == b"data"

    def test_any_subset_of_unsynced_sectors_may_survive(self) -> None:
        outcomes = set()
        for seed in range(60):
            files = MemoryFiles()
            file = files.create(self.path)
            file.write_through(bytes(1536), 0)
            files.sync_dir(self.path.parent)
            file.pwrite(b"x" * 1536, 0)
            files.crash(Random(seed))
            data = files.contents(self.path)
            outcomes.add(tuple(data[begin : begin + 512] == b"x" * 512 for begin in (0, 512, 1024)))
        assert len(outcomes) == 8
