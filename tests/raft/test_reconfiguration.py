"""Leading through membership changes: when each step is taken, and when one is refused (dissertation 4)."""

from __future__ import annotations

from typing import Any

import pytest

from oarlock.errors import ChangeReason, ChangeRefused, NotLeader
from oarlock.raft.membership import encode_configuration
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    ChangeMembership,
    ChangeMembershipReply,
    PreVoteReply,
    RequestVoteReply,
)
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Change, Configuration, Entry, EntryKind, Member

from .alone import acknowledge, core, elected, established, sent

FOUR, FIVE = Member(4, "four"), Member(5, "five")


def refusal(raft: Raft, change: Change) -> ChangeReason:
    last = raft.log.last_index
    with pytest.raises(ChangeRefused) as refused:
        raft.change_membership(change, raft.now)
    assert raft.log.last_index == last, "a refused change leaves no trace"
    return refused.value.reason


def heartbeats(raft: Raft, seconds: float, *answering: int) -> None:
    """Time passes; these followers answer the heartbeats."""
    until = raft.now + seconds
    while raft.now < until and raft.role is Role.LEADER:
        raft.timeout(max(raft.now, min(raft.deadline, until)))
        sent(raft)
        acknowledge(raft, *answering)


def test_4_1_the_configuration_counts_as_soon_as_it_is_appended() -> None:
    raft = established()
    index = raft.change_membership(Change(remove=(3,)), raft.now)
    assert (raft.configuration.voters, raft.configuration_index) == ((1, 2), index)
    assert raft.committed_configuration.voters == (1, 2, 3)
    acknowledge(raft, 3)
    assert raft.commit_index < index, "3 is not counted any more"
    acknowledge(raft, 2)
    assert raft.committed_configuration.voters == (1, 2)


def test_4_1_one_change_at_a_time() -> None:
    raft = established()
    raft.change_membership(Change(add=(FOUR,), learners=True), raft.now)
    assert refusal(raft, Change(remove=(3,))) is ChangeReason.IN_PROGRESS
    acknowledge(raft, 2, 3)
    raft.change_membership(Change(remove=(3,)), raft.now)


def test_4_1_erratum_a_leader_commits_an_entry_of_its_own_term_first() -> None:
    raft = elected()
    assert refusal(raft, Change(remove=(3,))) is ChangeReason.IN_PROGRESS
    acknowledge(raft, 2)
    raft.change_membership(Change(remove=(3,)), raft.now)


def test_4_1_a_truncation_falls_back_to_the_configuration_before() -> None:
    raft = established()
    raft.change_membership(Change(remove=(3,)), raft.now)
    sent(raft)
    raft.step(AppendEntries(3, 2, 1, 2, 2, 2, (Entry(3, 3),)), raft.now)
    assert raft.configuration.voters == (1, 2, 3)


def test_4_1_a_leader_that_is_in_no_configuration_of_ours_is_followed() -> None:
    """Messages are taken from whoever sends them: a newcomer does not know the cluster yet."""
    raft = core(configuration=Configuration(voters=(1, 2)))
    raft.step(AppendEntries(2, 9, 1, 1, 1, 1, (Entry(2, 2),)), 0.0)
    assert (raft.leader_id, raft.log.last_index) == (9, 2)


def test_4_3_while_it_is_joint_both_majorities_are_needed() -> None:
    raft = established(size=5)
    index = raft.change_membership(Change(remove=(4, 5)), raft.now)
    assert raft.configuration.joint
    acknowledge(raft, 4, 5)
    assert raft.commit_index < index, "three of five, and one of the three that stay"
    acknowledge(raft, 2)
    assert raft.commit_index >= index


def test_4_3_the_leader_leaves_the_joint_configuration_by_itself() -> None:
    raft = established(size=5)
    index = raft.change_membership(Change(remove=(4, 5)), raft.now)
    acknowledge(raft, 2, 3)
    assert raft.configuration_index == index + 1
    assert (raft.configuration.voters, raft.configuration.joint) == ((1, 2, 3), False)


