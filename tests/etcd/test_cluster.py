"""The Cluster service, and MoveLeader, on a real member: what they change, and etcd's words when they do not.

Refusals are compared with a real etcd's in tests/integration/test_members.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oarlock.client import Client, Member
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel, RpcError, StatusCode
from oarlock.server.config import load_settings
from oarlock.server.processes import HOST, PortReservation
from oarlock.server.server import Server

from ..polling import eventually
from .single import SingleMember

PEER = "http://127.0.0.1:1"
OTHER = "http://127.0.0.1:2"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A cluster of one. Nobody starts the members that are added to it."""
    ports = PortReservation()
    flags = [
        *("--name", "a", "--data-dir", str(tmp_path / "a"), "--max-learners", "3"),
        *("--listen-client-urls", f"http://{HOST}:{ports.take()}"),
        *("--listen-peer-urls", f"http://{HOST}:{ports.take()}"),
        *("--heartbeat-interval", "20", "--election-timeout", "100"),
    ]
    running = Server(load_settings(flags, {}))
    await running.start()
    yield running
    await running.close()
    ports.close()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(f"{HOST}:{server.settings.listen_client[0].port}", timeout=10) as opened:

        async def told() -> bool:
            return bool((await opened.members()).members[0].client_urls)

        await eventually(told)
        yield opened


def found(members: list[Member], member_id: int) -> Member:
    return next(member for member in members if member.id == member_id)


async def test_a_new_voter_is_a_learner_without_a_name_until_it_is_started(client: Client) -> None:
    added = await client.member_add([PEER])
    assert added.member.peer_urls == [PEER]
    assert added.member.is_learner is False, "as etcd answers: it was not asked for a learner"
    assert found(added.members, added.member.id) == Member(added.member.id, "", [PEER], [], True)
    assert (await client.members()).members == added.members
    assert added.header.revision == 0, "etcd leaves it out"
    assert added.header.raft_term > 0


async def test_its_id_is_made_from_its_addresses_and_the_time_so_it_is_never_used_twice(
    client: Client,
) -> None:
    used = set()
    for _ in range(3):  # within a second
        added = await client.member_add([PEER], learner=True)
        assert added.member.is_learner
        assert added.member.id not in used
        used.add(added.member.id)
        left = await client.member_remove(added.member.id)
        assert [member.name for member in left.members] == ["a"]


async def refused(client: Client, code: StatusCode, text: str, method: str, *arguments: object) -> None:
    with pytest.raises(RpcError) as caught:
        await getattr(client, method)(*arguments)
    assert (caught.value.code, caught.value.message) == (code, f"etcdserver: {text}")


async def test_what_cannot_be_is_refused_in_etcds_words(server: Server, client: Client) -> None:
    own = server.node_id
    learner = (await client.member_add([PEER], learner=True)).member.id
    gone = (await client.member_add([OTHER])).member.id
    await client.member_remove(gone)
    failed = StatusCode.FAILED_PRECONDITION
    await refused(client, failed, "Peer URLs already exists", "member_add", [PEER])
    await refused(client, failed, "Peer URLs already exists", "member_update", learner, [server_url(server)])
    missing = (StatusCode.NOT_FOUND, "member not found")
    for method, *more in (("member_remove",), ("member_promote",), ("member_update", [OTHER])):
        await refused(client, *missing, method, 123, *more)
        await refused(client, *missing, method, gone, *more)
        await refused(client, *missing, method, 0, *more)
    await refused(client, failed, "can only promote a learner member", "member_promote", own)
    text = "can only promote a learner member which is in sync with leader"
    await refused(client, failed, text, "member_promote", learner)
    text = "re-configuration failed due to not enough started members"
    await refused(client, StatusCode.UNKNOWN, text, "member_remove", own)
    for target in (123, learner, gone):
        await refused(client, failed, "bad leader transferee", "move_leader", target)


def server_url(server: Server) -> str:
    return server.settings.listen_peer[0].url


@pytest.mark.parametrize(
    "urls",
    [
        *([], ["foo"], ["127.0.0.1:1"], ["http://127.0.0.1"], ["ftp://h:1"], ["http://h:1/path"]),
        *(["http://h:99999"], ["http://u@h:1"], ["http://[::1:2"], ["http://a..b:1"], [PEER, "http://"]),
    ],
)
async def test_addresses_that_nobody_can_reach_do_not_get_into_the_log(
    server: Server, client: Client, urls: list[str]
) -> None:
    before = server.replica.configuration_index
    invalid = (StatusCode.INVALID_ARGUMENT, "given member URLs are invalid")
    await refused(client, *invalid, "member_add", urls)
    await refused(client, *invalid, "member_update", server.node_id, urls)
    assert server.replica.configuration_index == before


async def test_learners_are_limited_because_each_of_them_gets_the_whole_log(client: Client) -> None:
    for number in range(3):
        await client.member_add([f"http://127.0.0.1:{number + 1}"], learner=True)
    text = "too many learner members in cluster"
    await refused(client, StatusCode.FAILED_PRECONDITION, text, "member_add", ["http://127.0.0.1:9"])


