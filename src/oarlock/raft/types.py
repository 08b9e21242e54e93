"""The nouns of Raft: entries, hard state, members, configurations.

All of them are immutable values. They are msgspec structs in array form so that `oarlock.wire` and
`oarlock.storage` encode them as they are; fields are only ever added at the end, with a default, so that
a newer program reads what an older one wrote.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

NodeId = int
"""64-bit identity of a member, independent of its addresses. 0 means "nobody"."""
Term = int
"""Raft's logical clock (dissertation 3.3). 0 is before the first election."""
Index = int
"""Position in the log, from 1. 0 is the empty log."""
Milliseconds = int
"""A time on the cluster's clock: see `oarlock.raft.cluster_clock`."""

NOBODY: NodeId = 0


class EntryKind(enum.IntEnum):
    """What an entry's data means. Stored on disk: values never change."""

    COMMAND = 0
    """Data is a command for the state machine."""
    NOOP = 1
    """No data. A leader appends one at the start of its term (dissertation 6.4)."""
    CONFIGURATION = 2
    """Data is an encoded `Configuration`, in effect as soon as it is appended (dissertation 4.1)."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One slot of the replicated log.

    Invariant: two logs that hold an entry of equal index and term hold equal entries up to it (3.5).
    """

    index: Index
    term: Term
    kind: EntryKind = EntryKind.COMMAND
    data: bytes = b""
    time: Milliseconds = 0
    """The cluster's clock when a leader appended it (dissertation 6.3); never falls along the log."""


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What must be durable before it is told to anyone (dissertation 3.8).

    Invariant: `term` never falls; within a term `voted_for` changes at most once, away from `NOBODY`.
    `commit_index` is a hint that may lag: it saves work at start-up and marks entries that may never be cut.
    """

    term: Term = 0
    voted_for: NodeId = NOBODY
    commit_index: Index = 0


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One server of the cluster: an identity, and where it can be reached."""

    id: NodeId
    name: str
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    priority: int = 0
    """A leader hands over to a caught-up voter of a higher priority than its own."""


class Configuration(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who takes part, and whose agreement counts.

    `outgoing` is empty except in joint consensus (dissertation 4.3), where agreement needs a majority of
    `voters` *and* a majority of `outgoing`. Learners receive the log but are counted nowhere (4.2.1).

    Invariant: each tuple is sorted and without duplicates; learners are not voters of either half; every id
    has a `Member`. `validate()` checks it for values that come from outside.
    """

    voters: tuple[NodeId, ...] = ()
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    members: tuple[Member, ...] = ()
    demoted: tuple[NodeId, ...] = ()
    """Joint only: those of `outgoing` that become learners when the joint phase ends; the rest leave."""
    joining: tuple[NodeId, ...] = ()
    """Learners that the leader promotes by itself once they have caught up (4.2.1)."""
    removed: tuple[NodeId, ...] = ()
    """The latest that were removed, oldest first: they are refused for good."""

    @property
    def joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def ids(self) -> tuple[NodeId, ...]:
        """Everyone who takes part, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    def is_voter(self, node_id: NodeId) -> bool:
        return node_id in self.voters or node_id in self.outgoing

    def member(self, node_id: NodeId) -> Member | None:
        return next((member for member in self.members if member.id == node_id), None)

    def problem(self) -> str | None:
        """What is wrong with this configuration, or None if it is well formed."""
        for label, ids in (("voters", self.voters), ("outgoing", self.outgoing), ("learners", self.learners)):
            if list(ids) != sorted(set(ids)):
                return f"{label} are not sorted and distinct: {ids}"
            if NOBODY in ids:
                return f"{label} contain the id 0"
        if not self.voters:
            return "there are no voters"
        if both := {*self.voters, *self.outgoing} & {*self.learners}:
            return f"voters that are learners too: {sorted(both)}"
        if strangers := {*self.demoted} - ({*self.outgoing} - {*self.voters}):
            return f"demoted members that are not on their way out: {sorted(strangers)}"
        if strangers := {*self.joining} - {*self.learners}:
            return f"joining members that are not learners: {sorted(strangers)}"
        if ghosts := {*self.removed} & {*self.ids}:
            return f"members that were removed: {sorted(ghosts)}"
        if self.members and sorted(member.id for member in self.members) != list(self.ids):
            return "the members are not exactly those that the id lists name"
        return None


class ReadState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A confirmed read: once `index` is applied, the reads of `context` are linearizable (6.4)."""

    context: int
    index: Index


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A change of the membership, as an operator asks for it: any number of these at once (chapter 4).

    The leader works out the configuration, against the one that it has: `oarlock.raft.membership.planned`.
    """

    add: tuple[Member, ...] = ()
    """New members. They come in as learners."""
    learners: bool = False
    """The new ones stay learners until `promote`; else the leader promotes them once they have caught up."""
    promote: tuple[NodeId, ...] = ()
    """Learners that become voters now."""
    demote: tuple[NodeId, ...] = ()
    """Voters that become learners."""
    remove: tuple[NodeId, ...] = ()
    update: tuple[Member, ...] = ()
    """Members with new names, addresses or priorities; the id says whom it is about."""
    expected_index: Index = 0
    """Unless 0: the index of the configuration that the caller saw. Refused if there is a newer one."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a prefix of the log amounts to, beside the state machine's own bytes (dissertation 5.1).

    Those bytes are somewhere on disk; this value names them, and is stored with them.
    """

    index: Index
    """The last entry that the snapshot covers: committed and applied."""
    term: Term
    """That entry's term."""
    configuration: Configuration
    """In effect at `index`."""
    configuration_index: Index = 0
    """Where it stood in the log."""
    time: Milliseconds = 0
    """The cluster's clock at `index`."""


class StoredSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot that is whole and durable on this member."""

    snapshot: Snapshot
    size: int
    """Bytes of the state machine's part."""
    checksum: int
    """Their CRC-32C."""


class LogBase(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The entry before the first of a log: everything up to it was dropped (or there was nothing)."""

    index: Index = 0
    term: Term = 0


class Recovered(msgspec.Struct, frozen=True):
    """What a log storage held when it was opened."""

    hard_state: HardState
    entries: Sequence[Entry]
    """Consecutive, from `base.index` + 1."""
    base: LogBase = LogBase()
