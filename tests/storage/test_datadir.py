"""The data directory: one user at a time, always the same one; and when its store can be trusted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oarlock.errors import DataDirError
from oarlock.storage import DataDir
from oarlock.storage.datadir import current_boot_id


def open_dir(path: Path, **changes: Any) -> DataDir:
    arguments: dict[str, Any] = {"cluster_id": 0xABC, "member_id": 0x123, "boot_id": "boot-1"}
    return DataDir.open(path, **(arguments | changes))


def refused(path: Path, **changes: Any) -> str:
    """The refusal's one line, which names the directory."""
    with pytest.raises(DataDirError) as caught:
        open_dir(path, **changes)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def test_new_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    directory = open_dir(tmp_path / "a" / "b")
    assert directory.created
    assert directory.wal_dir.is_dir()
    assert directory.kv_dir.is_dir()
    assert not directory.store_discarded
    directory.close(clean=True)
    again = open_dir(tmp_path / "a" / "b")
    assert not again.created
    again.close(clean=True)


def test_directory_in_use_names_the_process_that_uses_it(tmp_path: Path) -> None:
    program = (
        "import sys; from oarlock.storage import DataDir\n"
        "directory = DataDir.open(sys.argv[1], cluster_id=0xabc, member_id=0x123)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        assert f"process {holder.pid}" in refused(tmp_path)
        holder.kill()
    open_dir(tmp_path).close(clean=True)


def test_directory_can_be_opened_again_after_close(tmp_path: Path) -> None:
    first = open_dir(tmp_path)
    assert f"process {os.getpid()}" in refused(tmp_path)
    first.close(clean=False)
    first.close(clean=False)
    open_dir(tmp_path).close(clean=True)


def test_refusal_releases_the_lock(tmp_path: Path) -> None:
    open_dir(tmp_path).close(clean=True)
    refused(tmp_path, cluster_id=1)
    open_dir(tmp_path).close(clean=True)


def test_directory_of_another_cluster_or_member_is_refused(tmp_path: Path) -> None:
    open_dir(tmp_path).close(clean=True)
    line = refused(tmp_path, cluster_id=0xDEF)
    assert "cluster abc" in line
    assert "def" in line
    line = refused(tmp_path, member_id=0x456)
    assert "member 123" in line
    assert "456" in line


def test_directory_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "IDENTITY").write_text('{"format_version":99,"cluster_id":"abc","member_id":"123"}')
    assert "newer" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"format_version":"x"}'])
def test_damaged_identity_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "IDENTITY").write_bytes(content)
    assert "damaged" in refused(tmp_path)


def test_log_without_identity_is_refused(tmp_path: Path) -> None:
    directory = open_dir(tmp_path)
    (directory.wal_dir / "00000000000000000001.log").write_bytes(b"log")
    directory.close(clean=True)
    (tmp_path / "IDENTITY").unlink()
    assert "IDENTITY" in refused(tmp_path)


def test_paths_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    refused(file)
    refused(file / "below")
    assert "no data directory" in refused(tmp_path / "missing", create=False)
    assert not (tmp_path / "missing").exists()


def test_an_empty_directory_is_no_data_directory(tmp_path: Path) -> None:
    """A volume that came back empty: whoever was here, what they promised is forgotten."""
    assert "no data directory" in refused(tmp_path, create=False)
    assert not list(tmp_path.iterdir())
    open_dir(tmp_path).close(clean=True)
    open_dir(tmp_path, create=False).close(clean=True)


def test_unwritable_path_is_refused(tmp_path: Path) -> None:
    # Root may write anywhere but here.
    path = Path("/proc/oarlock-test") if os.geteuid() == 0 else tmp_path / "locked" / "data"
    if os.geteuid() != 0:
        path.parent.mkdir(mode=0o500)
    refused(path)


@pytest.mark.parametrize(
    ("boot", "clean", "kept"),
    [("boot-1", False, True), ("boot-1", True, True), ("boot-2", True, True), ("boot-2", False, False)],
)
def test_store_is_kept_in_the_same_boot_or_after_a_clean_shutdown(
    tmp_path: Path, boot: str, clean: bool, kept: bool
) -> None:
    directory = open_dir(tmp_path)
    (directory.kv_dir / "data.mdb").write_bytes(b"store")
    (directory.wal_dir / "00000000000000000001.log").write_bytes(b"log")
    directory.close(clean=clean)
    again = open_dir(tmp_path, boot_id=boot)
    assert again.boot_id_matches == (boot == "boot-1")
    assert again.clean_shutdown == clean
    assert again.store_discarded != kept
    assert (again.kv_dir / "data.mdb").exists() == kept
    assert (again.wal_dir / "00000000000000000001.log").exists(), "the log is never thrown away"
    again.close(clean=False)


def test_opening_ends_the_trust_that_a_clean_shutdown_gave(tmp_path: Path) -> None:
    open_dir(tmp_path).close(clean=True)
    directory = open_dir(tmp_path)
    (directory.kv_dir / "data.mdb").write_bytes(b"store")
    directory.close(clean=False)
    assert open_dir(tmp_path, boot_id="boot-2").store_discarded


def test_unknown_boot_is_never_the_same_boot(tmp_path: Path) -> None:
    open_dir(tmp_path, boot_id="").close(clean=False)
    directory = open_dir(tmp_path, boot_id="")
    assert not directory.boot_id_matches
    directory.close(clean=False)


def test_boot_id_is_the_kernels() -> None:
    assert current_boot_id() == current_boot_id()
    assert len(current_boot_id()) == 36


def test_identity_can_be_read_without_taking_or_making_the_directory(tmp_path: Path) -> None:
    assert DataDir.identity(tmp_path / "missing") is None
    assert not (tmp_path / "missing").exists()
    assert DataDir.identity(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    directory = open_dir(tmp_path, cluster_id=2**64 - 1, member_id=0x123)
    found = DataDir.identity(tmp_path)
    assert found is not None, "while it is in use, too"
    assert found.ids == (2**64 - 1, 0x123)
    directory.close(clean=True)
    assert DataDir.identity(str(tmp_path)) == found
    assert DataDir.identity(tmp_path / "IDENTITY") is None, "a file is nobody's directory"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "damaged"),
        (b'{"format_version":1,"cluster_id":"abc","member_id":"xyz"}', "damaged"),
        (b'{"format_version":99,"cluster_id":"abc","member_id":"123"}', "newer"),
    ],
)
def test_identity_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "IDENTITY").write_bytes(content)
    with pytest.raises(DataDirError, match=said) as caught:
        DataDir.identity(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_snapshots_stay_when_the_store_is_thrown_away(tmp_path: Path) -> None:
    """It is rebuilt from them."""
    directory = open_dir(tmp_path)
    (directory.kv_dir / "data.mdb").write_bytes(b"store")
    (directory.snapshots_dir / "0000000000000001.snap").write_bytes(b"snapshot")
    directory.close(clean=False)
    again = open_dir(tmp_path, boot_id="boot-2")
    assert again.store_discarded
    assert [path.name for path in again.snapshots_dir.iterdir()] == ["0000000000000001.snap"]
    again.close(clean=True)
