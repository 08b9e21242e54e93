"""The client: what it sends and returns, where it goes when an endpoint fails, and what it never repeats."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from oarlock.client import Client, KeyValue, prefix_end
from oarlock.errors import OutcomeUnknown, RequestTimeout, UsageError
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Call, RpcError, Server, StatusCode

from ..etcd.single import SingleMember

Handler = Callable[[Call, bytes], None]
OK = rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader(revision=7)).SerializeToString()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with SingleMember(tmp_path) as member, Client(member.endpoint) as opened:
        yield opened


class Scripted:
    """A server whose puts and ranges are answered by the next handler in line, the last one for ever."""

    def __init__(self, *handlers: Handler) -> None:
        self.handlers = list(handlers)
        self.calls = 0
        self.server = Server()
        self.server.add_unary("/etcdserverpb.KV/Put", self._handle)
        self.server.add_unary("/etcdserverpb.KV/Range", self._handle)

    def _handle(self, call: Call, message: bytes) -> None:
        handler = self.handlers[min(self.calls, len(self.handlers) - 1)]
        self.calls += 1
        handler(call, message)

    async def __aenter__(self) -> Scripted:
        _, self.port = await self.server.listen("127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close(0)


def answer(call: Call, message: bytes) -> None:
    call.reply(OK)


def failing(code: StatusCode, text: str) -> Handler:
    return lambda call, message: call.fail(code, text)


def silent(call: Call, message: bytes) -> None:
    """Never answers."""


async def test_what_was_put_is_got(client: Client) -> None:
    first = await client.put("k", "1")
    assert (first.header.revision, first.prev_kv) == (2, None)
    second = await client.put(b"k", b"2", prev_kv=True)
    assert second.prev_kv == KeyValue(b"k", b"1", 2, 2, 1)
    found = await client.get("k")
    assert (found.kvs, found.count, found.more) == ([KeyValue(b"k", b"2", 2, 3, 2)], 1, False)
    assert (await client.get("k", revision=2)).kvs[0].value == b"1"
    gone = await client.delete("k", prev_kv=True)
    assert (gone.deleted, gone.prev_kvs) == (1, found.kvs)
    assert (await client.get("k")).kvs == []


async def test_every_kind_of_range(client: Client) -> None:
    for number, key in enumerate(["b", "a", "ab", "c"]):
        await client.put(key, str(9 - number))

    async def keys(key: str, **options: object) -> list[bytes]:
        return [pair.key for pair in (await client.get(key, **options)).kvs]  # type: ignore[arg-type]

    assert await keys("a", prefix=True) == [b"a", b"ab"]
    assert await keys("", prefix=True) == [b"a", b"ab", b"b", b"c"]
    assert await keys("ab", from_key=True) == [b"ab", b"b", b"c"]
    assert await keys("", from_key=True) == [b"a", b"ab", b"b", b"c"]
    assert await keys("a", range_end="b") == [b"a", b"ab"]
    assert await keys("a", from_key=True, limit=2, serializable=True) == [b"a", b"ab"]
    assert await keys("a", from_key=True, sort_by="value") == [b"c", b"ab", b"a", b"b"]
    assert await keys("a", from_key=True, descending=True) == [b"c", b"b", b"ab", b"a"]
    assert await keys("a", from_key=True, sort_by="create", descending=True) == [b"c", b"ab", b"a", b"b"]
    assert await keys("a", from_key=True, min_mod_revision=4) == [b"ab", b"c"]
    assert (await client.get("a", from_key=True, count_only=True)).count == 4
    assert (await client.get("a", from_key=True, keys_only=True)).kvs[0].value == b""
    assert (await client.delete("a", prefix=True)).deleted == 2


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0"), (b"\0", b"\1")],
)
def test_a_prefix_ends_where_no_key_begins_with_it_any_more(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end


async def test_a_refusal_is_raised_as_the_server_said_it(client: Client) -> None:
    with pytest.raises(RpcError) as caught:
        await client.get("k", revision=99)
    assert caught.value.code is StatusCode.OUT_OF_RANGE
    assert caught.value.message == "etcdserver: mvcc: required revision is a future revision"


async def test_an_endpoint_that_is_down_is_passed_over_even_by_writes() -> None:
    async with Scripted(answer) as gone:
        dead = gone.endpoint
    async with Scripted(answer) as alive, Client([dead, alive.endpoint]) as client:
        assert (await client.put("k", "v")).header.revision == 7
        await client.put("k", "v")
        assert alive.calls == 2


async def test_a_write_that_was_turned_away_is_repeated_elsewhere() -> None:
    no_leader = failing(StatusCode.UNAVAILABLE, "etcdserver: no leader")
    busy = failing(StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
    async with (
        Scripted(no_leader) as one,
        Scripted(busy, answer) as other,
        Client([one.endpoint, other.endpoint]) as client,
    ):
        await client.put("k", "v")
        assert (one.calls, other.calls) == (2, 2)


@pytest.mark.parametrize("text", ["etcdserver: request timed out", "etcdserver: server stopped", "boom"])
async def test_a_write_that_may_have_happened_is_never_repeated(text: str) -> None:
    async with (
        Scripted(failing(StatusCode.UNAVAILABLE, text)) as one,
        Scripted(answer) as other,
        Client([one.endpoint, other.endpoint]) as client,
    ):
        with pytest.raises(OutcomeUnknown, match=text):
            await client.put("k", "v")
        assert (one.calls, other.calls) == (1, 0)
        await client.put("k", "the next one goes elsewhere")
        assert (one.calls, other.calls) == (1, 1)


@pytest.mark.parametrize(
    "code", [StatusCode.UNKNOWN, StatusCode.INTERNAL, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED]
)
async def test_a_code_that_a_broken_handler_gives_leaves_a_write_open(code: StatusCode) -> None:
    async with (
        Scripted(failing(code, "boom")) as one,
        Scripted(answer) as other,
        Client([one.endpoint, other.endpoint]) as client,
    ):
        with pytest.raises(OutcomeUnknown, match="boom"):
            await client.put("k", "v")
        assert (one.calls, other.calls) == (1, 0)


async def test_a_write_cut_off_with_its_connection_has_an_unknown_outcome() -> None:
    arrived = asyncio.Event()

    def arrive(call: Call, message: bytes) -> None:
        arrived.set()

    async with (
        Scripted(arrive) as one,
        Scripted(answer) as other,
        Client([one.endpoint, other.endpoint]) as client,
    ):
        put = asyncio.ensure_future(client.put("k", "v"))
        await arrived.wait()
        await one.server.close(0)
        with pytest.raises(OutcomeUnknown):
            await put
        assert other.calls == 0


async def test_a_write_without_an_answer_in_time_has_an_unknown_outcome() -> None:
    async with Scripted(silent) as server, Client(server.endpoint, timeout=0.2) as client:
        with pytest.raises(OutcomeUnknown):
            await client.put("k", "v")


@pytest.mark.parametrize("text", ["etcdserver: request timed out", "etcdserver: no leader", "boom"])
async def test_a_read_is_repeated_until_somebody_answers(text: str) -> None:
    async with (
        Scripted(failing(StatusCode.UNAVAILABLE, text)) as one,
        Scripted(failing(StatusCode.UNAVAILABLE, text), answer) as other,
        Client([one.endpoint, other.endpoint]) as client,
    ):
        assert (await client.get("k")).header.revision == 7


async def test_a_read_does_not_wait_for_ever_for_a_frozen_endpoint() -> None:
    async with (
        Scripted(silent) as frozen,
        Scripted(answer) as alive,
        Client([frozen.endpoint, alive.endpoint], timeout=1.0) as client,
    ):
        assert (await client.get("k")).header.revision == 7
        assert frozen.calls == alive.calls == 1


async def test_when_nothing_works_the_last_words_are_told() -> None:
    async with Scripted(answer) as gone:
        dead = gone.endpoint
    async with Client(dead, timeout=0.3) as client:
        for request in (client.get("k"), client.put("k", "v")):
            with pytest.raises(RequestTimeout) as caught:
                await request
            assert not caught.value.outcome_unknown
            assert "cannot connect" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "http://", "ftp://a:1", "a:b", "a:99999", "a:1/path", "http://u@a:1"),
        *("http://[::1", "a..b:1", "a" * 64 + ":1"),
    ],
)
def test_an_endpoint_that_makes_no_sense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Client(text)
    assert "\n" not in str(caught.value)


async def test_calls_that_wait_for_one_silent_server_wait_side_by_side() -> None:
    """A frozen process: the kernel accepts connections for it, and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        endpoint = f"127.0.0.1:{frozen.getsockname()[1]}"
        loop = asyncio.get_running_loop()
        async with Client(endpoint, timeout=0.5, dial_timeout=0.3) as client:
            began = loop.time()
            calls = [asyncio.create_task(client.get("k")) for _ in range(30)]
            await asyncio.sleep(0.01)
            calls.pop(0).cancel()  # whoever came first does not take the attempt with it
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, RequestTimeout)
            assert loop.time() - began < 2, "thirty attempts of 0.3 s after one another take 9"


