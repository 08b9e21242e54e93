"""What a leader may be made to remember has a bound; beyond it, it is busy."""

from __future__ import annotations

import pytest

from oarlock.errors import Busy
from oarlock.raft.messages import ReadIndex, ReadIndexReply
from oarlock.raft.roles import Role

from .stage import Stage


def test_reads_that_wait_for_a_leader_are_bounded() -> None:
    stage = Stage(pending_reads_max=2)
    stage.elect(1)
    stage.isolate(1)
    stage.read(1, 7)
    stage.step(ReadIndex(stage[1].term, 2, 1, 8))
    with pytest.raises(Busy):
        stage.read(1, 9)
    stage.heal()
    stage.step(ReadIndex(stage[1].term, 2, 1, 10))
    assert [m for m in stage.queue if isinstance(m, ReadIndexReply)] == [
        ReadIndexReply(stage[1].term, 1, 2, 10, 0)
    ]


def test_reads_that_wait_for_a_new_leaders_first_commit_are_bounded() -> None:
    stage = Stage(pending_reads_max=2)
    stage.timeout(1)
    for _ in range(2):
        stage.deliver(1, 2)
        stage.deliver(2, 1)
    assert stage[1].role is Role.LEADER
    stage.read(1, 7)
    stage.read(1, 8)
    with pytest.raises(Busy):
        stage.read(1, 9)


def test_what_a_new_leader_finds_uncommitted_counts() -> None:
    stage = Stage(uncommitted_bytes_max=10)
    stage.elect(1)
    stage.propose(1, "8 bytes.")
    stage.deliver(1, 2)
    stage.crash(1)
    stage.timeout(2)
    for _ in range(2):
        stage.deliver(2, 3)
        stage.deliver(3, 2)
    assert stage[2].role is Role.LEADER
    with pytest.raises(Busy):
        stage.propose(2, "abc")
    stage.propose(2, "ab")
    stage.deliver()
    stage.propose(2, "8 bytes.", "ab")
