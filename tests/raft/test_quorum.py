"""Quorum arithmetic, against an obvious slow implementation."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.raft.quorum import VoteResult, agreed, majority, vote_result
from oarlock.raft.types import Configuration

IDS = st.lists(st.integers(1, 9), min_size=1, max_size=7, unique=True).map(lambda ids: tuple(sorted(ids)))
CONFIGURATIONS = st.builds(
    lambda voters, outgoing: Configuration(voters=voters, outgoing=outgoing), IDS, st.one_of(st.just(()), IDS)
)


def quorums(voters: tuple[int, ...]) -> list[frozenset[int]]:
    """Every set of voters that is more than half of them."""
    return [
        frozenset(chosen)
        for size in range(len(voters) + 1)
        if 2 * size > len(voters)
        for chosen in combinations(voters, size)
    ]


def dumb_agreed(voters: tuple[int, ...], values: dict[int, int], default: int) -> int:
    return max(min(values.get(voter, default) for voter in quorum) for quorum in quorums(voters))


def dumb_vote(voters: tuple[int, ...], votes: dict[int, bool]) -> VoteResult:
    if any(all(votes.get(voter) is True for voter in quorum) for quorum in quorums(voters)):
        return VoteResult.WON
    if any(all(votes.get(voter) is not False for voter in quorum) for quorum in quorums(voters)):
        return VoteResult.PENDING
    return VoteResult.LOST


@settings(max_examples=300, deadline=None)
@given(CONFIGURATIONS, st.dictionaries(st.integers(1, 9), st.integers(0, 20)))
def test_agreed_is_the_best_that_some_quorum_reached(
    configuration: Configuration, values: dict[int, int]
) -> None:
    expected = dumb_agreed(configuration.voters, values, 0)
    if configuration.outgoing:
        expected = min(expected, dumb_agreed(configuration.outgoing, values, 0))
    assert agreed(configuration, values, 0) == expected


@settings(max_examples=300, deadline=None)
@given(CONFIGURATIONS, st.dictionaries(st.integers(1, 9), st.booleans()))
def test_vote_result_is_what_the_quorums_say(configuration: Configuration, votes: dict[int, bool]) -> None:
    halves = [dumb_vote(configuration.voters, votes)]
    if configuration.outgoing:
        halves.append(dumb_vote(configuration.outgoing, votes))
    expected = VoteResult.WON
    if VoteResult.LOST in halves:
        expected = VoteResult.LOST
    elif VoteResult.PENDING in halves:
        expected = VoteResult.PENDING
    assert vote_result(configuration, votes) is expected


@pytest.mark.parametrize(("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_majority_of_size(size: int, needed: int) -> None:
    assert majority(size) == needed


def test_two_majorities_always_share_a_member() -> None:
    for size in range(1, 8):
        groups = [set(group) for group in combinations(range(size), majority(size))]
        assert all(one & other for one in groups for other in groups)


def test_learners_are_counted_nowhere() -> None:
    configuration = Configuration(voters=(1, 2, 3), learners=(4, 5))
    assert agreed(configuration, {1: 7, 4: 9, 5: 9}, 0) == 0
    assert vote_result(configuration, {1: True, 4: True, 5: True}) is VoteResult.PENDING


def test_voters_without_a_value_count_as_the_default() -> None:
    assert agreed(Configuration(voters=(1, 2, 3)), {1: 5.0}, float("-inf")) == float("-inf")
