"""Deadlines of many calls on few timers.

A timer per call would cost more than the call. Calls are put into buckets by the time at which they expire,
rounded up; a bucket is one timer of the loop, and a call that ends in time is taken out of its bucket again,
so that the wheel holds open calls only. Equal timeouts of many calls share a few buckets."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

_RESOLUTION: Final = 0.01  # seconds; a deadline is noticed up to this much late
_FAR: Final = 86_400.0 * 30  # a month: beyond it a deadline is no deadline


class Expiring(Protocol):
    """What a wheel holds."""

    def expire(self) -> None:
        """The deadline has passed."""


class Wheel:
    """Deadlines by bucket. Belongs to one loop."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Expiring, None]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def add(self, call: Expiring, deadline: float, loop: asyncio.AbstractEventLoop) -> int:
        """`expire` will be called at ``deadline`` (the loop's time). Returns the bucket, for `discard`; 0 if
        none."""
        if deadline - loop.time() > _FAR:
            return 0
        key = int(deadline / _RESOLUTION) + 1
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = {}
            self._timers[key] = loop.call_at(key * _RESOLUTION, self._expire, key)
        bucket[call] = None
        return key

    def discard(self, call: Expiring, key: int) -> None:
        """The call ended in time."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.pop(call, None)
            if not bucket:
                del self._buckets[key]
                self._timers.pop(key).cancel()

    def _expire(self, key: int) -> None:
        self._timers.pop(key, None)
        for call in self._buckets.pop(key, {}):
            call.expire()

    def close(self) -> None:
        """Forget everything."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._buckets.clear()
