"""A follower that stops reading costs the leader nothing but its slot; and nothing grows without bound."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from oarlock.bench import Load, Operation, Report, parse_endpoint, run_load
from oarlock.bench.failover import leader_endpoint
from oarlock.bench.requests import PUT
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel, RpcError
from oarlock.server.processes import MemberProcess, ProcessCluster
from tests.integration.memory import Memory, rounded
from tests.integration.traffic import Traffic, agreed_hash, write_keys

pytestmark = pytest.mark.processes

WAITING_MIB_MAX = 128
"""`RuntimeLimits.proposal_bytes_max`. Each byte is held up to three times: as it came, in the request's
fields, and in the command."""
VALUE_BYTES = 512 * 1024
REQUESTS = 400
"""200 MiB: more than the 128 MiB that a member lets wait."""


async def leader_of(cluster: ProcessCluster) -> MemberProcess:
    endpoint = await leader_endpoint(cluster.endpoints)
    return next(member for member in cluster.members if member.endpoint == endpoint)


async def puts(member: MemberProcess, seconds: float) -> Report:
    load = Load(
        operation=Operation.PUT, endpoints=(member.endpoint,), clients=100, connections=10, seconds=seconds
    )
    report = await run_load(load)
    assert not report.errors
    return report


async def test_a_follower_that_is_stopped_under_load_costs_the_leader_nothing(tmp_path: Path) -> None:
    async with ProcessCluster(tmp_path) as cluster:
        leader = await leader_of(cluster)
        follower = next(member for member in cluster.members if member is not leader)
        await write_keys(leader.endpoint, range(25_000))
        memory = Memory(leader.pid)
        before, with_all = memory.now(), await puts(leader, 4)
        async with memory.watched():
            follower.freeze()
            without = await puts(leader, 6)
            follower.thaw()
        print(f"{with_all.per_second:.0f} puts/s with it, {without.per_second:.0f} without")
        print(
            f"slowest {with_all.latency.max * 1000:.0f} ms with it, {without.latency.max * 1000:.0f} without"
        )
        print(f"leader's memory: {rounded(before)}; at its peak {rounded(memory.peak)}")
        assert without.per_second > 0.6 * with_all.per_second
        assert memory.peak["RssAnon"] < before["RssAnon"] + 64
        await agreed_hash(cluster.endpoints)


async def test_what_cannot_be_committed_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    async with ProcessCluster(tmp_path) as cluster:
        leader = await leader_of(cluster)
        memory = Memory(leader.pid)
        before = memory.now()
        for member in cluster.members:
            if member is not leader:
                member.freeze()
        async with memory.watched():
            refused = await flood(leader)
        for member in cluster.members:
            member.thaw()
        began = time.monotonic()
        print(f"refused: {dict(refused)}")
        print(f"leader's memory: {rounded(before)}; at its peak {rounded(memory.peak)}")
        assert refused["RESOURCE_EXHAUSTED"] > 0
        assert memory.peak["RssAnon"] < before["RssAnon"] + 3.5 * WAITING_MIB_MAX
        traffic = Traffic(cluster.endpoints)
        async with traffic.running():
            await traffic.progress(cluster.members)
        print(f"writes went through again after {time.monotonic() - began:.1f} s")
        await traffic.check_nothing_lost(cluster.members)


async def flood(member: MemberProcess) -> Counter[str]:
    """More than the member can hold, while nothing is committed. Returns how often it said what."""
    request = rpc_pb2.PutRequest(key=b"k", value=b"v" * VALUE_BYTES).SerializeToString()
    channels = [Channel(*parse_endpoint(member.endpoint)) for _ in range(10)]
    said: Counter[str] = Counter()

    async def put(channel: Channel) -> None:
        try:
            await channel.unary(PUT, request, timeout=15.0)
        except RpcError as error:
            said[error.code.name] += 1

    try:
        for channel in channels:
            await channel.connect()
        await asyncio.gather(*(put(channels[number % len(channels)]) for number in range(REQUESTS)))
    finally:
        for channel in channels:
            await channel.close()
    return said
