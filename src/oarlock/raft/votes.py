"""Judging PreVote and RequestVote: the same rules in every role (dissertation 3.4, 3.6.1, 4.2.3, 9.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.raft import trace
from oarlock.raft.messages import PreVote, PreVoteReply, RequestVote, RequestVoteReply
from oarlock.raft.types import NOBODY

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


def judge(raft: Raft, message: PreVote | RequestVote) -> None:
    """Grant or refuse. The term rule has been settled: a RequestVote is of our own term now."""
    if reason := _reason_to_refuse(raft, message):
        refuse(raft, message, reason)
    elif isinstance(message, PreVote):
        raft.send(PreVoteReply(message.term, raft.id, message.sender, True))
        _trace(raft, message, True, "")
    else:
        raft.voted_for = message.sender
        raft.rearm_election(raft.now)
        raft.send_after_stored(RequestVoteReply(raft.term, raft.id, message.sender, True))
        _trace(raft, message, True, "")


def sticks(raft: Raft, message: PreVote | RequestVote) -> str:
    """Why a rival is refused whatever its log and term, or "" (4.2.3).

    Because a leader was in touch within the minimum election timeout; and with lease reads also if that
    leader was deposed since or we have just started, for it may still count on us (6.4.1). A candidate that
    the leader itself asked to stand is no rival.
    """
    if isinstance(message, RequestVote) and message.transfer:
        return ""
    if raft.hears_leader():
        return "a leader is alive"
    if raft.now < raft.lease_granted_until:
        return "a leader may still hold a lease"
    return ""


def refuse(raft: Raft, message: PreVote | RequestVote, reason: str) -> None:
    """Say no, with our own term, so that a sender that is behind learns it."""
    reply = PreVoteReply if isinstance(message, PreVote) else RequestVoteReply
    raft.send(reply(raft.term, raft.id, message.sender, False, reason))
    _trace(raft, message, False, reason)


def _reason_to_refuse(raft: Raft, message: PreVote | RequestVote) -> str:
    if isinstance(message, PreVote):
        if message.term <= raft.term:
            return "the term has passed"
        if reason := sticks(raft, message):
            return reason
    elif raft.voted_for not in (NOBODY, message.sender):
        return f"the vote of term {raft.term} went to {raft.voted_for:x}"
    elif raft.voted_for == NOBODY and raft.now < raft.lease_granted_until and not message.transfer:
        return "a leader may still hold a lease"
    if not raft.log.up_to_date(message.last_log_index, message.last_log_term):
        return (
            f"the log is behind: it ends at index {message.last_log_index} of term {message.last_log_term}, "
            f"ours at {raft.log.last_index} of {raft.log.last_term}"
        )
    return ""


def _trace(raft: Raft, message: PreVote | RequestVote, granted: bool, reason: str) -> None:
    if raft.trace is not None:
        pre = isinstance(message, PreVote)
        raft.trace(trace.VoteCast(raft.id, message.term, message.sender, granted, pre, reason))
