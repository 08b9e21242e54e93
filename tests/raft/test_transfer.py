"""Handing over leadership (dissertation 3.10): to whom, when, and what becomes of what comes meanwhile."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from oarlock.errors import ChangeReason, ChangeRefused, NotLeader
from oarlock.raft.messages import AppendEntries, AppendEntriesReply, Propose, ProposeReply, TimeoutNow
from oarlock.raft.progress import ProgressState
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Change, Configuration, EntryKind, Member

from .alone import acknowledge, core, elected, established, sent


def prioritised(**priorities: int) -> Configuration:
    """Three voters with priorities by name: ``n2=5``."""
    ids = (1, 2, 3)
    return Configuration(
        voters=ids, members=tuple(Member(n, f"n{n}", priority=priorities.get(f"n{n}", 0)) for n in ids)
    )


def refusal(raft: Raft, target: int) -> ChangeReason:
    with pytest.raises(ChangeRefused) as refused:
        raft.transfer_leadership(target, raft.now)
    assert raft.transferring in (0, 2)
    return refused.value.reason


def beat(raft: Raft, *answering: int) -> list[Any]:
    """The clock reaches the deadline; these followers answer. Returns what the leader sent."""
    raft.timeout(raft.deadline)
    messages = sent(raft)
    return messages + acknowledge(raft, *answering)


def commands(raft: Raft) -> list[bytes]:
    log = raft.log.slice(1, raft.log.last_index)
    return [entry.data for entry in log if entry.kind is EntryKind.COMMAND]


def test_3_10_a_target_that_has_everything_is_told_at_once() -> None:
    raft = established()
    assert raft.transfer_leadership(2, raft.now) == 2
    assert TimeoutNow(2, 1, 2) in sent(raft)
    assert raft.transferring == 2


def test_3_10_a_target_that_lacks_entries_gets_them_first() -> None:
    raft = established()
    raft.propose([b"a"], raft.now)
    raft.transfer_leadership(2, raft.now)
    messages = sent(raft)
    assert [type(message).__name__ for message in messages if message.to == 2] == ["AppendEntries"]
    assert TimeoutNow(2, 1, 2) in acknowledge(raft, 2)


def test_3_10_no_new_commands_are_taken_and_those_of_others_are_kept() -> None:
    raft = established()
    raft.transfer_leadership(2, raft.now)
    with pytest.raises(NotLeader):
        raft.propose([b"a"], raft.now)
    raft.step(Propose(2, 3, 1, 7, (b"b",)), raft.now)
    assert not [message for message in sent(raft) if isinstance(message, ProposeReply)]
    assert commands(raft) == []


def test_3_10_it_is_given_up_after_an_election_timeout_and_what_was_kept_is_appended() -> None:
    raft = established()
    raft.transfer_leadership(2, raft.now)
    begun = raft.now
    raft.step(Propose(2, 3, 1, 7, (b"b",)), raft.now)
    while raft.transferring:
        beat(raft, 2, 3)
    assert raft.now - begun == pytest.approx(1.0)
    assert raft.role is Role.LEADER
    assert commands(raft) == [b"b"]
    raft.propose([b"a"], raft.now)


def test_3_10_what_was_kept_is_refused_when_another_leads() -> None:
    """So its sender may send it to the next leader: it is certain that this term never appends it."""
    raft = established()
    raft.transfer_leadership(2, raft.now)
    raft.step(Propose(2, 3, 1, 7, (b"b",)), raft.now)
    raft.step(AppendEntries(3, 2, 1, 2, 2, 2), raft.now)
    assert ProposeReply(3, 1, 3, 7) in sent(raft)
    assert commands(raft) == []


def test_what_is_kept_is_bounded() -> None:
    raft = established(uncommitted_bytes_max=4)
    raft.transfer_leadership(2, raft.now)
    raft.step(Propose(2, 3, 1, 7, (b"four",)), raft.now)
    raft.step(Propose(2, 3, 1, 8, (b"x",)), raft.now)
    assert [message for message in sent(raft) if isinstance(message, ProposeReply)] == [
        ProposeReply(2, 1, 3, 8, True)
    ]


def test_3_10_timeout_now_is_repeated_with_every_heartbeat() -> None:
    raft = established()
    raft.transfer_leadership(2, raft.now)
    sent(raft)
    for _ in range(4):
        assert beat(raft, 2, 3).count(TimeoutNow(2, 1, 2)) == 1


def test_3_10_without_a_target_it_goes_to_the_voter_that_is_closest() -> None:
    raft = established(size=5)
    raft.propose([b"a"], raft.now)
    sent(raft)
    acknowledge(raft, 4)
    assert raft.transfer_leadership(0, raft.now) == 4


def test_of_voters_that_are_equally_close_the_preferred_one_and_then_the_lowest_id() -> None:
    assert established(configuration=prioritised(n3=1)).transfer_leadership(0, 0.0) == 3
    assert established(configuration=prioritised()).transfer_leadership(0, 0.0) == 2


def test_only_a_voter_that_is_in_touch_can_take_over() -> None:
    raft = established(configuration=Configuration(voters=(1, 2, 3), learners=(4,)))
    assert refusal(raft, 1) is ChangeReason.NO_TARGET
    assert refusal(raft, 4) is ChangeReason.NO_TARGET
    assert refusal(raft, 9) is ChangeReason.NO_TARGET
    for _ in range(6):
        beat(raft, 2)
    assert refusal(raft, 3) is ChangeReason.NO_TARGET
    assert raft.transfer_leadership(0, raft.now) == 2


def test_a_member_alone_has_nobody_to_hand_over_to() -> None:
    raft = core(size=1)
    raft.timeout(raft.deadline)
    sent(raft)
    assert refusal(raft, 0) is ChangeReason.NO_TARGET


def test_one_transfer_at_a_time_and_asking_again_for_the_same_is_harmless() -> None:
    raft = established()
    raft.transfer_leadership(2, raft.now)
    assert raft.transfer_leadership(2, raft.now) == 2
    assert raft.transfer_leadership(0, raft.now) == 2
    assert refusal(raft, 3) is ChangeReason.IN_PROGRESS


def test_no_change_of_the_membership_begins_while_leadership_is_handed_over() -> None:
    raft = established()
    raft.transfer_leadership(2, raft.now)
    with pytest.raises(ChangeRefused, match="handed to 2"):
        raft.change_membership(Change(remove=(3,)), raft.now)


def test_only_a_leader_hands_over() -> None:
    with pytest.raises(NotLeader):
        core().transfer_leadership(2, 0.0)


def test_3_10_a_follower_that_is_told_stands_at_once_and_says_why() -> None:
    """4.2.3: the voters hear the old leader, and grant all the same."""
    raft = core(term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 5.0)
    raft.step(TimeoutNow(2, 2, 1), 5.1)
    assert (raft.role, raft.term) == (Role.CANDIDATE, 3)
    requests = [message for message in sent(raft) if hasattr(message, "transfer")]
    assert [request.transfer for request in requests] == [True, True]
    voter = core(term=2)
    voter.step(AppendEntries(2, 2, 1, 1, 1, 1), 5.0)
    voter.step(type(requests[0])(3, 3, 1, 9, 2, True), 5.1)
    assert [reply.granted for reply in sent(voter) if hasattr(reply, "granted")] == [True]


def test_timeout_now_of_somebody_else_or_to_a_learner_or_an_earlier_term_does_nothing() -> None:
    for message in (TimeoutNow(2, 3, 1), TimeoutNow(1, 2, 1)):
        raft = core(term=2)
        raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 0.0)
        raft.step(message, 0.0)
        assert raft.role is Role.FOLLOWER
    learner = core(configuration=Configuration(voters=(2, 3), learners=(1,)))
    learner.step(TimeoutNow(2, 2, 1), 0.0)
    assert learner.role is Role.FOLLOWER


# ── reasons of its own to hand over ───────────────────────────────────────────────────────────────────


def test_3_10_a_leader_hands_over_to_a_preferred_member_that_keeps_up() -> None:
    raft = established(configuration=prioritised(n3=1))
    while not raft.transferring:
        assert raft.now < 10.0
        beat(raft, 2, 3)
    assert raft.transferring == 3


def test_a_preferred_member_that_is_away_or_behind_is_left_alone() -> None:
    raft = elected(configuration=prioritised(n3=1))
    while raft.now < 10.0:
        beat(raft, 2)
        assert raft.transferring == 0


def test_a_preferred_member_whose_log_is_not_known_to_agree_is_left_alone() -> None:
    raft = established(configuration=prioritised(n3=1))
    while raft.now < 10.0:
        raft.progress[3].state = ProgressState.PROBE
        raft.timeout(raft.deadline)
        sent(raft)
        acknowledge(raft, 2)
        raft.progress[3].heard_at = raft.now
        assert raft.transferring == 0


def test_a_preferred_member_whose_disk_does_not_keep_up_stops_no_writes() -> None:
    """Regression: it answers, so it was handed over to in vain, again and again: for a quarter of the time no
    command was taken."""
    raft = established(configuration=prioritised(n3=1))
    raft.propose([b"x"], raft.now)
    while raft.now < 10.0:
        raft.timeout(raft.deadline)
        sent(raft)
        acknowledge(raft, 2)
        assert raft.leading is not None
        raft.step(AppendEntriesReply(raft.term, 3, 1, True, 2, raft.leading.round), raft.now)
        assert raft.transferring == 0
    beat(raft, 2, 3)
    raft.timeout(raft.deadline)
    assert raft.transferring == 3, "it has caught up"


def test_an_attempt_that_failed_is_not_repeated_at_once() -> None:
    raft = established(configuration=prioritised(n3=1))
    attempts = []
    while raft.now < 30.0:
        before = raft.transferring
        beat(raft, 2, 3)
        if raft.transferring and not before:
            attempts.append(raft.now)
    assert len(attempts) >= 4
    assert all(later - sooner >= 4.0 for sooner, later in itertools.pairwise(attempts))


def hung(raft: Raft) -> int:
    """Its disk hangs: the write of a command never ends. Returns the number of that Ready."""
    raft.propose([b"x"], raft.now)
    ready: Any = raft.ready()
    assert ready.must_store
    return int(ready.number)


def beat_hung(raft: Raft, *answering: int) -> list[Any]:
    raft.timeout(raft.deadline)
    messages = sent(raft, store=False)
    for peer in answering:
        if raft.leading is not None:
            reply = AppendEntriesReply(raft.term, peer, 1, True, raft.log.last_index, raft.leading.round)
            raft.step(reply, raft.now)
    return messages + sent(raft, store=False)


def test_a_leader_whose_disk_hangs_hands_over_after_the_bound() -> None:
    raft = established(disk_stall_timeout=0.7)
    hung(raft)
    begun = raft.now
    while not raft.transferring:
        beat_hung(raft, 2, 3)
    assert 0.7 <= raft.now - begun <= 0.9 + 1e-9


def test_a_leader_whose_disk_hangs_and_whose_target_does_not_take_over_steps_down() -> None:
    raft = established()
    hung(raft)
    begun = raft.now
    while raft.role is Role.LEADER:
        beat_hung(raft, 2, 3)
        assert raft.now < begun + 2.5
    assert raft.role is Role.FOLLOWER


def test_what_was_kept_is_refused_when_a_leader_whose_disk_hangs_steps_down() -> None:
    """Regression: it was appended first, and so waited for an election before it was sent elsewhere."""
    raft = established()
    hung(raft)
    while not raft.transferring:
        beat_hung(raft, 2, 3)
    raft.step(Propose(2, 3, 1, 9, (b"kept",)), raft.now)
    messages: list[Any] = []
    while raft.role is Role.LEADER:
        messages += beat_hung(raft, 2, 3)
    assert b"kept" not in commands(raft)
    assert [message.batch for message in messages if isinstance(message, ProposeReply)] == [9]


def test_nobody_stands_while_its_disk_hangs() -> None:
    raft = core(term=2)
    raft.step(AppendEntries(3, 2, 1, 1, 1, 1), 0.0)
    ready: Any = raft.ready()
    raft.timeout(raft.deadline)
    assert raft.role is Role.FOLLOWER
    raft.step(TimeoutNow(3, 2, 1), raft.now)
    assert raft.role is Role.FOLLOWER
    raft.stored(ready.number)
    raft.timeout(raft.deadline)
    assert raft.role is Role.PRE_CANDIDATE
