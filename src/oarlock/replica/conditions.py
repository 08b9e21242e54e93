"""Waiting until something is true of the core: looked at after each turn of the ready loop.

Everything that the core learns, it learns in a turn of the loop, so nothing is missed and nothing polls. For
the few who wait for an election or a membership change; requests have better ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from oarlock.errors import Stopped
from oarlock.replica.expiry import report


class Conditions:
    """Those who wait. False while there are none."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Return when `condition` holds.

        Raises:
            TimeoutError: it did not come about in time.
            Stopped: the member stops.
        """
        if self._closed:
            raise Stopped("the replica is stopping")
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = condition
        try:
            await asyncio.wait_for(future, max(seconds, 0.0))
        finally:
            self._waiting.pop(future, None)

    def look(self) -> None:
        """The core may have changed."""
        for future, condition in list(self._waiting.items()):
            try:
                if not future.done() and condition():
                    future.set_result(None)
            except Exception as error:
                report(error)

    def close(self) -> None:
        self._closed = True
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(Stopped("the replica is stopping"))
