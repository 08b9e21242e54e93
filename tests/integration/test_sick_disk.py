"""A leader whose fdatasync does not return any more, in a real process."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from oarlock.bench.failover import leader_endpoint
from oarlock.server.processes import MemberProcess, ProcessCluster, http_get
from tests.integration.traffic import Traffic, agreed_hash

pytestmark = pytest.mark.processes

ELECTION_TIMEOUT = 1.0
"""The default, in seconds."""
PROGRAM = (sys.executable, str(Path(__file__).with_name("hanging_member.py")))


async def status_of(member: MemberProcess) -> Any:
    code, body = await http_get(member.client_port, "/status")
    assert code == 200, f"{member.name} has no status\n{member.log_tail()}"
    return json.loads(body)


async def leader_of(members: list[MemberProcess]) -> MemberProcess:
    endpoint = await leader_endpoint([member.endpoint for member in members])
    return next(member for member in members if member.endpoint == endpoint)


async def test_a_leader_whose_disk_hangs_is_replaced_and_comes_back_as_a_follower(tmp_path: Path) -> None:
    async with ProcessCluster(tmp_path, program=PROGRAM) as cluster:
        traffic = Traffic(cluster.endpoints, pause=0.005)
        async with traffic.running():
            await traffic.progress(cluster.members)
            sick = await leader_of(cluster.members)
            healthy = [member for member in cluster.members if member is not sick]
            switch = tmp_path / f"hang.{sick.name}"
            switch.touch()
            began = time.monotonic()
            successor = await leader_of(healthy)
            replaced = time.monotonic() - began
            await traffic.progress(cluster.members)
            gap = traffic.longest_gap(began, time.monotonic())
            print(f"replaced after {replaced * 1000:.0f} ms; no write for {gap * 1000:.0f} ms")
            assert replaced < 3 * ELECTION_TIMEOUT

            await does_not_stand(sick, without=successor)
            await traffic.progress(cluster.members)

            switch.unlink()
            await until_well(sick)
            await traffic.progress(cluster.members)
        assert (await status_of(sick))["role"] == "follower"
        await agreed_hash(cluster.endpoints)
        await traffic.check_nothing_lost(cluster.members)


async def does_not_stand(sick: MemberProcess, without: MemberProcess) -> None:
    """No leader is heard for longer than any election timeout lasts: the sick member leaves it at that."""
    term = (await status_of(sick))["term"]
    without.freeze()
    roles = set()
    end = time.monotonic() + 3 * ELECTION_TIMEOUT
    while time.monotonic() < end:
        found = await status_of(sick)
        roles.add((found["role"], found["term"]))
        await asyncio.sleep(0.02)
    without.thaw()
    assert found["disk"]["stalled"]
    assert roles == {("follower", term)}


async def until_well(member: MemberProcess) -> None:
    deadline = time.monotonic() + 10
    while (await status_of(member))["disk"]["oldest_write_age"] is not None:
        assert time.monotonic() < deadline, f"its disk recovered, and it did not\n{member.log_tail()}"
        await asyncio.sleep(0.02)
