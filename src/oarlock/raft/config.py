"""Every tunable of the core, with unit, default and effect; validated on construction."""

from __future__ import annotations

import msgspec

from oarlock.errors import UsageError


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one member of one group.

    Raises:
        UsageError: a value is out of its range; the message names it.
    """

    id: int
    """This member's id: not 0, at most 64 bits."""
    election_timeout: float = 0.5
    """Seconds without a leader before a member stands for election; each wait is drawn uniformly from
    [election_timeout, 2 × election_timeout) (dissertation 3.4). Also the time after which a leader that
    heard from no quorum steps down, and during which voters of a live leader ignore rivals (4.2.3)."""
    heartbeat_interval: float = 0.05
    """Seconds between a leader's heartbeats. Should be at most a fifth of the election timeout."""
    append_bytes_max: int = 1024 * 1024
    """Entry bytes in one AppendEntries (10.2.2); one entry larger than this still travels, alone."""
    inflight_messages_max: int = 256
    """AppendEntries with entries sent to one follower and not yet acknowledged."""
    inflight_bytes_max: int = 64 * 1024 * 1024
    """Their bytes. Bounds what one slow follower can hold up."""
    uncommitted_bytes_max: int = 64 * 1024 * 1024
    """Proposed and not yet committed; beyond it `Raft.propose` raises `Busy`."""
    committed_bytes_max: int = 4 * 1024 * 1024
    """Committed entries' bytes handed out in one Ready, so that applying never takes the loop for long."""
    pending_reads_max: int = 4096
    """Read contexts waiting for confirmation; beyond it `Raft.read` raises `Busy`."""

    def __post_init__(self) -> None:
        if not 0 < self.id < 1 << 64:
            raise UsageError(f"id must be in 1 … 2^64-1, not {self.id}")
        if not 0 < self.heartbeat_interval < self.election_timeout:
            raise UsageError(
                f"heartbeat_interval ({self.heartbeat_interval} s) must be above 0 and below "
                f"election_timeout ({self.election_timeout} s)"
            )
        for name in (
            "append_bytes_max",
            "inflight_messages_max",
            "inflight_bytes_max",
            "uncommitted_bytes_max",
            "committed_bytes_max",
            "pending_reads_max",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
