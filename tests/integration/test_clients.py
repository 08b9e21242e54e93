"""Foreign clients: C-core (grpcio) and aetcd do what etcdctl does, against every member."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import aetcd
import grpc
import pytest

from oarlock.etcd_pb import rpc_pb2
from oarlock.server.processes import HOST, ProcessCluster

pytestmark = pytest.mark.processes


class Stub:
    """The KV service over a grpcio channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.put = self._method(channel, "Put", rpc_pb2.PutResponse)
        self.range = self._method(channel, "Range", rpc_pb2.RangeResponse)
        self.delete = self._method(channel, "DeleteRange", rpc_pb2.DeleteRangeResponse)

    @staticmethod
    def _method(channel: grpc.Channel, name: str, response: Any) -> Callable[..., Any]:
        return channel.unary_unary(
            f"/etcdserverpb.KV/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )


@pytest.fixture(params=[0, 1, 2], ids=["m1", "m2", "m3"])
def endpoint(request: pytest.FixtureRequest, cluster: ProcessCluster) -> str:
    return cluster.endpoints[request.param]


@pytest.fixture
def stub(endpoint: str) -> Iterator[Stub]:
    with grpc.insecure_channel(endpoint) as channel:
        yield Stub(channel)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> bytes:
    return f"/{request.node.name}/".encode()


def end_of(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])


def test_grpcio_puts_gets_and_deletes(stub: Stub, prefix: bytes) -> None:
    first = stub.put(rpc_pb2.PutRequest(key=prefix + b"a", value=b"1"))
    second = stub.put(rpc_pb2.PutRequest(key=prefix + b"a", value=b"2", prev_kv=True))
    assert second.header.revision == first.header.revision + 1
    assert (second.prev_kv.value, second.prev_kv.version) == (b"1", 1)
    stub.put(rpc_pb2.PutRequest(key=prefix + b"b", value=b"3"))

    everything = stub.range(rpc_pb2.RangeRequest(key=prefix, range_end=end_of(prefix)))
    assert [(kv.key, kv.value, kv.version) for kv in everything.kvs] == [
        (prefix + b"a", b"2", 2),
        (prefix + b"b", b"3", 1),
    ]
    limited = stub.range(rpc_pb2.RangeRequest(key=prefix, range_end=end_of(prefix), limit=1))
    assert (len(limited.kvs), limited.more, limited.count) == (1, True, 2)
    counted = stub.range(rpc_pb2.RangeRequest(key=prefix, range_end=end_of(prefix), count_only=True))
    assert (len(counted.kvs), counted.count) == (0, 2)
    names = stub.range(rpc_pb2.RangeRequest(key=prefix, range_end=end_of(prefix), keys_only=True))
    assert [kv.value for kv in names.kvs] == [b"", b""]
    past = stub.range(rpc_pb2.RangeRequest(key=prefix + b"a", revision=first.header.revision))
    assert past.kvs[0].value == b"1"

    gone = stub.delete(rpc_pb2.DeleteRangeRequest(key=prefix, range_end=end_of(prefix), prev_kv=True))
    assert (gone.deleted, [kv.value for kv in gone.prev_kvs]) == (2, [b"2", b"3"])
    assert stub.range(rpc_pb2.RangeRequest(key=prefix, range_end=end_of(prefix))).count == 0


def test_grpcio_sees_etcds_codes_and_texts(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.put(rpc_pb2.PutRequest(value=b"x"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "etcdserver: key is not provided"
    with pytest.raises(grpc.RpcError) as caught:
        stub.put(rpc_pb2.PutRequest(key=b"x", value=b"v" * 1_600_000))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "etcdserver: request is too large"


def test_grpcio_is_told_that_a_message_is_larger_than_any_may_be(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.put(rpc_pb2.PutRequest(key=b"x", value=b"v" * 3_000_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_large_value_comes_back_whole(stub: Stub, prefix: bytes) -> None:
    value = bytes(range(256)) * 5000
    stub.put(rpc_pb2.PutRequest(key=prefix, value=value))
    assert stub.range(rpc_pb2.RangeRequest(key=prefix)).kvs[0].value == value


async def test_aetcd_puts_gets_and_deletes(endpoint: str, prefix: bytes) -> None:
    port = int(endpoint.rpartition(":")[2])
    async with aetcd.Client(host=HOST, port=port) as client:
        await client.put(prefix + b"a", b"1")
        assert (await client.put(prefix + b"a", b"2", prev_kv=True)).prev_kv.value == b"1"
        await client.put(prefix + b"b", b"3")
        assert (await client.get(prefix + b"a")).value == b"2"
        assert await client.get(prefix + b"nothing") is None
        assert [kv.value for kv in await client.get_prefix(prefix)] == [b"2", b"3"]
        assert [kv.key for kv in await client.get_range(prefix, prefix + b"b")] == [prefix + b"a"]
        assert await client.delete(prefix + b"a") is not None
        assert (await client.delete_prefix(prefix)).deleted == 1
        assert [kv.value for kv in await client.get_prefix(prefix)] == []


async def test_aetcd_sees_members_and_status(endpoint: str) -> None:
    port = int(endpoint.rpartition(":")[2])
    async with aetcd.Client(host=HOST, port=port) as client:
        status = await client.status()
        assert status.version.startswith("3.5.")
        names = {member.name async for member in client.members()}
        assert names == {"m1", "m2", "m3"}
