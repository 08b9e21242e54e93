"""A slow disk is not a dead member: heartbeats are answered at once, for what is already durable."""

from __future__ import annotations

from oarlock.raft.roles import Role

from .stage import Stage


def test_a_leader_keeps_its_office_while_its_only_follower_waits_for_its_disk() -> None:
    stage = Stage()
    stage.elect(1)
    term = stage[1].term
    stage.isolate(3)
    stage.slow(2)
    stage.propose(1, "x")
    stage.run(10.0)
    assert (stage[1].role, stage[1].term) == (Role.LEADER, term)
    stage.read(1, 7)
    stage.deliver()
    assert any("1 may serve read 7" in line for line in stage.lines), "reads do not wait for it either"
    assert stage[1].commit_index == stage[1].log.last_index - 1
    stage.sync(2)
    stage.deliver()
    assert stage[1].commit_index == stage[1].log.last_index
