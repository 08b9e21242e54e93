"""Clients that write and read while a cluster is being shaken, and what must be true of it then.

Each client writes keys that are never written twice: a write of unknown outcome may still happen later, and
must not undo a newer one in the eyes of the checks. So three things can be checked without knowing the order
of events: every acknowledged key is on every member in the end, and all members hold the same; a key that was
acknowledged, or read by anyone, before a linearizable read began, is found by that read; and the revision
that it reports is at least any that was reported before it began.

The moments of all acknowledgements are kept: how long nobody could write is the longest gap between two.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise

from oarlock.bench import parse_endpoint
from oarlock.bench.requests import PUT, RANGE
from oarlock.cli.demo_check import agreed_contents
from oarlock.client import Client as EtcdClient
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel, RpcError
from oarlock.server.processes import MemberProcess

CALL_TIMEOUT = 1.5
PROGRESS_TIMEOUT = 15.0
RETRY_SECONDS = 0.02
"""After every endpoint was tried in vain."""


class Violation(AssertionError):
    """A promise was broken."""


class Client:
    """Writes and reads in turn; at the next endpoint, at once, if one fails."""

    def __init__(self, number: int, traffic: Traffic) -> None:
        self.number = number
        self.traffic = traffic
        self.writes = 0
        self.reads = 0
        self.chance = random.Random(f"{traffic.seed}/{number}")

    async def run(self) -> None:
        traffic = self.traffic
        turn, in_vain = self.number, 0
        while not traffic.stopping:
            before = self.writes
            channel = Channel(*parse_endpoint(traffic.endpoints[turn % len(traffic.endpoints)]))
            try:
                await channel.connect(0.5)
                while not traffic.stopping:
                    await self.write(channel)
                    if traffic.reading:
                        await self.read(channel)
                    await asyncio.sleep(traffic.pause)
            except RpcError:
                turn += 1
                in_vain = 0 if self.writes > before + 1 else in_vain + 1
                if in_vain >= len(traffic.endpoints):
                    await asyncio.sleep(RETRY_SECONDS)
            finally:
                await channel.close()

    async def write(self, channel: Channel) -> None:
        """A new key. A number whose write failed is never used again."""
        self.writes += 1
        key, value = self.key, b"%d" % self.writes
        request = rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
        answer = await channel.unary(PUT, request, timeout=CALL_TIMEOUT)
        self.traffic.moments.append(time.monotonic())
        self.traffic.acknowledged[key] = value
        self.traffic.learn(key, rpc_pb2.PutResponse.FromString(answer).header.revision)

    @property
    def key(self) -> bytes:
        """The one it wrote last, or is writing now."""
        return b"check/%d/%06d" % (self.number, self.writes)

    async def read(self, channel: Channel) -> None:
        """Linearizably: what some client just wrote or is writing, or anything known to be there."""
        traffic = self.traffic
        key = self.chance.choice(traffic.clients).key
        if traffic.known and self.chance.random() < 0.3:
            key = self.chance.choice(traffic.known_keys)
        must_be_there, floor = key in traffic.known, traffic.revision
        request = rpc_pb2.RangeRequest(key=key).SerializeToString()
        answer = await channel.unary(RANGE, request, timeout=CALL_TIMEOUT)
        response = rpc_pb2.RangeResponse.FromString(answer)
        if must_be_there and not response.kvs:
            raise Violation(f"{key!r} was known to be there, and a later read did not find it")
        if response.header.revision < floor:
            raise Violation(f"a read at revision {response.header.revision} after one at {floor}")
        traffic.learn(key if response.kvs else None, response.header.revision)
        self.reads += 1


class Traffic:
    """Some clients, and what they know between them.

    Args:
        endpoints: where they go, in turn; may be changed while they run.
        pause: seconds between a client's rounds: the machine is to be shaken, not saturated.
        reading: whether each write is followed by a read.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        clients: int = 6,
        pause: float = 0.002,
        reading: bool = True,
        seed: int = 1,
    ) -> None:
        self.endpoints = list(endpoints)
        self.pause = pause
        self.reading = reading
        self.seed = seed
        self.stopping = False
        self.acknowledged: dict[bytes, bytes] = {}
        self.moments: list[float] = []
        """Of the acknowledgements, in their order."""
        self.known: set[bytes] = set()
        """Keys that were acknowledged or read: every read that begins now finds them."""
        self.known_keys: list[bytes] = []
        self.revision = 0
        """The newest that anyone was told."""
        self.clients = [Client(number, self) for number in range(clients)]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def reads(self) -> int:
        return sum(client.reads for client in self.clients)

    def learn(self, key: bytes | None, revision: int) -> None:
        self.revision = max(self.revision, revision)
        if key is not None and key not in self.known:
            self.known.add(key)
            self.known_keys.append(key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The clients run. A violation raises at the end, if `progress` has not found it before."""
        self._tasks = [asyncio.create_task(client.run()) for client in self.clients]
        try:
            yield
            self.stopping = True
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def progress(self, members: Sequence[MemberProcess], writes: int = 20) -> None:
        """A majority is up: writes must get through, soon."""
        before, deadline = len(self.moments), time.monotonic() + PROGRESS_TIMEOUT
        while len(self.moments) < before + writes:
            for task in self._tasks:
                if task.done():
                    task.result()  # a violation
            assert time.monotonic() < deadline, "no progress although a majority runs\n" + "\n".join(
                member.log_tail() for member in members
            )
            await asyncio.sleep(0.02)

    def longest_gap(self, begin: float, end: float) -> float:
        """The longest time between two acknowledgements around `begin` … `end`, in seconds."""
        first = max(bisect_left(self.moments, begin) - 1, 0)
        last = bisect_left(self.moments, end) + 1
        moments = self.moments[first:last]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)

    async def check_nothing_lost(self, members: Sequence[MemberProcess]) -> None:
        """Every acknowledged write is on every member, and they hold the same."""
        held = await agreed_contents([member.endpoint for member in members])
        for member, found in zip(members, held, strict=True):
            lost = [key for key, value in self.acknowledged.items() if found.get(key, (b"",))[0] != value]
            assert not lost, (
                f"seed {self.seed}: {member.name} lost {len(lost)} acknowledged writes, as {lost[:3]}"
            )
            assert found == held[0], f"seed {self.seed}: {member.name} differs from {members[0].name}"


async def agreed_hash(endpoints: Sequence[str]) -> int:
    """The hash of all that the members hold, equal on all of them."""
    clients = [EtcdClient([endpoint]) for endpoint in endpoints]
    deadline = time.monotonic() + PROGRESS_TIMEOUT
    try:
        while True:
            answers = [await client.hash_kv(timeout=10.0) for client in clients]
            revisions = {answer.header.revision for answer in answers}
            if len(revisions) == 1:
                hashes = {answer.hash for answer in answers}
                assert len(hashes) == 1, f"at revision {revisions} the members differ: {answers}"
                return hashes.pop()
            assert time.monotonic() < deadline, f"the members did not catch up with each other: {revisions}"
            await asyncio.sleep(0.05)
    finally:
        for client in clients:
            await client.close()


async def write_keys(endpoint: str, numbers: range, value_size: int = 256, clients: int = 256) -> None:
    """Write one key for each number, many at once. `RpcError` if one is refused."""
    left = iter(numbers)
    value = b"v" * value_size
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    channels = [Channel(*parse_endpoint(endpoint)) for _ in range(max(1, clients // 16))]
    in_flight = 0

    def send(channel: Channel) -> None:
        nonlocal in_flight
        number = next(left, None)
        if number is not None:
            in_flight += 1
            request = rpc_pb2.PutRequest(key=b"key/%08d" % number, value=value).SerializeToString()
            channel.call(PUT, request, partial(answered, channel))
        elif in_flight == 0 and not finished.done():
            finished.set_result(None)

    def answered(channel: Channel, reply: bytes | None, error: RpcError | None) -> None:
        nonlocal in_flight
        in_flight -= 1
        if error is None:
            send(channel)
        elif not finished.done():
            finished.set_exception(error)

    try:
        for channel in channels:
            await channel.connect()
        for number in range(clients):
            send(channels[number % len(channels)])
        await finished
    finally:
        for channel in channels:
            await channel.close()
