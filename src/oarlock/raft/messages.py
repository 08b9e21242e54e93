"""What members say to each other, in the paper's words.

==================  =======================  =========================================================
message             who sends it, when       what the receiver does
==================  =======================  =========================================================
PreVote             a member whose election  grants if it would vote for the log and has not heard from a
                    timer ran out (9.6)      leader lately; nothing is stored, no term changes
RequestVote         a candidate (3.4)        stores its vote, then grants; one vote per term, first come,
                                             only for a log at least as up-to-date (3.6.1)
AppendEntries       a leader: new entries,   stores entries, truncating only on conflict (3.5); with no
                    probes and heartbeats    entries it is a heartbeat; `round` is echoed in the reply
ReadIndex           a follower with reads    the leader answers with its commit index once a round
                    to serve (6.4)           of AppendEntries has confirmed that it still leads
Propose             a follower with          the leader of this very term appends the commands; anyone else
                    commands for the leader  refuses the whole batch
InstallSnapshot     a leader to a follower   fetches the snapshot from the sender (in chunks, on a connection
                    that is behind its log;  of its own, outside the core), then replaces its log and state;
                    repeated like heartbeats says in each reply how far it is (5.1)
TimeoutNow          a leader that hands over stands for election at once, without PreVote (3.10)
ChangeMembership    a member whose operator  the leader judges the change and appends the configuration, or
                    asked it for a change    says why not (chapter 4)
SnapshotTurn        a member that wants to   the leader grants turns, to a minority of the members at once
                    write a snapshot         (5.1.2); the reply, with `done`, gives the turn back
==================  =======================  =========================================================

Every request but `TimeoutNow` has a reply of the same name with ``Reply`` behind it; `ProposeReply` is only
sent to refuse.
`term` is the sender's term, except in `PreVote` and a granted `PreVoteReply`, where it is the term that
the election would have. Delivery may fail, delay and reorder; all but `Propose` and `ChangeMembership` may
also be duplicated.

Field order is the wire format: fields are only added at the end, with a default.
"""

from __future__ import annotations

import msgspec

from oarlock.raft.types import Change, Entry, Index, NodeId, Snapshot, Term


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="kind"):
    term: Term
    sender: NodeId
    to: NodeId


class PreVote(_Message, frozen=True, array_like=True, gc=False, tag=1):
    last_log_index: Index
    last_log_term: Term


class PreVoteReply(_Message, frozen=True, array_like=True, gc=False, tag=2):
    granted: bool
    reason: str = ""
    """Why not, for people (`oarlock doctor`); never acted on."""


class RequestVote(_Message, frozen=True, array_like=True, gc=False, tag=3):
    last_log_index: Index
    last_log_term: Term
    transfer: bool = False
    """The leader itself asked for this election: that it is alive is no reason to refuse (4.2.3)."""


class RequestVoteReply(_Message, frozen=True, array_like=True, gc=False, tag=4):
    granted: bool
    reason: str = ""


class AppendEntries(_Message, frozen=True, array_like=True, gc=False, tag=5):
    previous_index: Index
    previous_term: Term
    commit_index: Index
    entries: tuple[Entry, ...] = ()
    round: int = 0
    """The leader's latest confirmation round: a quorum that echoes r or more proves that the leader
    still led when round r began (reads, check-quorum)."""


class AppendEntriesReply(_Message, frozen=True, array_like=True, gc=False, tag=6):
    success: bool
    match_index: Index
    """Success: the follower's log equals the leader's up to here, durably. Refusal: the refused
    `previous_index`, so that a stale refusal can be told from a current one; 0 if the term had passed."""
    round: int = 0
    hint_index: Index = 0
    """Refusal: the logs can agree at this index at most; `hint_term` is the follower's term there."""
    hint_term: Term = 0


class ReadIndex(_Message, frozen=True, array_like=True, gc=False, tag=7):
    context: int


class ReadIndexReply(_Message, frozen=True, array_like=True, gc=False, tag=8):
    context: int
    index: Index
    """The commit index that the read has to wait for, or 0 if the receiver could not confirm one: then it
    waits for the next leader, or is given up and asked again."""


class Propose(_Message, frozen=True, array_like=True, gc=False, tag=9):
    batch: int
    """The sender's number for this batch, for `ProposeReply`."""
    commands: tuple[bytes, ...]


class ProposeReply(_Message, frozen=True, array_like=True, gc=False, tag=10):
    """The batch was refused as a whole and certainly not appended: the sender may try elsewhere."""

    batch: int
    busy: bool = False
    """True: the leader is at a bound. False: the receiver of the batch does not lead."""


class InstallSnapshot(_Message, frozen=True, array_like=True, gc=False, tag=11):
    snapshot: Snapshot
    size: int
    """Bytes of the state machine's part, which has to be fetched."""
    checksum: int
    """Their CRC-32C."""
    round: int = 0
    """As in AppendEntries: it serves as a heartbeat while entries cannot."""


class InstallSnapshotReply(_Message, frozen=True, array_like=True, gc=False, tag=12):
    match_index: Index
    """As in a successful AppendEntriesReply; 0 while the snapshot is still on its way."""
    round: int = 0
    received: int = 0
    """Bytes that have arrived, for people."""


class TimeoutNow(_Message, frozen=True, array_like=True, gc=False, tag=13):
    pass


class ChangeMembership(_Message, frozen=True, array_like=True, gc=False, tag=14):
    number: int
    """The sender's number for this request, for the reply."""
    change: Change


class ChangeMembershipReply(_Message, frozen=True, array_like=True, gc=False, tag=15):
    number: int
    index: Index
    """Where the configuration was appended: the change is made when it is committed, in this term. 0: it
    was refused."""
    reason: int = 0
    """A `ChangeReason`; 0 with `index` 0: the receiver does not lead."""
    text: str = ""


class SnapshotTurn(_Message, frozen=True, array_like=True, gc=False, tag=16):
    done: bool = False
    """False: may I? True: thank you, the turn is free."""


class SnapshotTurnReply(_Message, frozen=True, array_like=True, gc=False, tag=17):
    granted: bool


Message = (
    PreVote
    | PreVoteReply
    | RequestVote
    | RequestVoteReply
    | AppendEntries
    | AppendEntriesReply
    | ReadIndex
    | ReadIndexReply
    | Propose
    | ProposeReply
    | InstallSnapshot
    | InstallSnapshotReply
    | TimeoutNow
    | ChangeMembership
    | ChangeMembershipReply
    | SnapshotTurn
    | SnapshotTurnReply
)
