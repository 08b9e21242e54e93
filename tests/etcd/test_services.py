"""The services over a real connection. tests/compat compares the ordinary answers with a real etcd's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from oarlock.client import Client
from oarlock.errors import Busy, NotLeader
from oarlock.etcd import ETCD_VERSION, Limits, kv
from oarlock.etcd.header import Headers
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel, RpcError, StatusCode
from oarlock.kv import PUT, RangeResult, Store

from .single import SingleMember


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[SingleMember]:
    limits = Limits(request_bytes=10_000, quota_bytes=200_000, timeout=3.5)
    async with SingleMember(tmp_path, limits) as running:
        yield running


@pytest.fixture
async def channel(member: SingleMember) -> AsyncIterator[Channel]:
    opened = Channel("127.0.0.1", member.port)
    await opened.connect()
    yield opened
    await opened.close()


async def refusal(channel: Channel, method: str, message: bytes) -> tuple[StatusCode, str]:
    with pytest.raises(RpcError) as caught:
        await channel.unary(f"/etcdserverpb.{method}", message)
    return caught.value.code, caught.value.message


async def test_a_write_is_stored_as_the_bytes_that_came_in(member: SingleMember, channel: Channel) -> None:
    """Even where another encoder would have put them in another order."""
    message = b"\x12\x05value\x0a\x03key"
    await channel.unary("/etcdserverpb.KV/Put", message)
    data, request, timeout = member.replica.proposed[0]
    assert (data, timeout) == (PUT + message, 3.5)
    assert request == rpc_pb2.PutRequest(key=b"key", value=b"value")


@pytest.mark.parametrize("method", ["KV/Put", "KV/DeleteRange", "KV/Range", "Cluster/MemberList"])
async def test_a_message_that_does_not_decode_is_refused(channel: Channel, method: str) -> None:
    assert (await refusal(channel, method, b"\xff\xff\xff"))[0] is StatusCode.INTERNAL


@pytest.mark.parametrize("method", ["KV/Put", "KV/DeleteRange", "KV/Range"])
async def test_an_empty_key_is_refused_without_troubling_the_others(
    member: SingleMember, channel: Channel, method: str
) -> None:
    expected = (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")
    assert await refusal(channel, method, b"") == expected
    assert not member.replica.proposed


async def test_a_write_beyond_the_limit_is_refused(member: SingleMember, channel: Channel) -> None:
    too_large = rpc_pb2.PutRequest(key=b"k", value=bytes(10_000)).SerializeToString()
    expected = (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
    assert await refusal(channel, "KV/Put", too_large) == expected
    assert await refusal(channel, "KV/DeleteRange", b"\x0a\x90\x4e" + bytes(10_000)) == expected
    assert not member.replica.proposed


async def test_beyond_the_quota_puts_are_refused_and_deletions_are_not(member: SingleMember) -> None:
    async with Client(member.endpoint) as client:

        async def fill() -> None:
            for number in range(100):
                await client.put(f"k{number}", bytes(9_000))

        with pytest.raises(RpcError, match="etcdserver: mvcc: database space exceeded") as caught:
            await fill()
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        assert (await client.get("k0")).count == 1
        assert (await client.delete("k", prefix=True)).deleted > 5


async def test_a_large_range_is_answered_the_same_from_a_thread_while_writes_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not the usual member: its small quota is used up when readers keep old pages from being used again.
    async with SingleMember(tmp_path) as member, Client(member.endpoint) as client:
        for number in range(50):
            await client.put(f"k{number:02}", str(number))
        inline = await client.get("k", prefix=True, limit=7, revision=40)
        monkeypatch.setattr(kv, "INLINE_KEYS", 10)
        monkeypatch.setattr(Store, "range", refuse_large(Store.range))
        assert await client.get("k", prefix=True, limit=7, revision=40) == inline
        assert (await client.get("k0", prefix=True)).count == 10

        async def write() -> None:
            for number in range(50):
                await client.put("other", str(number))

        async def read() -> None:
            for _ in range(20):
                found = await client.get("k", prefix=True)
                assert (found.count, len(found.kvs)) == (50, 50)

        await asyncio.gather(write(), read(), read())
        with pytest.raises(RpcError, match="future revision"):
            await client.get("k", prefix=True, revision=10_000)


async def test_headers_are_never_shared_between_threads(
    member: SingleMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They keep what the last one looked like: two threads at it put together one from halves of two."""
    users: dict[int, set[int]] = {}
    made: list[Headers] = []  # kept, so that no id is used twice
    original = Headers.encode

    def encode(self: Headers, revision: int) -> bytes:
        made.append(self)
        users.setdefault(id(self), set()).add(threading.get_ident())
        return original(self, revision)

    monkeypatch.setattr(kv, "INLINE_KEYS", 3)
    monkeypatch.setattr(Headers, "encode", encode)
    async with Client(member.endpoint) as client:
        for number in range(10):
            await client.put(f"k{number}", "v")
        assert (await client.get("k", prefix=True)).count == 10
    assert len(set().union(*users.values())) == 2, "the range was answered in a thread"
    assert all(len(threads) == 1 for threads in users.values())


