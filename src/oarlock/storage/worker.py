"""Where blocking work happens, as a port: a thread of its own, or the event loop itself.

Group commit falls out of it: while the thread waits for the disk, items gather; when it is done, it takes
them all at once.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Worker(Protocol[T]):
    """Runs blocking work on items, in order, outside the event loop's callbacks."""

    def start(self, work: Callable[[list[T]], Callable[[], None]], afterwards: Callable[[], None]) -> None:
        """Called once, on the running loop.

        Args:
            work: gets everything submitted since its last call, in order, and never raises. What it
                returns is called on the event loop's thread.
            afterwards: called after each ``work``, when its result is already on its way; never raises.
        """

    def submit(self, item: T) -> None: ...

    async def stop(self) -> None:
        """Finish what was submitted, deliver it, and stop."""


class ThreadWorker(Generic[T]):
    """One dedicated thread.

    Not an executor: that would cost a future and two locks for each batch, and a single write would feel it.
    """

    def __init__(self, name: str = "oarlock-log") -> None:
        self._name = name
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        """None stops the thread."""
        self.submit = self._queue.put

    def start(self, work: Callable[[list[T]], Callable[[], None]], afterwards: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        # A daemon: a process that forgets to close its storage must not hang at its end.
        self._thread = threading.Thread(
            target=self._run, args=(work, afterwards), name=self._name, daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        self._queue.put(None)
        await self._stopped
        self._thread.join()

    def _run(self, work: Callable[[list[T]], Callable[[], None]], afterwards: Callable[[], None]) -> None:
        get, get_nowait = self._queue.get, self._queue.get_nowait
        stopping = False
        while not stopping:
            item = get()
            batch: list[T] = []
            try:
                while item is not None:
                    batch.append(item)
                    item = get_nowait()
                stopping = True
            except queue.Empty:
                pass
            if batch:
                self._deliver(work(batch))
                afterwards()
        self._deliver(self._report_stopped)

    def _report_stopped(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _deliver(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: there is nobody left to tell
            _logger.debug("the event loop closed before the log storage did")


class LoopWorker(Generic[T]):
    """The event loop itself: blocking, and therefore deterministic. For tests and the simulator."""

    def __init__(self) -> None:
        self._items: list[T] = []

    def start(self, work: Callable[[list[T]], Callable[[], None]], afterwards: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._work, self._afterwards = work, afterwards

    def submit(self, item: T) -> None:
        if not self._items:
            self._loop.call_soon(self._run)
        self._items.append(item)

    async def stop(self) -> None:
        if self._items:
            self._run()

    def _run(self) -> None:
        items, self._items = self._items, []
        if items:
            self._work(items)()
            self._afterwards()
