"""Twenty rounds of load while a random member is killed, frozen or restarted; then the reckoning.

What is checked is said in `traffic`. `SEED` in the environment repeats a run's choice of faults.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from oarlock.bench.failover import leader_endpoint
from oarlock.server.processes import MemberProcess, ProcessCluster
from tests.integration.traffic import Traffic

pytestmark = pytest.mark.processes

ROUNDS = 20


async def shake(cluster: ProcessCluster, traffic: Traffic, chance: random.Random) -> None:
    for number in range(1, ROUNDS + 1):
        member = await victim(cluster, chance)
        fault = chance.choice(["kill", "freeze", "restart"])
        print(f"round {number}: {fault} {member.name}, {len(traffic.acknowledged)} acknowledged")
        if fault == "kill":
            member.kill()
            await asyncio.sleep(chance.uniform(0.0, 1.5))
            member.start()
        elif fault == "freeze":
            member.freeze()
            await asyncio.sleep(chance.uniform(0.1, 2.5))
            member.thaw()
        else:
            await asyncio.to_thread(member.terminate)
            member.start()
        await traffic.progress(cluster.members)
        await member.wait_ready()
        await asyncio.sleep(chance.uniform(0.0, 0.3))


async def victim(cluster: ProcessCluster, chance: random.Random) -> MemberProcess:
    """Half of the time the leader: that is where it hurts."""
    if chance.random() < 0.5:
        endpoint = await leader_endpoint(cluster.endpoints)
        return next(member for member in cluster.members if member.endpoint == endpoint)
    return chance.choice(cluster.members)


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_and_no_read_goes_backwards(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"SEED={seed}")
    async with ProcessCluster(tmp_path) as cluster:
        traffic = Traffic(cluster.endpoints, seed=seed)
        async with traffic.running():
            await shake(cluster, traffic, random.Random(seed))
        await traffic.check_nothing_lost(cluster.members)
    assert len(traffic.acknowledged) > ROUNDS * 20
    assert traffic.reads > ROUNDS * 20
