"""A cluster of cores on virtual time: every delay, loss and crash is drawn from one `random.Random`.

Nothing here sleeps or waits: a heap of events is worked off in order of virtual time. Around each core stands
the smallest honest driver of the `Ready` contract: a `Disk` that takes its time and forgets what was not
synced when its member crashes, a state machine that applies with a delay, and a network that delays, loses,
duplicates, reorders and is cut at will. The `Observer` hears of everything.

Clocks differ: each member's has an origin and a rate of its own, and may jump forward (a paused virtual
machine), so that nothing can rest on members agreeing about the time.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from oarlock.errors import Busy, NotLeader
from oarlock.raft import invariants
from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap
from oarlock.raft.messages import Message, Propose
from oarlock.raft.raft import Raft
from oarlock.raft.ready import Ready
from oarlock.raft.roles import Role
from oarlock.raft.types import NOBODY, Configuration, Entry, HardState, Index, NodeId, Term

from .checkers import Observer, Violation

READYS_MAX = 1_000
EVENTS_MAX = 50_000
"""Far beyond what any schedule needs: more means that members keep each other busy for nothing."""

CoreFactory = Callable[..., Raft]


@dataclass
class Conditions:
    """The weather: what network, disks and clients are like. All times in seconds of virtual time."""

    election_timeout: float = 1.0
    heartbeat_interval: float = 0.25
    delay: tuple[float, float] = (0.005, 0.03)
    """Bounds of a message's travelling time."""
    late: float = 0.0
    """Share of messages that take up to `late_delay` instead: long after what they were about."""
    late_delay: float = 4.0
    loss: float = 0.0
    duplication: float = 0.0
    sync: tuple[float, float] = (0.002, 0.02)
    """Bounds of the time that one disk sync takes."""
    apply: tuple[float, float] = (0.0, 0.01)
    batching: float = 0.0
    """Share of steps after which the driver takes the Ready only a moment later."""
    command_bytes: int = 8
    config: dict[str, int] = field(default_factory=dict)
    """Further settings of the cores: small limits make limits matter."""


class Disk:
    """What one member has durably. Readys reach it one after the other, each wholly or not at all."""

    __slots__ = ("applied", "entries", "state")

    def __init__(self, state: HardState, entries: Sequence[Entry]) -> None:
        self.state = state
        self.entries = list(entries)
        self.applied: list[Entry] = []
        """A durable state machine, as far as it went when it was last saved."""

    def holds(self, entry: Entry) -> bool:
        return len(self.entries) >= entry.index and self.entries[entry.index - 1] == entry

    def write(self, ready: Ready) -> list[Entry]:
        """Make a Ready durable. Returns the entries that were replaced."""
        if (state := ready.hard_state) is not None:
            if state.term < self.state.term:
                raise Violation(f"the durable term falls: {self.state} is replaced by {state}")
            if state.term == self.state.term and self.state.voted_for not in (NOBODY, state.voted_for):
                raise Violation(f"the durable vote changes within a term: {self.state}, then {state}")
            self.state = state
        cut: list[Entry] = []
        if ready.entries:
            first = ready.entries[0].index
            if first > len(self.entries) + 1:
                raise Violation(f"entry {first} is stored after a gap: the disk ends at {len(self.entries)}")
            cut = self.entries[first - 1 :]
            del self.entries[first - 1 :]
            self.entries.extend(ready.entries)
        return cut


class Member:
    """One server: a disk that survives, and while it is up a core and its driver's memory."""

    def __init__(self, node_id: NodeId, disk: Disk) -> None:
        self.id = node_id
        self.disk = disk
        self.raft: Raft | None = None
        self.view: invariants.View | None = None
        self.incarnation = 0
        self.origin = 0.0
        self.rate = 1.0
        self.paused_until = 0.0
        self.wake_at = math.inf
        self.drain_due = False
        self.queue: deque[Ready] = deque()
        """Readys taken and not yet durable."""
        self.syncing = 0
        """How many of them the running sync covers."""
        self.to_apply: deque[Entry] = deque()
        self.applying = False
        self.machine: list[Entry] = []
        self.waiting_reads: list[tuple[Index, int]] = []
        self.proposed: deque[tuple[Term, bytes]] = deque()
        """What clients here submitted, and in which term."""

    @property
    def up(self) -> bool:
        return self.raft is not None

    @property
    def leads(self) -> bool:
        return self.raft is not None and self.raft.role is Role.LEADER

    def clock(self, now: float) -> float:
        return self.origin + now * self.rate

    def moment(self, local: float) -> float:
        return (local - self.origin) / self.rate


