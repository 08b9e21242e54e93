"""The Cluster service: who the members are, and changing it.

Every member serves every call: the leader judges the change, wherever it was asked for. What differs from
etcd: a member that is added as a voter comes in as a learner too, and the leader promotes it by itself once
it has caught up (dissertation 4.2.1). So it never counts for the quorum before it can do its part.

Beside etcd's calls there is one of ours, `/oarlock.Cluster/Change`, for what etcd's cannot say: several
changes at once (joint consensus, 4.3), making a voter a learner, and priorities. See `ChangeRequest`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlsplit

import msgspec
from google.protobuf.message import DecodeError
from msgspec.structs import replace

from oarlock.errors import ChangeReason, ChangeRefused
from oarlock.etcd.awaited import Awaited, parsed
from oarlock.etcd.errors import BAD_MEMBER_URLS, MALFORMED, MEMBER_NOT_FOUND, TOO_MANY_LEARNERS, status_of
from oarlock.etcd.header import Headers
from oarlock.etcd.ids import member_id
from oarlock.etcd.limits import Limits
from oarlock.etcd.ports import ReplicaPort
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Call, RpcError, Server, StatusCode
from oarlock.raft.membership import PRIORITY_MAX
from oarlock.raft.types import Change, Configuration, Member


class ChangeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `/oarlock.Cluster/Change`, as JSON. Answered with etcd's `MemberListResponse`.

    Ids are in hexadecimal. All of it is one change: it happens as a whole, or not at all.
    """

    promote: tuple[str, ...] = ()
    """Learners that become voters."""
    demote: tuple[str, ...] = ()
    """Voters that become learners."""
    remove: tuple[str, ...] = ()
    priorities: dict[str, int] = {}
    """Member → its new priority, from 0 to a million."""


