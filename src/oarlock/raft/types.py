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
        if self.members and sorted(member.id for member in self.members) != list(self.ids):
            return "the members are not exactly those that the id lists name"
        return None


class ReadState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A confirmed read: once `index` is applied, the reads of `context` are linearizable (6.4)."""

    context: int
    index: Index


class Recovered(msgspec.Struct, frozen=True):
    """What a log storage held when it was opened."""

    hard_state: HardState
    entries: Sequence[Entry]
    """Consecutive, from index 1 (there is no compaction yet)."""
