"""Learners get the log and are counted nowhere: nothing may wait for them (dissertation 4.2.1)."""

from __future__ import annotations

import random

from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap
from oarlock.raft.raft import Raft
from oarlock.raft.ready import Ready
from oarlock.raft.roles import Role
from oarlock.raft.types import Configuration


def duties(raft: Raft) -> list[Ready]:
    """Fulfil every duty but the sending of messages: the learner is away."""
    taken = []
    while (ready := raft.ready()) is not None:
        taken.append(ready)
        raft.stored(ready.number)
        if ready.committed:
            raft.applied(ready.committed[-1].index)
    return taken


def test_the_only_voter_needs_no_learner_to_lead_commit_or_read() -> None:
    state, entries = bootstrap(Configuration(voters=(1,), learners=(2,)))
    raft = Raft(Config(id=1), state, entries, random=random.Random(1), now=0.0)
    raft.timeout(raft.deadline)
    duties(raft)
    assert raft.role is Role.LEADER
    index = raft.propose([b"x"], raft.now)
    duties(raft)
    assert raft.commit_index == index
    raft.read(7, raft.now)
    assert [(state.context, state.index) for ready in duties(raft) for state in ready.reads] == [(7, index)]
    for _ in range(100):
        raft.timeout(raft.deadline)
        duties(raft)
    assert raft.role is Role.LEADER
