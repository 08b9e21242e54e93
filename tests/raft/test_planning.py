"""Which configuration follows from a change: whatever is asked, in whatever order, the results are sound.

The property that everything rests on: of two configurations that can be in effect one after the other, any
quorum of the one shares a member with any quorum of the other (dissertation 4.1, 4.3).
"""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import ChangeReason, ChangeRefused
from oarlock.raft.membership import MEMBERS_MAX, REMOVED_MAX, after_joint, planned
from oarlock.raft.quorum import majority
from oarlock.raft.types import Change, Configuration, Member

IDS = st.lists(st.integers(1, 7), max_size=4, unique=True).map(tuple)
CHANGES = st.builds(
    lambda add, learners, promote, demote, remove: Change(
        add=tuple(map(member, add)), learners=learners, promote=promote, demote=demote, remove=remove
    ),
    IDS,
    st.booleans(),
    IDS,
    IDS,
    IDS,
)


def member(node_id: int) -> Member:
    return Member(node_id, f"n{node_id}", (f"http://h{node_id}:1",))


def cluster(*voters: int, learners: tuple[int, ...] = ()) -> Configuration:
    ids = sorted((*voters, *learners))
    return Configuration(voters=voters, learners=learners, members=tuple(map(member, ids)))


def plan(configuration: Configuration, change: Change) -> Configuration:
    return planned(configuration, change, lambda learner: True)


def refusal(configuration: Configuration, change: Change, caught_up: bool = True) -> ChangeReason:
    with pytest.raises(ChangeRefused) as refused:
        planned(configuration, change, lambda learner: caught_up)
    return refused.value.reason


def quorums(configuration: Configuration) -> list[frozenset[int]]:
    """All minimal sets whose agreement counts."""
    halves = [
        [frozenset(chosen) for chosen in combinations(half, majority(len(half)))]
        for half in (configuration.voters, configuration.outgoing)
        if half
    ]
    if len(halves) == 1:
        return halves[0]
    return [one | other for one in halves[0] for other in halves[1]]


def overlap(one: Configuration, other: Configuration) -> bool:
    return all(a & b for a in quorums(one) for b in quorums(other))


@settings(max_examples=150, deadline=None)
@given(st.lists(CHANGES, max_size=12))
def test_any_walk_of_changes_is_sound_and_safe_at_every_step(changes: list[Change]) -> None:
    """4.1, 4.3: well formed, and every quorum meets every quorum of the step before."""
    configuration = cluster(1, 2, 3)
    for change in changes:
        try:
            following = plan(configuration, change)
        except ChangeRefused:
            continue
        steps = [following, *([after_joint(following)] if following.joint else [])]
        for step in steps:
            assert step.problem() is None
            assert overlap(configuration, step)
            configuration = step
        assert not configuration.joint
        assert not {*change.remove} & {*configuration.ids}
        assert {*change.promote} <= {*configuration.voters}
        assert {*change.demote} <= {*configuration.learners}
        assert {each.id for each in change.add} <= {*configuration.learners}


@settings(max_examples=100, deadline=None)
@given(CHANGES)
def test_joint_consensus_is_used_exactly_where_two_majorities_might_miss_each_other(change: Change) -> None:
    before = cluster(1, 2, 3, 4, learners=(5, 6))
    try:
        first = plan(before, change)
    except ChangeRefused:
        return
    final = after_joint(first) if first.joint else first
    assert first.joint == (len({*before.voters} ^ {*final.voters}) > 1)
    if first.joint:
        assert first.outgoing == before.voters
        assert first.voters == final.voters


def test_4_1_one_voter_more_or_less_is_one_step() -> None:
    assert plan(cluster(1, 2, 3, learners=(4,)), Change(promote=(4,))) == cluster(1, 2, 3, 4)
    removed = plan(cluster(1, 2, 3), Change(remove=(2,)))
    assert (removed.voters, removed.joint, removed.removed) == ((1, 3), False, (2,))
    demoted = plan(cluster(1, 2, 3), Change(demote=(2,)))
    assert (demoted.voters, demoted.learners, demoted.joint) == ((1, 3), (2,), False)


