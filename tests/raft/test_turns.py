"""Turns at writing snapshots: at most a minority of the voters at once (dissertation 5.1.2)."""

from __future__ import annotations

from typing import Any

import pytest

from oarlock.raft import turns
from oarlock.raft.messages import AppendEntries, SnapshotTurn, SnapshotTurnReply
from oarlock.raft.raft import Raft

from .alone import core, established, sent


def ask(raft: Raft, *members: int, done: bool = False) -> list[bool]:
    """Members ask the leader. Returns its answers."""
    for node_id in members:
        raft.step(SnapshotTurn(raft.term, node_id, raft.id, done), raft.now)
    return [message.granted for message in sent(raft) if isinstance(message, SnapshotTurnReply)]


@pytest.mark.parametrize(("size", "minority"), [(2, 1), (3, 1), (4, 1), (5, 2), (7, 3)])
def test_so_many_write_at_once_that_the_others_are_a_majority(size: int, minority: int) -> None:
    raft = established(size=size)
    assert ask(raft, *range(2, size + 1)).count(True) == min(minority, size - 1)


def test_who_asks_again_keeps_its_turn() -> None:
    raft = established()
    assert ask(raft, 2, 3, 2) == [True, False, True]


def test_a_turn_that_is_given_back_goes_to_the_next() -> None:
    raft = established()
    ask(raft, 2)
    assert ask(raft, 2, done=True) == []
    assert ask(raft, 3) == [True]


def test_a_turn_of_a_member_that_died_runs_out() -> None:
    raft = established()
    ask(raft, 2)
    raft.now += turns.TURN_SECONDS - 0.1
    assert ask(raft, 3) == [False]
    raft.now += 0.2
    assert ask(raft, 3) == [True]


def test_the_leader_takes_turns_like_everybody() -> None:
    raft = established()
    ask(raft, 2)
    raft.ask_for_snapshot_turn(raft.now)
    assert raft.ready() is None
    ask(raft, 2, done=True)
    raft.ask_for_snapshot_turn(raft.now)
    ready: Any = raft.ready()
    assert ready.take_snapshot
    assert ask(raft, 3) == [False]
    raft.snapshot_turn_done(raft.now)
    assert ask(raft, 3) == [True]


def test_a_follower_asks_its_leader_and_is_told_or_hears_nothing() -> None:
    raft = core(term=2)
    raft.ask_for_snapshot_turn(0.0)
    assert sent(raft) == [], "nobody leads: ask again later"
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 0.0)
    raft.ask_for_snapshot_turn(0.0)
    assert SnapshotTurn(2, 1, 2) in sent(raft)
    raft.step(SnapshotTurnReply(2, 2, 1, False), 0.0)
    assert raft.ready() is None
    raft.step(SnapshotTurnReply(2, 2, 1, True), 0.0)
    ready: Any = raft.ready()
    assert ready.take_snapshot
    raft.snapshot_turn_done(0.0)
    assert sent(raft) == [SnapshotTurn(2, 1, 2, done=True)]
