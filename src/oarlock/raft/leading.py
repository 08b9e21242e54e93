"""Leading: what only a leader keeps, from its election to its abdication."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from oarlock.errors import invariant
from oarlock.raft.messages import Propose
from oarlock.raft.progress import Progress
from oarlock.raft.types import Index, NodeId

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


_ROUNDS_MAX = 1024
"""A leader that is alone never hears an echo."""


class Transfer:
    """A leadership transfer under way (dissertation 3.10)."""

    __slots__ = ("deadline", "held", "held_bytes", "of_sick_disk", "target", "told")

    def __init__(self, target: NodeId, deadline: float, of_sick_disk: bool) -> None:
        self.target = target
        self.deadline = deadline
        """When it is given up."""
        self.of_sick_disk = of_sick_disk
        """We hand over because our disk hangs: if that fails, we step down all the same."""
        self.told = False
        """The target was told to stand for election since the last heartbeat."""
        self.held: deque[Propose] = deque()
        """What others want appended. Appended after all if the transfer is given up, else refused."""
        self.held_bytes = 0


class Leading:
    """Made by `oarlock.raft.leader.start`; read and written by the files that each do one part of leading."""

    __slots__ = (
        "first_index",
        "heartbeat_due",
        "lease_from",
        "lease_given_up",
        "preferred_at",
        "progress",
        "reads",
        "reads_before_first_commit",
        "reconfiguring",
        "round",
        "round_flushed",
        "rounds_begun",
        "transfer",
        "turns",
        "uncommitted_bytes",
    )

    def __init__(
        self, progress: dict[NodeId, Progress], first_index: Index, now: float, heartbeat_due: float
    ) -> None:
        self.progress = progress
        """The others, by id, in order of id; those that were removed until they have been told."""
        self.first_index = first_index
        """Our no-op: the first entry of our term. Reads and changes wait until it is committed (6.4, 4.1)."""
        self.heartbeat_due = heartbeat_due
        self.round = 1
        """The latest confirmation round."""
        self.round_flushed = 0
        """The latest one that went out. While it is behind `round`, more reads may join that one."""
        self.rounds_begun: deque[tuple[int, float]] = deque(((1, now),), maxlen=_ROUNDS_MAX)
        """Rounds that no quorum has echoed yet, and when they began. The oldest may be missing."""
        self.lease_from = -math.inf
        """When the latest round began that a quorum echoed: from then on they refuse other candidates."""
        self.lease_given_up = False
        """Somebody was asked to stand, and may do so at any time: no more leases in this term."""
        self.reads: deque[tuple[int, int, NodeId, Index]] = deque()
        """Reads to confirm: round, context, who asked, and the commit index when they came."""
        self.reads_before_first_commit: list[tuple[int, NodeId]] = []
        self.uncommitted_bytes = 0
        self.reconfiguring = True
        """Something may follow from the configuration in effect, or somebody who left is still to be told."""
        self.transfer: Transfer | None = None
        self.preferred_at = now
        """When we last tried to hand over to a member that operators prefer, or took over."""
        self.turns: dict[NodeId, float] = {}
        """Who may write a snapshot now, and until when we believe so."""

    def new_round(self, now: float) -> None:
        self.round += 1
        self.rounds_begun.append((self.round, now))


def leading_of(raft: Raft) -> Leading:
    invariant(raft.leading is not None, "only a leader does this")
    return raft.leading  # type: ignore[return-value]
