"""What calls return: plain immutable values."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from oarlock.etcd_pb import kv_pb2, rpc_pb2


class Header(msgspec.Struct, frozen=True, gc=False):
    """Who answered, and at which point of the store's history."""

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A key with its value and history."""

    key: bytes
    value: bytes
    create_revision: int
    """Revision of the put that created it (again, after a deletion)."""
    mod_revision: int
    """Revision of its latest put."""
    version: int
    """How many puts since it was created; 1 for the first."""
    lease: int = 0
    """Id of the lease that it goes away with; 0 for none."""


class PutResponse(msgspec.Struct, frozen=True):
    header: Header
    prev_kv: KeyValue | None = None


class GetResponse(msgspec.Struct, frozen=True):
    header: Header
    kvs: list[KeyValue]
    more: bool
    """Whether the limit cut the result."""
    count: int
    """Keys in the range, whatever the limit."""


class DeleteResponse(msgspec.Struct, frozen=True):
    header: Header
    deleted: int
    prev_kvs: list[KeyValue]


class Member(msgspec.Struct, frozen=True):
    id: int
    name: str
    peer_urls: list[str]
    client_urls: list[str]
    is_learner: bool


class MemberListResponse(msgspec.Struct, frozen=True):
    header: Header
    members: list[Member]


class MemberAddResponse(msgspec.Struct, frozen=True):
    header: Header
    member: Member
    """The new one, with its id. It has no name before it is started."""
    members: list[Member]
    """Everybody, the new one included."""


class MoveLeaderResponse(msgspec.Struct, frozen=True):
    old_leader: int
    """Id of the member that served the call."""


class StatusResponse(msgspec.Struct, frozen=True):
    """One member's own view."""

    header: Header
    version: str
    db_size: int
    """Bytes."""
    leader: int
    """Member id; 0 if it knows none."""
    raft_index: int
    raft_applied_index: int
    raft_term: int
    is_learner: bool
    errors: list[str]


class AlarmResponse(msgspec.Struct, frozen=True):
    header: Header
    alarms: list[tuple[int, str]]
    """Member id and kind of alarm: NOSPACE, CORRUPT."""


class HashResponse(msgspec.Struct, frozen=True):
    header: Header
    hash: int
    compact_revision: int


def header(message: rpc_pb2.ResponseHeader) -> Header:
    return Header(message.cluster_id, message.member_id, message.revision, message.raft_term)


def pair(message: kv_pb2.KeyValue) -> KeyValue:
    return KeyValue(
        message.key,
        message.value,
        message.create_revision,
        message.mod_revision,
        message.version,
        message.lease,
    )


def pairs(messages: Iterable[kv_pb2.KeyValue]) -> list[KeyValue]:
    return [pair(message) for message in messages]


def member(message: rpc_pb2.Member) -> Member:
    return Member(
        message.ID, message.name, list(message.peerURLs), list(message.clientURLs), message.isLearner
    )


def members(messages: Iterable[rpc_pb2.Member]) -> list[Member]:
    return [member(message) for message in messages]
