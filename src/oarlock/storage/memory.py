"""`LogStorage` without a disk: for tests and for learning. Nothing survives the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from oarlock.errors import invariant
from oarlock.raft.types import Entry, HardState, Recovered


class MemoryStorage:
    """Hard state and log in memory (implements `oarlock.replica.ports.LogStorage`).

    Args:
        previous: a closed or abandoned storage whose contents this one continues, as after a restart.
    """

    def __init__(self, previous: MemoryStorage | None = None) -> None:
        self._hard_state: HardState = HardState() if previous is None else previous._hard_state
        self._entries: list[Entry] = [] if previous is None else list(previous._entries)
        self._waiting: list[Callable[[BaseException | None], None]] = []
        self._loaded = False
        self._closed = False

    def load(self) -> Recovered:
        invariant(not self._loaded and not self._closed, "load() is called once, before anything else")
        self._loaded = True
        return Recovered(self._hard_state, list(self._entries))

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: Callable[[BaseException | None], None],
    ) -> None:
        invariant(self._loaded and not self._closed, "append() is called between load() and close()")
        if hard_state is not None:
            self._hard_state = hard_state
        if entries:
            first = entries[0].index
            invariant(1 <= first <= len(self._entries) + 1, "entries leave a gap in the log")
            del self._entries[first - 1 :]
            self._entries += entries
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._waiting.append(on_durable)

    async def close(self) -> None:
        self._closed = True
        self._deliver()

    def _deliver(self) -> None:
        waiting, self._waiting = self._waiting, []
        for on_durable in waiting:
            on_durable(None)
