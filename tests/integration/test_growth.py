"""A cluster grows from one member to five and shrinks to three, under load, with kills in between.

A member that joins knows one other member's address. `SEED` in the environment repeats a run's choices.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oarlock.bench.failover import leader_endpoint
from oarlock.client import Client
from oarlock.server.processes import MemberProcess, ProcessCluster, http_get
from tests.integration.traffic import Traffic, agreed_hash

pytestmark = pytest.mark.processes

ELECTION_TIMEOUT = 1.0
"""The default, in seconds."""
SETTLE_SECONDS = 20.0


class Growth:
    """The cluster while it changes. `members` are those that belong to it now."""

    def __init__(self, cluster: ProcessCluster, seed: int) -> None:
        self.cluster = cluster
        self.chance = random.Random(seed)
        self.members = list(cluster.members)
        self.traffic = Traffic(cluster.endpoints, pause=0.005, seed=seed)
        self.gaps: list[float] = []

    # ── changes ────────────────────────────────────────────────────────────────────────────────────

    async def add(self, asks: MemberProcess | None = None) -> MemberProcess:
        """One more, that asks one of the others for everything it has to know."""
        added = self.cluster.new_member(asks or self.chance.choice(self.members))
        async with Client(self.endpoints) as client:
            await client.member_add([added.peer_url], timeout=SETTLE_SECONDS)
        added.start()
        return added

    async def joined(self, added: MemberProcess) -> None:
        """It has a vote, and the others know."""
        await added.wait_ready(SETTLE_SECONDS, page="/readyz")
        self.members.append(added)
        self.traffic.endpoints.append(added.endpoint)
        await self.settled()

    async def remove(self, member: MemberProcess) -> None:
        self.members.remove(member)
        node_id = (await status_of(member))["id"]
        async with Client(self.endpoints) as client:
            await client.member_remove(int(node_id, 16), timeout=SETTLE_SECONDS)
        code = await asyncio.to_thread(member.wait, SETTLE_SECONDS)
        assert code == 0, f"a removed member stops, and is not to be started again\n{member.log_tail()}"
        self.traffic.endpoints.remove(member.endpoint)
        await self.settled()

    @asynccontextmanager
    async def measured(self, what: str) -> AsyncIterator[None]:
        """No kill meanwhile: writes must not be held up."""
        await self.traffic.progress(self.cluster.members)
        began = time.monotonic()
        yield
        await self.traffic.progress(self.cluster.members)
        gap = self.traffic.longest_gap(began, time.monotonic())
        print(f"{what}: no write for {gap * 1000:.0f} ms")
        self.gaps.append(gap)

    # ── faults ─────────────────────────────────────────────────────────────────────────────────────

    async def kill_one(self) -> None:
        """One dies, and comes back."""
        member = await self.leader() if self.chance.random() < 0.5 else self.chance.choice(self.members)
        print(f"kill {member.name}")
        member.kill()
        await asyncio.sleep(self.chance.uniform(0.0, 1.0))
        member.start()
        await self.traffic.progress(self.cluster.members)
        await member.wait_ready(SETTLE_SECONDS, page="/readyz")

    # ── what is there ──────────────────────────────────────────────────────────────────────────────

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    async def leader(self) -> MemberProcess:
        endpoint = await leader_endpoint(self.endpoints)
        return next(member for member in self.members if member.endpoint == endpoint)

    async def settled(self) -> None:
        """Every member knows that exactly these have votes, for good."""
        deadline = time.monotonic() + SETTLE_SECONDS
        for member in self.members:
            while not self.is_settled(found := (await status_of(member))["configuration"]):
                assert time.monotonic() < deadline, f"{member.name} has {found}\n{member.log_tail()}"
                await asyncio.sleep(0.02)

    def is_settled(self, configuration: Any) -> bool:
        votes = len(configuration["voters"])
        return bool(configuration["committed"] and not configuration["joint"] and votes == len(self.members))


async def status_of(member: MemberProcess) -> Any:
    code, body = await http_get(member.client_port, "/status")
    assert code == 200, f"{member.name} has no status\n{member.log_tail()}"
    return json.loads(body)


@pytest.mark.timeout(240)
async def test_a_cluster_grows_from_one_to_five_and_shrinks_to_three_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"SEED={seed}")
    async with ProcessCluster(tmp_path, size=1) as cluster:
        growth = Growth(cluster, seed)
        async with growth.traffic.running():
            for size in (2, 3):
                async with growth.measured(f"growing to {size}"):
                    await growth.joined(await growth.add())
                await growth.kill_one()
            await growth.joined(await grown_while_the_leader_dies(growth))
            await growth.kill_one()
            async with growth.measured("growing to 5"):
                added = await growth.add()
                await growth.joined(added)
            await growth.kill_one()
            async with growth.measured("shrinking to 4, without the leader"):
                await growth.remove(await growth.leader())
            await growth.kill_one()
            async with growth.measured("shrinking to 3"):
                leader = await growth.leader()
                await growth.remove(next(member for member in growth.members if member is not leader))
            await growth.kill_one()
            await growth.settled()
        await growth.traffic.check_nothing_lost(growth.members)
        await agreed_hash(growth.endpoints)
    print(f"{len(growth.traffic.acknowledged)} writes, {growth.traffic.reads} reads")
    assert max(growth.gaps) < 2 * ELECTION_TIMEOUT


async def grown_while_the_leader_dies(growth: Growth) -> MemberProcess:
    """The change is in the log: whoever leads next completes it. So does the new member, killed as well."""
    leader = await growth.leader()
    added = await growth.add(asks=next(member for member in growth.members if member is not leader))
    print(f"kill {leader.name}, which adds {added.name}")
    leader.kill()
    await growth.traffic.progress(growth.cluster.members)
    await added.wait_ready(SETTLE_SECONDS)
    added.kill()
    leader.start()
    added.start()
    await leader.wait_ready(SETTLE_SECONDS, page="/readyz")
    return added