def test_4_3_a_joint_configuration_allows_no_other_change() -> None:
    raft = established(size=5)
    raft.change_membership(Change(remove=(4, 5)), raft.now)
    assert refusal(raft, Change(add=(Member(6, "six"),))) is ChangeReason.IN_PROGRESS


def test_4_2_1_a_newcomer_is_found_by_its_log_length_and_promoted_when_it_has_caught_up() -> None:
    raft = established()
    raft.change_membership(Change(add=(FOUR,)), raft.now)
    acknowledge(raft, 2, 3)
    raft.step(AppendEntriesReply(2, 4, 1, False, 3, 1, 0, 0), raft.now)
    (whole_log,) = [message for message in sent(raft) if message.to == 4]
    assert [entry.index for entry in whole_log.entries] == [1, 2, 3]
    acknowledge(raft, 4)
    assert raft.configuration.voters == (1, 2, 3, 4)
    assert raft.configuration.joining == ()


def test_4_2_1_newcomers_are_promoted_one_by_one() -> None:
    raft = established()
    raft.change_membership(Change(add=(FOUR, FIVE)), raft.now)
    acknowledge(raft, 2, 3)
    acknowledge(raft, 4, 5)
    assert raft.configuration.voters == (1, 2, 3, 4)
    acknowledge(raft, 2, 3, 4)
    acknowledge(raft, 5)
    assert raft.configuration.voters == (1, 2, 3, 4, 5)


def test_4_2_1_a_learner_that_was_asked_for_stays_one() -> None:
    raft = established()
    raft.change_membership(Change(add=(FOUR,), learners=True), raft.now)
    acknowledge(raft, 2, 3)
    assert refusal(raft, Change(promote=(4,))) is ChangeReason.NOT_CAUGHT_UP
    acknowledge(raft, 4)
    assert raft.configuration.learners == (4,)
    raft.change_membership(Change(promote=(4,)), raft.now)


def test_4_2_2_a_leader_that_removes_itself_leads_without_counting_itself_and_then_steps_down() -> None:
    raft = established()
    index = raft.change_membership(Change(remove=(1,)), raft.now)
    acknowledge(raft, 2)
    assert (raft.role, raft.commit_index) == (Role.LEADER, index - 1), "2 is one of {2, 3}: not enough"
    messages = acknowledge(raft, 3)
    assert raft.role is Role.FOLLOWER
    assert raft.commit_index == index
    assert raft.removed
    assert [type(message).__name__ for message in messages] == ["TimeoutNow"]
    raft.timeout(raft.now + 100)
    assert raft.role is Role.FOLLOWER, "its work is done"


def test_4_2_2_who_was_removed_stands_as_long_as_that_is_not_committed() -> None:
    raft = established()
    raft.change_membership(Change(remove=(1,)), raft.now)
    raft.become_follower(3, 0, "test")
    raft.timeout(raft.deadline)
    assert raft.role is Role.PRE_CANDIDATE


def test_4_2_2_who_leaves_gets_the_entry_that_says_so_and_its_commit_and_then_nothing() -> None:
    raft = established()
    index = raft.change_membership(Change(remove=(3,)), raft.now)
    sent(raft)
    told = acknowledge(raft, 2, 3)
    assert any(message.to == 3 and message.commit_index == index for message in told)
    assert 3 not in raft.progress
    heartbeats(raft, 0.5, 2)
    assert raft.role is Role.LEADER


def test_4_2_2_who_leaves_and_does_not_answer_is_given_up_after_an_election_timeout() -> None:
    raft = established()
    raft.change_membership(Change(remove=(3,)), raft.now)
    acknowledge(raft, 2)
    assert 3 in raft.progress
    heartbeats(raft, 1.3, 2)
    assert 3 not in raft.progress


def test_a_member_that_is_taken_back_in_under_its_id_is_refused() -> None:
    raft = established()
    raft.change_membership(Change(remove=(3,)), raft.now)
    acknowledge(raft, 2)
    assert refusal(raft, Change(add=(Member(3, "three"),))) is ChangeReason.WAS_REMOVED


