"""Raft: one member's state, its transitions, and the doors through which everything comes in.

The term rule, one for all messages, is settled first in `step`; then the current role's file decides:
`follower`, `candidate`, `leader`. Votes are judged in `votes`, whatever the role.
"""

from __future__ import annotations

import math
import random as random_module
from collections import deque
from collections.abc import Callable, Sequence

from oarlock.errors import NotLeader, invariant
from oarlock.raft import candidate, follower, leader, trace, votes
from oarlock.raft.config import Config
from oarlock.raft.leader import Leading
from oarlock.raft.log import RaftLog
from oarlock.raft.membership import ConfigurationHistory
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Message,
    PreVote,
    PreVoteReply,
    Propose,
    ProposeReply,
    ReadIndex,
    RequestVote,
)
from oarlock.raft.progress import Progress
from oarlock.raft.ready import Ready
from oarlock.raft.roles import TRANSITIONS, Role
from oarlock.raft.types import (
    NOBODY,
    Configuration,
    Entry,
    HardState,
    Index,
    NodeId,
    ReadState,
    Term,
)


class _Storing:
    """A Ready on its way to the disk: what will be durable once `stored` is called for it."""

    __slots__ = ("hard_state", "last_index", "number")

    def __init__(self, number: int, hard_state: HardState | None, last_index: Index) -> None:
        self.number = number
        self.hard_state = hard_state
        self.last_index = last_index


