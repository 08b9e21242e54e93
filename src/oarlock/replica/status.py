"""Status: one member's account of itself, for people, dashboards and `oarlock doctor`.

All values are plain, so that it is JSON as it is. Ids are in hexadecimal: JSON numbers of 64 bits do not
survive every tool. Times are seconds; ages count back from now.
"""

from __future__ import annotations

from typing import Any

import msgspec

from oarlock.raft import Configuration, Member, NodeId, Raft
from oarlock.raft.progress import Progress
from oarlock.raft.types import NOBODY
from oarlock.replica.fetching import Fetching
from oarlock.replica.observations import Observations
from oarlock.replica.snapshots import Snapshots


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A member, as the configuration names it."""

    id: str
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    priority: int = 0


class ConfigurationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in effect."""

    index: int
    committed: bool
    """False: nothing else can be changed until a majority has it."""
    joint: bool
    """In the middle of a change: majorities of two sets of voters are needed."""
    voters: tuple[str, ...]
    outgoing: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    joining: tuple[str, ...] = ()
    """Learners that become voters once they have caught up."""
    members: tuple[MemberStatus, ...] = ()


class VoteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What another member last said when this one stood for election."""

    member: str
    term: int
    granted: bool
    pre: bool
    """It was only asked whether it would vote."""
    reason: str
    age: float


class SnapshotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The newest snapshot, and what is under way."""

    index: int = 0
    """0: there is none."""
    size: int = 0
    age: float | None = None
    """None: it was written in an earlier run."""
    writing: bool = False
    fetching_from: str = ""
    """The member that a snapshot is being fetched from; "" if none is."""
    fetching_index: int = 0
    received: int = 0
    """Bytes that have arrived."""
    to_receive: int = 0
    """Of so many."""


class ConnectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The way to a peer."""

    connected: bool
    address: str = ""
    last_error: str = ""
    dropped: int = 0
    """Messages that were not handed to a connection."""
    queued_bytes: int = 0


class PeerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A leader's view of a follower."""

    state: str
    """probe, replicate or snapshot."""
    match_index: int
    next_index: int
    inflight_messages: int
    inflight_bytes: int
    heard_age: float
    snapshot_received: int = 0
    snapshot_size: int = 0


class PeerReport(msgspec.Struct, frozen=True, kw_only=True):
    """Another member."""

    id: str
    name: str = ""
    connection: ConnectionStatus | None = None
    progress: PeerProgress | None = None
    """Only a leader has it."""


class DiskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How long writes to the log take; None without any."""

    last_write: float | None = None
    median: float | None = None
    p99: float | None = None
    oldest_write_age: float | None = None
    """A write that is not durable yet: since when."""
    stalled: bool = False
    """It takes longer than `Config.disk_stall_timeout`: this member does not lead, nor stand for election."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One member, as it sees itself and the others."""

    id: str
    name: str
    role: str
    """leader, follower, pre-candidate or candidate."""
    learner: bool
    term: int
    leader: str
    """"" if none is known."""
    voted_for: str
    votes: tuple[VoteStatus, ...]
    first_index: int
    last_index: int
    stored_index: int
    commit_index: int
    applied_index: int
    log_bytes: int
    """In memory."""
    uncommitted_bytes: int
    configuration: ConfigurationStatus
    snapshot: SnapshotStatus
    peers: tuple[PeerReport, ...]
    disk: DiskStatus
    proposals: int
    """Commands that wait for an answer here."""
    reads: int
    transferring_to: str
    """Leadership is being handed over to this member; "" if it is not."""
    removed: bool
    election_timeout: float
    lease_reads: bool = False
    version: str = ""
    cluster_id: str = ""


def hexadecimal(node_id: NodeId) -> str:
    return "" if node_id == NOBODY else f"{node_id:x}"


