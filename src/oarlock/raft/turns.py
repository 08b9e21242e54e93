"""Turns at writing snapshots: at most a minority of the voters at once (dissertation 5.1.2).

A member that writes a snapshot is slow for a while. While that is true of a minority only, the others commit
without it. The leader grants turns; they are a courtesy and not a promise, so they are forgotten with the
leader, and run out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.raft.leading import leading_of
from oarlock.raft.messages import SnapshotTurn, SnapshotTurnReply
from oarlock.raft.types import NOBODY, NodeId

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft

TURN_SECONDS = 120.0
"""A member that has not given its turn back by then has probably died."""


def ask(raft: Raft, done: bool) -> None:
    """Ask the leader for a turn, or give one back. Without a leader nothing happens: ask again later."""
    if raft.leading is not None:
        message = SnapshotTurn(raft.term, raft.id, raft.id, done)
        if judge(raft, message):
            raft.outbox.take_snapshot = True
    elif raft.leader_id != NOBODY:
        raft.send(SnapshotTurn(raft.term, raft.id, raft.leader_id, done))


def step(raft: Raft, message: SnapshotTurn) -> None:
    """A member asks us, who lead."""
    granted = judge(raft, message)
    if not message.done:
        raft.send(SnapshotTurnReply(raft.term, raft.id, message.sender, granted))


def judge(raft: Raft, message: SnapshotTurn) -> bool:
    turns = leading_of(raft).turns
    _forget_old(raft, turns)
    if message.done:
        turns.pop(message.sender, None)
        return False
    minority = max(1, (len(raft.configuration.voters) - 1) // 2)
    if message.sender not in turns and len(turns) >= minority:
        return False
    turns[message.sender] = raft.now + TURN_SECONDS
    return True


def _forget_old(raft: Raft, turns: dict[NodeId, float]) -> None:
    for node_id in [node_id for node_id, until in turns.items() if until <= raft.now]:
        del turns[node_id]