async def test_calls_that_wait_for_a_connection_fail_when_the_client_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        client = Client(f"127.0.0.1:{frozen.getsockname()[1]}", timeout=0.3, dial_timeout=9)
        call = asyncio.create_task(client.put("k", "v"))
        await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(RequestTimeout) as caught:
            await call
        assert not caught.value.outcome_unknown


async def test_a_thousand_calls_share_one_connection(client: Client) -> None:
    await asyncio.gather(*(client.put(f"k{number}", "v") for number in range(1000)))
    assert (await client.get("k", prefix=True, count_only=True)).count == 1000


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster"),
        (StatusCode.UNKNOWN, "etcdserver: re-configuration failed due to not enough started members"),
    ],
)
async def test_a_change_that_was_refused_is_no_riddle(code: StatusCode, text: str) -> None:
    """By its code alone it might have been carried out."""
    async with Scripted(failing(code, text)) as server, Client(server.endpoint) as client:
        with pytest.raises(RpcError, match=text):
            await client.put("k", "v")
        assert server.calls == 1


async def test_a_change_that_had_to_wait_too_long_for_another_one_is_tried_again() -> None:
    busy = failing(StatusCode.UNAVAILABLE, "etcdserver: another change of the membership is in progress")
    async with Scripted(busy, busy, answer) as server, Client(server.endpoint) as client:
        assert (await client.put("k", "v")).header.revision == 7
        assert server.calls == 3


async def test_without_retries_the_first_word_is_the_last() -> None:
    gone = failing(StatusCode.UNAVAILABLE, "etcdserver: no leader")
    async with Scripted(gone, answer) as server, Client(server.endpoint, retry=False) as client:
        with pytest.raises(RpcError, match="no leader"):
            await client.put("k", "v")
        assert server.calls == 1
    async with Client("127.0.0.1:1", retry=False, timeout=60) as client:
        with pytest.raises(RpcError, match="Connection refused"):
            await client.get("k")


async def test_the_leader_is_looked_for_among_the_endpoints(tmp_path: Path) -> None:
    async with (
        SingleMember(tmp_path / "a") as follower,
        SingleMember(tmp_path / "b") as leader,
        Client(["127.0.0.1:1", follower.endpoint, leader.endpoint]) as client,
    ):
        follower.replica.leader_id = 7
        target = leader.replica.node_id
        assert (await client.move_leader(target)).old_leader == target
        leader.replica.leader_id = 7
        with pytest.raises(RpcError, match="Connection refused"):
            await client.move_leader(target)
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(RpcError, match="Connection refused"):
            await client.move_leader(1)
