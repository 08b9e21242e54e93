"""Deadlines on the wheel."""

from __future__ import annotations

import asyncio

from oarlock.grpc.deadlines import Wheel


class Waiter:
    def __init__(self, order: list[Waiter]) -> None:
        self.order = order

    def expire(self) -> None:
        self.order.append(self)


async def test_calls_expire_in_order_and_never_early() -> None:
    loop = asyncio.get_running_loop()
    wheel, order = Wheel(), list[Waiter]()
    waiters = [Waiter(order) for _ in range(3)]
    now = loop.time()
    for waiter, delay in zip(waiters, (0.15, 0.05, 0.1), strict=True):
        wheel.add(waiter, now + delay, loop)
    while len(order) < 3:
        await asyncio.sleep(0.005)
        assert len(order) <= 20 * (loop.time() - now) + 0.5
    assert order == [waiters[1], waiters[2], waiters[0]]


async def test_discarded_call_does_not_expire_and_leaves_nothing_behind() -> None:
    loop = asyncio.get_running_loop()
    wheel, order = Wheel(), list[Waiter]()
    for _ in range(10_000):
        waiter = Waiter(order)
        wheel.discard(waiter, wheel.add(waiter, loop.time() + 5, loop))
    assert not wheel._buckets
    assert not wheel._timers


async def test_deadline_in_the_far_future_is_none() -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel()
    assert wheel.add(Waiter([]), loop.time() + 1e12, loop) == 0


async def test_closed_wheel_forgets_its_calls() -> None:
    loop = asyncio.get_running_loop()
    wheel, order = Wheel(), list[Waiter]()
    wheel.add(Waiter(order), loop.time(), loop)
    wheel.close()
    await asyncio.sleep(0.03)
    assert not order