class ClusterService:
    """Serves `etcdserverpb.Cluster` for one member."""

    def __init__(self, replica: ReplicaPort, headers: Headers, limits: Limits) -> None:
        self._replica = replica
        self._headers = headers
        self._limits = limits
        self._awaited = Awaited()

    def register(self, server: Server) -> None:
        server.add_unary("/etcdserverpb.Cluster/MemberList", self.member_list)
        unary = self._awaited.unary
        server.add_unary("/etcdserverpb.Cluster/MemberAdd", unary(self.member_add))
        server.add_unary("/etcdserverpb.Cluster/MemberRemove", unary(self.member_remove))
        server.add_unary("/etcdserverpb.Cluster/MemberUpdate", unary(self.member_update))
        server.add_unary("/etcdserverpb.Cluster/MemberPromote", unary(self.member_promote))
        server.add_unary("/oarlock.Cluster/Change", unary(self.change))

    # ---- Who they are

    def member_list(self, call: Call, message: bytes) -> None:
        try:
            request = rpc_pb2.MemberListRequest.FromString(message)
        except DecodeError:
            return call.fail(*MALFORMED)
        if request.linearizable:
            self._replica.read_barrier(partial(self._answer, call), self._limits.timeout)
        else:
            self._answer(call, None)

    def _answer(self, call: Call, error: BaseException | None) -> None:
        if error is not None:
            return call.fail(*status_of(error))
        call.reply(self._list(self._replica.configuration))

    def _list(self, configuration: Configuration) -> bytes:
        response = rpc_pb2.MemberListResponse(header=self._header())
        response.members.extend(_members(configuration))
        return response.SerializeToString()

    def _header(self) -> rpc_pb2.ResponseHeader:
        """etcd leaves the revision out of this service's headers."""
        return self._headers.message(0)

    # ---- Changes

    async def member_add(self, message: bytes) -> bytes:
        request = parsed(rpc_pb2.MemberAddRequest, message)
        urls = _checked(request.peerURLs)
        before = self._replica.configuration
        if len(before.learners) >= self._limits.learners_max:
            raise RpcError(*TOO_MANY_LEARNERS)
        member = Member(_new_id(urls, before), "", urls)
        after = await self._make(Change(add=(member,), learners=request.isLearner))
        response = rpc_pb2.MemberAddResponse(header=self._header())
        # As etcd answers: what was asked for. What it is at present, the list says.
        response.member.CopyFrom(
            rpc_pb2.Member(ID=member.id, peerURLs=member.peer_urls, isLearner=request.isLearner)
        )
        response.members.extend(_members(after))
        return response.SerializeToString()

    async def member_remove(self, message: bytes) -> bytes:
        request = parsed(rpc_pb2.MemberRemoveRequest, message)
        after = await self._make(Change(remove=(request.ID,)))
        response = rpc_pb2.MemberRemoveResponse(header=self._header(), members=_members(after))
        return response.SerializeToString()

    async def member_promote(self, message: bytes) -> bytes:
        request = parsed(rpc_pb2.MemberPromoteRequest, message)
        after = await self._make(Change(promote=(request.ID,)))
        response = rpc_pb2.MemberPromoteResponse(header=self._header(), members=_members(after))
        return response.SerializeToString()

    async def member_update(self, message: bytes) -> bytes:
        request = parsed(rpc_pb2.MemberUpdateRequest, message)
        urls = _checked(request.peerURLs)
        after = await self._update(Change(), {request.ID: {"peer_urls": urls}})
        response = rpc_pb2.MemberUpdateResponse(header=self._header(), members=_members(after))
        return response.SerializeToString()

    async def change(self, message: bytes) -> bytes:
        """Ours: see `ChangeRequest`."""
        try:
            request = msgspec.json.decode(message, type=ChangeRequest)
            change = Change(
                promote=_ids(request.promote), demote=_ids(request.demote), remove=_ids(request.remove)
            )
            priorities = {_id(text): value for text, value in request.priorities.items()}
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"not a change of the membership: {error}") from None
        for priority in priorities.values():
            if not 0 <= priority <= PRIORITY_MAX:
                text = f"priority {priority} is not in 0 … {PRIORITY_MAX}"
                raise RpcError(StatusCode.INVALID_ARGUMENT, text)
        if priorities:
            after = await self._update(change, {key: {"priority": n} for key, n in priorities.items()})
        else:
            after = await self._make(change)
        return self._list(after)

    async def _update(self, change: Change, updates: dict[int, dict[str, object]]) -> Configuration:
        """Make a change that says how members are to be described, all else about them as it is."""
        deadline = asyncio.get_running_loop().time() + self._limits.timeout
        while True:
            await self._replica.barrier(self._limits.timeout)
            index, configuration = self._replica.configuration_index, self._replica.configuration
            updated = []
            for node_id, fields in updates.items():
                member = configuration.member(node_id)
                if member is None:
                    raise RpcError(*MEMBER_NOT_FOUND)
                updated.append(replace(member, **fields))
            try:
                return await self._make(replace(change, update=tuple(updated), expected_index=index))
            except ChangeRefused as refused:
                # Another update came in between (a member tells the others its addresses, say): look anew.
                late = asyncio.get_running_loop().time() > deadline
                if refused.reason is not ChangeReason.OUTDATED or late:
                    raise

    async def _make(self, change: Change) -> Configuration:
        return await self._replica.change_membership(change, self._limits.timeout)


def _members(configuration: Configuration) -> list[rpc_pb2.Member]:
    return [
        rpc_pb2.Member(
            ID=member.id,
            name=member.name,
            peerURLs=member.peer_urls,
            clientURLs=member.client_urls,
            isLearner=member.id in configuration.learners,
        )
        for member in sorted(configuration.members, key=lambda member: member.id)
    ]


def _checked(urls: Sequence[str]) -> tuple[str, ...]:
    """Peer URLs of a request. They go into the log: one that nobody can parse must not get there."""
    if not urls:
        raise RpcError(*BAD_MEMBER_URLS)
    for url in urls:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")  # as it will be looked up
        except ValueError:
            raise RpcError(*BAD_MEMBER_URLS) from None
        # No https before there is TLS.
        if parts.scheme != "http" or not host or not port or url != f"http://{parts.netloc}" or "@" in url:
            raise RpcError(*BAD_MEMBER_URLS)
    return tuple(sorted(set(urls)))


def _new_id(urls: tuple[str, ...], configuration: Configuration) -> int:
    """An id that was never used: from the addresses and the time, as etcd makes it."""
    added_at = int(time.time())
    taken = {*configuration.ids, *configuration.removed}
    while (node_id := member_id(urls, "", added_at)) in taken or not node_id:
        added_at += 1
    return node_id


def _ids(texts: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(sorted({_id(text) for text in texts}))


def _id(text: str) -> int:
    if not re.fullmatch("[0-9a-fA-F]{1,16}", text):
        raise ValueError(f"{text[:40]!r} is not a member id in hexadecimal")
    return int(text, 16)
