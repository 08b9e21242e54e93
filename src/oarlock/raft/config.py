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
    log_entries_kept: int | None = None
    """Applied entries kept in memory for followers that are a little behind; those further behind get a
    snapshot (5.1). None keeps all: for state machines that have no snapshots."""
    log_bytes_kept: int = 8 * 1024 * 1024
    """Likewise, their data. The log is trimmed when it has a quarter more."""
    log_bytes_max: int = 128 * 1024 * 1024
    """Data of entries that a leader keeps for followers that answer but are further behind, or fetch a
    snapshot. Then they are dropped for these too."""
    lease_reads: bool = False
    """A leader answers reads without asking anyone while a quorum, heard lately, refuses every other
    candidate (6.4.1). Rests on clocks: no member's may run faster or slower than another's by more than
    `clock_drift_bound`. All members must have the same setting, and the same `election_timeout`."""
    clock_drift_bound: float = 0.1
    """By what share the members' clocks may differ in speed, for `lease_reads`."""
    disk_stall_timeout: float | None = None
    """Seconds that a write may be on its way to the disk before the disk counts as sick: a leader then hands
    over, and nobody with a sick disk stands for election. None: the election timeout."""
    strict_reconfiguration: bool = True
    """Refuse a change of the membership that would leave the cluster without a quorum of voters that are in
    touch with the leader now."""

    @property
    def stall_timeout(self) -> float:
        return self.election_timeout if self.disk_stall_timeout is None else self.disk_stall_timeout

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
            "log_bytes_kept",
            "log_bytes_max",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.log_entries_kept is not None and self.log_entries_kept < 0:
            raise UsageError(f"log_entries_kept must be at least 0, not {self.log_entries_kept}")
        if not 0 <= self.clock_drift_bound < 1:
            raise UsageError(f"clock_drift_bound must be in 0 … 1, not {self.clock_drift_bound}")
        if self.disk_stall_timeout is not None and not self.disk_stall_timeout > 0:
            raise UsageError(f"disk_stall_timeout must be above 0 s, not {self.disk_stall_timeout}")