def test_4_3_several_at_once_go_through_a_joint_configuration_that_holds_all_that_is_needed_to_leave_it() -> (
    None
):
    """So whoever leads then leaves it, and needs to know nothing else."""
    before = cluster(1, 2, 3, learners=(4, 5))
    joint = plan(before, Change(promote=(4,), demote=(2,), remove=(3,)))
    assert (joint.voters, joint.outgoing, joint.learners) == ((1, 4), (1, 2, 3), (5,))
    assert joint.demoted == (2,)
    assert [each.id for each in joint.members] == [1, 2, 3, 4, 5]
    final = after_joint(joint)
    assert (final.voters, final.learners, final.removed) == ((1, 4), (2, 5), (3,))
    assert [each.id for each in final.members] == [1, 2, 4, 5]


def test_4_2_1_who_is_added_comes_in_as_a_learner_and_joins_unless_it_is_to_stay_one() -> None:
    joins = plan(cluster(1), Change(add=(member(2),)))
    assert (joins.voters, joins.learners, joins.joining) == ((1,), (2,), (2,))
    stays = plan(cluster(1), Change(add=(member(2),), learners=True))
    assert (stays.learners, stays.joining) == ((2,), ())
    assert plan(joins, Change(promote=(2,))).joining == ()
    assert plan(joins, Change(remove=(2,))).joining == ()


def test_members_are_renamed_and_moved_and_given_priorities() -> None:
    moved = Member(2, "second", ("http://elsewhere:1",), priority=5)
    result = plan(cluster(1, 2), Change(update=(moved,)))
    assert result.member(2) == moved
    assert (result.voters, result.joint) == ((1, 2), False)


def test_a_configuration_without_names_takes_members_that_have_some() -> None:
    result = plan(Configuration(voters=(1, 2)), Change(add=(member(3),)))
    assert result.problem() is None
    assert result.member(3) == member(3)
    assert plan(Configuration(voters=(1, 2)), Change(update=(member(2),))).member(2) == member(2)
    assert plan(Configuration(voters=(1, 2)), Change(remove=(2,))).members == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Change(), ChangeReason.INVALID),
        (Change(remove=(3,), demote=(3,)), ChangeReason.INVALID),
        (Change(add=(Member(0, "x"),)), ChangeReason.INVALID),
        (Change(add=(Member(1 << 64, "x"),)), ChangeReason.INVALID),
        (Change(add=tuple(map(member, range(10, 10 + MEMBERS_MAX)))), ChangeReason.INVALID),
        (Change(demote=(4,)), ChangeReason.INVALID),
        (Change(add=(member(2),)), ChangeReason.ALREADY_THERE),
        (Change(add=(Member(9, "n2"),)), ChangeReason.ALREADY_THERE),
        (Change(add=(Member(9, "nine", ("http://h2:1",)),)), ChangeReason.ALREADY_THERE),
        (Change(update=(Member(1, "n2"),)), ChangeReason.ALREADY_THERE),
        (Change(add=(member(8),)), ChangeReason.WAS_REMOVED),
        (Change(remove=(8,)), ChangeReason.WAS_REMOVED),
        (Change(remove=(77,)), ChangeReason.NOT_FOUND),
        (Change(update=(member(77),)), ChangeReason.NOT_FOUND),
        (Change(promote=(2,)), ChangeReason.NOT_A_LEARNER),
        (Change(remove=(1, 2, 3)), ChangeReason.LAST_VOTER),
        (Change(demote=(1, 2, 3)), ChangeReason.LAST_VOTER),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_reason(change: Change, reason: ChangeReason) -> None:
    before = plan(cluster(1, 2, 3, 8, learners=(4,)), Change(remove=(8,)))
    assert refusal(before, change) is reason


def test_4_2_1_a_learner_that_is_behind_is_not_promoted() -> None:
    before = cluster(1, 2, learners=(3,))
    assert refusal(before, Change(promote=(3,)), caught_up=False) is ChangeReason.NOT_CAUGHT_UP


def test_only_so_many_removed_ids_are_remembered_and_the_oldest_is_forgotten_first() -> None:
    configuration = cluster(1)
    for node_id in range(2, REMOVED_MAX + 4):
        configuration = plan(configuration, Change(add=(member(node_id),)))
        configuration = plan(configuration, Change(remove=(node_id,)))
    assert configuration.removed == tuple(range(4, REMOVED_MAX + 4))
