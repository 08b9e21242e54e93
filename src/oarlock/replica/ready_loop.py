"""The loop around one core: take a Ready, store, send, apply, answer, re-arm one timer.

Safety rests on this file. The order of duties is that of `oarlock.raft.ready`:

- `messages` go out at once; `messages_after_stored` only from `_durable`, in the order of the Readys.
- A Ready that stores nothing has its promises wait for the Readys before it that do.
- The state machine gets what the core hands out, in order, once.
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
from oarlock.replica.ports import LogStorage, Transport
from oarlock.replica.proposals import Proposals
from oarlock.replica.reads import Reads

_log = logging.getLogger("oarlock.replica")


class ReadyLoop:
    """Drives one `Raft` with one storage, one transport and one state machine."""

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
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._raft = raft
        self._storage = storage
        self._transport = transport
        self._group = group
        self._machine = machine
        self._proposals = proposals
        self._reads = reads
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._storing: deque[tuple[int, list[Message]]] = deque()
        """Readys on their way to the disk: number, and the promises to send once they are durable."""
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
        now = self._loop.time()
        try:
            for message in messages:
                try:
                    self._raft.step(message, now)
                except WireError as error:
                    _log.warning("dropped a message that no correct member sends: %s", error)
        except Exception as error:
            self._fail(error)
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
            now = self._loop.time()
            if now >= self._raft.deadline:
                self._raft.timeout(now)
            if self._proposals.queued:
                self._proposals.send(self._raft, now)
            if self._reads.queued:
                self._reads.ask(self._raft, now)
            ready = self._raft.ready()
            if ready is not None:
                self._fulfil(ready)
                self.schedule()  # there may be more; others get their turn first
            self._rearm()
        except Exception as error:
            self._fail(error)

    def _fulfil(self, ready: Ready) -> None:
        if ready.messages:
            self._transport.send(self._group, ready.messages)
        if ready.must_store:
            self._storing.append((ready.number, list(ready.messages_after_stored)))
            self._storage.append(ready.hard_state, ready.entries, self._durable)
        elif self._storing:
            self._storing[-1][1].extend(ready.messages_after_stored)
        elif ready.messages_after_stored:
            self._transport.send(self._group, ready.messages_after_stored)
        if ready.committed:
            self._apply(ready)
        for reply in ready.rejected_batches:
            self._proposals.refused(reply.batch, reply.busy)
        for context in ready.rejected_reads:
            self._reads.rejected(context)
        for state in ready.reads:
            self._reads.confirmed(state.context, state.index)
        if ready.reads or ready.committed:
            self._reads.applied(self._raft.applied_index)

    def _durable(self, error: BaseException | None) -> None:
        """The oldest Ready that was being stored is durable: now its promises may be made."""
        if self._stopped:
            return
        if error is not None:
            self._fail(error)
            return
        invariant(self._storing, "storage reported more than it was given")
        number, promises = self._storing.popleft()
        try:
            self._raft.stored(number)
            if promises:
                self._transport.send(self._group, promises)
        except Exception as failure:
            self._fail(failure)
        self.schedule()

    def _apply(self, ready: Ready) -> None:
        entries = ready.committed
        proposals = self._proposals
        commands = [proposals.command(entry) for entry in entries if entry.kind is EntryKind.COMMAND]
        index = entries[-1].index
        results = self._machine.apply(commands, index)
        invariant(len(results) == len(commands), "a state machine gives one result per command")
        self._raft.applied(index)
        proposals.applied(entries, results)

    # ── timer and failure ──────────────────────────────────────────────────────────────────────────

    def _rearm(self) -> None:
        """One timer. It may fire early, when a heartbeat has moved the deadline: then it is set anew."""
        due = self._raft.deadline
        if due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._on_timer)
            self._timer_due = due

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_due = math.inf
        self.schedule()

    def _fail(self, error: BaseException) -> None:
        """This member cannot go on: what the disk or the state machine now holds is not known."""
        if self._stopped:
            return
        self.stop()
        if isinstance(error, OarlockError):
            _log.error("this member stops: %s", error)
        else:
            _log.error("this member stops: %r", error, exc_info=error)
        self._on_failure(error)
