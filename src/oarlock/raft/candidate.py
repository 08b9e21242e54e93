"""Standing for election: first asking whether it could be won, then in earnest (dissertation 3.4, 9.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.raft import follower
from oarlock.raft.messages import (
    AppendEntries,
    ChangeMembership,
    InstallSnapshot,
    Message,
    PreVote,
    PreVoteReply,
    Propose,
    ReadIndex,
    RequestVote,
    RequestVoteReply,
)
from oarlock.raft.quorum import VoteResult, vote_result
from oarlock.raft.roles import Role
from oarlock.raft.types import NOBODY, NodeId

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


def step(raft: Raft, message: Message) -> None:
    """A message of our own term, or one that holds in any term."""
    match message:
        case AppendEntries() | InstallSnapshot():
            follower.step(raft, message)  # someone else was elected
        case PreVoteReply() if _pre(raft):
            if message.term == raft.term + 1 or not message.granted:
                _count(raft, message.sender, message.granted)
        case RequestVoteReply() if not _pre(raft):
            _count(raft, message.sender, message.granted)
        case Propose() | ReadIndex() | ChangeMembership():
            follower.refuse_leaders_work(raft, message)
        case _:
            pass


def ask_for_pre_votes(raft: Raft) -> None:
    for peer in _rivals(raft):
        raft.send(
            PreVote(raft.term + 1, raft.id, peer, raft.log.last_index, raft.log.last_term),
        )
    _count(raft, raft.id, True)


def ask_for_votes(raft: Raft, transfer: bool) -> None:
    """Our own vote is durable before we ask: were it forgotten in a crash, we could win this term twice."""
    for peer in _rivals(raft):
        raft.send_after_stored(
            RequestVote(raft.term, raft.id, peer, raft.log.last_index, raft.log.last_term, transfer)
        )


def count_own_vote(raft: Raft) -> None:
    """Something became durable: perhaps our own vote."""
    if raft.durable_term == raft.term and raft.durable_vote == raft.id and raft.id not in raft.votes:
        _count(raft, raft.id, True)


def _pre(raft: Raft) -> bool:
    return raft.role is Role.PRE_CANDIDATE


def _rivals(raft: Raft) -> list[NodeId]:
    configuration = raft.configuration
    return [peer for peer in configuration.ids if peer != raft.id and configuration.is_voter(peer)]


def _count(raft: Raft, voter: NodeId, granted: bool) -> None:
    raft.votes.setdefault(voter, granted)
    match vote_result(raft.configuration, raft.votes):
        case VoteResult.WON if _pre(raft):
            raft.become_candidate()
        case VoteResult.WON if raft.votes.get(raft.id):
            raft.become_leader()
        case VoteResult.LOST:
            raft.become_follower(raft.term, NOBODY, "the election was lost")
        case _:
            pass
