"""How long nobody can write when the leader goes: stopped in good order, or killed."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest

from oarlock.bench.failover import leader_endpoint
from oarlock.server.processes import MemberProcess, ProcessCluster
from tests.integration.traffic import Traffic

pytestmark = pytest.mark.processes

ELECTION_TIMEOUT = 1.0
"""The default, in seconds. Whoever waits for it waits for one to two of them (dissertation 3.4)."""


async def leader_of(cluster: ProcessCluster) -> MemberProcess:
    endpoint = await leader_endpoint(cluster.endpoints)
    return next(member for member in cluster.members if member.endpoint == endpoint)


def printed(gaps: list[float]) -> float:
    median = statistics.median(gaps)
    print(f"gaps in ms: {', '.join(f'{gap * 1000:.0f}' for gap in gaps)}; median {median * 1000:.0f}")
    return median


async def test_a_leader_that_is_stopped_hands_over_without_an_election_timeout(tmp_path: Path) -> None:
    gaps = []
    async with ProcessCluster(tmp_path) as cluster:
        traffic = Traffic(cluster.endpoints, clients=4, pause=0.01)
        async with traffic.running():
            for number in range(1, 11):
                leader = await leader_of(cluster)
                await traffic.progress(cluster.members)
                began = time.monotonic()
                assert await asyncio.to_thread(leader.terminate) == 0, leader.log_tail()
                await traffic.progress(cluster.members)
                gaps.append(traffic.longest_gap(began, time.monotonic()))
                log = leader.log_file.read_text()
                # TimeoutNow got it a successor before it stopped: nobody had to notice that it was gone.
                assert log.count("stopping on SIGTERM") == log.count("handed leadership over to"), number
                leader.start()
                await leader.wait_ready(page="/readyz")
        await traffic.check_nothing_lost(cluster.members)
    assert printed(gaps) < ELECTION_TIMEOUT / 2


async def test_a_leader_that_is_killed_is_missed_at_once(tmp_path: Path) -> None:
    gaps = []
    async with ProcessCluster(tmp_path) as cluster:
        traffic = Traffic(cluster.endpoints, clients=4, pause=0.01)
        async with traffic.running():
            for _ in range(3):
                leader = await leader_of(cluster)
                await traffic.progress(cluster.members)
                began = time.monotonic()
                leader.kill()
                await traffic.progress(cluster.members)
                gaps.append(traffic.longest_gap(began, time.monotonic()))
                leader.start()
                await leader.wait_ready(page="/readyz")
        await traffic.check_nothing_lost(cluster.members)
    # Its peers see the connection end and nobody listen any more: they need not wait for a timeout.
    assert printed(gaps) < ELECTION_TIMEOUT
