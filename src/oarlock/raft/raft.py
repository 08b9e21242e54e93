"""Raft: one member's state, its transitions, and the doors through which everything comes in.

The term rule, one for all messages, is settled first in `step`; then the current role's file decides:
`follower`, `candidate`, `leader`. Votes are judged in `votes`, whatever the role.

Input comes in through the doors, changes state and leaves duties in the outbox; `ready` hands them out.
"""

from __future__ import annotations

import math
import random as random_module
from collections import deque
from collections.abc import Callable, Sequence

from oarlock.errors import NotLeader, invariant
from oarlock.raft import (
    candidate,
    follower,
    leader,
    reading,
    reconfiguration,
    snapshots,
    term_rule,
    trace,
    transfer,
    turns,
    votes,
)
from oarlock.raft.cluster_clock import ClusterClock
from oarlock.raft.config import Config
from oarlock.raft.leading import Leading
from oarlock.raft.log import RaftLog
from oarlock.raft.membership import ConfigurationHistory
from oarlock.raft.messages import (
    ChangeMembership,
    ChangeMembershipReply,
    InstallSnapshot,
    Message,
    PreVote,
    Propose,
    ProposeReply,
    RequestVote,
    SnapshotTurnReply,
)
from oarlock.raft.outbox import Outbox
from oarlock.raft.progress import Progress
from oarlock.raft.ready import Ready
from oarlock.raft.roles import TRANSITIONS, Role
from oarlock.raft.types import (
    NOBODY,
    Change,
    Configuration,
    Entry,
    HardState,
    Index,
    LogBase,
    NodeId,
    ReadState,
    Snapshot,
    StoredSnapshot,
    Term,
)


class _Storing:
    """A Ready on its way to the disk: what will be durable once `stored` is called for it."""

    __slots__ = ("hard_state", "last_index", "number", "since")

    def __init__(self, number: int, hard_state: HardState | None, last_index: Index, since: float) -> None:
        self.number = number
        self.hard_state = hard_state
        self.last_index = last_index
        self.since = since


