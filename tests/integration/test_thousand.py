"""A thousand concurrent requests, on one connection and on a hundred, from Go, C-core and our own client.

To be sure that they are concurrent, the leader's followers are frozen first: nothing can be committed, so
every request that arrives is held by the server. When all thousand are there the followers are thawed, and
all thousand must be answered.

Go is etcd's own client: `etcd grpc-proxy` takes the requests and passes each on through it. It opens one
connection for each endpoint that it is given, so the servers listen on a hundred loopback addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from oarlock.bench import parse_endpoint
from oarlock.bench.failover import leader_endpoint
from oarlock.bench.requests import PUT
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel
from oarlock.server.processes import HOST, MemberProcess, PortReservation, ProcessCluster

pytestmark = pytest.mark.processes

REQUESTS = 1000
LOOPBACK = [f"127.0.0.{number}" for number in (1, *range(101, 200))]
HELD_SECONDS = 1.0
ARRIVE_SECONDS = 20.0
Answer = Awaitable[bytes]
Send = Callable[[], Sequence[Answer]]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    """A cluster that keeps its leader while the followers are frozen for a moment."""
    flags = ("--election-timeout", "3000", "--heartbeat-interval", "300")
    cluster = ProcessCluster(tmp_path_factory.mktemp("thousand"), flags=flags)
    try:
        for member in cluster.members:
            urls = ",".join(f"http://{host}:{member.client_port}" for host in LOOPBACK)
            member.command += ["--listen-client-urls", urls]
        cluster.start()
        asyncio.run(cluster.wait_ready())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
async def leader(thousand: ProcessCluster) -> tuple[MemberProcess, list[MemberProcess]]:
    """The leader, and its followers."""
    endpoint = await leader_endpoint(thousand.endpoints)
    first = next(member for member in thousand.members if member.endpoint == endpoint)
    return first, [member for member in thousand.members if member is not first]


def requests() -> list[bytes]:
    return [
        rpc_pb2.PutRequest(key=b"thousand/%03d" % number, value=b"x" * 256).SerializeToString()
        for number in range(REQUESTS)
    ]


async def hold(followers: Sequence[MemberProcess], send: Send) -> None:
    """Send a thousand writes while none can be committed; then let them be, and see all answered."""
    for member in followers:
        member.freeze()
    answers = [asyncio.ensure_future(answer) for answer in send()]
    try:
        await asyncio.sleep(HELD_SECONDS)
        assert not any(answer.done() for answer in answers), "all thousand are held"
    finally:
        for member in followers:
            member.thaw()
    async with asyncio.timeout(ARRIVE_SECONDS):
        replies = await asyncio.gather(*answers)
    revisions = {rpc_pb2.PutResponse.FromString(reply).header.revision for reply in replies}
    assert len(revisions) == REQUESTS


@asynccontextmanager
async def our_channels(endpoints: Sequence[str]) -> AsyncIterator[list[Channel]]:
    async with AsyncExitStack() as stack:
        channels = []
        for endpoint in endpoints:
            channel = Channel(*parse_endpoint(endpoint))
            stack.push_async_callback(channel.close)
            await channel.connect()
            channels.append(channel)
        yield channels


def connections_to(port: int) -> int:
    """Established connections to a local port, as the kernel counts them."""
    established, wanted = "01", f"{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(row[1].endswith(f":{wanted}") and row[3] == established for row in rows)


@pytest.mark.parametrize("connections", [1, 100])
async def test_our_own_client(leader: tuple[MemberProcess, list[MemberProcess]], connections: int) -> None:
    first, followers = leader
    async with our_channels([first.endpoint] * connections) as channels:
        assert connections_to(first.client_port) == connections
        await hold(
            followers,
            lambda: [
                channels[number % connections].unary(PUT, request, timeout=ARRIVE_SECONDS)
                for number, request in enumerate(requests())
            ],
        )


@pytest.mark.parametrize("connections", [1, 100])
async def test_c_core(leader: tuple[MemberProcess, list[MemberProcess]], connections: int) -> None:
    first, followers = leader
    own_connection = (("grpc.use_local_subchannel_pool", 1),)
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(connections):
            channel = grpc.aio.insecure_channel(first.endpoint, options=own_connection)
            await stack.enter_async_context(channel)
            await channel.channel_ready()
            calls.append(channel.unary_unary(PUT))
        assert connections_to(first.client_port) == connections
        await hold(
            followers,
            lambda: [
                calls[number % connections](request, timeout=ARRIVE_SECONDS)
                for number, request in enumerate(requests())
            ],
        )


@asynccontextmanager
async def go_client(
    etcd: str, directory: Path, server: MemberProcess, connections: int
) -> AsyncIterator[str]:
    """etcd's Go client behind a gRPC proxy; yields the proxy's endpoint."""
    ports = PortReservation()
    proxy = f"{HOST}:{ports.take()}"
    endpoints = ",".join(f"{host}:{server.client_port}" for host in LOOPBACK[:connections])
    log = directory / "proxy.log"
    command = [etcd, "grpc-proxy", "start", "--endpoints", endpoints, "--listen-addr", proxy]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        try:
            async with asyncio.timeout(20):
                while connections_to(server.client_port) < connections:
                    assert process.returncode is None, log.read_text()[-2000:]
                    await asyncio.sleep(0.05)
            yield proxy
        finally:
            process.kill()
            await process.wait()
            ports.close()


@pytest.mark.parametrize("connections", [1, 100])
async def test_go(
    leader: tuple[MemberProcess, list[MemberProcess]], connections: int, etcd_binary: str, tmp_path: Path
) -> None:
    first, followers = leader
    async with (
        go_client(etcd_binary, tmp_path, first, connections) as proxy,
        our_channels([proxy] * 10) as channels,
    ):
        await hold(
            followers,
            lambda: [
                channels[number % 10].unary(PUT, request, timeout=ARRIVE_SECONDS)
                for number, request in enumerate(requests())
            ],
        )
        assert connections_to(first.client_port) >= connections
