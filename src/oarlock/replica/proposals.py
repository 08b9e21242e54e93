"""Proposals in flight: from the caller to the log, through the leader, and back as a result.

The life of one proposal::

    QUEUED ──▶ SENT in term t ──▶ applied here: the caller gets the result
      ▲            │
      └────────────┘  refused by the receiver, or an entry of a term after t is applied here first
                      (sent again in a term after t only)

A proposal travels with a tag: which process proposed it (random, new at every start) and a number. The member
that proposed it recognises the tag when it applies the entry, whoever led.

Why sending again is safe: what is sent in term t is appended in term t or never (`Raft` sees to it on both
ways), and the log's terms never fall. So once an entry of a later term is applied and the proposal was not,
it never will be. The caller is left in doubt only if its time runs out while the proposal is SENT, or if a
snapshot takes the place of the entries that would tell (`skipped`).
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from oarlock.errors import Busy, NotLeader, OutcomeUnknown, RequestTimeout, Stopped, UsageError
from oarlock.machine import Command
from oarlock.raft import Entry, Raft
from oarlock.raft.types import NOBODY, EntryKind, Term
from oarlock.replica.expiry import Expiry, report

OnDone = Callable[[Any, BaseException | None], None]

_TAG = struct.Struct(">QQ")
_QUEUED: Term = 0
_BATCHES_MAX = 1024
"""Forwarded batches that are remembered. A refusal of an older one leaves its callers in doubt."""


class _Proposal:
    __slots__ = ("batch", "data", "deadline", "on_done", "request", "sent_in", "timeout")

    def __init__(self, data: bytes, on_done: OnDone, request: Any, timeout: float, deadline: float) -> None:
        self.data = data
        """With the tag in front."""
        self.on_done = on_done
        self.request = request
        self.timeout = timeout
        self.deadline = deadline
        self.sent_in: Term = _QUEUED
        self.batch = 0
        """The batch in which it was forwarded last; 0 if we appended it ourselves."""


class Proposals:
    """The proposals of one member that are not answered yet.

    Args:
        origin: tells this process's proposals from all others', past and present: random, 64 bits.
        first_batch: where the numbers of forwarded batches start: random, so that a refusal meant for an
            earlier process of this member is not taken for one of ours.
        count_max: proposals that may wait; beyond it `add` raises `Busy`.
        bytes_max: their bytes, likewise.
        batch_bytes_max: command bytes sent to the leader in one message.
    """

    def __init__(
        self, origin: int, first_batch: int, *, count_max: int, bytes_max: int, batch_bytes_max: int
    ) -> None:
        self._origin = origin
        self._origin_bytes = origin.to_bytes(8, "big")
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._batch_bytes_max = batch_bytes_max
        self._number = 0
        self._bytes = 0
        self._waiting: dict[int, _Proposal] = {}
        """All that are not answered, by number, oldest first."""
        self._queue: deque[int] = deque()
        """Those that are QUEUED, and numbers that were answered meanwhile."""
        self._batch = first_batch
        self._batches: dict[int, tuple[int, ...]] = {}
        """What was forwarded in which batch, in case it is refused."""
        self._applied_term: Term = 0
        self._refused_in: Term = 0
        """The latest term in which a batch was refused. Whoever refuses a batch of its own term has ceased to
        lead, and nobody else ever leads that term: sending again has to wait for a later one."""
        self._expiry = Expiry(self._expire)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def queued(self) -> bool:
        return bool(self._queue)

    def add(self, data: bytes, on_done: OnDone, request: Any, timeout: float, now: float) -> None:
        """Take a proposal. `on_done` is called exactly once, later.

        Raises:
            Busy: too many wait already; nothing was done.
            UsageError: it is larger than can ever be sent.
        """
        size = len(data) + _TAG.size
        if size > self._batch_bytes_max:
            limit = self._batch_bytes_max - _TAG.size
            raise UsageError(f"a command of {len(data)} bytes: the limit is {limit}")
        if len(self._waiting) >= self._count_max or self._bytes + size > self._bytes_max:
            raise Busy(f"{len(self._waiting)} commands of {self._bytes} bytes wait already: retry later")
        self._number += 1
        deadline = now + timeout
        self._waiting[self._number] = _Proposal(
            _TAG.pack(self._origin, self._number) + data, on_done, request, timeout, deadline
        )
        self._bytes += size
        self._queue.append(self._number)
        self._expiry.watch(deadline)

    def send(self, raft: Raft, now: float) -> None:
        """Hand what is queued to the leader: us, or another. Without one it stays queued."""
        while self._queue and raft.leader_id != NOBODY and raft.term > self._refused_in:
            numbers, commands = self._next_batch()
            if not numbers:
                return
            batch = 0
            try:
                if raft.leader_id == raft.id:
                    raft.propose(commands, now)
                else:
                    self._batch += 1
                    batch = self._batch
                    raft.forward(batch, commands, now)
                    self._remember_batch(batch, tuple(numbers))
            except NotLeader:
                self._queue.extendleft(reversed(numbers))
                return
            except Busy as busy:
                for number in numbers:
                    self._finish(number, None, busy)
                continue
            for number in numbers:
                proposal = self._waiting[number]
                proposal.sent_in = raft.term
                proposal.batch = batch

    def refused(self, batch: int, busy: bool) -> None:
        """A forwarded batch was certainly not appended."""
        for number in reversed(self._batches.pop(batch, ())):
            proposal = self._waiting.get(number)
            if proposal is None or proposal.sent_in == _QUEUED or proposal.batch != batch:
                continue  # answered, or it was sent again since: this refusal is not about that
            if busy:
                self._finish(number, None, Busy("the leader has too much uncommitted: retry later"))
            else:
                self._refused_in = max(self._refused_in, proposal.sent_in)
                proposal.sent_in = _QUEUED
                self._queue.appendleft(number)

    def command(self, entry: Entry) -> Command:
        """A committed entry as a command, with the proposer's request object if it is ours."""
        data = entry.data
        request = None
        if data.startswith(self._origin_bytes):
            proposal = self._waiting.get(int.from_bytes(data[8:16], "big"))
            if proposal is not None:
                request = proposal.request
        return Command(entry.index, entry.term, data[16:], request, entry.time)

    def applied(self, entries: Sequence[Entry], results: Sequence[Any]) -> None:
        """These entries were applied; `results` belong to the commands among them."""
        answers = iter(results)
        for entry in entries:
            if entry.term > self._applied_term:
                self._lost_before(entry.term)
            if entry.kind is not EntryKind.COMMAND:
                continue
            result = next(answers)
            if entry.data.startswith(self._origin_bytes):
                number = int.from_bytes(entry.data[8:16], "big")
                if isinstance(result, BaseException):
                    self._finish(number, None, result)
                else:
                    self._finish(number, result, None)

    def skipped(self, term: Term) -> None:
        """A snapshot whose last entry is of `term` was installed: its entries are never seen here.

        What was sent in that term or before may be among them, with a result that nobody can tell any more.
        Sending it again could apply it twice.
        """
        self._applied_term = max(self._applied_term, term)
        for number, proposal in list(self._waiting.items()):
            if _QUEUED < proposal.sent_in <= term:
                self._finish(number, None, OutcomeUnknown("a snapshot took the place of the command's entry"))

    def close(self) -> None:
        """Answer everything that waits: the replica is stopping."""
        self._expiry.close()
        for number, proposal in list(self._waiting.items()):
            in_doubt = proposal.sent_in != _QUEUED
            self._finish(number, None, Stopped("the replica is stopping", outcome_unknown=in_doubt))

    def _lost_before(self, term: Term) -> None:
        """What was sent before `term` and is not applied by now never will be: queue it again, in order."""
        self._applied_term = term
        lost = [number for number, proposal in self._waiting.items() if 0 < proposal.sent_in < term]
        for number in reversed(lost):
            self._waiting[number].sent_in = _QUEUED
            self._queue.appendleft(number)

    def _next_batch(self) -> tuple[list[int], list[bytes]]:
        numbers: list[int] = []
        commands: list[bytes] = []
        size = 0
        while self._queue:
            proposal = self._waiting.get(self._queue[0])
            if proposal is None:
                self._queue.popleft()  # answered meanwhile
                continue
            size += len(proposal.data)
            if numbers and size > self._batch_bytes_max:
                break
            numbers.append(self._queue.popleft())
            commands.append(proposal.data)
        return numbers, commands

    def _remember_batch(self, batch: int, numbers: tuple[int, ...]) -> None:
        self._batches[batch] = numbers
        # Refusals come soon or never: drop the oldest batches once all their proposals are answered, or when
        # there are too many: behind one that was lost there may be callers who wait for hours.
        while self._batches:
            oldest = next(iter(self._batches))
            unanswered = any(number in self._waiting for number in self._batches[oldest])
            if unanswered and len(self._batches) <= _BATCHES_MAX:
                break
            del self._batches[oldest]

    def _expire(self, now: float) -> float:
        earliest = math.inf
        for number, proposal in list(self._waiting.items()):
            if proposal.deadline <= now:
                in_doubt = proposal.sent_in != _QUEUED
                self._finish(number, None, RequestTimeout(proposal.timeout, outcome_unknown=in_doubt))
            else:
                earliest = min(earliest, proposal.deadline)
        # Without a leader nobody else takes them out.
        self._queue = deque(number for number in self._queue if number in self._waiting)
        return earliest

    def _finish(self, number: int, result: Any, error: BaseException | None) -> None:
        proposal = self._waiting.pop(number, None)
        if proposal is not None:
            self._bytes -= len(proposal.data)
            try:
                proposal.on_done(result, error)
            except Exception as raised:
                report(raised)