async def test_an_update_changes_the_addresses_and_nothing_else(client: Client) -> None:
    member = (await client.member_add([PEER])).member
    after = await client.member_update(member.id, [OTHER, "http://127.0.0.1:3"])
    assert found(after.members, member.id).peer_urls == [OTHER, "http://127.0.0.1:3"]
    own = next(member for member in after.members if member.name == "a")
    after = await client.member_update(own.id, [PEER])
    assert found(after.members, own.id) == Member(own.id, "a", [PEER], own.client_urls, False)


async def test_updates_at_the_same_time_do_not_undo_each_other(server: Server, client: Client) -> None:
    learner = (await client.member_add([PEER], learner=True)).member.id
    await asyncio.gather(
        client.member_update(learner, [OTHER]),
        client.change_members(priorities={learner: 7}),
        client.change_members(priorities={server.node_id: 3}),
    )
    members = {member.id: member for member in server.replica.committed_configuration.members}
    assert (members[learner].peer_urls, members[learner].priority) == ((OTHER,), 7)
    assert (members[server.node_id].name, members[server.node_id].priority) == ("a", 3)


async def test_several_changes_are_one_or_none(server: Server, client: Client) -> None:
    first = (await client.member_add([PEER], learner=True)).member.id
    second = (await client.member_add([OTHER], learner=True)).member.id
    text = "member not found"
    with pytest.raises(RpcError, match=text):
        await client.change_members(remove=[first, 123])
    assert len((await client.members()).members) == 3
    left = await client.change_members(remove=[first, second], priorities={server.node_id: 9})
    assert [member.name for member in left.members] == ["a"]
    assert server.replica.configuration.members[0].priority == 9


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not a change"),
        (b"\xff", "not a change"),
        (b"[]", "not a change"),
        (b'{"promotes":["1"]}', "unknown field `promotes`"),
        (b'{"promote":["xyz"]}', "'xyz' is not a member id"),
        (b'{"promote":["-1"]}', "'-1' is not a member id"),
        (b'{"promote":["11112222333344445"]}', "is not a member id"),
        (b'{"priorities":{"1":1000001}}', "priority 1000001 is not in"),
        (b'{"priorities":{"1":1}}', "member not found"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(server: Server, body: bytes, text: str) -> None:
    channel = Channel(HOST, server.settings.listen_client[0].port)
    await channel.connect()
    try:
        with pytest.raises(RpcError, match=text):
            await channel.unary("/oarlock.Cluster/Change", body)
    finally:
        await channel.close()


@pytest.mark.parametrize(
    "method",
    [
        *("Cluster/MemberAdd", "Cluster/MemberRemove", "Cluster/MemberUpdate", "Cluster/MemberPromote"),
        *("Maintenance/MoveLeader", "Maintenance/Alarm"),
    ],
)
async def test_a_message_that_does_not_decode_is_refused(server: Server, method: str) -> None:
    channel = Channel(HOST, server.settings.listen_client[0].port)
    await channel.connect()
    try:
        with pytest.raises(RpcError) as caught:
            await channel.unary(f"/etcdserverpb.{method}", b"\xff\xff\xff")
        assert caught.value.code is StatusCode.INTERNAL
    finally:
        await channel.close()


async def test_the_leader_may_be_told_to_lead(server: Server, client: Client) -> None:
    """etcd says yes to that, too."""
    assert (await client.move_leader(server.node_id)).old_leader == server.node_id


async def test_only_the_leader_moves_the_leader(tmp_path: Path) -> None:
    async with SingleMember(tmp_path) as member, Client(member.endpoint) as client:
        member.replica.leader_id = 7
        await refused(client, StatusCode.FAILED_PRECONDITION, "not leader", "move_leader", 7)
        channel = Channel(HOST, member.port)
        await channel.connect()
        try:
            request = rpc_pb2.MoveLeaderRequest(targetID=7).SerializeToString()
            with pytest.raises(RpcError, match="etcdserver: not leader"):
                await channel.unary("/etcdserverpb.Maintenance/MoveLeader", request)
        finally:
            await channel.close()


async def test_a_member_without_room_has_an_alarm_until_it_has_room(tmp_path: Path) -> None:
    class NoRoom:
        full = True

        def try_to_grow(self) -> bool:
            return not self.full

    disk = NoRoom()
    async with SingleMember(tmp_path, log=disk) as member, Client(member.endpoint) as client:
        assert (await client.alarms()).alarms == [(member.replica.node_id, "NOSPACE")]
        assert (await client.status()).errors == [f"memberID:{member.replica.node_id} alarm:NOSPACE "]
        disk.full = False
        assert (await client.alarms()).alarms == []
        assert (await client.status()).errors == []


async def test_alarms_are_not_for_clients_to_set_or_clear(server: Server) -> None:
    channel = Channel(HOST, server.settings.listen_client[0].port)
    await channel.connect()
    try:
        for action in (rpc_pb2.AlarmRequest.ACTIVATE, rpc_pb2.AlarmRequest.DEACTIVATE):
            request = rpc_pb2.AlarmRequest(action=action, alarm=rpc_pb2.NOSPACE).SerializeToString()
            with pytest.raises(RpcError) as caught:
                await channel.unary("/etcdserverpb.Maintenance/Alarm", request)
            assert caught.value.code is StatusCode.UNIMPLEMENTED
    finally:
        await channel.close()
