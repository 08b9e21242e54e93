"""Progress: a leader's view of one follower, and how fast it may send to it.

::

           refused, or entries were lost
    PROBE ◀────────────────────────────── REPLICATE
      │    one message at a time until     ▲
      │    the logs are known to agree     │
      └────────────────────────────────────┘
             the follower acknowledged: send ahead, up to the in-flight limits
"""

from __future__ import annotations

import enum
from collections import deque

from oarlock.raft.config import Config
from oarlock.raft.types import Index


class ProgressState(enum.Enum):
    PROBE = "probe"
    REPLICATE = "replicate"


class Progress:
    """Invariant: `match_index` never falls within a term, and `match_index < next_index`."""

    __slots__ = (
        "_inflight",
        "commit_sent",
        "heard_at",
        "inflight_bytes",
        "match_index",
        "next_index",
        "probe_sent",
        "round",
        "round_sent",
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
        self.round = 0
        """The latest confirmation round that it echoed."""
        self.round_sent = 0
        """The latest confirmation round that it was sent."""
        self.commit_sent: Index = 0
        """The latest commit index that it was sent."""
        self.heard_at = now
        """When it last answered in this term."""
        self.inflight_bytes = 0
        self._inflight: deque[tuple[Index, int]] = deque()

    @property
    def inflight_messages(self) -> int:
        return len(self._inflight)

    def may_send(self, config: Config) -> bool:
        if self.state is ProgressState.PROBE:
            return not self.probe_sent
        return (
            len(self._inflight) < config.inflight_messages_max
            and self.inflight_bytes < config.inflight_bytes_max
        )

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
        self.state = ProgressState.PROBE
        self.probe_sent = False
        self.next_index = max(next_index, self.match_index + 1)
        self._inflight.clear()
        self.inflight_bytes = 0

    def become_replicate(self) -> None:
        """The logs are known to agree up to `match_index`: send ahead from there."""
        self.state = ProgressState.REPLICATE
        self.probe_sent = False
        self.next_index = self.match_index + 1
        self._inflight.clear()
        self.inflight_bytes = 0