def test_a_change_that_would_leave_too_few_who_answer_is_refused_unless_that_is_wanted() -> None:
    for strict in (True, False):
        raft = established(strict_reconfiguration=strict)
        heartbeats(raft, 1.2, 2)  # 3 is silent
        if strict:
            assert refusal(raft, Change(remove=(2,))) is ChangeReason.NO_QUORUM
        else:
            raft.change_membership(Change(remove=(2,)), raft.now)
        assert refusal(raft, Change(remove=(1, 2, 3))) is not ChangeReason.NO_QUORUM


def test_who_leaves_need_not_answer_for_a_strict_change() -> None:
    raft = established()
    heartbeats(raft, 1.2, 2)
    raft.change_membership(Change(remove=(3,)), raft.now)


def test_the_caller_may_name_the_configuration_that_it_saw() -> None:
    raft = established()
    assert refusal(raft, Change(remove=(3,), expected_index=2)) is ChangeReason.OUTDATED
    raft.change_membership(Change(remove=(3,), expected_index=1), raft.now)


def test_only_a_leader_changes_the_membership_and_a_follower_asks_it() -> None:
    raft = core(term=2)
    with pytest.raises(NotLeader):
        raft.change_membership(Change(remove=(3,)), 0.0)
    with pytest.raises(NotLeader):
        raft.forward_change(5, Change(remove=(3,)), 0.0)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 0.0)
    raft.forward_change(5, Change(remove=(3,)), 0.0)
    assert ChangeMembership(2, 1, 2, 5, Change(remove=(3,))) in sent(raft)
    answer = ChangeMembershipReply(2, 2, 1, 5, 9)
    raft.step(answer, 0.0)
    ready: Any = raft.ready()
    assert ready.changes == (answer,)


def test_4_3_a_new_leader_goes_on_from_the_joint_configuration_that_it_finds() -> None:
    """It needs both majorities to be elected; it commits what it finds beneath its no-op, then leaves it."""
    joint = Configuration(voters=(1, 2, 3), outgoing=(1, 4, 5))
    raft = core(configuration=Configuration(voters=(1, 4, 5)))
    entry = Entry(2, 2, EntryKind.CONFIGURATION, encode_configuration(joint))
    raft.step(AppendEntries(2, 4, 1, 1, 1, 1, (entry,)), 0.0)
    sent(raft)
    raft.timeout(raft.deadline)
    assert [message.to for message in sent(raft)] == [2, 3, 4, 5]
    for voter in (4, 5):
        raft.step(PreVoteReply(3, voter, 1, True), raft.now)
    assert raft.role is Role.PRE_CANDIDATE, "only the outgoing half agrees"
    raft.step(PreVoteReply(3, 2, 1, True), raft.now)
    sent(raft)
    for voter in (4, 2):
        raft.step(RequestVoteReply(3, voter, 1, True), raft.now)
    assert raft.role is Role.LEADER
    sent(raft)
    acknowledge(raft, 2, 4)
    assert (raft.configuration.voters, raft.configuration.joint) == ((1, 2, 3), False)
    assert raft.configuration.removed == (4, 5)


def test_4_1_erratum_neither_does_a_new_leader_promote_before_it_has_committed_in_its_term() -> None:
    joining = Configuration(
        voters=(1, 2, 3),
        learners=(4,),
        members=tuple(Member(n, f"n{n}") for n in (1, 2, 3, 4)),
        joining=(4,),
    )
    raft = elected(configuration=joining)
    sent(raft)
    acknowledge(raft, 4)
    assert raft.configuration == joining
    acknowledge(raft, 2)
    assert raft.configuration.voters == (1, 2, 3, 4)


def test_4_2_1_a_learner_that_has_to_be_probed_again_is_not_promoted() -> None:
    raft = established(configuration=Configuration(voters=(1, 2, 3), learners=(4,)))
    raft.progress[4].become_probe(3)
    assert refusal(raft, Change(promote=(4,))) is ChangeReason.NOT_CAUGHT_UP
    acknowledge(raft, 4)
    raft.change_membership(Change(promote=(4,)), raft.now)
