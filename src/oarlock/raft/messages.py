"""What members say to each other, in the paper's words.

==================  ======================  ==========================================================
message             who sends it, when      what the receiver does
==================  ======================  ==========================================================
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
==================  ======================  ==========================================================

Every request has a reply of the same name with ``Reply`` behind it; `ProposeReply` is only sent to refuse.
`term` is the sender's term, except in `PreVote` and a granted `PreVoteReply`, where it is the term that
the election would have. Delivery may fail, delay and reorder; all but `Propose` may also be duplicated.

Field order is the wire format: fields are only added at the end, with a default.
"""

from __future__ import annotations

import msgspec

from oarlock.raft.types import Entry, Index, NodeId, Term


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
)