def member_status(
    raft: Raft,
    *,
    now: float,
    observations: Observations,
    snapshots: Snapshots,
    fetching: Fetching,
    connections: dict[NodeId, Any],
    oldest_write: float | None,
    proposals: int,
    reads: int,
    removed: bool,
) -> Status:
    """Gather it. Costs some microseconds and changes nothing.

    Args:
        connections: what the transport says of each peer (`oarlock.transport.PeerStatus`).
        oldest_write: since when the oldest write has been under way.
    """
    configuration = raft.configuration
    own = configuration.member(raft.id)
    leading = raft.leading
    age = None if oldest_write is None else now - oldest_write
    return Status(
        id=hexadecimal(raft.id),
        name="" if own is None else own.name,
        role=raft.role.value,
        learner=raft.id in configuration.learners,
        term=raft.term,
        leader=hexadecimal(raft.leader_id),
        voted_for=hexadecimal(raft.voted_for),
        votes=tuple(
            VoteStatus(
                member=hexadecimal(node_id),
                term=answer.term,
                granted=answer.granted,
                pre=answer.pre,
                reason=answer.reason,
                age=now - answer.at,
            )
            for node_id, answer in sorted(observations.votes.items())
        ),
        first_index=raft.log.first_index,
        last_index=raft.log.last_index,
        stored_index=raft.log.stored_index,
        commit_index=raft.commit_index,
        applied_index=raft.applied_index,
        log_bytes=raft.log.bytes,
        uncommitted_bytes=0 if leading is None else leading.uncommitted_bytes,
        configuration=_configuration_status(raft),
        snapshot=_snapshot_status(snapshots, fetching, now),
        peers=tuple(
            _peer_report(node_id, configuration, connections.get(node_id), raft.progress.get(node_id), now)
            for node_id in sorted({*configuration.ids, *raft.progress} - {raft.id})
        ),
        disk=DiskStatus(
            last_write=observations.last_write,
            median=observations.write_quantile(0.5),
            p99=observations.write_quantile(0.99),
            oldest_write_age=age,
            stalled=age is not None and age >= raft.config.stall_timeout,
        ),
        proposals=proposals,
        reads=reads,
        transferring_to=hexadecimal(raft.transferring),
        removed=removed,
        election_timeout=raft.config.election_timeout,
        lease_reads=raft.config.lease_reads,
    )


def _configuration_status(raft: Raft) -> ConfigurationStatus:
    configuration = raft.configuration
    return ConfigurationStatus(
        index=raft.configuration_index,
        committed=raft.configuration_index <= raft.commit_index,
        joint=configuration.joint,
        voters=tuple(map(hexadecimal, configuration.voters)),
        outgoing=tuple(map(hexadecimal, configuration.outgoing)),
        learners=tuple(map(hexadecimal, configuration.learners)),
        joining=tuple(map(hexadecimal, configuration.joining)),
        members=tuple(map(_of_member, configuration.members)),
    )


def _of_member(member: Member) -> MemberStatus:
    return MemberStatus(
        id=hexadecimal(member.id),
        name=member.name,
        peer_urls=member.peer_urls,
        client_urls=member.client_urls,
        priority=member.priority,
    )


def _snapshot_status(snapshots: Snapshots, fetching: Fetching, now: float) -> SnapshotStatus:
    newest, offer = snapshots.newest, fetching.offer
    return SnapshotStatus(
        index=0 if newest is None else newest.snapshot.index,
        size=0 if newest is None else newest.size,
        age=None if snapshots.taken_at is None else now - snapshots.taken_at,
        writing=snapshots.writing,
        fetching_from="" if offer is None else hexadecimal(offer.sender),
        fetching_index=0 if offer is None else offer.snapshot.index,
        received=0 if offer is None else fetching.received,
        to_receive=0 if offer is None else offer.size,
    )


def _peer_report(
    node_id: NodeId, configuration: Configuration, connection: Any, progress: Progress | None, now: float
) -> PeerReport:
    member = configuration.member(node_id)
    return PeerReport(
        id=hexadecimal(node_id),
        name="" if member is None else member.name,
        connection=None
        if connection is None
        else ConnectionStatus(
            connected=connection.connected,
            address=connection.address,
            last_error=connection.last_error,
            dropped=connection.dropped,
            queued_bytes=connection.queued_bytes,
        ),
        progress=None if progress is None else _progress(progress, now),
    )


def _progress(progress: Progress, now: float) -> PeerProgress:
    return PeerProgress(
        state=progress.state.value,
        match_index=progress.match_index,
        next_index=progress.next_index,
        inflight_messages=progress.inflight_messages,
        inflight_bytes=progress.inflight_bytes,
        heard_age=now - progress.heard_at,
        snapshot_received=progress.received,
        snapshot_size=0 if progress.snapshot is None else progress.snapshot.size,
    )
