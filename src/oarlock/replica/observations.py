"""What one member noticed lately, for its status: how fast its disk is, and what became of its elections.

Kept always and cheaply, because the moment to ask is after the trouble began.
"""

from __future__ import annotations

from collections import deque

from oarlock.raft import NodeId, Term
from oarlock.raft.messages import PreVoteReply, RequestVoteReply

_WRITES = 512


class Answer:
    """What a member last said when we stood for election."""

    __slots__ = ("at", "granted", "pre", "reason", "term")

    def __init__(self, term: Term, granted: bool, pre: bool, reason: str, at: float) -> None:
        self.term = term
        self.granted = granted
        self.pre = pre
        """It was only asked whether it would."""
        self.reason = reason
        self.at = at


class Observations:
    """Write latencies and votes, the latest of each."""

    def __init__(self) -> None:
        self._writes: deque[float] = deque(maxlen=_WRITES)
        self.written = self._writes.append
        """A write became durable after so many seconds."""
        self.votes: dict[NodeId, Answer] = {}
        """Who answered what, by member."""

    def vote(self, message: PreVoteReply | RequestVoteReply, now: float) -> None:
        pre = isinstance(message, PreVoteReply)
        self.votes[message.sender] = Answer(message.term, message.granted, pre, message.reason, now)

    @property
    def last_write(self) -> float | None:
        """Seconds that the latest write took."""
        return self._writes[-1] if self._writes else None

    def write_quantile(self, share: float) -> float | None:
        """Seconds within which this share of the recent writes was done."""
        ordered = sorted(self._writes)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
