"""One server of a schedule: the smallest honest driver of the `Ready` contract around a core.

Its disk takes its time and forgets what was not synced when the member crashes; its state machine applies
with a delay and is sometimes lost; it fetches and writes snapshots; its clock has an origin and a rate of its
own, and may jump forward (a paused virtual machine).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from oarlock.raft import invariants
from oarlock.raft.config import Config
from oarlock.raft.messages import InstallSnapshot
from oarlock.raft.progress import ProgressState
from oarlock.raft.raft import Raft
from oarlock.raft.ready import Ready
from oarlock.raft.roles import Role
from oarlock.raft.types import Entry, Index, NodeId, StoredSnapshot, Term

from .checkers import Violation
from .disk import Disk
from .machine import EMPTY, Dump, Machine

if TYPE_CHECKING:
    from .cluster import Cluster

READYS_MAX = 1_000


class Member:
    """A disk that survives, and while it is up a core and its driver's memory."""

    def __init__(self, cluster: Cluster, node_id: NodeId, disk: Disk) -> None:
        self.cluster = cluster
        self.id = node_id
        self.disk = disk
        self.raft: Raft | None = None
        self.view: invariants.View | None = None
        self.incarnation = 0
        self.origin = 0.0
        self.rate = 1.0
        self.paused_until = 0.0
        self.disk_hangs_until = 0.0
        self.machine = Machine()
        self.proposed: deque[tuple[Term, bytes]] = deque()
        """What clients here submitted, and in which term."""
        self._forget()

    def _forget(self) -> None:
        self.wake_at = math.inf
        self.paused_until = 0.0
        self._drain_due = False
        self._queue: deque[tuple[Ready, float]] = deque()
        """Readys taken and not yet durable, and since when."""
        self._syncing = 0
        """How many of them the running sync covers."""
        self._to_apply: deque[Entry | Dump] = deque()
        self._applying = False
        self._fetching: InstallSnapshot | None = None
        self._taking = False
        self._take_later = False
        self._waiting_reads: list[tuple[Index, int]] = []
        self.proposed.clear()

    @property
    def up(self) -> bool:
        return self.raft is not None

    @property
    def leads(self) -> bool:
        return self.raft is not None and self.raft.role is Role.LEADER

    def clock(self) -> float:
        return self.origin + self.cluster.now * self.rate

    # ── life and death ────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        if self.up:
            return
        cluster, rng, disk = self.cluster, self.cluster.rng, self.disk
        self.incarnation += 1
        self.origin = rng.uniform(0.0, 1000.0)
        self.rate = rng.uniform(0.97, 1.03)
        cluster.observer.written(self.id, disk.recover())
        newest = disk.newest
        durable = disk.applied
        if durable is None or durable.index < disk.base.index or rng.random() < 0.2:
            durable = EMPTY if newest is None else newest[1]  # the state machine was lost, or was in memory
        self.machine = Machine(durable)
        cluster.observer.installs(self.id, self.machine)
        conditions = cluster.conditions
        self.raft = cluster.core(
            Config(
                id=self.id,
                election_timeout=conditions.election_timeout,
                heartbeat_interval=conditions.heartbeat_interval,
                **conditions.config,
            ),
            disk.state,
            tuple(disk.entries),
            random=random.Random(rng.getrandbits(32)),
            now=self.clock(),
            applied_index=self.machine.index,
            base=disk.base,
            snapshot=None if newest is None else newest[0],
        )
        self.view = invariants.View(self.raft)
        cluster.say(lambda: f"start {self.view!r}")
        self.touched()

    def crash(self) -> None:
        """Stop at once. Of what was being written, a random number of whole Readys made it to the disk."""
        if not self.up:
            return
        rng = self.cluster.rng
        survivors = rng.randint(0, len(self._queue))
        lost = len(self._queue) - survivors
        for _ in range(survivors):
            self._write(self._queue.popleft()[0])
        self.cluster.say(lambda: f"crash {self.id}: {survivors} survive, {lost} are lost")
        self.raft = None
        self.view = None
        self._forget()
        if rng.random() < 0.5:
            self.disk.applied = self.machine.dump()  # the state machine was saved just before

    def pause(self, seconds: float) -> None:
        """It gets no processor time for a while; messages wait for it."""
        self.paused_until = self.cluster.now + seconds

    def hang_disk(self, seconds: float) -> None:
        """Nothing becomes durable for a while."""
        self.disk_hangs_until = self.cluster.now + seconds

    def postponed(self, action: Callable[..., None], *arguments: object) -> bool:
        if self.paused_until <= self.cluster.now:
            return False
        self.cluster.at(self.paused_until, action, *arguments)
        return True

    def _gone(self, incarnation: int, action: Callable[..., None], *arguments: object) -> bool:
        """Whether the process that wanted this is gone; or asleep, then it happens later."""
        if self.raft is None or self.incarnation != incarnation:
            return True
        return self.postponed(action, incarnation, *arguments)

    def _soon(self, bounds: tuple[float, float], action: Callable[..., None], *arguments: object) -> None:
        when = self.cluster.now + self.cluster.rng.uniform(*bounds)
        self.cluster.at(when, action, self.incarnation, *arguments)

    # ── the driver ────────────────────────────────────────────────────────────────────────────────

    def touched(self) -> None:
        """A door of the core was used: check it, and take what is ready."""
        self._inspect()
        batching = self.cluster.conditions.batching
        if batching and self.cluster.rng.random() < batching:
            if not self._drain_due:
                self._drain_due = True
                self._soon((0.0, 0.01), self._drain_later)
        else:
            self._drain()
        self._arm()

    def _drain_later(self, incarnation: int) -> None:
        if self.up and self.incarnation == incarnation and self._drain_due:
            self._drain()
            self._arm()

    def _drain(self) -> None:
        raft, cluster = self.raft, self.cluster
        self._drain_due = False
        taken = 0
        while raft is not None and (ready := raft.ready()) is not None:
            taken += 1
            if taken > READYS_MAX:
                raise Violation(f"{self.id} has always one more Ready")
            cluster.observer.storing(raft, ready.entries)
            for message in ready.messages:
                cluster.send(message)
            if ready.must_store or self._queue:
                self._queue.append((ready, self.clock()))
            else:
                for message in ready.messages_after_stored:
                    cluster.send(message)  # nothing to store: nothing to report, as in `ReadyLoop`
            self._start_sync()
            if ready.install is not None:
                if ready.install.index not in self.disk.snapshots:
                    raise Violation(f"{self.id} is to install {ready.install}, which it has not got")
                self._to_apply.append(self.disk.snapshots[ready.install.index][1])
            self._to_apply.extend(ready.committed)
            self._start_apply()
            self._answer(ready)
            if ready.fetch is not None:
                self._fetch(ready.fetch)
            if ready.take_snapshot:
                self._take()
        if taken and self.leads:
            self._inspect()  # handing out messages moves a leader's view of its followers

    def _answer(self, ready: Ready) -> None:
        clients = self.cluster.clients
        for state in ready.reads:
            if clients.read_confirmed(self, state.context, state.index):
                self._waiting_reads.append((state.index, state.context))
        for context in ready.rejected_reads:
            clients.read_rejected(self, context)
        for refusal in ready.rejected_batches:
            clients.batch_refused(self, refusal.batch)
        for answer in ready.changes:
            clients.change_answered(self, answer)

    def _inspect(self) -> None:
        raft, before, cluster = self.raft, self.view, self.cluster
        if raft is None or before is None:
            return
        invariants.check(raft)
        after = invariants.View(raft)
        invariants.check_step(before, after)
        self.view = after
        if after.commit_index > before.commit_index:
            cluster.observer.committing(raft, before.commit_index, before.configuration)
        if after.role is Role.LEADER and before.role is not Role.LEADER:
            cluster.observer.elected(raft)
        if after.role is Role.LEADER and after.configuration_index > before.configuration_index:
            for learner in before.configuration.learners:
                progress = raft.progress.get(learner)
                promoted = learner in after.configuration.voters
                if promoted and progress is not None and progress.state is not ProgressState.REPLICATE:
                    raise Violation(f"{self.id} makes {learner} a voter, which is not in touch with its log")
        if (after.role, after.term) != (before.role, before.term):
            cluster.say(lambda: f"      {after!r}")
            hangs = self.clock() - self._queue[0][1] if self._queue else 0.0
            if after.role is Role.PRE_CANDIDATE and hangs >= raft.config.stall_timeout:
                raise Violation(f"{self.id} stands for election while its disk hangs for {hangs:.2f} s")

    # ── disk ──────────────────────────────────────────────────────────────────────────────────────

    def _start_sync(self) -> None:
        if self._queue and not self._syncing:
            self._syncing = len(self._queue)
            self._soon(self.cluster.conditions.sync, self._synced)

    def _synced(self, incarnation: int) -> None:
        """One sync is done: it covered what was queued when it began (group commit)."""
        raft = self.raft
        if self._gone(incarnation, self._synced) or raft is None:
            return
        if self.disk_hangs_until > self.cluster.now:
            self.cluster.at(self.disk_hangs_until, self._synced, incarnation)
            return
        count, self._syncing = self._syncing, 0
        number = 0
        while self._queue and (count > 0 or not self._queue[0][0].must_store):
            # Readys that only waited behind what was being written are done with it.
            ready, _ = self._queue.popleft()
            count -= 1
            number = ready.number
            self._write(ready)
            for message in ready.messages_after_stored:
                self.cluster.send(message)
        raft.stored(number)
        self._start_sync()
        self.touched()

    def _write(self, ready: Ready) -> None:
        self.cluster.observer.written(self.id, self.disk.write(ready))

    # ── state machine ─────────────────────────────────────────────────────────────────────────────

    def _start_apply(self) -> None:
        if self._to_apply and not self._applying:
            self._applying = True
            self._soon(self.cluster.conditions.apply, self._apply)

    def _apply(self, incarnation: int) -> None:
        raft, cluster = self.raft, self.cluster
        if self._gone(incarnation, self._apply) or raft is None:
            return
        self._applying = False
        while self._to_apply:
            self._apply_one(self._to_apply.popleft())
            if cluster.rng.random() < 0.2:
                break  # the rest a little later
        applied = self.machine.index
        raft.applied(applied)
        for index, context in self._waiting_reads:
            if index <= applied:
                cluster.clients.read_served(context)
        self._waiting_reads = [read for read in self._waiting_reads if read[0] > applied]
        self._start_apply()
        if self._take_later:
            self._take()
        self.touched()

    def _apply_one(self, item: Entry | Dump) -> None:
        cluster = self.cluster
        if isinstance(item, Dump):
            self.machine = Machine(item)
            self.proposed.clear()  # whether any of it is in the snapshot, nobody can tell
            cluster.observer.installs(self.id, self.machine)
            return
        cluster.observer.applying(self.id, self.machine.index, item)
        result, executed = self.machine.apply(item)
        cluster.observer.applied(self.id, self.machine, executed)
        cluster.clients.applied(self, item, result)

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────

    def _take(self) -> None:
        """Write a snapshot of what is applied now."""
        raft = self.raft
        if raft is None or self._taking:
            return
        # What is being installed has to be installed first.
        self._take_later = raft.log.base_index > raft.applied_index
        if self._take_later:
            return
        if self.machine.index <= self.disk.covered:
            raft.snapshot_turn_done(self.clock())  # there is one that is as new
            return
        self._taking = True
        snapshot = raft.snapshot_at(self.machine.index)
        self.cluster.observer.snapshot_named(self.id, snapshot)
        dump = self.machine.dump()
        stored = StoredSnapshot(snapshot, 1000, dump.digest)
        self._soon(self.cluster.conditions.take, self._taken, stored, dump)

    def _taken(self, incarnation: int, stored: StoredSnapshot, dump: Dump) -> None:
        raft = self.raft
        if self._gone(incarnation, self._taken, stored, dump) or raft is None:
            return
        self._taking = False
        if self.cluster.rng.random() < 0.9:  # else it could not be written
            self.disk.keep(stored, dump)
            raft.snapshot_taken(stored, self.clock())
        raft.snapshot_turn_done(self.clock())
        self._compact(raft)
        self.touched()

    def _fetch(self, message: InstallSnapshot) -> None:
        self._fetching = message
        low, high = self.cluster.conditions.fetch
        self._soon((low / 2, low), self._fetching_goes_on, message)
        self._soon((low, high), self._fetched, message)

    def _fetching_goes_on(self, incarnation: int, message: InstallSnapshot) -> None:
        if not self._gone(incarnation, self._fetching_goes_on, message) and self._fetching is message:
            assert self.raft is not None
            self.raft.snapshot_progress(500)

    def _fetched(self, incarnation: int, message: InstallSnapshot) -> None:
        raft, cluster = self.raft, self.cluster
        if self._gone(incarnation, self._fetched, message) or raft is None or self._fetching is not message:
            return
        self._fetching = None
        source = cluster.members[message.sender]
        held = source.disk.snapshots.get(message.snapshot.index)
        cut = (self.id, source.id) in cluster.cut or (source.id, self.id) in cluster.cut
        if not source.up or cut or held is None or cluster.rng.random() < cluster.conditions.fetch_failure:
            raft.snapshot_failed(self.clock())
            self.touched()
            return
        if held[0].checksum != message.checksum or held[0].snapshot != message.snapshot:
            raise Violation(f"{source.id} offered {message}, but holds {held[0]}")
        self._soon(cluster.conditions.sync, self._received, held)

    def _received(self, incarnation: int, held: tuple[StoredSnapshot, Dump]) -> None:
        raft = self.raft
        if self._gone(incarnation, self._received, held) or raft is None:
            return
        self.disk.keep(*held)
        raft.snapshot_received(held[0], self.clock())
        self._compact(raft)
        self.touched()

    def _compact(self, raft: Raft) -> None:
        """Drop what a durable snapshot covers from the disk, or a part of it."""
        if any(ready.install is not None for ready, _ in self._queue) or raft.outbox.install is not None:
            return
        limit = min(self.disk.covered, raft.log.stored_index)
        if limit > self.disk.base.index:
            self.disk.compact(self.cluster.rng.choice((limit, self.cluster.rng.randint(0, limit))))

    # ── timers ────────────────────────────────────────────────────────────────────────────────────

    def _moment(self, local: float) -> float:
        return (local - self.origin) / self.rate

    def _arm(self) -> None:
        raft, cluster = self.raft, self.cluster
        if raft is None or raft.deadline == math.inf:
            return
        due = max(cluster.now, self._moment(raft.deadline))
        if due < self.wake_at:
            self.wake_at = due
            cluster.at(due, self._wake, self.incarnation, due)

    def _wake(self, incarnation: int, due: float) -> None:
        if due != self.wake_at or self._gone(incarnation, self._wake, due) or self.raft is None:
            return
        self.wake_at = math.inf
        now = max(self.clock(), math.nextafter(self.raft.deadline, math.inf))
        if self._moment(self.raft.deadline) <= self.cluster.now:
            self.raft.timeout(now)
            self.touched()
        else:
            self._arm()

    @property
    def due(self) -> float:
        """When its timer will fire; 0 if it has none."""
        return 0.0 if self.raft is None else self._moment(self.raft.deadline)

    def jump(self) -> None:
        """Its clock jumps forward to its deadline, and its timer fires before anything else arrives.

        Not with lease reads: those trust the clocks.
        """
        raft = self.raft
        if raft is None or raft.deadline == math.inf or raft.config.lease_reads:
            return
        self.origin += max(0.0, raft.deadline - self.clock()) + 1e-9
        raft.timeout(self.clock())
        self.touched()