@dataclass
class _Read:
    member: NodeId
    incarnation: int
    committed_before: Index
    state: str = "asked"


class Cluster:
    """Members 1 … size on virtual time. See the module's docstring.

    Args:
        size: how many voters.
        rng: decides everything.
        conditions: the weather; may be replaced at any time.
        core: makes a member's core; a mutation passes its own.
        log: if given, receives one line per event.
    """

    def __init__(
        self,
        size: int,
        rng: random.Random,
        conditions: Conditions,
        core: CoreFactory = Raft,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.rng = rng
        self.conditions = conditions
        self.core = core
        self.now = 0.0
        self.events = 0
        self.log = log
        self.ids = list(range(1, size + 1))
        self.configuration = Configuration(voters=tuple(self.ids))
        self.members: dict[NodeId, Member] = {}
        self.observer = Observer(self.ids, lambda node_id: self.members[node_id].disk)
        self.cut: dict[tuple[NodeId, NodeId], None] = {}
        """Ordered pairs (from, to) between which nothing arrives."""
        self.reads: dict[int, _Read] = {}
        self.batches: dict[int, tuple[NodeId, int, tuple[bytes, ...]]] = {}
        self.acknowledged: dict[bytes, Index] = {}
        self._owners: dict[bytes, tuple[NodeId, int]] = {}
        self._serial = 0
        self._names = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        hard_state, entries = bootstrap(self.configuration)
        for node_id in self.ids:
            self.members[node_id] = Member(node_id, Disk(hard_state, entries))
        self.observer.history.extend(entries)
        self.observer.commit_terms.append(entries[0].term)
        for member in self.members.values():
            self.start(member)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def at(self, when: float, action: Callable[..., None], *arguments: object) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, action, arguments))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Work off events up to `until`, or until `stop` says so. Returns whether it did."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(heap)
            self.events += 1
            if self.events > EVENTS_MAX:
                raise Violation(f"after {EVENTS_MAX} events at {self.now:.1f} s there is no end of them")
            action(*arguments)
            if stop is not None and stop():
                return True
        self.now = max(self.now, until)
        return False

    # ── life and death ────────────────────────────────────────────────────────────────────────────

    def start(self, member: Member) -> None:
        if member.up:
            return
        rng = self.rng
        member.incarnation += 1
        member.origin = rng.uniform(0.0, 1000.0)
        member.rate = rng.uniform(0.97, 1.03)
        member.machine = list(member.disk.applied)
        conditions = self.conditions
        config = Config(
            id=member.id,
            election_timeout=conditions.election_timeout,
            heartbeat_interval=conditions.heartbeat_interval,
            **conditions.config,
        )
        member.raft = self.core(
            config,
            member.disk.state,
            tuple(member.disk.entries),
            random=random.Random(rng.getrandbits(32)),
            now=member.clock(self.now),
            applied_index=len(member.machine),
        )
        member.view = invariants.View(member.raft)
        if self.log:
            self.log(f"{self.now:8.3f} start {member.view!r}")
        self.touched(member)

    def crash(self, member: Member) -> None:
        """Stop at once. Of what was being written, a random number of whole Readys made it to the disk."""
        if not member.up:
            return
        survivors = self.rng.randint(0, len(member.queue))
        for _ in range(survivors):
            self._write(member, member.queue.popleft())
        if self.log:
            self.log(f"{self.now:8.3f} crash {member.id}: {survivors} survive, {len(member.queue)} are lost")
        member.queue.clear()
        member.syncing = 0
        member.raft = None
        member.view = None
        member.drain_due = False
        member.wake_at = math.inf
        member.paused_until = 0.0
        member.to_apply.clear()
        member.applying = False
        member.waiting_reads.clear()
        member.proposed.clear()
        if self.rng.random() < 0.5:
            member.disk.applied = member.machine  # the state machine was saved just before

    def pause(self, member: Member, seconds: float) -> None:
        """It gets no processor time for a while; messages wait for it."""
        member.paused_until = self.now + seconds

    # ── the driver ────────────────────────────────────────────────────────────────────────────────

    def touched(self, member: Member) -> None:
        """A door of the core was used: check it, and take what is ready."""
        self._inspect(member)
        if self.conditions.batching and self.rng.random() < self.conditions.batching:
            if not member.drain_due:
                member.drain_due = True
                self.at(self.now + self.rng.uniform(0.0, 0.01), self._drain_later, member, member.incarnation)
        else:
            self._drain(member)
        self._arm(member)

    def _drain_later(self, member: Member, incarnation: int) -> None:
        if member.up and member.incarnation == incarnation and member.drain_due:
            self._drain(member)
            self._arm(member)

    def _drain(self, member: Member) -> None:
        raft = member.raft
        member.drain_due = False
        taken = 0
        while raft is not None and (ready := raft.ready()) is not None:
            taken += 1
            if taken > READYS_MAX:
                raise Violation(f"{member.id} has always one more Ready")
            self.observer.storing(raft, ready.entries)
            for message in ready.messages:
                self.send(message)
            if ready.must_store or member.queue:
                member.queue.append(ready)
            else:
                for message in ready.messages_after_stored:
                    self.send(message)  # nothing to store: nothing to report, as in `ReadyLoop`
            self._start_sync(member)
            if ready.committed:
                member.to_apply.extend(ready.committed)
                self._start_apply(member)
            for state in ready.reads:
                self._read_confirmed(member, state.context, state.index)
            for context in ready.rejected_reads:
                self._read_rejected(member, context)
            for refusal in ready.rejected_batches:
                self._batch_refused(member, refusal.batch)
        if taken and member.leads:
            self._inspect(member)  # handing out messages moves a leader's view of its followers

    def _inspect(self, member: Member) -> None:
        raft, before = member.raft, member.view
        if raft is None or before is None:
            return
        invariants.check(raft)
        after = invariants.View(raft)
        invariants.check_step(before, after)
        member.view = after
        if after.commit_index > before.commit_index:
            self.observer.committing(raft, before.commit_index)
        if after.role is Role.LEADER and before.role is not Role.LEADER:
            self.observer.elected(raft)
        if self.log and (after.role, after.term) != (before.role, before.term):
            self.log(f"{self.now:8.3f}       {after!r}")

    # ── disk ──────────────────────────────────────────────────────────────────────────────────────

    def _start_sync(self, member: Member) -> None:
        if member.queue and not member.syncing:
            member.syncing = len(member.queue)
            self.at(
                self.now + self.rng.uniform(*self.conditions.sync), self._synced, member, member.incarnation
            )

    def _synced(self, member: Member, incarnation: int) -> None:
        """One sync is done: it covered what was queued when it began (group commit)."""
        raft = member.raft
        if raft is None or member.incarnation != incarnation:
            return
        if self._postponed(member, self._synced, member, incarnation):
            return
        count, member.syncing = member.syncing, 0
        number = 0
        for _ in range(count):
            ready = member.queue.popleft()
            number = ready.number
            self._write(member, ready)
            for message in ready.messages_after_stored:
                self.send(message)
        # Readys that only waited behind what was being written are done with it.
        while member.queue and not member.queue[0].must_store:
            ready = member.queue.popleft()
            number = ready.number
            for message in ready.messages_after_stored:
                self.send(message)
        raft.stored(number)
        self._start_sync(member)
        self.touched(member)

    def _write(self, member: Member, ready: Ready) -> None:
        cut = member.disk.write(ready)
        if cut:
            self.observer.written(member.id, cut[0].index, cut)

    # ── state machine ─────────────────────────────────────────────────────────────────────────────

    def _start_apply(self, member: Member) -> None:
        if member.to_apply and not member.applying:
            member.applying = True
            delay = self.rng.uniform(*self.conditions.apply)
            self.at(self.now + delay, self._apply, member, member.incarnation)

    def _apply(self, member: Member, incarnation: int) -> None:
        raft = member.raft
        if raft is None or member.incarnation != incarnation:
            return
        if self._postponed(member, self._apply, member, incarnation):
            return
        member.applying = False
        while member.to_apply:
            entry = member.to_apply.popleft()
            self.observer.applying(member.id, member.machine, entry)
            member.machine.append(entry)
            self._settle_proposals(member, entry)
            if self.rng.random() < 0.2:
                break  # the rest a little later
        applied = len(member.machine)
        raft.applied(applied)
        for index, context in member.waiting_reads:
            if index <= applied:
                self.reads[context].state = "served"
        member.waiting_reads = [read for read in member.waiting_reads if read[0] > applied]
        self._start_apply(member)
        self.touched(member)

    def _settle_proposals(self, member: Member, entry: Entry) -> None:
        """An applied entry acknowledges the command it holds; one of a later term shows what was lost."""
        if self._owners.get(entry.data) == (member.id, member.incarnation):
            self.acknowledged[entry.data] = entry.index
        while member.proposed and member.proposed[0][0] < entry.term:
            _, command = member.proposed.popleft()
            if command not in self.acknowledged:
                self.observer.refused(command, "an entry of a later term was applied before it")

    # ── network ───────────────────────────────────────────────────────────────────────────────────

    def send(self, message: Message) -> None:
        sender = self.members.get(message.sender)
        self.observer.sending(message, sender.raft if sender is not None else None)
        conditions, rng = self.conditions, self.rng
        if self.log:
            self.log(f"{self.now:8.3f}       {message.sender}→{message.to} {message}")
        if (message.sender, message.to) in self.cut:
            return
        if conditions.loss and rng.random() < conditions.loss:
            return
        self.at(self.now + self._travel(), self._deliver, message)
        if conditions.duplication and type(message) is not Propose and rng.random() < conditions.duplication:
            self.at(self.now + self._travel(), self._deliver, message)

    def _travel(self) -> float:
        conditions, rng = self.conditions, self.rng
        if conditions.late and rng.random() < conditions.late:
            return rng.uniform(conditions.delay[1], conditions.late_delay)
        low, high = conditions.delay
        return low + (high - low) * rng.random()

    def _deliver(self, message: Message) -> None:
        member = self.members.get(message.to)
        if member is None or (raft := member.raft) is None:
            return
        if (message.sender, message.to) in self.cut:
            return
        if self._postponed(member, self._deliver, message):
            return
        raft.step(message, member.clock(self.now))
        self.observer.delivered(message, raft)
        self.touched(member)

    def isolate(self, group: Sequence[NodeId]) -> None:
        """Cut `group` off from everyone else, in both directions."""
        for one in self.ids:
            for other in self.ids:
                if (one in group) != (other in group):
                    self.cut[one, other] = None

    def heal(self) -> None:
        self.cut.clear()

    # ── timers ────────────────────────────────────────────────────────────────────────────────────

    def _arm(self, member: Member) -> None:
        raft = member.raft
        if raft is None or raft.deadline == math.inf:
            return
        due = max(self.now, member.moment(raft.deadline))
        if due < member.wake_at:
            member.wake_at = due
            self.at(due, self._wake, member, member.incarnation, due)

    def _wake(self, member: Member, incarnation: int, due: float) -> None:
        raft = member.raft
        if raft is None or member.incarnation != incarnation or due != member.wake_at:
            return
        if self._postponed(member, self._wake, member, incarnation, due):
            return
        member.wake_at = math.inf
        now = max(member.clock(self.now), math.nextafter(raft.deadline, math.inf))
        if member.moment(raft.deadline) <= self.now:
            raft.timeout(now)
            self.touched(member)
        else:
            self._arm(member)

    def jump(self, member: Member) -> None:
        """Its clock jumps forward to its deadline, and its timer fires before anything else arrives."""
        raft = member.raft
        if raft is None or raft.deadline == math.inf:
            return
        member.origin += max(0.0, raft.deadline - member.clock(self.now)) + 1e-9
        raft.timeout(member.clock(self.now))
        self.touched(member)

    def _postponed(self, member: Member, action: Callable[..., None], *arguments: object) -> bool:
        if member.paused_until <= self.now:
            return False
        self.at(member.paused_until, action, *arguments)
        return True

    # ── clients ───────────────────────────────────────────────────────────────────────────────────

    def commands(self, count: int) -> tuple[bytes, ...]:
        """New commands, each unlike any before."""
        first = self._names + 1
        self._names += count
        return tuple(b"%0*d" % (self.conditions.command_bytes, n) for n in range(first, self._names + 1))

    def propose(self, member: Member, count: int) -> tuple[bytes, ...]:
        """A client of `member` submits commands: it appends them, forwards them, or refuses. Returns them."""
        raft = member.raft
        if raft is None:
            return ()
        commands = self.commands(count)
        now = member.clock(self.now)
        for command in commands:
            self._owners[command] = (member.id, member.incarnation)
        try:
            if raft.role is Role.LEADER:
                last = raft.log.last_index
                first = raft.propose(commands, now)
                if first != last + 1 or raft.log.last_index != last + count:
                    raise Violation(f"{count} commands after index {last} were appended at {first}")
            else:
                self._names += 1
                self.batches[self._names] = (member.id, member.incarnation, commands)
                raft.forward(self._names, commands, now)
        except (NotLeader, Busy) as error:
            for command in commands:
                self.observer.refused(command, type(error).__name__)
            return ()
        member.proposed.extend((raft.term, command) for command in commands)
        self.touched(member)
        return commands

    def _batch_refused(self, member: Member, batch: int) -> None:
        owner, _, commands = self.batches[batch]
        if owner != member.id:
            raise Violation(f"{member.id} is told that batch {batch} of {owner} was refused")
        for command in commands:
            self.observer.refused(command, f"batch {batch}")

    def read(self, member: Member) -> int | None:
        """A client of `member` reads. Returns the read's context, or None if it was refused at once."""
        raft = member.raft
        if raft is None:
            return None
        self._names += 1
        context = self._names
        self.reads[context] = _Read(member.id, member.incarnation, len(self.observer.history))
        try:
            raft.read(context, member.clock(self.now))
        except (NotLeader, Busy):
            self.reads[context].state = "refused"
            return None
        self.touched(member)
        return context

    def _asked(self, member: Member, context: int) -> _Read:
        read = self.reads.get(context)
        if read is None or (read.member, read.incarnation, read.state) != (
            member.id,
            member.incarnation,
            "asked",
        ):
            raise Violation(f"{member.id} answers read {context}, which is {read}")
        return read

    def _read_confirmed(self, member: Member, context: int, index: Index) -> None:
        read = self._asked(member, context)
        self.observer.read_confirmed(member.id, read.committed_before, index)
        if index <= len(member.machine):
            read.state = "served"
        else:
            read.state = "confirmed"
            member.waiting_reads.append((index, context))

    def _read_rejected(self, member: Member, context: int) -> None:
        self._asked(member, context).state = "rejected"

    # ── for the end of a run ──────────────────────────────────────────────────────────────────────

    @property
    def leader(self) -> Member | None:
        """The member that leads the latest term, if any does."""
        leading = [member for member in self.members.values() if member.leads]
        return max(leading, key=lambda member: member.raft.term if member.raft else 0, default=None)

    def agreed_leader(self, among: Sequence[NodeId] | None = None) -> Member | None:
        """The leader whom all of `among` (default: all) follow, if there is one."""
        leader = self.leader
        if leader is None or leader.raft is None:
            return None
        for node_id in among if among is not None else self.ids:
            raft = self.members[node_id].raft
            if raft is None or raft.term != leader.raft.term or raft.leader_id != leader.id:
                return None
        return leader
