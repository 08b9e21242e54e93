"""One timer for many deadlines."""

from __future__ import annotations

import asyncio
import math

from oarlock.replica.expiry import Expiry


class Alarms:
    """Deadlines with an `Expiry`, and when each was noticed."""

    def __init__(self) -> None:
        self.expiry = Expiry(self.sweep)
        self.waiting: list[float] = []
        self.noticed: list[tuple[float, float]] = []
        self.on_noticed: list[float] = []
        """New deadlines, as seconds from then, that are set from within the first sweep."""

    def set(self, seconds: float) -> None:
        due = asyncio.get_running_loop().time() + seconds
        self.waiting.append(due)
        self.expiry.watch(due)

    def sweep(self, now: float) -> float:
        known = self.waiting
        self.waiting = [due for due in known if due > now]
        earliest = min(self.waiting, default=math.inf)
        for due in known:
            if due <= now:
                self.noticed.append((due, now))
                while self.on_noticed:
                    self.set(self.on_noticed.pop())
        return earliest


async def test_each_deadline_is_noticed_when_it_passes_whatever_the_order() -> None:
    alarms = Alarms()
    start = asyncio.get_running_loop().time()
    for seconds in (3, 1, 2, 2):
        alarms.set(seconds)
    await asyncio.sleep(10)
    assert [round(now - start, 6) for _, now in alarms.noticed] == [1, 2, 2, 3]


async def test_a_deadline_set_while_others_expire_is_noticed_too() -> None:
    """It once got no timer: the sweep had counted already, and `watch` compared with what had fired."""
    alarms = Alarms()
    alarms.on_noticed = [5.0]
    alarms.set(1)
    await asyncio.sleep(10)
    assert len(alarms.noticed) == 2
    alarms.set(1)
    await asyncio.sleep(10)
    assert len(alarms.noticed) == 3


async def test_nothing_is_noticed_after_close() -> None:
    alarms = Alarms()
    alarms.set(1)
    alarms.expiry.close()
    await asyncio.sleep(10)
    assert alarms.noticed == []
