"""`Client`: an etcd v3 client for any server that speaks the API, ours or etcd's."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from oarlock.client.endpoints import Endpoint, parse
from oarlock.client.results import (
    AlarmResponse,
    DeleteResponse,
    GetResponse,
    HashResponse,
    MemberAddResponse,
    MemberListResponse,
    MoveLeaderResponse,
    PutResponse,
    StatusResponse,
    header,
    member,
    members,
    pair,
    pairs,
)
from oarlock.client.retry import Verdict, judge
from oarlock.errors import OutcomeUnknown, RequestTimeout
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import RpcError, StatusCode

Key = bytes | str
SortBy = Literal["key", "version", "create", "mod", "value"]
Response = TypeVar("Response", bound=Message)
Members = (
    rpc_pb2.MemberListResponse
    | rpc_pb2.MemberRemoveResponse
    | rpc_pb2.MemberUpdateResponse
    | rpc_pb2.MemberPromoteResponse
)

NOT_LEADER = "etcdserver: not leader"
_MAINTENANCE = "/etcdserverpb.Maintenance/"

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.5
"""Seconds between two rounds over all endpoints: doubled from the first to the longest."""


class Client:
    """Keys, values and members of an etcd v3 server, over one connection per endpoint, made when needed.

    Calls go to one endpoint as long as it works, then to the next. Any number may be under way at once.

    Args:
        endpoints: `host:port` or URLs, in a list or separated by commas.
        timeout: seconds for a whole call, retries included.
        dial_timeout: seconds for one attempt to connect.
        ssl: a context for `https` endpoints; by default the system's trust store.
        retry: whether a call may be repeated, here or at another endpoint; see `oarlock.client.retry`.

    Every call raises `RpcError` if the server says no, `RequestTimeout` if nothing could be done in time, and
    a write raises `OutcomeUnknown` if it may or may not have been carried out. Keys and values may be str;
    they are sent as UTF-8.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = "127.0.0.1:2379",
        *,
        timeout: float = 5.0,
        dial_timeout: float = 2.0,
        ssl: tls.SSLContext | None = None,
        retry: bool = True,
    ) -> None:
        self._endpoints = [Endpoint(address, ssl, dial_timeout) for address in parse(endpoints)]
        self._current = 0
        self._timeout = timeout
        self._retry = retry

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Calls in progress fail."""
        for endpoint in self._endpoints:
            await endpoint.close()

    # ---- Keys and values

    async def put(
        self,
        key: Key,
        value: Key,
        *,
        lease: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: float | None = None,
    ) -> PutResponse:
        """Set a key.

        `prev_kv` returns what it was before; `ignore_value` keeps its value, `ignore_lease` its lease.
        """
        request = rpc_pb2.PutRequest(
            key=_bytes(key),
            value=_bytes(value),
            lease=lease,
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
        )
        response = rpc_pb2.PutResponse()
        await self._call("KV/Put", request, response, write=True, timeout=timeout)
        previous = pair(response.prev_kv) if response.HasField("prev_kv") else None
        return PutResponse(header(response.header), previous)

    async def get(
        self,
        key: Key,
        *,
        range_end: Key = b"",
        prefix: bool = False,
        from_key: bool = False,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        sort_by: SortBy = "key",
        descending: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout: float | None = None,
    ) -> GetResponse:
        """Read one key, or many: up to but without `range_end`, with the key as `prefix`, or `from_key` on.

        Linearizable unless `serializable`, which answers from the endpoint's own state, however old.
        `revision` reads the past. The bounds on revisions count if they are not 0.
        """
        start, end = _range(key, range_end, prefix, from_key)
        request = rpc_pb2.RangeRequest(
            key=start,
            range_end=end,
            limit=limit,
            revision=revision,
            serializable=serializable,
            keys_only=keys_only,
            count_only=count_only,
            sort_target=rpc_pb2.RangeRequest.SortTarget.Value(sort_by.upper()),
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
        )
        if descending or sort_by != "key":
            request.sort_order = rpc_pb2.RangeRequest.DESCEND if descending else rpc_pb2.RangeRequest.ASCEND
        response = rpc_pb2.RangeResponse()
        await self._call("KV/Range", request, response, timeout=timeout)
        return GetResponse(header(response.header), pairs(response.kvs), response.more, response.count)

    async def delete(
        self,
        key: Key,
        *,
        range_end: Key = b"",
        prefix: bool = False,
        from_key: bool = False,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteResponse:
        """Delete a key, or a range as in `get`. `prev_kv` returns what was deleted."""
        start, end = _range(key, range_end, prefix, from_key)
        request = rpc_pb2.DeleteRangeRequest(key=start, range_end=end, prev_kv=prev_kv)
        response = rpc_pb2.DeleteRangeResponse()
        await self._call("KV/DeleteRange", request, response, write=True, timeout=timeout)
        return DeleteResponse(header(response.header), response.deleted, pairs(response.prev_kvs))

    # ---- The cluster

    async def members(
        self, *, serializable: bool = False, timeout: float | None = None
    ) -> MemberListResponse:
        """Who takes part. `serializable`: as the endpoint knows it, even without a leader."""
        request = rpc_pb2.MemberListRequest(linearizable=not serializable)
        return await self._member_list("Cluster/MemberList", request, rpc_pb2.MemberListResponse(), timeout)

    async def member_add(
        self, peer_urls: Sequence[str], *, learner: bool = False, timeout: float | None = None
    ) -> MemberAddResponse:
        """Add a member, which is to be started then. `learner`: it gets the log, and has no vote."""
        request = rpc_pb2.MemberAddRequest(peerURLs=peer_urls, isLearner=learner)
        response = rpc_pb2.MemberAddResponse()
        await self._call("Cluster/MemberAdd", request, response, write=True, timeout=timeout)
        return MemberAddResponse(header(response.header), member(response.member), members(response.members))

    async def member_remove(self, member_id: int, *, timeout: float | None = None) -> MemberListResponse:
        """Remove a member for good. Returns those that are left."""
        request, response = rpc_pb2.MemberRemoveRequest(ID=member_id), rpc_pb2.MemberRemoveResponse()
        return await self._member_list("Cluster/MemberRemove", request, response, timeout, write=True)

    async def member_update(
        self, member_id: int, peer_urls: Sequence[str], *, timeout: float | None = None
    ) -> MemberListResponse:
        """Change where the other members find one."""
        request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls)
        response = rpc_pb2.MemberUpdateResponse()
        return await self._member_list("Cluster/MemberUpdate", request, response, timeout, write=True)

    async def member_promote(self, member_id: int, *, timeout: float | None = None) -> MemberListResponse:
        """Give a learner its vote. Refused until its log has caught up."""
        request, response = rpc_pb2.MemberPromoteRequest(ID=member_id), rpc_pb2.MemberPromoteResponse()
        return await self._member_list("Cluster/MemberPromote", request, response, timeout, write=True)

    async def change_members(
        self,
        *,
        promote: Iterable[int] = (),
        demote: Iterable[int] = (),
        remove: Iterable[int] = (),
        priorities: Mapping[int, int] | None = None,
        timeout: float | None = None,
    ) -> MemberListResponse:
        """Several changes as one, all or nothing. Oarlock only: etcd answers UNIMPLEMENTED.

        A leader hands over to a caught-up voter of a higher priority than its own; all begin with 0.
        """
        body = {
            "promote": [f"{node:x}" for node in promote],
            "demote": [f"{node:x}" for node in demote],
            "remove": [f"{node:x}" for node in remove],
            "priorities": {f"{node:x}": priority for node, priority in (priorities or {}).items()},
        }
        data = msgspec.json.encode(body)
        seconds = self._timeout if timeout is None else timeout
        answer = await self._until_answered("/oarlock.Cluster/Change", data, True, seconds)
        response = _decoded("Change", answer, rpc_pb2.MemberListResponse())
        return MemberListResponse(header(response.header), members(response.members))

    async def move_leader(self, target: int, *, timeout: float | None = None) -> MoveLeaderResponse:
        """Have the leader hand over to another voter. Only the leader serves this, so each endpoint is tried.

        Args:
            target: member id; 0 is whom it suits best (Oarlock only).

        Raises:
            RpcError: "etcdserver: not leader" if the leader is none of the endpoints; or it refused.
        """
        data = rpc_pb2.MoveLeaderRequest(targetID=target).SerializeToString()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        problem = RpcError(StatusCode.FAILED_PRECONDITION, NOT_LEADER)
        for endpoint in self._endpoints:
            try:
                leader = await self._leader(endpoint, deadline - loop.time())
                channel = await endpoint.channel(deadline - loop.time())
                await channel.unary(f"{_MAINTENANCE}MoveLeader", data, timeout=deadline - loop.time())
                return MoveLeaderResponse(leader)
            except RpcError as error:
                if error.message != NOT_LEADER and judge(error, write=False) is Verdict.FINAL:
                    raise
                if error.message != NOT_LEADER:
                    problem = error
            if loop.time() > deadline:
                break
        raise problem

    @staticmethod
    async def _leader(endpoint: Endpoint, timeout: float) -> int:
        """The id of this endpoint's member. Raises `RpcError` if it does not lead."""
        channel = await endpoint.channel(timeout)
        answer = await channel.unary(f"{_MAINTENANCE}Status", b"", timeout=timeout)
        status = _decoded("Status", answer, rpc_pb2.StatusResponse())
        if status.leader != status.header.member_id:
            raise RpcError(StatusCode.FAILED_PRECONDITION, NOT_LEADER)
        return status.leader

    async def alarms(self, *, timeout: float | None = None) -> AlarmResponse:
        """What is wrong with the store: a member of ours tells of itself only."""
        response = rpc_pb2.AlarmResponse()
        await self._call("Maintenance/Alarm", rpc_pb2.AlarmRequest(), response, timeout=timeout)
        alarms = [(alarm.memberID, rpc_pb2.AlarmType.Name(alarm.alarm)) for alarm in response.alarms]
        return AlarmResponse(header(response.header), alarms)

    async def status(self, *, timeout: float | None = None) -> StatusResponse:
        """The current endpoint's own view; with one endpoint per client, that member's."""
        response = rpc_pb2.StatusResponse()
        await self._call("Maintenance/Status", rpc_pb2.StatusRequest(), response, timeout=timeout)
        return StatusResponse(
            header=header(response.header),
            version=response.version,
            db_size=response.dbSize,
            leader=response.leader,
            raft_index=response.raftIndex,
            raft_applied_index=response.raftAppliedIndex,
            raft_term=response.raftTerm,
            is_learner=response.isLearner,
            errors=list(response.errors),
        )

    async def hash_kv(self, revision: int = 0, *, timeout: float | None = None) -> HashResponse:
        """The hash of the endpoint's history up to `revision` (0: all of it), to compare members."""
        request, response = rpc_pb2.HashKVRequest(revision=revision), rpc_pb2.HashKVResponse()
        await self._call("Maintenance/HashKV", request, response, timeout=timeout)
        return HashResponse(header(response.header), response.hash, response.compact_revision)

    # ---- Calls

    async def _call(
        self,
        method: str,
        request: Message,
        response: Message,
        *,
        write: bool = False,
        timeout: float | None,
    ) -> None:
        """Call until an endpoint answers, and parse its answer into `response`."""
        seconds = self._timeout if timeout is None else timeout
        data = await self._until_answered(
            f"/etcdserverpb.{method}", request.SerializeToString(), write, seconds
        )
        _decoded(method, data, response)

    async def _member_list(
        self,
        method: str,
        request: Message,
        response: Members,
        timeout: float | None,
        write: bool = False,
    ) -> MemberListResponse:
        await self._call(method, request, response, write=write, timeout=timeout)
        return MemberListResponse(header(response.header), members(response.members))

    async def _until_answered(self, method: str, data: bytes, write: bool, seconds: float) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = FIRST_PAUSE
        failures = 0
        last: RpcError | None = None
        while (left := deadline - loop.time()) > 0:
            number = self._current
            try:
                channel = await self._endpoints[number].channel(left)
                left = max(deadline - loop.time(), 0.001)
                # A read leaves time for the others, should this endpoint be frozen. A write must not: giving
                # up early would only turn a slow answer into an unknown outcome.
                share = left if write else min(left, seconds / len(self._endpoints))
                return await channel.unary(method, data, timeout=share)
            except RpcError as error:
                last = error
            verdict = judge(last, write=write)
            if verdict is Verdict.FINAL or (verdict is Verdict.RETRY and not self._retry):
                raise last
            if self._current == number:
                self._current = (number + 1) % len(self._endpoints)
            if verdict is Verdict.UNKNOWN:
                raise OutcomeUnknown(f"it may or may not have been carried out: {last}") from last
            failures += 1
            if failures % len(self._endpoints) == 0:
                await asyncio.sleep(min(pause, max(deadline - loop.time(), 0)))
                pause = min(2 * pause, LONGEST_PAUSE)
        timeout = RequestTimeout(seconds, outcome_unknown=False)
        if last is not None:
            timeout.add_note(f"the last attempt said: {last}")
        raise timeout from last


def _decoded(method: str, data: bytes, response: Response) -> Response:
    """`response`, filled from `data`."""
    try:
        response.ParseFromString(data)
    except DecodeError:
        raise RpcError(StatusCode.INTERNAL, f"the answer to {method} does not decode") from None
    return response


def _bytes(text: Key) -> bytes:
    return text.encode() if isinstance(text, str) else text


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`: the first key behind them."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"\0"
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def _range(key: Key, range_end: Key, prefix: bool, from_key: bool) -> tuple[bytes, bytes]:
    """(key, range_end) as the API wants them. The empty prefix, and from the empty key, mean all keys."""
    start, end = _bytes(key), _bytes(range_end)
    if prefix:
        end = prefix_end(start)
    elif from_key:
        end = b"\0"
    if (prefix or from_key) and not start:
        start = b"\0"
    return start, end
