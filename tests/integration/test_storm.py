"""Twenty rounds of load while a random member is killed, frozen or restarted; then the reckoning.

Each client writes keys that are never written twice: a write of unknown outcome may still happen later, and
must not undo a newer one in the eyes of the checks. So three things can be checked without knowing the order
of events: every acknowledged key is on every member in the end, and all members hold the same; a key that was
acknowledged, or read by anyone, before a linearizable read began, is found by that read; and the revision
that it reports is at least any that was reported before it began. `SEED` in the environment repeats a run's
choice of faults.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from oarlock.bench import parse_endpoint
from oarlock.bench.failover import leader_endpoint
from oarlock.bench.requests import PUT, RANGE
from oarlock.cli.demo_check import agreed_contents
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel, RpcError
from oarlock.server.processes import MemberProcess, ProcessCluster

pytestmark = pytest.mark.processes

ROUNDS = 20
CLIENTS = 6
CALL_TIMEOUT = 1.5
PROGRESS_TIMEOUT = 15.0
PAUSE = 0.002
"""Between a client's requests: the machine is to be shaken, not saturated."""


class Violation(AssertionError):
    """A promise was broken."""


class Client:
    """Writes and reads in turn, on any member that answers."""

    def __init__(self, number: int, storm: Storm) -> None:
        self.number = number
        self.storm = storm
        self.writes = 0
        self.reads = 0
        self.chance = random.Random(f"{storm.seed}/{number}")

    async def run(self) -> None:
        endpoints = self.storm.cluster.endpoints
        while not self.storm.stopping:
            channel = Channel(*parse_endpoint(self.chance.choice(endpoints)))
            try:
                await channel.connect(0.5)
                while not self.storm.stopping:
                    await self.write(channel)
                    await self.read(channel)
                    await asyncio.sleep(PAUSE)
            except RpcError:
                await asyncio.sleep(0.02)
            finally:
                await channel.close()

    async def write(self, channel: Channel) -> None:
        """A new key. A number whose write failed is never used again."""
        self.writes += 1
        value = b"%d" % self.writes
        key = self.key
        request = rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
        answer = await channel.unary(PUT, request, timeout=CALL_TIMEOUT)
        self.storm.acknowledged[key] = value
        self.storm.learn(key, rpc_pb2.PutResponse.FromString(answer).header.revision)

    @property
    def key(self) -> bytes:
        """The one it wrote last, or is writing now."""
        return b"check/%d/%06d" % (self.number, self.writes)

    async def read(self, channel: Channel) -> None:
        """Linearizably: what some client just wrote or is writing, or anything known to be there."""
        storm = self.storm
        key = self.chance.choice(storm.clients).key
        if storm.known and self.chance.random() < 0.3:
            key = self.chance.choice(storm.known_keys)
        must_be_there, floor = key in storm.known, storm.revision
        request = rpc_pb2.RangeRequest(key=key).SerializeToString()
        answer = await channel.unary(RANGE, request, timeout=CALL_TIMEOUT)
        response = rpc_pb2.RangeResponse.FromString(answer)
        if must_be_there and not response.kvs:
            raise Violation(f"{key!r} was known to be there, and a later read did not find it")
        if response.header.revision < floor:
            raise Violation(f"a read at revision {response.header.revision} after one at {floor}")
        storm.learn(key if response.kvs else None, response.header.revision)
        self.reads += 1


class Storm:
    """The faults, and what the clients know between them."""

    def __init__(self, cluster: ProcessCluster, seed: int) -> None:
        self.cluster = cluster
        self.seed = seed
        self.chance = random.Random(seed)
        self.stopping = False
        self.acknowledged: dict[bytes, bytes] = {}
        self.known: set[bytes] = set()
        """Keys that were acknowledged or read: every read that begins now finds them."""
        self.known_keys: list[bytes] = []
        self.revision = 0
        """The newest that anyone was told."""
        self.clients = [Client(number, self) for number in range(CLIENTS)]

    def learn(self, key: bytes | None, revision: int) -> None:
        self.revision = max(self.revision, revision)
        if key is not None and key not in self.known:
            self.known.add(key)
            self.known_keys.append(key)

    async def rounds(self) -> None:
        for number in range(1, ROUNDS + 1):
            member = await self.victim()
            fault = self.chance.choice(["kill", "freeze", "restart"])
            print(f"round {number}: {fault} {member.name}, {len(self.acknowledged)} acknowledged")
            if fault == "kill":
                member.kill()
                await asyncio.sleep(self.chance.uniform(0.0, 1.5))
                member.start()
            elif fault == "freeze":
                member.freeze()
                await asyncio.sleep(self.chance.uniform(0.1, 2.5))
                member.thaw()
            else:
                await asyncio.to_thread(member.terminate)
                member.start()
            await self.progress()
            await member.wait_ready()
            await asyncio.sleep(self.chance.uniform(0.0, 0.3))

    async def victim(self) -> MemberProcess:
        """Half of the time the leader: that is where it hurts."""
        if self.chance.random() < 0.5:
            endpoint = await leader_endpoint(self.cluster.endpoints)
            return next(member for member in self.cluster.members if member.endpoint == endpoint)
        return self.chance.choice(self.cluster.members)

    async def progress(self) -> None:
        """A majority is up: writes must get through, soon."""
        before, deadline = len(self.acknowledged), time.monotonic() + PROGRESS_TIMEOUT
        while len(self.acknowledged) < before + 20:
            assert time.monotonic() < deadline, "no progress although a majority runs\n" + "\n".join(
                member.log_tail() for member in self.cluster.members
            )
            await asyncio.sleep(0.02)


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_and_no_read_goes_backwards(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"SEED={seed}")
    async with ProcessCluster(tmp_path) as cluster:
        storm = Storm(cluster, seed)
        clients = [asyncio.create_task(client.run()) for client in storm.clients]
        faults = asyncio.create_task(storm.rounds())
        done, _ = await asyncio.wait([faults, *clients], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a violation, or the end of the rounds
        storm.stopping = True
        await asyncio.gather(*clients)
        held = await agreed_contents(cluster.endpoints)
    for member, found in zip(cluster.members, held, strict=True):
        lost = [key for key, value in storm.acknowledged.items() if found.get(key, (b"",))[0] != value]
        assert not lost, f"SEED={seed}: {member.name} lost {len(lost)} acknowledged writes, as {lost[:3]}"
        assert found == held[0], f"SEED={seed}: {member.name} differs from m1"
    assert len(storm.acknowledged) > ROUNDS * 20
    assert sum(client.reads for client in storm.clients) > ROUNDS * 20
