"""How long writers wait when the leader dies, or is stopped.

A new write is sent to every member every few milliseconds, whatever became of the earlier ones: a
write that got lost with the leader would otherwise hide the moment when writing works again. The failover
time is from the kill to the first acknowledgement of a write that was sent after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from oarlock.bench.load import parse_endpoint
from oarlock.bench.requests import PUT
from oarlock.errors import OarlockError
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel, RpcError

STATUS = "/etcdserverpb.Maintenance/Status"
SEND_INTERVAL = 0.01
"""Seconds between two writes to one member: the resolution of the measurement."""
WRITE_TIMEOUT = 2.0
FAILOVER_TIMEOUT = 30.0


async def member_status(endpoint: str, timeout: float = 2.0) -> rpc_pb2.StatusResponse:
    """What the member at `endpoint` says of itself: its id, its leader, its term.

    Raises:
        RpcError: it does not answer.
    """
    channel = Channel(*parse_endpoint(endpoint))
    await channel.connect(timeout)
    try:
        return rpc_pb2.StatusResponse.FromString(await channel.unary(STATUS, b"", timeout=timeout))
    finally:
        await channel.close()


async def leader_endpoint(endpoints: Sequence[str], timeout: float = 20.0) -> str:
    """The endpoint of the member that leads, as it says itself.

    Raises:
        OarlockError: no member says so in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for endpoint in endpoints:
            try:
                status = await member_status(endpoint)
            except RpcError:
                continue
            if status.leader and status.leader == status.header.member_id:
                return endpoint
        await asyncio.sleep(0.05)
    raise OarlockError(f"no leader within {timeout:g} s at {', '.join(endpoints)}")


class _Acknowledged(NamedTuple):
    """Moments of a write."""

    sent: float
    answered: float


async def measure_failover(endpoints: Sequence[str], kill: Callable[[], None]) -> float:
    """Seconds from `kill()` to the next acknowledged write through one of `endpoints`.

    Args:
        endpoints: members that stay alive.
        kill: kills the leader; called once, when writes flow.

    Raises:
        OarlockError: no write succeeded in time, before or after.
    """
    async with _writing(endpoints) as acknowledged:
        await acknowledged.get()
        killed = time.monotonic()
        kill()
        while (write := await acknowledged.get()).sent <= killed:
            pass
        return write.answered - killed


async def measure_hand_over(endpoints: Sequence[str], stop: Callable[[], Awaitable[object]]) -> float:
    """The longest time between two acknowledged writes while the leader is stopped in good order, in seconds.

    Args:
        endpoints: all members, as a client has them.
        stop: stops the leader, and returns when it has ended; called once, when writes flow.

    Raises:
        OarlockError: no write succeeded in time, before or after.
    """
    async with _writing(endpoints) as acknowledged:
        last = (await acknowledged.get()).answered
        began = time.monotonic()
        await stop()
        ended = time.monotonic()
        longest = 0.0
        while last <= ended:
            answered = (await acknowledged.get()).answered
            if answered > began:
                longest = max(longest, answered - last)
            last = answered
        return longest


@asynccontextmanager
async def _writing(endpoints: Sequence[str]) -> AsyncIterator[asyncio.Queue[_Acknowledged]]:
    """Writes flow to each of `endpoints`; what is acknowledged gets into the queue.

    Raises:
        OarlockError: the whole of it takes too long.
    """
    acknowledged: asyncio.Queue[_Acknowledged] = asyncio.Queue()
    channels = [Channel(*parse_endpoint(endpoint)) for endpoint in endpoints]
    writers: list[asyncio.Task[None]] = []
    try:
        for channel in channels:
            await channel.connect()
            writers.append(asyncio.create_task(_write_forever(channel, acknowledged)))
        async with asyncio.timeout(FAILOVER_TIMEOUT):
            yield acknowledged
    except TimeoutError:
        raise OarlockError(f"no write was acknowledged within {FAILOVER_TIMEOUT:g} s") from None
    finally:
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        for channel in channels:
            await channel.close()


async def _write_forever(channel: Channel, acknowledged: asyncio.Queue[_Acknowledged]) -> None:
    request = rpc_pb2.PutRequest(key=b"failover", value=b"x" * 64).SerializeToString()

    def send() -> None:
        sent = time.monotonic()

        def done(_: bytes | None, error: RpcError | None) -> None:
            if error is None:
                acknowledged.put_nowait(_Acknowledged(sent, time.monotonic()))

        channel.call(PUT, request, done, timeout=WRITE_TIMEOUT)

    while True:
        send()
        await asyncio.sleep(SEND_INTERVAL)
