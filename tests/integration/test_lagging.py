"""Members that need a snapshot: one that was down for long, a new one, and one that lost its store.

One cluster for all: three members, 200,000 keys of 256 bytes, everything at its defaults. The leader is m1,
behind a proxy that the test controls; m3 was down while the keys were written.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from oarlock.client import Client
from oarlock.server.processes import MemberProcess, PortReservation, ProcessCluster, http_get
from tests.integration.memory import Memory, rounded
from tests.integration.proxy import Passage, Proxy
from tests.integration.traffic import Traffic, agreed_hash, write_keys

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

WARM_UP_KEYS = 5_000
"""Written before the level is taken that the rest is measured against."""
KEYS = 200_000
MEMORY_RATIO_MAX = 1.5
CATCH_UP_SECONDS = 60.0


class Scene:
    """The cluster, and what was measured while it came about."""

    def __init__(self, cluster: ProcessCluster, proxy: Proxy, memory: Memory) -> None:
        self.cluster = cluster
        self.proxy = proxy
        self.memory = memory
        self.warm = memory.now()

    @property
    def leader(self) -> MemberProcess:
        return self.cluster.members[0]

    @property
    def lagging(self) -> MemberProcess:
        return self.cluster.members[2]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    ports = PortReservation()
    cluster = ProcessCluster(tmp_path_factory.mktemp("lagging"))
    proxy = Proxy(cluster.members[0], ports.take())
    try:
        await proxy.start()
        async with cluster:
            await make_leader(cluster, cluster.members[0])
            await write_keys(cluster.endpoints[0], range(WARM_UP_KEYS))
            made = Scene(cluster, proxy, Memory(cluster.members[0].pid))
            made.lagging.kill()
            async with made.memory.watched():
                began = time.monotonic()
                await write_keys(cluster.endpoints[0], range(WARM_UP_KEYS, WARM_UP_KEYS + KEYS))
                print(f"{KEYS} keys in {time.monotonic() - began:.1f} s")
            yield made
    finally:
        await proxy.close()
        ports.close()


async def make_leader(cluster: ProcessCluster, member: MemberProcess) -> None:
    async with asyncio.timeout(20):
        while (status := await status_of(member))["role"] != "leader":
            async with Client(cluster.endpoints) as client:
                await client.move_leader(int(status["id"], 16), timeout=5.0)


async def status_of(member: MemberProcess) -> Any:
    code, body = await http_get(member.client_port, "/status")
    assert code == 200, f"{member.name} has no status\n{member.log_tail()}"
    return json.loads(body)


async def caught_up(member: MemberProcess) -> None:
    """It has read what was committed when it was asked."""
    await member.wait_ready(CATCH_UP_SECONDS, page="/readyz")


def installed(member: MemberProcess) -> int:
    """How many snapshots it fetched and installed."""
    return member.log_file.read_text().count("installed a snapshot of")


async def test_a_member_that_was_down_catches_up_by_a_snapshot_that_is_cut_twice_while_writes_go_on(
    scene: Scene,
) -> None:
    cluster, proxy, lagging = scene.cluster, scene.proxy, scene.lagging
    before = scene.memory.now()
    traffic = Traffic(cluster.endpoints[:2], clients=4, pause=0.005)
    async with scene.memory.watched(), traffic.running():
        began = time.monotonic()
        broken = proxy.cut_after(15 << 20)
        lagging.start()
        await asyncio.wait_for(broken.wait(), CATCH_UP_SECONDS)
        # It goes on with the rest by itself; and again after its process was killed in the middle.

        def kill(passage: Passage) -> None:
            lagging.kill()

        killed = proxy.cut_after(15 << 20, kill)
        await asyncio.wait_for(killed.wait(), CATCH_UP_SECONDS)
        assert not installed(lagging)
        lagging.start()
        await caught_up(lagging)
        print(f"caught up {time.monotonic() - began:.1f} s after its first start")
        await traffic.progress(cluster.members)
    assert (await status_of(scene.leader))["role"] == "leader"
    assert installed(lagging) == 1
    snapshot = (await status_of(lagging))["snapshot"]
    transfers = [f"{sent / 2**20:.0f}" for sent in proxy.transfers]
    print(f"a snapshot of {snapshot['size'] / 2**20:.0f} MiB, sent in pieces of {', '.join(transfers)} MiB")
    assert len(proxy.transfers) == 3
    # What was in the sockets when they broke was sent twice, and no more.
    assert sum(proxy.transfers) < 1.25 * snapshot["size"]
    assert proxy.transfers[-1] < 0.75 * snapshot["size"]
    await agreed_hash(cluster.endpoints)
    await traffic.check_nothing_lost(cluster.members)
    print(f"leader's memory: warm {rounded(scene.warm)}; then {rounded(before)}")
    print(f"    at its peak {rounded(scene.memory.peak)}")
    assert scene.memory.peak["RssAnon"] < MEMORY_RATIO_MAX * scene.warm["RssAnon"]
    # The rest are pages of the store's file, which the machine takes back when it needs them.
    assert scene.memory.peak["VmRSS"] < MEMORY_RATIO_MAX * before["VmRSS"]


async def test_a_new_member_gets_a_snapshot_of_what_the_log_has_not_got_any_more(scene: Scene) -> None:
    cluster = scene.cluster
    await back_again(scene)
    assert (await status_of(scene.leader))["first_index"] > 1
    traffic = Traffic(cluster.endpoints[:2], clients=4, pause=0.005)
    async with traffic.running(), Client(cluster.endpoints) as client:
        added = cluster.new_member()
        await client.member_add([added.peer_url])
        added.start()
        await caught_up(added)
        await traffic.progress(cluster.members)
    assert installed(added) == 1
    await agreed_hash(cluster.endpoints)
    await traffic.check_nothing_lost(cluster.members)


async def test_a_member_without_its_store_rebuilds_it_from_its_own_snapshot_and_log(scene: Scene) -> None:
    """The machine lost power: the store is not to be trusted, and is thrown away."""
    member = scene.lagging
    await back_again(scene)
    transfers, before = len(scene.proxy.transfers), installed(member)
    assert before, "its log begins behind the snapshot that it got"
    member.kill()
    last_use = scene.cluster.directory / member.name / "LAST_USE"
    content = json.loads(last_use.read_text())
    last_use.write_bytes(msgspec.json.encode({**content, "boot_id": "another"}))
    member.start()
    await caught_up(member)
    assert "the store is rebuilt" in member.log_file.read_text()
    assert (len(scene.proxy.transfers), installed(member)) == (transfers, before), "nobody sent it anything"
    await agreed_hash(scene.cluster.endpoints)


async def back_again(scene: Scene) -> None:
    """The lagging member runs: it does already if the test before this one was run."""
    if not scene.lagging.running:
        scene.lagging.start()
        await caught_up(scene.lagging)