class Raft:
    """One member of one group. Not thread-safe, never blocks, knows neither clock nor disk nor network.

    After every call that changes something, the driver takes `ready()` until it returns None and fulfils
    it (see `oarlock.raft.ready`), then calls `timeout` when the clock reaches `deadline`.

    Args:
        config: the settings; `config.id` is this member.
        hard_state: what was stored last.
        entries: the stored log, from index 1. A new member's comes from `bootstrap`.
        random: the source of election timeouts. Seeded alike, a run repeats exactly.
        now: seconds on any monotonic clock; later calls must use the same one.
        applied_index: what the state machine already holds.
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
        trace: Callable[[trace.Event], None] | None = None,
    ) -> None:
        self.config = config
        self.id: NodeId = config.id
        self.term: Term = hard_state.term
        self.voted_for: NodeId = hard_state.voted_for
        self.role = Role.FOLLOWER
        self.leader_id: NodeId = NOBODY
        self.log = RaftLog(entries, max(hard_state.commit_index, applied_index))
        self.applied_index: Index = applied_index
        self.now = now
        """The latest time that any call brought."""
        self.heard_leader_at = -math.inf
        """When the current leader was last heard; rivals are ignored for a while after (4.2.3)."""
        self.votes: dict[NodeId, bool] = {}
        """Answers to the election that we are standing in."""
        self.leading: Leading | None = None
        """What only a leader keeps. Not None exactly while the role is LEADER."""
        self.answered_round = 0
        """The latest confirmation round of the current leader that was answered."""

        self._random = random
        self.trace = trace
        self._configurations = ConfigurationHistory()
        self._configurations.appended(entries)
        self._durable = HardState(hard_state.term, hard_state.voted_for)
        self._handed_out = self._durable
        self._next_to_store: Index = self.log.last_index + 1
        self._next_to_apply: Index = applied_index + 1
        self._storing: deque[_Storing] = deque()
        self._number = 0
        self._messages: list[Message] = []
        self._messages_after_stored: list[Message] = []
        self._reads: list[ReadState] = []
        self._rejected_reads: list[int] = []
        self._rejected_batches: list[ProposeReply] = []
        self._forwarded_reads: dict[int, float] = {}
        """Reads that the leader was asked about: context, and when; oldest first."""
        self._election_deadline = math.inf
        self.rearm_election(now)
        if self.alone:
            self._election_deadline = now  # nobody to wait for

    # ── what others may look at ────────────────────────────────────────────────────────────────────

    @property
    def configuration(self) -> Configuration:
        """The one in effect: the last in the log, committed or not (dissertation 4.1)."""
        return self._configurations.current

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
        return self.leading.heartbeat_due if self.leading is not None else self._election_deadline

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
            if not self._settle_higher_term(message):
                return
        elif message.term < self.term and not self._settle_lower_term(message):
            return
        if isinstance(message, PreVote | RequestVote):
            votes.judge(self, message)
        elif isinstance(message, ProposeReply):
            self._rejected_batches.append(message)
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
        elif self.configuration.is_voter(self.id):
            self.become_pre_candidate()
        else:
            self._election_deadline = math.inf

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
        if self.role is not Role.LEADER:
            raise NotLeader(self.leader_id)
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
            leader.read(self, context, self.id)
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

    def ready(self) -> Ready | None:
        """What is to be done now, or None. Taking it is promising to do it: see `oarlock.raft.ready`."""
        if self.role is Role.LEADER:
            leader.flush(self)
        entries = self.log.slice(self._next_to_store, self.log.last_index)
        hard_state = self._changed_hard_state(store_anyway=bool(entries))
        committed = self._take_committed()
        if not (
            hard_state is not None
            or self._messages
            or self._messages_after_stored
            or committed
            or self._reads
            or self._rejected_reads
            or self._rejected_batches
        ):
            return None
        self._number += 1
        if hard_state is not None:
            self._storing.append(_Storing(self._number, hard_state, self.log.last_index if entries else 0))
            self._next_to_store = self.log.last_index + 1
        ready = Ready(
            self._number,
            hard_state,
            entries,
            tuple(self._messages),
            tuple(self._messages_after_stored),
            committed,
            tuple(self._reads),
            tuple(self._rejected_reads),
            tuple(self._rejected_batches),
        )
        self._messages.clear()
        self._messages_after_stored.clear()
        self._reads.clear()
        self._rejected_reads.clear()
        self._rejected_batches.clear()
        return ready

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
        self._trace_role("no leader was heard for an election timeout")
        candidate.ask_for_pre_votes(self)

    def become_candidate(self) -> None:
        """Start an election in a new term: vote for oneself, and ask for the others' votes (3.4)."""
        self._leave_for(Role.CANDIDATE)
        self.term += 1
        self.voted_for = self.id
        self._set_leader(NOBODY)
        self.rearm_election(self.now)
        self._trace_role("a quorum would vote for us")
        candidate.ask_for_votes(self)

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
        self._rejected_reads.extend(self._forwarded_reads)
        self._forwarded_reads.clear()

    # ── the term rule ──────────────────────────────────────────────────────────────────────────────

    def _settle_higher_term(self, message: Message) -> bool:
        """A message from a later term: adopt the term, with two exceptions. False: the message is done."""
        if isinstance(message, PreVote) or (isinstance(message, PreVoteReply) and message.granted):
            return True  # the term is one that an election would have, not one that began
        if isinstance(message, RequestVote) and self.hears_leader():
            # Stickiness: someone who lost touch must not depose a leader that the rest can hear (4.2.3).
            votes.refuse(self, message, "a leader is alive")
            return False
        leader_id = message.sender if isinstance(message, AppendEntries) else NOBODY
        self.become_follower(message.term, leader_id, f"{type(message).__name__} of a later term")
        return True

    def _settle_lower_term(self, message: Message) -> bool:
        """A message from an earlier term: the sender is told ours where it waits. False: it is done."""
        if isinstance(message, PreVote | RequestVote):
            votes.refuse(self, message, "the term has passed")
            return False
        if isinstance(message, AppendEntries):
            # Names no index: should its sender come to lead our term, this is no news about our log.
            self.send(AppendEntriesReply(self.term, self.id, message.sender, False, 0))
            return False
        if isinstance(message, Propose):
            # Commands sent in a term are appended in that term or never: so their sender knows that they are
            # lost once it applies an entry of a later term, and may send them again.
            self.send(ProposeReply(self.term, self.id, message.sender, message.batch))
            return False
        # These hold in any term; answers from an earlier term mean nothing.
        return isinstance(message, ProposeReply | ReadIndex)

    def hears_leader(self) -> bool:
        """Whether a leader was in touch within the minimum election timeout, so that rivals are ignored."""
        if self.role is Role.LEADER:
            return leader.has_quorum(self)
        return self.leader_id != NOBODY and self.now - self.heard_leader_at < self.config.election_timeout

    # ── for the roles ──────────────────────────────────────────────────────────────────────────────

    def send(self, message: Message) -> None:
        """Send at once if the term is durable, else as soon as it is: a term is not told before."""
        if self._durable.term == self.term:
            self._messages.append(message)
            if self.trace is not None:
                self.trace(trace.MessageQueued(self.id, message, False))
        else:
            self.send_after_stored(message)

    def send_after_stored(self, message: Message) -> None:
        """Send when all that was decided up to now is durable: the message is a promise about it."""
        self._messages_after_stored.append(message)
        if self.trace is not None:
            self.trace(trace.MessageQueued(self.id, message, True))

    def append(self, entries: Sequence[Entry]) -> None:
        """Append to the log. Configurations take effect here."""
        self.log.append(entries)
        if self.trace is not None and entries:
            self.trace(trace.EntriesAppended(self.id, entries[0].index, entries[-1].index, entries[-1].term))
        if self._configurations.appended(entries):
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
        if self._configurations.truncated(index):
            self._configuration_changed()

    def commit(self, index: Index) -> None:
        """Everything up to `index` is committed."""
        invariant(index <= self.log.last_index, "only what is in the log is committed")
        if index > self.log.commit_index:
            self.log.commit_index = index
            if self.trace is not None:
                self.trace(trace.Committed(self.id, index))

    def confirm_read(self, context: int, index: Index) -> None:
        self._reads.append(ReadState(context, index))
        if self.trace is not None:
            self.trace(trace.ReadConfirmed(self.id, context, index))

    def reject_read(self, context: int) -> None:
        self._rejected_reads.append(context)

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
            self._rejected_reads.append(context)

    def rearm_election(self, now: float) -> None:
        """Draw a new election timeout (dissertation 3.4)."""
        timeout = self.config.election_timeout * (1 + self._random.random())
        self._election_deadline = now + timeout if self.configuration.is_voter(self.id) else math.inf

    # ── inside ─────────────────────────────────────────────────────────────────────────────────────

    def _changed_hard_state(self, store_anyway: bool) -> HardState | None:
        current = HardState(self.term, self.voted_for)
        if current == self._handed_out and not store_anyway:
            return None
        self._handed_out = current
        return HardState(self.term, self.voted_for, self.log.commit_index)

    def _take_committed(self) -> tuple[Entry, ...]:
        high = min(self.log.commit_index, self.log.stored_index)
        if high < self._next_to_apply:
            return ()
        committed, _ = self.log.batch(self._next_to_apply, high, self.config.committed_bytes_max)
        self._next_to_apply += len(committed)
        return committed

    def _configuration_changed(self) -> None:
        if self.trace is not None:
            self.trace(trace.ConfigurationChanged(self.id, self._configurations.index, self.configuration))
        if self._election_deadline == math.inf:
            self.rearm_election(self.now)

    def _trace_role(self, reason: str) -> None:
        if self.trace is not None:
            self.trace(trace.RoleChanged(self.id, self.role.value, self.term, self.leader_id, reason))
