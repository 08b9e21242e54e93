"""The same requests to a real etcd and to us, and the answers field by field.

Both start empty, so even the revisions have to agree. Cluster id, member id and term are the only fields left
out here; tests/etcd/test_ids.py compares the ids.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel, RpcError
from oarlock.server.processes import ProcessCluster

from ..etcd.single import SingleMember

RESPONSES: dict[str, type[Message]] = {
    "Range": rpc_pb2.RangeResponse,
    "Put": rpc_pb2.PutResponse,
    "DeleteRange": rpc_pb2.DeleteRangeResponse,
}
KEYS = [b"a", b"a\0", b"ab", b"b", b"bb", b"c", b"\0", b"\xff", b"k" * 479, b"k" * 600, b"k" * 599 + b"l"]
"""Fewer than twelve: beyond that Go's sort is not stable, and the order of ties is nobody's promise."""


class Pair:
    """A real etcd and ours, asked the same."""

    def __init__(self, theirs: Channel, ours: Channel) -> None:
        self._channels = (theirs, ours)

    async def ask(self, method: str, request: Message) -> Any:
        """The answer that both give; fails if they differ."""
        theirs, ours = [await self._answer(channel, method, request) for channel in self._channels]
        assert ours == theirs, f"{method} {request}"
        return ours

    async def _answer(self, channel: Channel, method: str, request: Message) -> Any:
        try:
            data = await channel.unary(f"/etcdserverpb.KV/{method}", request.SerializeToString())
        except RpcError as error:
            return error.code, error.message
        response: Any = RESPONSES[method].FromString(data)
        assert response.header.cluster_id
        assert response.header.member_id
        assert response.header.raft_term
        for name in ("cluster_id", "member_id", "raft_term"):
            response.header.ClearField(name)
        return response


@pytest.fixture(params=["services", "server"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path, etcd_binary: str) -> AsyncIterator[Pair]:
    """Our side is the services alone, or a whole `oarlock serve`."""
    program = (etcd_binary, "--log-level", "error", "--unsafe-no-fsync")
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(ProcessCluster(tmp_path / "etcd", size=1, program=program))
        if request.param == "services":
            port = (await stack.enter_async_context(SingleMember(tmp_path / "ours"))).port
        else:
            cluster = await stack.enter_async_context(ProcessCluster(tmp_path / "ours", size=1))
            port = cluster.members[0].client_port
        channels = Channel("127.0.0.1", etcd.members[0].client_port), Channel("127.0.0.1", port)
        for channel in channels:
            stack.push_async_callback(channel.close)
            await channel.connect()
        yield Pair(*channels)


def a_put(chance: random.Random) -> rpc_pb2.PutRequest:
    odd = chance.random() < 0.2
    return rpc_pb2.PutRequest(
        key=chance.choice([*KEYS, b""] if odd else KEYS),
        value=b"" if odd else chance.choice([b"1", b"2", b"3", b"\0\xff", b""]),
        prev_kv=chance.random() < 0.5,
        ignore_value=odd and chance.random() < 0.5,
        ignore_lease=odd and chance.random() < 0.5,
        lease=chance.choice([0, 0, 77]) if odd else 0,
    )


def a_deletion(chance: random.Random) -> rpc_pb2.DeleteRangeRequest:
    return rpc_pb2.DeleteRangeRequest(
        key=chance.choice([*KEYS, b""]),
        range_end=chance.choice([b"", b"", b"\0", *KEYS]) if chance.random() < 0.5 else b"",
        prev_kv=chance.random() < 0.5,
    )


def a_range(chance: random.Random, revision: int) -> rpc_pb2.RangeRequest:
    if chance.random() < 0.2:
        return rpc_pb2.RangeRequest(key=chance.choice(KEYS))

    def sometimes(low: int, high: int, how_often: float = 0.25) -> int:
        return chance.randint(low, high) if chance.random() < how_often else 0

    return rpc_pb2.RangeRequest(
        key=chance.choice([*KEYS, b""] if chance.random() < 0.1 else KEYS),
        range_end=chance.choice([b"", b"\0", b"\0", *KEYS]),
        limit=sometimes(-1, 5, 0.5),
        revision=sometimes(-1, revision + 2, 0.5),
        sort_order=sometimes(0, 2),
        sort_target=sometimes(0, 4),
        serializable=chance.random() < 0.5,
        keys_only=chance.random() < 0.2,
        count_only=chance.random() < 0.2,
        min_mod_revision=sometimes(-1, revision + 1, 0.1),
        max_mod_revision=sometimes(-1, revision + 1, 0.1),
        min_create_revision=sometimes(-1, revision + 1, 0.1),
        max_create_revision=sometimes(-1, revision + 1, 0.1),
    )


@pytest.mark.processes
@pytest.mark.parametrize("seed", range(3))
async def test_random_requests_get_the_answers_of_a_real_etcd(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    revision = 1
    for _ in range(600):
        draw = chance.random()
        if draw < 0.35:
            answer = await pair.ask("Put", a_put(chance))
        elif draw < 0.45:
            answer = await pair.ask("DeleteRange", a_deletion(chance))
        else:
            answer = await pair.ask("Range", a_range(chance, revision))
        if isinstance(answer, Message):
            revision = answer.header.revision  # type: ignore[attr-defined]


@pytest.mark.processes
async def test_the_size_limit_is_that_of_a_real_etcd(pair: Pair) -> None:
    limit = 3 << 19
    value = bytes(limit - 100)
    assert (await pair.ask("Put", rpc_pb2.PutRequest(key=b"big", value=value))).header.revision == 2
    _, text = await pair.ask("Put", rpc_pb2.PutRequest(key=b"big", value=bytes(limit + 1)))
    assert "too large" in text
    answer = await pair.ask("Range", rpc_pb2.RangeRequest(key=b"big"))
    assert answer.kvs[0].value == value
