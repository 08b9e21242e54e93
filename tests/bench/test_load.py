"""The load generator against a server whose behaviour is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from oarlock.bench import Load, Operation, run_load
from oarlock.bench.failover import STATUS, leader_endpoint, measure_failover, measure_hand_over
from oarlock.bench.requests import PUT, RANGE
from oarlock.errors import OarlockError, UsageError
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Call, RpcError, Server, StatusCode
from oarlock.server.processes import HOST


class Fake:
    """Answers puts and ranges at once; counts, or refuses while `broken`."""

    def __init__(self, member_id: int = 1, leader: int = 1) -> None:
        self.member_id, self.leader = member_id, leader
        self.requests: list[bytes] = []
        self.in_flight = self.most_in_flight = 0
        self.broken = False
        self.server = Server()
        self.server.add_unary(PUT, self.answer)
        self.server.add_unary(RANGE, self.answer)
        self.server.add_unary(STATUS, self.status)
        self.endpoint = ""

    async def start(self) -> None:
        host, port = await self.server.listen(HOST, 0)
        self.endpoint = f"{host}:{port}"

    def answer(self, call: Call, message: bytes) -> None:
        if self.broken:
            call.fail(StatusCode.UNAVAILABLE, "etcdserver: no leader")
            return
        self.requests.append(message)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        asyncio.get_running_loop().call_soon(self.reply, call)

    def reply(self, call: Call) -> None:
        self.in_flight -= 1
        call.reply(b"")

    def status(self, call: Call, message: bytes) -> None:
        header = rpc_pb2.ResponseHeader(member_id=self.member_id)
        call.reply(rpc_pb2.StatusResponse(header=header, leader=self.leader).SerializeToString())


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    one = Fake()
    await one.start()
    yield one
    await one.server.close(0)


async def test_a_number_of_requests_is_kept_exactly(fake: Fake) -> None:
    load = Load(operation=Operation.PUT, endpoints=(fake.endpoint,), clients=7, connections=3, total=100)
    report = await run_load(load)
    assert (report.answered, report.failed, len(fake.requests)) == (100, 0, 100)
    assert report.latency.max > 0
    sizes = {len(rpc_pb2.PutRequest.FromString(request).value) for request in fake.requests}
    assert sizes == {256}


async def test_every_client_has_one_request_in_flight(fake: Fake) -> None:
    load = Load(operation=Operation.RANGE, endpoints=(fake.endpoint,), clients=20, connections=1, total=400)
    await run_load(load)
    assert 1 < fake.most_in_flight <= 20


async def test_a_duration_ends_the_load(fake: Fake) -> None:
    load = Load(operation=Operation.PUT, endpoints=(fake.endpoint,), clients=2, seconds=0.2)
    shown: list[int] = []
    report = await run_load(load, shown.append)
    assert 0.2 <= report.seconds < 2
    assert report.answered == pytest.approx(report.per_second * report.seconds)
    assert shown == sorted(shown)
    assert fake.in_flight == 0


async def test_the_warm_up_is_not_measured(fake: Fake) -> None:
    load = Load(operation=Operation.PUT, endpoints=(fake.endpoint,), total=50, warmup_seconds=0.1)
    report = await run_load(load)
    assert report.answered == 50
    assert len(fake.requests) > 50


async def test_failures_are_counted_by_message_and_do_not_spin(fake: Fake) -> None:
    fake.broken = True
    load = Load(operation=Operation.PUT, endpoints=(fake.endpoint,), clients=2, connections=2, seconds=0.3)
    report = await run_load(load)
    assert report.answered == 0
    ((message, count),) = report.errors.items()
    assert "etcdserver: no leader" in message
    assert 0 < count == report.failed < 50


async def test_an_endpoint_that_is_away_is_an_error() -> None:
    with pytest.raises(RpcError):
        await run_load(Load(operation=Operation.PUT, endpoints=(f"{HOST}:1",), total=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoints": ()},
        {"clients": 0},
        {"connections": 0},
        {"connections": 2},
        {"total": 0},
        {"value_size": -1},
    ],
)
def test_a_load_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {"operation": Operation.PUT, "endpoints": ("h:1",), "clients": 1, "total": 1}
    with pytest.raises(UsageError):
        Load(**{**good, **wrong})  # type: ignore[arg-type]


async def test_the_leader_is_the_member_that_says_so_of_itself() -> None:
    follower, leader = Fake(member_id=1, leader=2), Fake(member_id=2, leader=2)
    for member in (follower, leader):
        await member.start()
    endpoints = [f"{HOST}:1", follower.endpoint, leader.endpoint]
    assert await leader_endpoint(endpoints) == leader.endpoint
    leader.leader = 0
    with pytest.raises(OarlockError, match="no leader within"):
        await leader_endpoint(endpoints, timeout=0.2)
    for member in (follower, leader):
        await member.server.close(0)


async def test_failover_is_measured_to_the_first_write_that_was_sent_after_the_kill(fake: Fake) -> None:
    outage = 0.3

    def kill() -> None:
        fake.broken = True
        asyncio.get_running_loop().call_later(outage, setattr, fake, "broken", False)

    seconds = await measure_failover([fake.endpoint], kill)
    assert outage <= seconds < outage + 0.5


async def test_a_hand_over_is_measured_by_the_longest_gap_between_two_acknowledgements(fake: Fake) -> None:
    """The writes that were refused meanwhile count for nothing, and neither does how long the stop took."""

    async def stop() -> None:
        began = asyncio.get_running_loop().time()
        for outage in (0.1, 0.3, 0.1):
            fake.broken = True
            await asyncio.sleep(outage)
            fake.broken = False
            await asyncio.sleep(0.1)
        nonlocal took
        took = asyncio.get_running_loop().time() - began

    took = 0.0
    seconds = await measure_hand_over([fake.endpoint], stop)
    assert 0.3 <= seconds < took, "one outage, and not all of them together"