class Raft:
    """One member of one group. Not thread-safe, never blocks, knows neither clock nor disk nor network.

    After every call that changes something, the driver takes `ready()` until it returns None and fulfils
    it (see `oarlock.raft.ready`), then calls `timeout` when the clock reaches `deadline`.

    Args:
        config: the settings; `config.id` is this member.
        hard_state: what was stored last.
        entries: the stored log, behind `base`. A new cluster's comes from `bootstrap`; a member that joins a
            running one starts with nothing, and waits for a leader to send it all.
        random: the source of election timeouts. Seeded alike, a run repeats exactly.
        now: seconds on any monotonic clock; later calls must use the same one.
        applied_index: what the state machine already holds: at least `base.index`.
        base: what comes before the first of `entries`.
        snapshot: the newest durable one. Needed if `base` is not the beginning, and not before it.
        trace: receives every `oarlock.raft.trace.Event`.

    Raises:
        StorageError: the stored log does not hold together, or ends before what was applied.
    """

    def __init__(
        self,
        config: Config,
        hard_state: HardState,
        entries: Sequence[Entry],
        *,
        random: random_module.Random,
        now: float,
        applied_index: Index = 0,
        base: LogBase | None = None,
        snapshot: StoredSnapshot | None = None,
        trace: Callable[[trace.Event], None] | None = None,
    ) -> None:
        self.config = config
        self.id: NodeId = config.id
        self.term: Term = hard_state.term
        self.voted_for: NodeId = hard_state.voted_for
        self.role = Role.FOLLOWER
        self.leader_id: NodeId = NOBODY
        if snapshot is not None and snapshot.snapshot.term > self.term:
            # The snapshot was durable before the term was: in that term we have promised nothing yet.
            self.term, self.voted_for = snapshot.snapshot.term, NOBODY
        covered = 0 if snapshot is None else snapshot.snapshot.index
        self.log = RaftLog(entries, max(hard_state.commit_index, applied_index, covered), base)
        invariant(
            self.log.base_index <= min(covered, applied_index),
            "what the log does not hold is in a snapshot, and in the state machine",
        )
        self.applied_index: Index = applied_index
        self.snapshot = snapshot
        """The newest that is durable here: its log's base is never behind it on disk."""
        self.now = now
        """The latest time that any call brought."""
        self.heard_leader_at = -math.inf
        """When the current leader was last heard; rivals are ignored for a while after (4.2.3)."""
        self._leader_lost_at = -math.inf
        """When the driver said that the leader's process is gone."""
        self.votes: dict[NodeId, bool] = {}
        """Answers to the election that we are standing in."""
        self.leading: Leading | None = None
        """What only a leader keeps. Not None exactly while the role is LEADER."""
        self.answered_round = 0
        """The latest confirmation round of the current leader that was answered."""
        self.lease_granted_until = now + config.election_timeout if config.lease_reads else -math.inf
        """Until then some leader may count on us to refuse its rivals (6.4.1). Whoever has just started does
        not know whom it heard before."""
        self.fetching: InstallSnapshot | None = None
        """The snapshot that the driver was asked to fetch."""
        self.fetched_bytes = 0
        self.describing: Index = 0
        """Where the snapshot of our own state ends that is being written; 0 if none is."""
        self.installing: Index = 0
        """The snapshot that the state machine's state is being replaced by; 0 if there is none."""

        self._random = random
        self.trace = trace
        self.configurations = ConfigurationHistory(None if snapshot is None else snapshot.snapshot)
        self.configurations.appended(entry for entry in entries if entry.index > self.configurations.index)
        self.clock = ClusterClock(0 if snapshot is None else snapshot.snapshot.time, now)
        if entries:
            self.clock.stamped(entries[-1].time, now)
        self.outbox = Outbox()
        self._durable = HardState(hard_state.term, hard_state.voted_for)
        self._handed_out = self._durable
        self._next_to_store: Index = self.log.last_index + 1
        self._next_to_apply: Index = applied_index + 1
        self._storing: deque[_Storing] = deque()
        self._forwarded_reads: dict[int, float] = {}
        """Reads that the leader was asked about: context, and when; oldest first."""
        self._election_deadline = math.inf
        self.rearm_election(now)
        if self.alone:
            # Nobody to wait for, but a leader that has just made us the only voter may hold a lease.
            self._election_deadline = max(now, self.lease_granted_until)

    # ── what others may look at ────────────────────────────────────────────────────────────────────

    @property
    def configuration(self) -> Configuration:
        """The one in effect: the last in the log, committed or not (dissertation 4.1)."""
        return self.configurations.current

    @property
    def configuration_index(self) -> Index:
        """Where it stands in the log."""
        return self.configurations.index

    @property
    def committed_configuration(self) -> Configuration:
        """The last one that is known to be committed: nothing takes it back."""
        return self.configurations.at(self.commit_index)[1]

    @property
    def removed(self) -> bool:
        """Whether this member was removed, as far as it was told: it does not come back under this id."""
        return self.id in self.committed_configuration.removed

    @property
    def transferring(self) -> NodeId:
        """To whom this leader is handing over; `NOBODY` if it is not."""
        leading = self.leading
        return NOBODY if leading is None or leading.transfer is None else leading.transfer.target

    @property
    def alone(self) -> bool:
        """Whether this member is a quorum by itself: the only voter, whoever else learns."""
        return self.configuration.voters == (self.id,) and not self.configuration.joint

    @property
    def commit_index(self) -> Index:
        return self.log.commit_index

    @property
    def deadline(self) -> float:
        """When `timeout` wants to be called next; infinity if never."""
        leading = self.leading
        if leading is None:
            return self._election_deadline
        if leading.transfer is None:
            return leading.heartbeat_due
        return min(leading.heartbeat_due, leading.transfer.deadline)

    @property
    def progress(self) -> dict[NodeId, Progress]:
        """A leader's view of the others; empty for everyone else."""
        return self.leading.progress if self.leading is not None else {}

    @property
    def durable_term(self) -> Term:
        return self._durable.term

    @property
    def durable_vote(self) -> NodeId:
        return self._durable.voted_for

    # ── the doors ──────────────────────────────────────────────────────────────────────────────────

    def step(self, message: Message, now: float) -> None:
        """Take a message from another member.

        Raises:
            WireError: the message cannot come from a correct member; no more than its term was taken over.
        """
        invariant(message.to == self.id, f"a message for {message.to:x} was delivered to {self.id:x}")
        self.now = now
        if self.trace is not None:
            self.trace(trace.MessageReceived(self.id, message))
        if message.term > self.term:
            if not term_rule.settle_higher(self, message):
                return
        elif message.term < self.term and not term_rule.settle_lower(self, message):
            return
        if isinstance(message, PreVote | RequestVote):
            votes.judge(self, message)
        elif isinstance(message, ProposeReply):
            self.outbox.rejected_batches.append(message)
        elif isinstance(message, ChangeMembershipReply):
            self.outbox.changes.append(message)
        elif isinstance(message, SnapshotTurnReply):
            self.outbox.take_snapshot |= message.granted
        elif self.role is Role.LEADER:
            leader.step(self, message)
        elif self.role is Role.FOLLOWER:
            follower.step(self, message)
        else:
            candidate.step(self, message)

    def timeout(self, now: float) -> None:
        """The clock reached `deadline`. Harmless before it."""
        self.now = now
        if now < self.deadline:
            return
        if self.role is Role.LEADER:
            leader.timeout(self)
        elif not self.may_stand():
            self._election_deadline = math.inf
        elif self.disk_is_sick():
            self.rearm_election(now)  # our own vote would not become durable
        else:
            self.become_pre_candidate()

    def propose(self, commands: Sequence[bytes], now: float) -> Index:
        """Append commands to the log, to be replicated; only a leader can.

        Returns:
            The index of the first; the others follow. They are committed when a Ready hands them out in
            this term; if another entry appears at their index, they were lost.

        Raises:
            NotLeader: nothing was appended.
            Busy: too much is uncommitted already; nothing was appended.
        """
        self.now = now
        if self.leading is None:
            raise NotLeader(self.leader_id)
        if self.leading.transfer is not None:
            raise NotLeader  # soon somebody else is: keep them until then, or until the transfer is given up
        return leader.propose(self, commands)

    def forward(self, batch: int, commands: Sequence[bytes], now: float) -> None:
        """Send commands to the leader, at most once. `Ready.rejected_batches` tells if it refused them.

        Raises:
            NotLeader: no leader is known, or it is this member: nothing was sent.
        """
        self.now = now
        if self.leader_id in (NOBODY, self.id):
            raise NotLeader(self.leader_id)
        self.send(Propose(self.term, self.id, self.leader_id, batch, tuple(commands)))

    def change_membership(self, change: Change, now: float) -> Index:
        """Start a change of the membership; only a leader can (dissertation, chapter 4).

        Joint consensus is used where it is needed, and left by itself; members that were added without
        `learners` are promoted by themselves once they have caught up.

        Returns:
            The index of the configuration entry: the change's first step is made when it is committed, in
            this term. If another entry appears there, it was lost.

        Raises:
            NotLeader: nothing was appended.
            ChangeRefused: it breaks a rule, or another one is under way; nothing was appended.
        """
        self.now = now
        if self.leading is None:
            raise NotLeader(self.leader_id)
        return reconfiguration.change(self, change)

    def forward_change(self, number: int, change: Change, now: float) -> None:
        """Ask the leader for a change. `Ready.changes` has its answer, unless a message is lost.

        Raises:
            NotLeader: no leader is known, or it is this member: nothing was sent.
        """
        self.now = now
        if self.leader_id in (NOBODY, self.id):
            raise NotLeader(self.leader_id)
        self.send(ChangeMembership(self.term, self.id, self.leader_id, number, change))

    def transfer_leadership(self, target: NodeId, now: float) -> NodeId:
        """Hand over to `target`, or with `NOBODY` to whoever can take over soonest (3.10).

        `transferring` tells while it is under way. It has succeeded when another leader is known, and is
        given up after an election timeout.

        Returns:
            The target.

        Raises:
            NotLeader: this member does not lead.
            ChangeRefused: nobody fits, or another transfer is under way.
        """
        self.now = now
        if self.leading is None:
            raise NotLeader(self.leader_id)
        return transfer.begin(self, target)

    def peer_lost(self, peer: NodeId, now: float) -> None:
        """The driver is nearly sure that a member's process is gone: its connection ended, and no new one is
        accepted. If it led, there is no need to wait for an election timeout.

        An error here costs little: PreVote asks whether the others lost it as well. With lease reads it is
        not acted on, for a lease counts on being waited for.
        """
        self.now = now
        if peer != self.leader_id or self.role is not Role.FOLLOWER or self.config.lease_reads:
            return
        self.heard_leader_at = -math.inf
        self._leader_lost_at = now
        if self.may_stand():
            # A little apart from each other, so that the others' news has come in when the first one asks.
            soon = now + self.config.heartbeat_interval * self._random.random()
            self._election_deadline = min(self._election_deadline, soon)

    def snapshot_at(self, index: Index) -> Snapshot:
        """The name of a snapshot of the state as of `index`, which has to be applied and not long ago."""
        return snapshots.describe(self, index)

    def snapshot_taken(self, stored: StoredSnapshot, now: float) -> None:
        """A snapshot of our own state, of an index that was applied here, is durable."""
        self.now = now
        snapshots.taken(self, stored)

    def snapshot_received(self, stored: StoredSnapshot, now: float) -> None:
        """The snapshot that `Ready.fetch` named is durable. Another Ready says whether to install it."""
        self.now = now
        snapshots.received(self, stored)

    def snapshot_progress(self, received: int) -> None:
        """So many bytes of the snapshot that is being fetched have arrived."""
        self.fetched_bytes = received

    def snapshot_failed(self, now: float) -> None:
        """The snapshot cannot be fetched. `Ready.fetch` will name one again, when the leader does."""
        self.now = now
        self.fetching = None

    def ask_for_snapshot_turn(self, now: float) -> None:
        """Ask whether to write a snapshot now: `Ready.take_snapshot` is the permission (5.1.2).

        There may be none for now: ask again after a while.
        """
        self.now = now
        turns.ask(self, done=False)

    def snapshot_turn_done(self, now: float) -> None:
        """The snapshot was written, or it failed: others may."""
        self.now = now
        self.describing = 0
        turns.ask(self, done=True)

    def read(self, context: int, now: float) -> None:
        """Ask for an index at which a read is linearizable (ReadIndex, dissertation 6.4).

        The answer is in `Ready.reads`, or `Ready.rejected_reads` if leadership moved or the leader did not
        answer for an election timeout (a message was lost): ask again, with a new context.

        Raises:
            NotLeader: no leader is known.
            Busy: too many are pending.
        """
        self.now = now
        if self.role is Role.LEADER:
            reading.read(self, context, self.id)
        else:
            follower.read(self, context, self._forwarded_reads)

    def stored(self, number: int) -> None:
        """Ready `number`, and every one before it, is durable."""
        while self._storing and self._storing[0].number <= number:
            done = self._storing.popleft()
            if done.hard_state is not None:
                self._durable = HardState(done.hard_state.term, done.hard_state.voted_for)
            self.log.stored_index = max(self.log.stored_index, done.last_index)
        if self.trace is not None:
            self.trace(trace.Stored(self.id, number, self.log.stored_index))
        if self.role is Role.CANDIDATE:
            candidate.count_own_vote(self)
        elif self.role is Role.LEADER:
            leader.advance_commit(self)

    def applied(self, index: Index) -> None:
        """The state machine has applied everything up to `index`."""
        invariant(
            self.applied_index <= index < self._next_to_apply,
            f"index {index} was reported as applied but not handed out, or twice",
        )
        self.applied_index = index
        if index >= self.installing:
            self.installing = 0
        snapshots.trim(self)

    def ready(self) -> Ready | None:
        """What is to be done now, or None. Taking it is promising to do it: see `oarlock.raft.ready`."""
        if self.role is Role.LEADER:
            leader.flush(self)
        entries = self.log.slice(self._next_to_store, self.log.last_index)
        hard_state = self._changed_hard_state(store_anyway=bool(entries) or self.outbox.install is not None)
        committed, size = self._take_committed()
        outbox = self.outbox
        if hard_state is None and not committed and outbox.empty():
            return None
        if hard_state is not None:
            last_index = self.log.last_index if entries else 0
            self._storing.append(_Storing(outbox.number + 1, hard_state, last_index, self.now))
            self._next_to_store = self.log.last_index + 1
        return outbox.take(hard_state, entries, committed, size)

    # ── transitions ────────────────────────────────────────────────────────────────────────────────

    def become_follower(self, term: Term, leader_id: NodeId, reason: str) -> None:
        """Follow `leader_id` (NOBODY: whoever will be elected) in `term`."""
        invariant(term >= self.term, f"the term would fall from {self.term} to {term}")
        invariant(
            term > self.term or self.leader_id in (NOBODY, leader_id) or leader_id == NOBODY,
            f"two leaders in term {term}: {self.leader_id:x} and {leader_id:x}",
        )
        changed = self.role is not Role.FOLLOWER or term > self.term or leader_id != self.leader_id
        if term > self.term:
            self.term = term
            self.voted_for = NOBODY
            self._set_leader(NOBODY)  # should the same member lead again, its rounds start anew
        if self.role is not Role.FOLLOWER:
            if self.leading is not None:
                leader.abdicate(self)
            self._leave_for(Role.FOLLOWER)
            self.rearm_election(self.now)
        self._set_leader(leader_id)
        if changed:
            self._trace_role(reason)

    def become_pre_candidate(self) -> None:
        """Ask whether an election could be won, before disturbing anyone with one (dissertation 9.6)."""
        self._leave_for(Role.PRE_CANDIDATE)
        self._set_leader(NOBODY)
        self.rearm_election(self.now)
        lost = self.now - self._leader_lost_at < self.config.election_timeout
        self._trace_role("the leader is gone" if lost else "no leader was heard for an election timeout")
        candidate.ask_for_pre_votes(self)

    def become_candidate(self, transfer: bool = False) -> None:
        """Start an election in a new term: vote for oneself, and ask for the others' votes (3.4).

        Args:
            transfer: the leader asked for it (3.10), so there was no PreVote.
        """
        self._leave_for(Role.CANDIDATE)
        self.term += 1
        self.voted_for = self.id
        self._set_leader(NOBODY)
        self.rearm_election(self.now)
        self._trace_role("the leader hands over to us" if transfer else "a quorum would vote for us")
        candidate.ask_for_votes(self, transfer)

    def become_leader(self) -> None:
        """Lead the term that we were elected in."""
        invariant(self._durable.term == self.term, "a leader's term is durable before it leads")
        invariant(self._durable.voted_for == self.id, "a leader's own vote is durable before it leads")
        self._leave_for(Role.LEADER)
        self._set_leader(self.id)
        self._trace_role("elected")
        leader.start(self)

    def _leave_for(self, role: Role) -> None:
        invariant(role in TRANSITIONS[self.role], f"no way from {self.role.value} to {role.value}")
        self.role = role
        self.votes = {}

    def _set_leader(self, leader_id: NodeId) -> None:
        if leader_id == self.leader_id:
            return
        self.leader_id = leader_id
        self.answered_round = 0
        self.heard_leader_at = -math.inf
        self.outbox.rejected_reads.extend(self._forwarded_reads)
        self._forwarded_reads.clear()

    def hears_leader(self) -> bool:
        """Whether a leader was in touch within the minimum election timeout, so that rivals are ignored."""
        if self.role is Role.LEADER:
            return leader.has_quorum(self)
        return self.leader_id != NOBODY and self.now - self.heard_leader_at < self.config.election_timeout

    # ── for the roles ──────────────────────────────────────────────────────────────────────────────

    def send(self, message: Message) -> None:
        """Send at once if the term is durable, else as soon as it is: a term is not told before."""
        if self._durable.term == self.term:
            self.outbox.messages.append(message)
            if self.trace is not None:
                self.trace(trace.MessageQueued(self.id, message, False))
        else:
            self.send_after_stored(message)

    def send_after_stored(self, message: Message) -> None:
        """Send when all that was decided up to now is durable: the message is a promise about it."""
        self.outbox.messages_after_stored.append(message)
        if self.trace is not None:
            self.trace(trace.MessageQueued(self.id, message, True))

    def append(self, entries: Sequence[Entry]) -> None:
        """Append to the log. Configurations take effect here."""
        if not entries:
            return
        self.log.append(entries)
        self.clock.stamped(entries[-1].time, self.now)
        if self.trace is not None:
            self.trace(trace.EntriesAppended(self.id, entries[0].index, entries[-1].index, entries[-1].term))
        if self.configurations.appended(entries):
            self._configuration_changed()

    def truncate(self, index: Index) -> None:
        """Drop the log from `index` on, and every memory of it."""
        invariant(self.role is not Role.LEADER, "a leader never overwrites its own log (3.5)")
        self.log.truncate(index)
        self._next_to_store = min(self._next_to_store, index)
        # What is being written there will be overwritten: it may not count as stored when it is done,
        # not even if equal entries come back meanwhile.
        for storing in self._storing:
            storing.last_index = min(storing.last_index, index - 1)
        if self.trace is not None:
            self.trace(trace.LogTruncated(self.id, index))
        if self.configurations.truncated(index):
            self._configuration_changed()

    def restart_log(self, snapshot: Snapshot) -> None:
        """Start the log anew behind a durable snapshot, and have the driver install it."""
        self.log.restart(snapshots.base_of(snapshot))
        self.configurations.restarted(snapshot)
        self.clock.stamped(snapshot.time, self.now)
        for storing in self._storing:
            storing.last_index = 0  # what is being written is of a log that is gone
        self._next_to_store = self._next_to_apply = snapshot.index + 1
        self.outbox.install = snapshot
        self.installing = snapshot.index
        if self.trace is not None:
            self.trace(trace.SnapshotInstalled(self.id, snapshot.index, snapshot.term))
        self._configuration_changed()

    def commit(self, index: Index) -> None:
        """Everything up to `index` is committed."""
        invariant(index <= self.log.last_index, "only what is in the log is committed")
        if index > self.log.commit_index:
            self.log.commit_index = index
            if self.trace is not None:
                self.trace(trace.Committed(self.id, index))

    def confirm_read(self, context: int, index: Index) -> None:
        self.outbox.reads.append(ReadState(context, index))
        if self.trace is not None:
            self.trace(trace.ReadConfirmed(self.id, context, index))

    def reject_read(self, context: int) -> None:
        self.outbox.rejected_reads.append(context)

    def forwarded_read_answered(self, context: int) -> bool:
        """Forget a read that the leader was asked about. False if there is none (any more)."""
        return self._forwarded_reads.pop(context, None) is not None

    def give_up_old_reads(self) -> None:
        """Reject reads that the leader has not answered for an election timeout: a message was lost."""
        patience = self.now - self.config.election_timeout
        while self._forwarded_reads:
            context, asked_at = next(iter(self._forwarded_reads.items()))
            if asked_at > patience:
                break
            del self._forwarded_reads[context]
            self.outbox.rejected_reads.append(context)

    def rearm_election(self, now: float) -> None:
        """Draw a new election timeout (dissertation 3.4).

        Whoever stands because the leader is known to be gone asks again soon: the others may only just have
        got the news. For a while: it may be wrong.
        """
        shortest = self.config.election_timeout
        if self.role is not Role.FOLLOWER and now - self._leader_lost_at < shortest:
            shortest = min(shortest, 2 * self.config.heartbeat_interval)
        timeout = shortest * (1 + self._random.random())
        self._election_deadline = now + timeout if self.may_stand() else math.inf

    def may_stand(self) -> bool:
        """Whether this member is a voter, or was and may be needed to commit that it is not (4.2.2)."""
        return self.configuration.is_voter(self.id) or (
            self.configuration_index > self.commit_index and self.committed_configuration.is_voter(self.id)
        )

    def disk_is_sick(self) -> bool:
        """Whether something has been on its way to the disk for too long."""
        return bool(self._storing) and self.now - self._storing[0].since >= self.config.stall_timeout

    # ── inside ─────────────────────────────────────────────────────────────────────────────────────

    def _changed_hard_state(self, store_anyway: bool) -> HardState | None:
        current = HardState(self.term, self.voted_for)
        if current == self._handed_out and not store_anyway:
            return None
        self._handed_out = current
        return HardState(self.term, self.voted_for, self.log.commit_index)

    def _take_committed(self) -> tuple[tuple[Entry, ...], int]:
        high = min(self.log.commit_index, self.log.stored_index)
        if high < self._next_to_apply:
            return (), 0
        committed, size = self.log.batch(self._next_to_apply, high, self.config.committed_bytes_max)
        self._next_to_apply += len(committed)
        return committed, size

    def _configuration_changed(self) -> None:
        if self.trace is not None:
            self.trace(trace.ConfigurationChanged(self.id, self.configurations.index, self.configuration))
        if self.leading is not None:
            reconfiguration.in_effect(self)
        elif self._election_deadline == math.inf:
            self.rearm_election(self.now)

    def _trace_role(self, reason: str) -> None:
        if self.trace is not None:
            self.trace(trace.RoleChanged(self.id, self.role.value, self.term, self.leader_id, reason))
