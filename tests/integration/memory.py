"""How much memory a member's process takes, watched from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


class Memory:
    """What a process holds, in MiB: the most of what was seen while it was watched."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak = self.now()

    def now(self) -> dict[str, float]:
        """VmRSS is resident; RssAnon of it is the process's own, RssFile pages of the store's file."""
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return {name: int(values[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "RssFile")}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self) -> None:
        while True:
            now = self.now()
            self.peak = {name: max(value, now[name]) for name, value in self.peak.items()}
            await asyncio.sleep(0.02)


def rounded(memory: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f} MiB" for name, value in memory.items())
