"""Wrong use gets one clear line and exit code 2; a damaged log one clear line and exit code 1."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oarlock.server.processes import HOST, OARLOCK, PortReservation, ProcessCluster

pytestmark = pytest.mark.processes


@pytest.fixture
def ports() -> Iterator[PortReservation]:
    reservation = PortReservation()
    yield reservation
    reservation.close()


def serve(directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to refuse."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OARLOCK_")}
    return subprocess.run(
        [*OARLOCK, *flags], cwd=directory, capture_output=True, text=True, timeout=20, env=environment
    )


def refusal(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line that it said."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("oarlock: ")]
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    return lines[0]


def urls(client: int, peer: int) -> list[str]:
    return [
        *("--listen-client-urls", f"http://{HOST}:{client}", "--listen-peer-urls", f"http://{HOST}:{peer}"),
        *("--initial-advertise-peer-urls", f"http://{HOST}:{peer}"),
    ]


@pytest.mark.parametrize("which", ["client", "peer"])
def test_a_port_in_use(tmp_path: Path, ports: PortReservation, which: str) -> None:
    taken = ports.take()
    with socket.create_server((HOST, taken)):
        flags = urls(taken, ports.take()) if which == "client" else urls(ports.take(), taken)
        line = refusal(serve(tmp_path, *flags))
    assert f"{HOST}:{taken}" in line
    assert "in use" in line


async def test_a_data_directory_in_use(tmp_path: Path, ports: PortReservation) -> None:
    async with ProcessCluster(tmp_path, size=1) as cluster:
        command = [flag for flag in cluster.members[0].command if flag not in OARLOCK]
        line = refusal(serve(tmp_path, *command))
        assert f"in use by process {cluster.members[0].pid}" in line
        assert str(tmp_path / "m1") in line


async def test_a_data_directory_of_another_cluster(tmp_path: Path) -> None:
    """Addresses and members need not be those of the beginning any more; the cluster's token has to."""
    async with ProcessCluster(tmp_path, size=1) as cluster:
        member = cluster.members[0]
        identity = json.loads((tmp_path / "m1" / "IDENTITY").read_text())
        assert member.terminate() == 0
        command = [flag for flag in member.command if flag not in OARLOCK]
        other = [*command, "--initial-cluster-token", "another"]
        line = refusal(serve(tmp_path, *other))
        assert f"m1: belongs to member {identity['member_id']} of cluster {identity['cluster_id']}" in line
        assert "not another: give this member its own data directory" in line


def test_an_unknown_member_name(tmp_path: Path) -> None:
    line = refusal(serve(tmp_path, "--name", "x", "--initial-cluster", "a=http://h:1,b=http://h:2"))
    assert "no member 'x'" in line


def test_an_unwritable_path(tmp_path: Path, ports: PortReservation) -> None:
    (tmp_path / "file").write_text("not a directory")
    for path in (tmp_path / "file" / "below", Path("/proc/oarlock")):
        line = refusal(serve(tmp_path, "--data-dir", str(path), *urls(ports.take(), ports.take())))
        assert str(path) in line


def test_an_unparsable_url(tmp_path: Path) -> None:
    assert "cannot parse URL 'nonsense'" in refusal(serve(tmp_path, "--listen-client-urls", "nonsense"))


def test_advertised_and_listed_peer_urls_that_differ(tmp_path: Path) -> None:
    line = refusal(
        serve(
            tmp_path,
            *("--name", "a", "--initial-cluster", "a=http://h:1"),
            *("--initial-advertise-peer-urls", "http://h:2"),
        )
    )
    assert "differ" in line


@pytest.mark.parametrize("flags", [("--bogus",), ("--cert-file", "x"), ("--name",), ("surplus",)])
def test_flags_that_cannot_be(tmp_path: Path, flags: tuple[str, ...]) -> None:
    refusal(serve(tmp_path, *flags))


@pytest.mark.parametrize("volume", ["missing", "empty"])
async def test_a_member_that_lost_its_data_and_claims_to_be_an_old_one(tmp_path: Path, volume: str) -> None:
    """Its votes and its log are lost: to go on under the old id could break promises."""
    async with ProcessCluster(tmp_path) as cluster:
        member = cluster.members[0]
        member.kill()
        shutil.rmtree(tmp_path / "m1")
        if volume == "empty":
            (tmp_path / "m1").mkdir()
        command = [flag for flag in member.command if flag not in OARLOCK]
        line = refusal(serve(tmp_path, *command, "--initial-cluster-state", "existing"))
        assert "a voter that lost its data cannot come back" in line
        assert not (tmp_path / "m1" / "IDENTITY").exists()


def test_joining_without_saying_whom(tmp_path: Path) -> None:
    line = refusal(serve(tmp_path, "--initial-cluster-state", "existing"))
    assert "whom to ask? Give --join" in line


def test_joining_at_no_address(tmp_path: Path, ports: PortReservation) -> None:
    line = refusal(serve(tmp_path, *urls(ports.take(), ports.take()), "--join", "http://127.0.0.1:99999"))
    assert "--join: cannot parse URL" in line


async def test_a_damaged_log_is_reported_with_file_and_offset(tmp_path: Path) -> None:
    async with ProcessCluster(tmp_path, size=1) as cluster:
        member = cluster.members[0]
        assert member.terminate() == 0
        segment = sorted((tmp_path / "m1" / "wal").glob("*.log"))[0]
        with segment.open("r+b") as file:
            content = file.read(4096)
            position = content.rindex(b"m1")  # inside the first record: the configuration
            file.seek(position)
            file.write(b"m2")
        command = [flag for flag in member.command if flag not in OARLOCK]
        line = refusal(serve(tmp_path, *command), code=1)
        assert f"{segment}: corrupt at offset" in line


async def test_etcds_flags_without_meaning_are_accepted_with_a_warning(tmp_path: Path) -> None:
    flags = ("--max-wals", "5", "--auto-compaction-mode=revision", "--enable-pprof")
    async with ProcessCluster(tmp_path, size=1, flags=flags) as cluster:
        printed = cluster.members[0].log_tail(100)
    for flag in ("max-wals", "auto-compaction-mode", "enable-pprof"):
        assert f"--{flag} is one of etcd's flags and has no effect here" in printed
