"""One timer for many deadlines: most requests are answered long before theirs, so none gets its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from oarlock.errors import InvariantViolated


class Expiry:
    """Calls `sweep` when the earliest known deadline has passed.

    `sweep(now)` removes what has expired and returns the earliest deadline that is left, or infinity.
    """

    def __init__(self, sweep: Callable[[float], float]) -> None:
        self._sweep = sweep
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """There is something with this deadline."""
        if deadline < self._due:
            self._arm(deadline)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due: float) -> None:
        self.close()
        self._due = due
        if due < math.inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._fire)

    def _fire(self) -> None:
        # Those whom `sweep` calls back may watch something new: they must find that no timer is set.
        self._timer = None
        self._due = math.inf
        self.watch(self._sweep(asyncio.get_running_loop().time()))


def report(error: Exception) -> None:
    """A caller's callback raised: its own trouble. The member goes on, and so do the other callers.

    Raises:
        InvariantViolated: that is what it raised, and nothing may go on.
    """
    if isinstance(error, InvariantViolated):
        raise error
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a request's callback raised", "exception": error}
    )
