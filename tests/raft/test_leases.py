"""Lease reads (dissertation 6.4.1): when a leader may answer without asking, and what keeps that right."""

from __future__ import annotations

from typing import Any

import pytest

from oarlock.raft.messages import AppendEntries, AppendEntriesReply, PreVote, RequestVote
from oarlock.raft.raft import Raft
from oarlock.raft.types import Configuration

from .alone import core, elected, established, sent


def served_at_once(raft: Raft, now: float) -> bool:
    raft.read(7, now)
    ready: Any = raft.ready()
    return bool(ready.reads)


def leading(echoed: float, **config: Any) -> Raft:
    """A leader of which round 2 began at time 0 from now and was echoed by 2 after `echoed` seconds."""
    raft = established(**{"lease_reads": True, "clock_drift_bound": 0.1, **config})
    raft.timeout(raft.deadline)
    sent(raft)
    raft.step(AppendEntriesReply(2, 2, 1, True, 2, 2), raft.now + echoed)
    return raft


@pytest.mark.parametrize(
    ("config", "after", "at_once"),
    [
        ({}, 0.89, True),
        ({}, 0.91, False),
        ({"clock_drift_bound": 0.5}, 0.49, True),
        ({"clock_drift_bound": 0.5}, 0.51, False),
        ({"clock_drift_bound": 0.0}, 0.99, True),
        ({"lease_reads": False}, 0.0, False),
    ],
)
def test_6_4_1_a_lease_is_an_election_timeout_less_what_clocks_may_differ_by(
    config: dict[str, Any], after: float, at_once: bool
) -> None:
    raft = leading(0.0, **config)
    assert served_at_once(raft, raft.now + after) is at_once


def test_6_4_1_a_lease_begins_when_the_round_began_and_not_when_it_was_echoed() -> None:
    raft = leading(0.5)
    assert served_at_once(raft, raft.now + 0.35)
    raft = leading(0.5)
    assert not served_at_once(raft, raft.now + 0.45)


def test_6_4_1_one_echo_of_five_is_no_quorum() -> None:
    raft = established(size=5, lease_reads=True)
    start = raft.now
    for _ in range(4):
        raft.timeout(raft.deadline)
        round_now = next(message.round for message in sent(raft) if message.to == 2)
        raft.step(AppendEntriesReply(2, 2, 1, True, 2, round_now), raft.now)
    assert raft.now - start == pytest.approx(0.8)
    assert not served_at_once(raft, start + 0.95)


def test_6_4_1_no_lease_before_the_first_commit_of_the_term() -> None:
    """What earlier leaders committed is not known yet (6.4)."""
    raft = elected(1, lease_reads=True)
    sent(raft)
    raft.step(AppendEntriesReply(2, 2, 1, True, 2, 1), raft.now)  # echoes the round, lacks the no-op
    raft.read(7, raft.now)
    ready = raft.ready()
    assert ready is None or not ready.reads
    raft.step(AppendEntriesReply(2, 2, 1, True, 3, 1), raft.now)
    ready = raft.ready()
    assert ready is not None
    assert [state.context for state in ready.reads] == [7]


def test_6_4_1_a_leader_that_asked_somebody_to_stand_has_no_lease_for_the_rest_of_its_term() -> None:
    raft = leading(0.0)
    assert served_at_once(raft, raft.now)
    raft.transfer_leadership(3, raft.now)
    sent(raft)
    assert not served_at_once(raft, raft.now)
    while raft.transferring:
        raft.timeout(raft.deadline)
        for message in sent(raft):
            if isinstance(message, AppendEntries):
                raft.step(AppendEntriesReply(2, message.to, 1, True, 2, message.round), raft.now)
    assert not served_at_once(raft, raft.now), "the transfer was given up, but what was sent is on its way"


@pytest.mark.parametrize("kind", [PreVote, RequestVote])
def test_6_4_1_a_voter_refuses_rivals_for_an_election_timeout_after_it_heard_a_leader(kind: Any) -> None:
    """Also when it has learnt since that this leader was deposed: it may still be serving reads."""
    raft = core(term=2, lease_reads=True)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 5.0)
    raft.become_follower(3, 0, "test")
    sent(raft)
    raft.step(kind(4, 3, 1, 99, 6), 5.9)
    assert [reply.granted for reply in sent(raft)] == [False]
    raft.step(kind(4, 3, 1, 99, 6), 6.1)
    assert [reply.granted for reply in sent(raft)] == [True]


def test_6_4_1_a_vote_in_its_own_term_is_refused_as_well() -> None:
    raft = core(term=2, lease_reads=True)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 5.0)
    raft.become_follower(3, 0, "test")
    sent(raft)
    raft.step(RequestVote(3, 3, 1, 99, 6), 5.5)
    assert [reply.granted for reply in sent(raft)] == [False]


def test_6_4_1_who_has_just_started_does_not_know_whom_it_heard_and_refuses_for_as_long() -> None:
    raft = core(term=2, lease_reads=True)
    raft.step(PreVote(3, 3, 1, 99, 6), 0.9)
    assert [reply.granted for reply in sent(raft)] == [False]
    raft.step(PreVote(3, 3, 1, 99, 6), 1.1)
    assert [reply.granted for reply in sent(raft)] == [True]
    without = core(term=2)
    without.step(PreVote(3, 3, 1, 99, 6), 0.1)
    assert [reply.granted for reply in sent(without)] == [True]


def test_6_4_1_nor_does_the_only_voter_stand_before() -> None:
    """Two members, and the leader removes itself: the other has the configuration in which it is alone, and
    has granted a lease, when it restarts."""
    alone = Configuration(voters=(1,))
    assert core(lease_reads=True, configuration=alone).deadline == 1.0
    assert core(configuration=alone).deadline == 0.0


def test_6_4_1_whom_the_leader_asked_to_stand_is_no_rival() -> None:
    raft = core(term=2, lease_reads=True)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 5.0)
    raft.step(RequestVote(3, 3, 1, 99, 6, transfer=True), 5.1)
    assert [reply.granted for reply in sent(raft) if hasattr(reply, "granted")] == [True]


def test_a_lost_peer_does_not_hurry_elections_that_leases_count_on_being_slow() -> None:
    for leases in (True, False):
        raft = core(term=2, lease_reads=leases)
        raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 5.0)
        raft.peer_lost(2, 5.1)
        assert (raft.deadline < 5.5) is not leases


def test_a_member_alone_needs_no_lease() -> None:
    raft = core(size=1)
    raft.timeout(raft.deadline)
    sent(raft)
    assert served_at_once(raft, raft.now)