async def test_a_range_of_large_values_is_answered_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few hundred values of a megabyte would hold up heartbeats as well as a million small ones."""
    threads = []
    original = Store.range_in_thread

    def range_in_thread(self: Store, request: rpc_pb2.RangeRequest) -> RangeResult:
        threads.append(threading.get_ident())
        return original(self, request)

    monkeypatch.setattr(Store, "range_in_thread", range_in_thread)
    monkeypatch.setattr(kv, "INLINE_BYTES", 200_000)
    async with SingleMember(tmp_path) as member, Client(member.endpoint) as client:
        for number in range(40):
            await client.put(f"k{number:02}", "v" * 10_000)
        for options in ({}, {"sort_by": "value"}, {"revision": 41}):
            found = await client.get("k", prefix=True, **options)
            assert [(pair.key, len(pair.value)) for pair in found.kvs] == [
                (b"k%02d" % number, 10_000) for number in range(40)
            ]
        assert len(threads) == 3
        assert (await client.get("k", prefix=True, limit=18)).more
        assert (await client.get("k", prefix=True, count_only=True)).count == 40
        assert len(threads) == 3, "what is short is answered at once"


def refuse_large(original: Callable[..., RangeResult]) -> Callable[..., RangeResult]:
    """`Store.range`, making sure that large ranges never get through on the loop."""

    def checked(self: Store, request: rpc_pb2.RangeRequest, at_most: int, bytes_max: int) -> RangeResult:
        found = original(self, request, at_most, bytes_max)
        assert found.count <= 10
        return found

    return checked


async def test_a_full_disk_refuses_puts_until_there_is_room_again(
    member: SingleMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = iter([False, True])
    monkeypatch.setattr(kv, "DISK_PAUSE", 0.0)
    monkeypatch.setattr(member.store, "try_to_grow", lambda: next(rooms))
    async with Client(member.endpoint) as client:
        await client.put("k", "1")
        member.store.full = True
        with pytest.raises(RpcError, match="etcdserver: mvcc: database space exceeded"):
            await client.put("k", "2")
        assert (await client.get("k")).kvs[0].value == b"1"
        await client.put("k", "3")


class FullDisk:
    """The disk of a log."""

    full = True

    def try_to_grow(self) -> bool:
        return not self.full


async def test_a_full_disk_under_the_log_refuses_puts_until_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "DISK_PAUSE", 0.0)
    disk = FullDisk()
    async with SingleMember(tmp_path, log=disk) as member, Client(member.endpoint) as client:
        with pytest.raises(RpcError, match="etcdserver: mvcc: database space exceeded"):
            await client.put("k", "1")
        assert (await client.get("k")).kvs == []
        disk.full = False
        await client.put("k", "2")


@pytest.mark.parametrize(
    ("error", "code"), [(NotLeader(), StatusCode.UNAVAILABLE), (Busy("x"), StatusCode.RESOURCE_EXHAUSTED)]
)
async def test_a_failing_replica_is_told_in_etcds_words(
    member: SingleMember, channel: Channel, error: Exception, code: StatusCode
) -> None:
    member.replica.failure = error
    for method in ("KV/Put", "KV/DeleteRange", "KV/Range"):
        assert (await refusal(channel, method, b"\x0a\x01k"))[0] is code
    assert (await refusal(channel, "Cluster/MemberList", b"\x08\x01"))[0] is code
    serializable = rpc_pb2.RangeRequest(key=b"k", serializable=True).SerializeToString()
    await channel.unary("/etcdserverpb.KV/Range", serializable)


async def test_what_is_not_served_yet_says_so(channel: Channel) -> None:
    for method in ("KV/Txn", "KV/Compact", "Lease/LeaseGrant", "Auth/AuthEnable", "Maintenance/Defragment"):
        assert (await refusal(channel, method, b""))[0] is StatusCode.UNIMPLEMENTED


async def test_status_tells_this_members_view_even_without_a_leader(member: SingleMember) -> None:
    async with Client(member.endpoint) as client:
        await client.put("k", "v")
        status = await client.status()
        assert status.header.revision == 2
        assert (status.version, status.leader) == (ETCD_VERSION, member.replica.node_id)
        assert (status.raft_index, status.raft_applied_index, status.raft_term) == (1, 1, 2)
        assert (status.db_size, status.errors) == (member.store.size, [])
        member.replica.leader_id = 0
        assert (await client.status()).errors == ["etcdserver: no leader"]


async def test_hash_kv_is_the_stores_hash(member: SingleMember) -> None:
    async with Client(member.endpoint) as client:
        for number in range(3):
            await client.put("k", str(number))
        assert (await client.hash_kv()).hash == member.store.hash()
        assert (await client.hash_kv(2)).hash == member.store.hash(2) != member.store.hash()
        with pytest.raises(RpcError, match="future revision"):
            await client.hash_kv(99)


async def test_members_are_listed_with_their_urls(member: SingleMember) -> None:
    async with Client(member.endpoint) as client:
        found = await client.members()
    assert [(m.id, m.name, m.peer_urls, m.client_urls, m.is_learner) for m in found.members] == [
        (member.replica.node_id, "default", ["http://127.0.0.1:2380"], ["http://127.0.0.1:2379"], False)
    ]
    assert found.header.cluster_id == member.replica.cluster_id
