"""The loop around one core: take a Ready, store, send, apply, answer, re-arm one timer.

Safety rests on this file. The order of duties is that of `oarlock.raft.ready`:

- `messages` go out at once; `messages_after_stored` only from `_durable`, in the order of the Readys.
- A Ready that stores nothing has its promises wait for the Readys before it that do.
- The state machine gets what the core hands out, in order, once.
- A snapshot is durable before it is installed, and resets the log in one write with what came with it.
- After any failure of the disk or of the state machine nothing more is sent, stored or answered.

Input only marks the loop as due; all that arrives in one turn of the event loop is worked on together, so
a batch forms by itself and costs one write and one message per follower.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable

from oarlock.errors import OarlockError, WireError, invariant
from oarlock.machine import Machine
from oarlock.raft import EntryKind, Message, Raft, Ready
from oarlock.raft.messages import PreVoteReply, RequestVoteReply
from oarlock.raft.types import LogBase, Snapshot
from oarlock.replica.changes import Changes
from oarlock.replica.conditions import Conditions
from oarlock.replica.fetching import Fetching
from oarlock.replica.observations import Observations
from oarlock.replica.ports import LogStorage, Transport
from oarlock.replica.proposals import Proposals
from oarlock.replica.reads import Reads
from oarlock.replica.snapshots import Snapshots

_log = logging.getLogger("oarlock.replica")

_VOTES = frozenset({PreVoteReply, RequestVoteReply})


class ReadyLoop:
    """Drives one `Raft` with one storage, one transport and one state machine.

    Args:
        clock: seconds, for the core: the event loop's time, or a fresher reading of the same clock.
        on_configuration: the configuration in effect changed, or one was committed.
        on_failure: this member cannot go on.
    """

    def __init__(
        self,
        raft: Raft,
        *,
        storage: LogStorage,
        transport: Transport,
        group: int,
        machine: Machine,
        proposals: Proposals,
        reads: Reads,
        snapshots: Snapshots,
        fetching: Fetching,
        changes: Changes,
        conditions: Conditions,
        observations: Observations,
        clock: Callable[[], float],
        on_configuration: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.raft = raft
        self._storage = storage
        self._transport = transport
        self._group = group
        self._machine = machine
        self._proposals = proposals
        self._reads = reads
        self._snapshots = snapshots
        self._fetching = fetching
        self._changes = changes
        self._conditions = conditions
        self._observations = observations
        self._clock = clock
        self._on_configuration = on_configuration
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._configuration_index = raft.configuration_index
        self._now = clock()
        """When the current turn began."""
        self._storing: deque[tuple[int, list[Message], float]] = deque()
        """Readys on their way to the disk: number, the promises to send once they are durable, since when."""
        self._scheduled = False
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf

    def schedule(self) -> None:
        """Something came in: work on it soon, together with all else that comes in this turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def receive(self, messages: list[Message]) -> None:
        """Messages from the transport."""
        if self._stopped:
            return
        now = self._clock()
        try:
            for message in messages:
                if message.__class__ in _VOTES:
                    self._observations.vote(message, now)
                try:
                    self.raft.step(message, now)
                except WireError as error:
                    _log.warning("dropped a message that no correct member sends: %s", error)
        except Exception as error:
            self.fail(error)
        self.schedule()

    def stop(self) -> None:
        """Do nothing more. Idempotent."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ── one turn ───────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        try:
            self._now = now = self._clock()
            if now >= self.raft.deadline:
                self.raft.timeout(now)
            if self._proposals.queued:
                self._proposals.send(self.raft, now)
            if self._reads.queued:
                self._reads.ask(self.raft, now)
            ready = self.raft.ready()
            if ready is not None:
                self._fulfil(ready)
                self.schedule()  # there may be more; others get their turn first
            if self._conditions:
                self._conditions.look()
            self._rearm()
        except Exception as error:
            self.fail(error)

    def _fulfil(self, ready: Ready) -> None:
        if ready.messages:
            self._transport.send(self._group, ready.messages)
        if ready.must_store:
            self._storing.append((ready.number, list(ready.messages_after_stored), self._now))
            if ready.install is None:
                self._storage.append(ready.hard_state, ready.entries, self._durable)
            else:
                base = LogBase(ready.install.index, ready.install.term)
                self._storage.append(ready.hard_state, ready.entries, self._durable, base)
        elif self._storing:
            self._storing[-1][1].extend(ready.messages_after_stored)
        elif ready.messages_after_stored:
            self._transport.send(self._group, ready.messages_after_stored)
        if ready.install is not None:
            self._install(ready.install)
        if ready.committed:
            self._apply(ready)
        for reply in ready.rejected_batches:
            self._proposals.refused(reply.batch, reply.busy)
        for context in ready.rejected_reads:
            self._reads.rejected(context)
        for state in ready.reads:
            self._reads.confirmed(state.context, state.index)
        if ready.reads or ready.committed:
            self._reads.applied(self.raft.applied_index)
        for answer in ready.changes:
            self._changes.answered(answer)
        if ready.fetch is not None:
            self._fetching.fetch(ready.fetch)
        if ready.take_snapshot:
            self._snapshots.take()
        if self.raft.configuration_index != self._configuration_index:
            self._configuration_index = self.raft.configuration_index
            self._on_configuration()

    def _durable(self, error: BaseException | None) -> None:
        """The oldest Ready that was being stored is durable: now its promises may be made."""
        if self._stopped:
            return
        if error is not None:
            self.fail(error)
            return
        invariant(self._storing, "storage reported more than it was given")
        number, promises, since = self._storing.popleft()
        try:
            self._observations.written(self._clock() - since)
            self.raft.stored(number)
            if promises:
                self._transport.send(self._group, promises)
        except Exception as failure:
            self.fail(failure)
        self.schedule()

    def _apply(self, ready: Ready) -> None:
        entries = ready.committed
        proposals = self._proposals
        commands = [proposals.command(entry) for entry in entries if entry.kind is EntryKind.COMMAND]
        index = entries[-1].index
        results = self._machine.apply(commands, index)
        invariant(len(results) == len(commands), "a state machine gives one result per command")
        self.raft.applied(index)
        proposals.applied(entries, results)
        self._snapshots.applied(len(entries), ready.committed_bytes)
        if len(commands) < len(entries):
            for entry in entries:
                if entry.kind is EntryKind.CONFIGURATION:
                    self._changes.configuration_applied(entry.index, entry.term)
                    self._on_configuration()

    def _install(self, snapshot: Snapshot) -> None:
        """The state jumps ahead. What the entries between did is in it, but not what each of them gave."""
        self._fetching.install(snapshot)
        self.raft.applied(snapshot.index)
        self._proposals.skipped(snapshot.term)
        self._reads.applied(snapshot.index)
        self._on_configuration()

    @property
    def oldest_write(self) -> float | None:
        """Since when the oldest write has been under way; None if none is."""
        return self._storing[0][2] if self._storing else None

    # ── timer and failure ──────────────────────────────────────────────────────────────────────────

    def _rearm(self) -> None:
        """One timer. It may fire early, when a heartbeat has moved the deadline: then it is set anew."""
        due = self.raft.deadline
        if due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._on_timer)
            self._timer_due = due

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_due = math.inf
        self.schedule()

    def fail(self, error: BaseException) -> None:
        """This member cannot go on: what the disk or the state machine now holds is not known."""
        if self._stopped:
            return
        self.stop()
        if isinstance(error, OarlockError):
            _log.error("this member stops: %s", error)
        else:
            _log.error("this member stops: %r", error, exc_info=error)
        self._on_failure(error)
