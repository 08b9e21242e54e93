"""The process harness: it starts what it is told, kills only that, and explains failures.

Real etcd is the program here, so that the harness is tested apart from what it usually runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from oarlock.server.processes import PortReservation, ProcessCluster, ProcessError, http_get

pytestmark = pytest.mark.processes


def test_reserved_ports_differ_and_can_be_listened_on() -> None:
    first, second = PortReservation(), PortReservation()
    try:
        ports = [reservation.take() for reservation in (first, second) for _ in range(20)]
    finally:
        first.close()
        second.close()
    assert len(set(ports)) == 40


async def test_a_member_is_ready_when_it_serves_and_gone_when_killed(
    tmp_path: Path, etcd_binary: str
) -> None:
    program = (etcd_binary, "--log-level", "error")
    async with ProcessCluster(tmp_path, size=1, program=program) as cluster:
        member = cluster.members[0]
        status, body = await http_get(member.client_port, "/version")
        assert (status, b"etcdserver" in body) == (200, True)
        pid = member.pid
        member.kill()
        assert not member.running
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        member.start()
        await member.wait_ready()
        assert member.terminate() in (0, -15)


async def test_a_frozen_member_does_not_answer_until_it_is_thawed(tmp_path: Path, etcd_binary: str) -> None:
    program = (etcd_binary, "--log-level", "error")
    async with ProcessCluster(tmp_path, size=1, program=program) as cluster:
        member = cluster.members[0]
        member.freeze()
        assert (await http_get(member.client_port, "/health", timeout=0.2))[0] == 0
        member.thaw()
        await member.wait_ready()


async def test_a_member_that_ends_while_starting_is_reported_with_what_it_printed(tmp_path: Path) -> None:
    program = (sys.executable, "-c", "import sys; sys.exit('no such luck')")
    with pytest.raises(ProcessError, match="m1 ended while starting\n    m1: no such luck"):
        async with ProcessCluster(tmp_path, size=1, program=program):
            pass


async def test_leaving_the_context_kills_everything_that_was_started(tmp_path: Path) -> None:
    program = (sys.executable, "-c", "import time; time.sleep(60)")
    cluster = ProcessCluster(tmp_path, size=2, program=program)
    cluster.start()
    pids = [member.pid for member in cluster.members]
    cluster.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
