"""The term rule: what a message's term alone decides, whatever the role (dissertation 3.3).

Terms are Raft's logical clock. A later term than ours is adopted, and whoever led or stood for election
follows; with exceptions for votes, so that one member that lost touch cannot depose a leader that all others
hear. An earlier term than ours means that the sender is behind: where it waits for an answer, it is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.raft import votes
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    ChangeMembership,
    ChangeMembershipReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    PreVote,
    PreVoteReply,
    Propose,
    ProposeReply,
    ReadIndex,
    RequestVote,
    SnapshotTurn,
    TimeoutNow,
)
from oarlock.raft.types import NOBODY

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


def settle_higher(raft: Raft, message: Message) -> bool:
    """A message from a later term: adopt the term, with two exceptions. False: the message is done."""
    if isinstance(message, PreVote) or (isinstance(message, PreVoteReply) and message.granted):
        return True  # the term is one that an election would have, not one that began
    if isinstance(message, RequestVote) and (reason := votes.sticks(raft, message)):
        # Someone who lost touch must not depose a leader that the rest can hear (4.2.3).
        votes.refuse(raft, message, reason)
        return False
    leads = isinstance(message, AppendEntries | InstallSnapshot | TimeoutNow)
    leader_id = message.sender if leads else NOBODY
    raft.become_follower(message.term, leader_id, f"{type(message).__name__} of a later term")
    return True


def settle_lower(raft: Raft, message: Message) -> bool:
    """A message from an earlier term: the sender is told ours where it waits. False: it is done."""
    if isinstance(message, PreVote | RequestVote):
        votes.refuse(raft, message, "the term has passed")
        return False
    if isinstance(message, AppendEntries):
        # Names no index: should its sender come to lead our term, this is no news about our log.
        raft.send(AppendEntriesReply(raft.term, raft.id, message.sender, False, 0))
        return False
    if isinstance(message, InstallSnapshot):
        raft.send(InstallSnapshotReply(raft.term, raft.id, message.sender, 0))
        return False
    if isinstance(message, Propose):
        # Commands sent in a term are appended in that term or never: so their sender knows that they are
        # lost once it applies an entry of a later term, and may send them again.
        raft.send(ProposeReply(raft.term, raft.id, message.sender, message.batch))
        return False
    # These hold in any term; answers from an earlier term mean nothing.
    return isinstance(
        message, ProposeReply | ReadIndex | ChangeMembership | ChangeMembershipReply | SnapshotTurn
    )
