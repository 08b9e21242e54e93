"""The invariants notice: each is broken by hand, once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from oarlock.errors import InvariantViolated
from oarlock.raft import invariants
from oarlock.raft.leading import Transfer
from oarlock.raft.progress import ProgressState
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Configuration, Entry, HardState

from .stage import Stage


def cluster() -> Stage:
    """Three members; 1 leads term 2 and has committed indexes 1 to 3 everywhere."""
    stage = Stage()
    stage.elect(1)
    stage.propose(1, "a")
    stage.deliver()
    return stage


def drop_unapplied(raft: Raft) -> None:
    raft.log.compact(3)
    raft.applied_index = 2


STATES: dict[str, tuple[int, Callable[[Raft], object], str]] = {
    "commit beyond the log": (2, lambda raft: setattr(raft.log, "commit_index", 9), "commit <= last"),
    "applied beyond commit": (2, lambda raft: setattr(raft, "applied_index", 4), "applied <= commit"),
    "stored beyond the log": (2, lambda raft: setattr(raft.log, "stored_index", 9), "stored <= last"),
    "applied before stored": (2, lambda raft: setattr(raft.log, "stored_index", 2), "outruns"),
    "an entry of the future": (2, lambda raft: raft.log.append([Entry(4, 9)]), "later term than the member"),
    "a durable term not reached": (
        2,
        lambda raft: setattr(raft, "_durable", HardState(9, 0)),
        "a term that the member reached",
    ),
    "another durable vote": (
        2,
        lambda raft: setattr(raft, "_durable", HardState(2, 3)),
        "a durable vote is the vote",
    ),
    "a follower of itself": (2, lambda raft: setattr(raft, "leader_id", 2), "takes itself for the leader"),
    "a leader without a view of the others": (
        1,
        lambda raft: setattr(raft, "leading", None),
        "takes itself for the leader",
    ),
    "a candidate with a leader": (2, lambda raft: setattr(raft, "role", Role.CANDIDATE), "knows no leader"),
    "a leader that voted for another": (1, lambda raft: setattr(raft, "voted_for", 3), "a durable vote"),
    "a leader whose term is not durable": (
        1,
        lambda raft: setattr(raft, "_durable", HardState(1, 0)),
        "a leader's term and vote are durable",
    ),
    "a leader without an entry of its term": (
        1,
        lambda raft: raft.log._entries.__setitem__(2, Entry(3, 1)),
        "own term",
    ),
    "a match beyond next": (
        1,
        lambda raft: setattr(raft.progress[2], "match_index", 4),
        "match < next <= last",
    ),
    "something dropped that is not committed": (
        2,
        lambda raft: setattr(raft.log, "base_index", 9),
        "not both committed and stored",
    ),
    "something dropped that was not applied": (2, drop_unapplied, "dropped that was not applied"),
    "a member that the leader lost sight of": (
        1,
        lambda raft: raft.progress.pop(2),
        "follows up on every other member",
    ),
    "a leader that hands over to itself": (
        1,
        lambda raft: setattr(raft.leading, "transfer", Transfer(1, 0.0, False)),
        "handed to somebody else",
    ),
    "a snapshot for who needs none": (
        1,
        lambda raft: setattr(raft.progress[2], "state", ProgressState.SNAPSHOT),
        "lacks what was dropped",
    ),
    "next beyond the log": (
        1,
        lambda raft: setattr(raft.progress[2], "next_index", 5),
        "match < next <= last",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_cannot_be_is_noticed(name: str) -> None:
    node_id, tamper, message = STATES[name]
    raft = cluster()[node_id]
    invariants.check(raft)
    invariants.check_log(raft)
    tamper(raft)
    with pytest.raises(InvariantViolated, match=message):
        invariants.check(raft)


def test_a_log_with_a_hole_or_a_falling_term_is_noticed() -> None:
    for wrong in (Entry(7, 2), Entry(3, 1)):
        raft = cluster()[2]
        raft.log._entries[2] = wrong
        with pytest.raises(InvariantViolated, match=r"consecutive|never fall"):
            invariants.check_log(raft)


def _become(raft: Raft, role: Role, leader_id: int) -> None:
    raft.role, raft.leader_id = role, leader_id


def _change(raft: Raft, index: int, *voters: int) -> None:
    raft.configurations._stack.append((index, Configuration(voters)))


STEPS: dict[str, tuple[int, Callable[[Raft], object], str]] = {
    "the term falls": (2, lambda raft: setattr(raft, "term", 1), "term never falls"),
    "the commit index falls": (
        2,
        lambda raft: setattr(raft.log, "commit_index", 2),
        "commit index never falls",
    ),
    "the applied index falls": (
        2,
        lambda raft: setattr(raft, "applied_index", 1),
        "applied index never falls",
    ),
    "a committed entry changes": (
        2,
        lambda raft: raft.log._entries.__setitem__(2, Entry(3, 1)),
        "committed entries never change",
    ),
    "a second vote": (2, lambda raft: setattr(raft, "voted_for", 3), "vote is cast once"),
    "a second leader": (2, lambda raft: setattr(raft, "leader_id", 3), "a term has one leader"),
    "elected without an election": (2, lambda raft: _become(raft, Role.LEADER, 0), "table of transitions"),
    "candidate without a new term": (
        2,
        lambda raft: _become(raft, Role.CANDIDATE, 0),
        "table of transitions",
    ),
    "leader of the next term": (1, lambda raft: setattr(raft, "term", 3), "leads one term only"),
    "a leader overwrites its log": (
        1,
        lambda raft: (setattr(raft.log, "commit_index", 3), raft.log._entries.__setitem__(3, Entry(4, 1))),
        "only appends",
    ),
    "two voters changed at once": (1, lambda raft: _change(raft, 5, 1), "majorities of consecutive"),
    "a configuration without voters": (1, lambda raft: _change(raft, 5), "well formed"),
    "a leader commits an entry of an earlier term": (
        1,
        lambda raft: (raft.log._entries.__setitem__(3, Entry(4, 1)), setattr(raft.log, "commit_index", 4)),
        "only appends|own term",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_cannot_be_is_noticed(name: str) -> None:
    node_id, tamper, message = STEPS[name]
    stage = cluster()
    stage.propose(1, "not committed")
    raft = stage[node_id]
    before = invariants.View(raft)
    invariants.check_step(before, invariants.View(raft))
    tamper(raft)
    with pytest.raises(InvariantViolated, match=message):
        invariants.check_step(before, invariants.View(raft))


def test_commit_of_an_entry_of_an_earlier_term_by_counting_is_noticed() -> None:
    stage = Stage()
    stage.elect(1)
    stage.crash(1)
    stage.elect(2)
    raft = stage[2]
    raft.log.commit_index = 1
    before = invariants.View(raft)
    raft.log.commit_index = 2  # of term 2, in term 3
    with pytest.raises(InvariantViolated, match="entries of its own term"):
        invariants.check_step(before, invariants.View(raft))


def test_a_view_names_what_a_reader_needs() -> None:
    assert repr(invariants.View(cluster()[1])) == (
        "LEADER 1 term=2 vote=1 leader=1 last=(3,2) stored=3 commit=3 applied=3"
    )


def test_a_second_change_before_the_first_is_committed_is_noticed() -> None:
    raft = cluster()[1]
    _change(raft, 4, 1, 2)
    before = invariants.View(raft)
    _change(raft, 5, 1)
    with pytest.raises(InvariantViolated, match="once the last change is committed"):
        invariants.check_step(before, invariants.View(raft))


def test_a_change_before_the_leader_has_committed_in_its_term_is_noticed() -> None:
    raft = cluster()[1]
    before = invariants.View(raft)
    raft.log._entries[2] = Entry(3, 1)
    before.commit_term = 1
    _change(raft, 4, 1, 2)
    with pytest.raises(InvariantViolated, match="committed in its term"):
        invariants.check_step(before, invariants.View(raft))
