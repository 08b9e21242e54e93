"""Hostile peers and clients against real members: others are served meanwhile, and memory stays bounded.

`tests/http2/hostile.py` has the single attacks against the HTTP/2 layer alone; here they meet a whole server.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from oarlock.bench.requests import PUT
from oarlock.client import Client
from oarlock.etcd_pb import rpc_pb2
from oarlock.server.processes import HOST, MemberProcess, ProcessCluster

from ..http2 import hostile

pytestmark = pytest.mark.processes

GROWTH_MAX = 150 * 1024 * 1024
"""Bytes that an attacked member may grow by. Its bounds on buffers add up to less."""
SLOWEST_PUT = 5.0
"""Seconds: an attack may cost time, but never service."""


def resident(member: MemberProcess) -> int:
    pages = int(Path(f"/proc/{member.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def served_meanwhile(member: MemberProcess) -> AsyncIterator[None]:
    """Writes and reads go on at `member` while the body runs; each is answered, rightly and in time."""
    stop = False
    done = 0

    async def work() -> None:
        nonlocal done
        async with Client(member.endpoint, timeout=30) as client:
            while not stop or not done:
                began = time.monotonic()
                await client.put("served", str(done))
                assert (await client.get("served")).kvs[0].value == b"%d" % done
                assert time.monotonic() - began < SLOWEST_PUT
                done += 1
                await asyncio.sleep(0.005)

    before = resident(member)
    worker = asyncio.create_task(work())
    try:
        yield
    finally:
        stop = True
        await worker
    assert member.running
    assert resident(member) - before < GROWTH_MAX


async def send(port: int, data: bytes, reads: float = 2.0) -> bytes:
    """Send bytes to a port and return what comes back until it closes, or for a while."""
    received = b""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            async with asyncio.timeout(reads):
                writer.write(data)
                while chunk := await reader.read(65536):
                    received += chunk
        finally:
            writer.transport.abort()
    except (OSError, TimeoutError):
        pass
    return received


@pytest.fixture
def victim(cluster: ProcessCluster) -> MemberProcess:
    return cluster.members[0]


def peer_port(member: MemberProcess) -> int:
    flag = member.command.index("--listen-peer-urls")
    return int(member.command[flag + 1].rpartition(":")[2])


Attack = Callable[[int, random.Random], Awaitable[object]]


async def random_bytes(port: int, chance: random.Random) -> None:
    await asyncio.gather(*(send(port, chance.randbytes(chance.randrange(1, 4000)), 0.3) for _ in range(100)))


async def endless_first_line(port: int, chance: random.Random) -> None:
    await asyncio.gather(*(send(port, b"GET /" + b"a" * 2_000_000, 0.5) for _ in range(10)))


async def lengths_that_promise_gigabytes(port: int, chance: random.Random) -> None:
    frames = [b"\xff" * 9, b"\x7f\xff\xff\xff" * 8, (1 << 31).to_bytes(4, "little") + b"\0" * 60]
    await asyncio.gather(*(send(port, chance.choice(frames) * 100, 0.3) for _ in range(100)))


async def half_open_connections(port: int, chance: random.Random) -> None:
    connections = [await asyncio.open_connection(HOST, port) for _ in range(300)]
    for _, writer in connections[::2]:
        writer.write(b"PRI * HTTP/2.0\r\n")
    await asyncio.sleep(0.5)
    for _, writer in connections:
        writer.transport.abort()


@pytest.mark.parametrize(
    "attack",
    [random_bytes, endless_first_line, lengths_that_promise_gigabytes, half_open_connections],
    ids=lambda attack: attack.__name__,
)
@pytest.mark.parametrize("where", ["client port", "peer port"])
async def test_nonsense_is_answered_or_cut_off_and_others_are_served(
    victim: MemberProcess, where: str, attack: Attack
) -> None:
    port = victim.client_port if where == "client port" else peer_port(victim)
    async with served_meanwhile(victim):
        await attack(port, random.Random(7))
    assert "Traceback" not in victim.log_tail(100)


HTTP2_ATTACKS = [
    "random_frames",
    "oversized_frame",
    "oversized_headers",
    "continuation_flood",
    "header_bomb",
    "million_streams",
    "rapid_reset",
    "unfinished_messages",
    "closed_windows",
    "window_by_the_byte",
    "never_reads",
    "many_half_open",
]


@pytest.mark.parametrize("name", HTTP2_ATTACKS)
async def test_http2_attacks_on_a_member_do_not_keep_it_from_serving(
    victim: MemberProcess, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = rpc_pb2.PutRequest(key=b"siege", value=b"x").SerializeToString()
    monkeypatch.setattr(hostile, "BLOCK", hostile.request_block(PUT.encode()))  # not an unknown method
    before = resident(victim)
    report = await hostile.siege(name, HOST, victim.client_port, pid=victim.pid, method=PUT, message=put)
    assert report.served > 0
    assert report.slowest < SLOWEST_PUT
    assert report.peak - before < GROWTH_MAX
    assert "Traceback" not in victim.log_tail(100)


async def test_a_member_of_another_cluster_is_refused_and_does_no_harm(
    cluster: ProcessCluster, victim: MemberProcess, tmp_path: Path
) -> None:
    """A stranger that was given our addresses by mistake: it dials all of us, all the time."""
    async with served_meanwhile(victim):
        stranger = ProcessCluster(tmp_path, size=1)
        member = stranger.members[0]
        flag = member.command.index("--initial-cluster") + 1
        ours = cluster.members[1].command[cluster.members[1].command.index("--initial-cluster") + 1]
        member.command[flag] += f",{ours.split(',')[1]},{ours.split(',')[2]}".replace("m1=", "x=")
        member.command += ["--initial-cluster-token", "another"]
        try:
            member.start()
            async with asyncio.timeout(20):
                while "refuses us: it belongs to cluster" not in member.log_tail(50):  # noqa: ASYNC110 (another process)
                    await asyncio.sleep(0.02)
            assert member.running
        finally:
            stranger.close()
    assert "Traceback" not in victim.log_tail(100)
