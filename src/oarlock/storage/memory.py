"""`LogStorage` without a disk: for tests and for learning. Nothing survives the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from oarlock.errors import invariant
from oarlock.raft.types import Entry, HardState, Index, LogBase, Recovered


class MemoryStorage:
    """Hard state and log in memory (implements `oarlock.replica.ports.LogStorage`).

    Args:
        previous: a closed or abandoned storage whose contents this one continues, as after a restart.
    """

    def __init__(self, previous: MemoryStorage | None = None) -> None:
        self._hard_state: HardState = HardState() if previous is None else previous._hard_state
        self._entries: list[Entry] = [] if previous is None else list(previous._entries)
        self._base: LogBase = LogBase() if previous is None else previous._base
        self._waiting: list[Callable[[BaseException | None], None]] = []
        self._loaded = False
        self._closed = False

    def load(self) -> Recovered:
        invariant(not self._loaded and not self._closed, "load() is called once, before anything else")
        self._loaded = True
        return Recovered(self._hard_state, list(self._entries), self._base)

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: Callable[[BaseException | None], None],
        base: LogBase | None = None,
    ) -> None:
        invariant(self._loaded and not self._closed, "append() is called between load() and close()")
        if hard_state is not None:
            self._hard_state = hard_state
        if base is not None:
            self._base, self._entries = base, []
        if entries:
            keep = entries[0].index - self._base.index - 1
            invariant(0 <= keep <= len(self._entries), "entries leave a gap in the log")
            del self._entries[keep:]
            self._entries += entries
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._waiting.append(on_durable)

    def compact(self, index: Index) -> None:
        invariant(self._loaded and not self._closed, "compact() is called between load() and close()")
        count = min(index - self._base.index, len(self._entries))
        if count > 0:
            last = self._entries[count - 1]
            self._base = LogBase(last.index, last.term)
            del self._entries[:count]

    async def close(self) -> None:
        self._closed = True
        self._deliver()

    def _deliver(self) -> None:
        waiting, self._waiting = self._waiting, []
        for on_durable in waiting:
            on_durable(None)
