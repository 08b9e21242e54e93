"""Snapshots, as far as the core knows them: names of what replaces a prefix of the log (dissertation, 5.1).

The bytes of a snapshot never come here. The driver writes, sends and fetches them; the core says when, and
keeps the log's base, the configuration and the state machine's index together:

- *Trimming.* Applied entries are dropped from memory behind a tail for slow followers. This needs no
  snapshot: what is on disk stays until one covers it, and one is written when a follower needs it.
- *Offering.* A leader repeats InstallSnapshot, in place of heartbeats, until the follower has it.
- *Installing.* A follower whose log lacks the snapshot's last entry starts its log anew behind it. One that
  has this entry has all before it, too, and keeps its log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.errors import invariant
from oarlock.raft import trace
from oarlock.raft.leading import leading_of
from oarlock.raft.messages import InstallSnapshot, InstallSnapshotReply
from oarlock.raft.progress import Progress, ProgressState
from oarlock.raft.types import NOBODY, Index, LogBase, NodeId, Snapshot, StoredSnapshot

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft

_INSTALL_TIMEOUTS = 10
"""Election timeouts for which the log behind a snapshot is kept for a follower that fetched some of it and is
silent since: it may be busy with it, and what it fetched would be of no use without the log behind it."""


# ── what every member does ─────────────────────────────────────────────────────────────────────────────


def describe(raft: Raft, index: Index) -> Snapshot:
    """The snapshot of the prefix up to `index`, which is applied and still in the log (or its base)."""
    term = raft.log.term_at(index)
    invariant(
        index <= raft.applied_index and term is not None, f"a snapshot of index {index} cannot be named"
    )
    configuration_index, configuration = raft.configurations.at(index)
    time = raft.log.entry(index).time if index > raft.log.base_index else raft.clock.time
    raft.describing = index
    return Snapshot(index, term or 0, configuration, configuration_index, time)


def taken(raft: Raft, stored: StoredSnapshot) -> None:
    """We have written a snapshot of our own state."""
    invariant(stored.snapshot.index <= raft.applied_index, "a snapshot holds what was applied")
    raft.describing = 0
    if raft.snapshot is None or stored.snapshot.index > raft.snapshot.snapshot.index:
        raft.snapshot = stored
        if raft.trace is not None:
            raft.trace(trace.SnapshotTaken(raft.id, stored.snapshot.index, stored.size))
    if raft.leading is not None:
        # Those who waited for it have it on offer from now on, so that the log goes on from it until they are
        # told: with the next heartbeat.
        for progress in raft.leading.progress.values():
            if progress.state is ProgressState.SNAPSHOT and progress.snapshot is None:
                progress.snapshot = raft.snapshot


def trim(raft: Raft) -> None:
    """Drop applied entries from memory if there are a quarter more than should be kept."""
    log, kept = raft.log, raft.config.log_entries_kept
    if kept is None:
        return
    bytes_kept = raft.config.log_bytes_kept
    # Not one by one: moving up what is behind them should cost little for each.
    few = log.last_index - log.base_index <= kept + kept // 4
    if few and log.bytes <= bytes_kept + bytes_kept // 4:
        return
    limit = min(raft.applied_index, log.stored_index)
    if raft.leading is not None and log.bytes <= raft.config.log_bytes_max:
        limit = min(limit, _needed(raft))
    index = log.surplus(limit, kept, bytes_kept)
    if index > log.base_index:
        log.compact(index)
        raft.configurations.compacted(index)


def _needed(raft: Raft) -> Index:
    """Followers that answer need what comes behind this; for those that do not, nothing is kept."""
    needed = raft.log.last_index
    for progress in leading_of(raft).progress.values():
        fetches = progress.state is ProgressState.SNAPSHOT and progress.received
        patience = _INSTALL_TIMEOUTS if fetches else 1
        if raft.now - progress.heard_at >= patience * raft.config.election_timeout:
            continue
        if progress.state is not ProgressState.SNAPSHOT:
            needed = min(needed, max(progress.match_index, raft.log.base_index))
        elif progress.snapshot is not None:
            needed = min(needed, progress.snapshot.snapshot.index)
        elif raft.describing:
            # However long it takes to write: it is of no use if the log does not go on from it.
            needed = min(needed, raft.describing)
    return needed


# ── what a leader does ─────────────────────────────────────────────────────────────────────────────────


def offer(raft: Raft, peer: NodeId, progress: Progress) -> bool:
    """Name the snapshot to a follower that needs one. False if there is none to name yet."""
    if progress.snapshot is None or progress.snapshot.snapshot.index < raft.log.base_index:
        # Without one, or with one from which the log does not go on any more.
        progress.snapshot = raft.snapshot
        progress.received = 0
        if progress.snapshot is None or progress.snapshot.snapshot.index < raft.log.base_index:
            progress.snapshot = None
            # Nothing is written for who may be gone for good: it would be old again before it is back.
            if raft.now - progress.heard_at < raft.config.election_timeout:
                raft.outbox.take_snapshot = True
            return False
    stored = progress.snapshot
    progress.round_sent = leading_of(raft).round
    raft.send(
        InstallSnapshot(
            raft.term, raft.id, peer, stored.snapshot, stored.size, stored.checksum, progress.round_sent
        )
    )
    return True


# ── what a follower does ───────────────────────────────────────────────────────────────────────────────


def install_snapshot(raft: Raft, message: InstallSnapshot) -> None:
    """The leader has dropped what we lack. The term rule is settled, and the sender is our leader."""
    offered = message.snapshot
    raft.answered_round = max(raft.answered_round, message.round)
    match_index = 0
    if _covered(raft, offered):
        raft.commit(max(raft.commit_index, offered.index))
        raft.fetching = None
        match_index = min(raft.commit_index, raft.log.stored_index)
    elif raft.fetching is None or _differs(raft.fetching, message):
        raft.fetching = message
        raft.fetched_bytes = 0
        raft.outbox.fetch = message
    received = raft.fetched_bytes
    raft.send(InstallSnapshotReply(raft.term, raft.id, message.sender, match_index, message.round, received))


def received(raft: Raft, stored: StoredSnapshot) -> None:
    """A fetched snapshot is durable here: go on behind it, unless the log has got as far meanwhile."""
    snapshot = stored.snapshot
    raft.fetching = None
    if raft.snapshot is None or snapshot.index > raft.snapshot.snapshot.index:
        raft.snapshot = stored
    if _covered(raft, snapshot):
        raft.commit(max(raft.commit_index, snapshot.index))
        return
    invariant(raft.leading is None, "a leader's log holds all that was committed")
    raft.restart_log(snapshot)
    if raft.leader_id != NOBODY:
        raft.send_after_stored(
            InstallSnapshotReply(raft.term, raft.id, raft.leader_id, snapshot.index, raft.answered_round)
        )


def _covered(raft: Raft, snapshot: Snapshot) -> bool:
    """Whether we have the snapshot's last entry, and so all that it covers (the log matching property)."""
    return snapshot.index <= raft.commit_index or raft.log.term_at(snapshot.index) == snapshot.term


def _differs(one: InstallSnapshot, other: InstallSnapshot) -> bool:
    return (one.sender, one.snapshot.index, one.checksum) != (
        other.sender,
        other.snapshot.index,
        other.checksum,
    )


def base_of(snapshot: Snapshot) -> LogBase:
    return LogBase(snapshot.index, snapshot.term)
