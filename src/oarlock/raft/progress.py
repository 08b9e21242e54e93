"""Progress: a leader's view of one follower, and how fast it may send to it.

::

                  refused, or entries were lost
      PROBE ◀────────────────────────────────────── REPLICATE
      │ │ ▲     one message at a time until          ▲
      │ │ │     the logs are known to agree          │
      │ └─┼──────────────────────────────────────────┘
      │   │     the follower acknowledged: send ahead, up to the in-flight limits
      ▼   │
    SNAPSHOT    what it needs is not in the log any more: it fetches a snapshot, and gets no entries
"""

from __future__ import annotations

import enum
import math
from collections import deque

from oarlock.errors import invariant
from oarlock.raft.config import Config
from oarlock.raft.types import Index, StoredSnapshot


class ProgressState(enum.Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


TRANSITIONS: dict[ProgressState, tuple[ProgressState, ...]] = {
    ProgressState.PROBE: (ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT),
    ProgressState.REPLICATE: (ProgressState.PROBE, ProgressState.SNAPSHOT),
    ProgressState.SNAPSHOT: (ProgressState.REPLICATE,),
}
"""Where each state may go. Nothing but the `become_*` methods changes it, and they hold this table."""


class CatchUp:
    """Whether a learner keeps up, found out in rounds (dissertation 4.2.1).

    A round is the replication of all entries that the leader had when it began. The learner has caught up
    when a round took less than an election timeout: then its vote would hold up nobody for longer.
    """

    __slots__ = ("began", "done", "target")

    def __init__(self, target: Index, now: float) -> None:
        self.target = target
        self.began = now
        self.done = False
        """The last round that ended was a quick one."""

    def acknowledged(self, match_index: Index, last_index: Index, now: float, limit: float) -> None:
        if match_index >= self.target:
            # Nothing more to send: the next round would take no time at all.
            self.done = now - self.began < limit or match_index >= last_index
            self.target = last_index
            self.began = now

    def keeps_up(self, match_index: Index, now: float, limit: float) -> bool:
        return self.done and (match_index >= self.target or now - self.began < limit)


class Progress:
    """Invariant: `match_index` never falls within a term, and `match_index < next_index`."""

    __slots__ = (
        "_inflight",
        "catch_up",
        "commit_sent",
        "heard_at",
        "inflight_bytes",
        "leaving_until",
        "match_index",
        "next_index",
        "probe_sent",
        "received",
        "round",
        "round_sent",
        "snapshot",
        "state",
    )

    def __init__(self, next_index: Index, now: float) -> None:
        self.match_index: Index = 0
        """The follower's log equals ours up to here, durably."""
        self.next_index: Index = next_index
        """The next entry to send: a guess while probing, optimistic while replicating."""
        self.state = ProgressState.PROBE
        self.probe_sent = False
        """Probing, and the answer is outstanding."""
        self.snapshot: StoredSnapshot | None = None
        """What it was offered, while in the state SNAPSHOT. None there: there is none to offer yet."""
        self.received = 0
        """Bytes of it that it said to have."""
        self.round = 0
        """The latest confirmation round that it echoed."""
        self.round_sent = 0
        """The latest confirmation round that it was sent."""
        self.commit_sent: Index = 0
        """The latest commit index that it was sent."""
        self.heard_at = now
        """When it last answered in this term."""
        self.leaving_until = math.inf
        """It was removed: when we stop trying to tell it."""
        self.catch_up = CatchUp(next_index - 1, now)
        self.inflight_bytes = 0
        self._inflight: deque[tuple[Index, int]] = deque()

    @property
    def inflight_messages(self) -> int:
        return len(self._inflight)

    def may_send(self, config: Config) -> bool:
        if self.state is ProgressState.REPLICATE:
            return (
                len(self._inflight) < config.inflight_messages_max
                and self.inflight_bytes < config.inflight_bytes_max
            )
        return self.state is ProgressState.PROBE and not self.probe_sent

    def sent(self, last_index: Index, size: int) -> None:
        """Entries up to `last_index`, of `size` bytes, went out."""
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
            return
        self.next_index = last_index + 1
        self._inflight.append((last_index, size))
        self.inflight_bytes += size

    def acknowledged(self, match_index: Index) -> bool:
        """The follower holds all up to `match_index`. True if that is news."""
        inflight = self._inflight
        while inflight and inflight[0][0] <= match_index:
            self.inflight_bytes -= inflight.popleft()[1]
        news = match_index > self.match_index
        if news:
            self.match_index = match_index
            self.next_index = max(self.next_index, match_index + 1)
        return news

    def become_probe(self, next_index: Index) -> None:
        """Its log may not be what we thought: find out from `next_index`, one message at a time."""
        self._become(ProgressState.PROBE, max(next_index, self.match_index + 1))

    def become_replicate(self) -> None:
        """The logs are known to agree up to `match_index`: send ahead from there."""
        self._become(ProgressState.REPLICATE, self.match_index + 1)

    def become_snapshot(self) -> None:
        """What it needs was dropped from the log."""
        self._become(ProgressState.SNAPSHOT, self.next_index)

    def _become(self, state: ProgressState, next_index: Index) -> None:
        invariant(state in TRANSITIONS[self.state], f"no way from {self.state.value} to {state.value}")
        self.state = state
        self.next_index = next_index
        self.probe_sent = False
        self.snapshot = None
        self.received = 0
        self._inflight.clear()
        self.inflight_bytes = 0
