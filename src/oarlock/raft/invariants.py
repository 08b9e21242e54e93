"""What must always be true of one member: of each state, and of the step between two states.

The idea is LogCabin's: a short list of properties, checked after every step in tests and in the simulator, finds
most bugs at the step that makes them, long before two members disagree. Nothing here belongs to the algorithm:
a `Raft` never calls it.

::

    before = View(raft)
    raft.step(message, now)
    check(raft)                         # one state
    after = View(raft)
    check_step(before, after)           # two states

Both raise `InvariantViolated` with the member's id, the property and the values that break it. A check costs a few
microseconds whatever the length of the log: it looks at the log's ends and not at its middle. Properties that take
several members (one leader per term, log matching, state machine safety) need an observer who sees all of them: the
simulator, or `tests/raft/checkers.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.errors import InvariantViolated
from oarlock.raft.types import NOBODY, Configuration, Index, NodeId, Role, Term

if TYPE_CHECKING:
    from oarlock.raft.log import RaftLog
    from oarlock.raft.raft import Raft


class View:
    """The part of a member's state that `check_step` compares, captured at one moment.

    `log` is the live log, not a copy: of two views, only the later one's log may be read, and only until the
    member's next step.
    """

    __slots__ = (
        "applied_index",
        "commit_index",
        "commit_term",
        "id",
        "last_index",
        "last_term",
        "leader_id",
        "log",
        "role",
        "stored_index",
        "stored_term",
        "term",
        "voted_for",
    )

    def __init__(self, raft: Raft) -> None:
        log = raft.log
        self.id: NodeId = raft.id
        self.term: Term = raft.term
        self.voted_for: NodeId = raft.voted_for
        self.role: Role = raft.role
        self.leader_id: NodeId = raft.leader_id
        self.commit_index: Index = raft.commit_index
        self.applied_index: Index = raft.applied_index
        self.last_index: Index = log.last_index
        self.last_term: Term = log.last_term
        self.stored_index: Index = log.stored_index
        self.commit_term: Term | None = log.term_at(self.commit_index)
        self.stored_term: Term | None = log.term_at(self.stored_index)
        self.log: RaftLog = log

    def __repr__(self) -> str:
        return (
            f"{self.role.name} {self.id:x} term={self.term} vote={self.voted_for:x} leader={self.leader_id:x} "
            f"last=({self.last_index},{self.last_term}) stored={self.stored_index} "
            f"commit={self.commit_index} applied={self.applied_index}"
        )
