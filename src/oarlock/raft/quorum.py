"""Quorum arithmetic: what have enough members agreed to? Pure functions over a `Configuration`.

In joint consensus (dissertation 4.3) agreement needs a majority of the incoming *and* of the outgoing
voters, so every answer here is the weaker of the two halves' answers.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TypeVar

from oarlock.raft.types import Configuration, NodeId

Value = TypeVar("Value", int, float)


class VoteResult(enum.Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(size: int) -> int:
    """The smallest number of members that any two groups of share one: 2 of 3, 3 of 4, 3 of 5."""
    return size // 2 + 1


def agreed(configuration: Configuration, values: Mapping[NodeId, Value], default: Value) -> Value:
    """The greatest value that a quorum has reached; a voter without one counts as `default`.

    With match indexes this is the index that may be committed; with confirmation rounds, the round that is
    confirmed; with times of last contact, the moment at which a quorum was last in touch.
    """
    value = _agreed_half(configuration.voters, values, default)
    if configuration.outgoing:
        value = min(value, _agreed_half(configuration.outgoing, values, default))
    return value


def _agreed_half(voters: Sequence[NodeId], values: Mapping[NodeId, Value], default: Value) -> Value:
    ordered = sorted((values.get(voter, default) for voter in voters), reverse=True)
    return ordered[majority(len(ordered)) - 1] if ordered else default


def vote_result(configuration: Configuration, votes: Mapping[NodeId, bool]) -> VoteResult:
    """Whether the votes so far win or lose the election, or leave it open."""
    halves = [_vote_half(configuration.voters, votes)]
    if configuration.outgoing:
        halves.append(_vote_half(configuration.outgoing, votes))
    if VoteResult.LOST in halves:
        return VoteResult.LOST
    if VoteResult.PENDING in halves:
        return VoteResult.PENDING
    return VoteResult.WON


def _vote_half(voters: Sequence[NodeId], votes: Mapping[NodeId, bool]) -> VoteResult:
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    needed = majority(len(voters))
    if granted >= needed:
        return VoteResult.WON
    if len(voters) - refused < needed:
        return VoteResult.LOST
    return VoteResult.PENDING
