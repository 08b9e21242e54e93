"""Linearizable reads: wait until the state here is at least as new as the read (ReadIndex, dissertation 6.4).

Reads that arrive together share one confirmation: one *context*. When its index is known and applied, all of
them may look at the local state.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from oarlock.errors import Busy, NotLeader, RequestTimeout, Stopped
from oarlock.raft import Index, Raft
from oarlock.replica.expiry import Expiry, report

OnReady = Callable[[BaseException | None], None]


class _Waiter:
    __slots__ = ("deadline", "done", "on_ready", "timeout")

    def __init__(self, on_ready: OnReady, timeout: float, deadline: float) -> None:
        self.on_ready = on_ready
        self.timeout = timeout
        self.deadline = deadline
        self.done = False

    def finish(self, error: BaseException | None) -> None:
        if not self.done:
            self.done = True
            try:
                self.on_ready(error)
            except Exception as raised:
                report(raised)


class Reads:
    """The linearizable reads of one member that are not answered yet.

    Args:
        first_context: where the numbers of contexts start: random, so that an answer to an earlier process
            of this member is not taken for one to us.
        count_max: reads that may wait; beyond it `add` raises `Busy`.
        retry_after: seconds without an answer after which the leader is asked again; messages get lost.
    """

    def __init__(self, first_context: int, *, count_max: int, retry_after: float) -> None:
        self._context = first_context
        self._count_max = count_max
        self._retry_after = retry_after
        self._count = 0
        self._queue: list[_Waiter] = []
        self._asked: dict[int, tuple[float, list[_Waiter]]] = {}
        """Contexts without an answer: when they were asked for, and who waits."""
        self._confirmed: list[tuple[Index, float, list[_Waiter]]] = []
        """Waiting to be applied: up to where, when it was asked for, and who waits."""
        self.fresh_at = -math.inf
        """The local state holds everything that was committed at this time, by the clock of `ask`."""
        self._expiry = Expiry(self._expire)

    def __len__(self) -> int:
        return self._count

    @property
    def queued(self) -> bool:
        return bool(self._queue)

    def add(self, on_ready: OnReady, timeout: float, now: float) -> None:
        """Call `on_ready` exactly once, later: with None when the local state is fresh enough.

        Raises:
            Busy: too many wait already.
        """
        if self._count >= self._count_max:
            raise Busy(f"{self._count} reads wait already: retry later")
        self._count += 1
        self._queue.append(_Waiter(on_ready, timeout, now + timeout))
        self._expiry.watch(now + timeout)

    def ask(self, raft: Raft, now: float) -> None:
        """Ask the core to confirm what is queued. Without a leader it stays queued."""
        self._requeue_unanswered(now)
        if not self._queue:
            return
        self._context += 1
        try:
            raft.read(self._context, now)
        except (NotLeader, Busy):
            return
        self._asked[self._context] = (now, self._queue)
        self._queue = []
        self._expiry.watch(now + self._retry_after)

    def confirmed(self, context: int, index: Index) -> None:
        asked, waiters = self._asked.pop(context, (0.0, []))
        if waiters:
            self._confirmed.append((index, asked, waiters))

    def rejected(self, context: int) -> None:
        """Leadership moved: ask again, whoever leads now."""
        _, waiters = self._asked.pop(context, (0.0, []))
        self._queue = [waiter for waiter in waiters if not waiter.done] + self._queue

    def applied(self, index: Index) -> None:
        """Everything up to `index` is applied: answer what waited for it."""
        if not self._confirmed:
            return
        ready = [item for item in self._confirmed if item[0] <= index]
        self._confirmed = [item for item in self._confirmed if item[0] > index]
        for _, asked, waiters in ready:
            self.fresh_at = max(self.fresh_at, asked)
            for waiter in waiters:
                self._finish(waiter, None)

    def close(self) -> None:
        self._expiry.close()
        for waiter in self._all():
            self._finish(waiter, Stopped("the replica is stopping"))

    def _all(self) -> list[_Waiter]:
        groups = [
            self._queue,
            *(waiters for _, waiters in self._asked.values()),
            *(waiters for _, _, waiters in self._confirmed),
        ]
        return [waiter for group in groups for waiter in group if not waiter.done]

    def _requeue_unanswered(self, now: float) -> None:
        late = [context for context, (asked, _) in self._asked.items() if now - asked >= self._retry_after]
        for context in late:
            self.rejected(context)

    def _expire(self, now: float) -> float:
        earliest = math.inf
        for waiter in self._all():
            if waiter.deadline <= now:
                self._finish(waiter, RequestTimeout(waiter.timeout, outcome_unknown=False))
            else:
                earliest = min(earliest, waiter.deadline)
        self._queue = [waiter for waiter in self._queue if not waiter.done]
        # While this member cannot apply (its disk hangs, say), new reads go on being confirmed.
        alive = (
            (index, asked, [waiter for waiter in waiters if not waiter.done])
            for index, asked, waiters in self._confirmed
        )
        self._confirmed = [item for item in alive if item[2]]
        self._requeue_unanswered(now)
        if self._queue or self._asked:
            earliest = min(earliest, now + self._retry_after)
        return earliest

    def _finish(self, waiter: _Waiter, error: BaseException | None) -> None:
        if not waiter.done:
            self._count -= 1
            waiter.finish(error)
