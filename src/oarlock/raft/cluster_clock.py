"""The cluster's clock: milliseconds for which the cluster has been up, agreed through the log.

Whatever expires on all members alike (client sessions, leases) has to expire at an entry and not at a time
of day. So a leader stamps every command with this clock (dissertation 6.3). A new leader goes on from the
last stamp in its log plus the time since that came in, by its own clock: so time never falls, stands still
while no member runs, and no wall clock has a say.
"""

from __future__ import annotations

from oarlock.raft.types import Milliseconds


class ClusterClock:
    """One member's view of it.

    Args:
        time: the last stamp that is known.
        now: seconds on the member's own clock.
    """

    __slots__ = ("_known_at", "time")

    def __init__(self, time: Milliseconds, now: float) -> None:
        self.time: Milliseconds = time
        """The latest stamp."""
        self._known_at = now

    def read(self, now: float) -> Milliseconds:
        """The time now, for a leader's next stamp: never less than one that is in the log."""
        return self.time + max(0, int((now - self._known_at) * 1000))

    def stamped(self, time: Milliseconds, now: float) -> None:
        """An entry with this stamp was appended to the log."""
        if time < self.time:
            return
        if time == self.read(now):
            # A stamp of our own: what it lacks to the time now is less than a millisecond, and is kept. Else
            # a leader that stamps a thousand times a second would hold the clock.
            self._known_at += (time - self.time) / 1000
        else:
            self._known_at = now
        self.time = time
