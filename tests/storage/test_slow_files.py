"""A disk that hangs: the loop goes on, nothing is acknowledged, and all of it is when the disk recovers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from oarlock.raft.types import HardState
from oarlock.storage import DiskSnapshots, DiskStorage, RealFiles
from oarlock.testing import HangingFiles
from oarlock.testing.snapshot_suite import make_snapshot
from oarlock.testing.storage_suite import make_entries, store


async def test_appends_wait_while_the_disk_hangs_and_the_loop_does_not(tmp_path: Path) -> None:
    switch = tmp_path / "hang"
    storage = DiskStorage(tmp_path / "wal", segment_bytes=1 << 16, files=HangingFiles(RealFiles(), switch))
    storage.load()
    await store(storage, HardState(1, 1, 0), make_entries(1, 1))
    switch.touch()
    outcomes: list[BaseException | None] = []
    before = time.monotonic()
    for index in range(2, 50):
        storage.append(None, make_entries(index, index), outcomes.append)
        await asyncio.sleep(0.001)
    assert time.monotonic() - before < 20
    assert not outcomes
    switch.unlink()
    await store(storage, None, make_entries(50, 50))
    assert outcomes == [None] * 48
    await storage.close()
    recovered = DiskStorage(tmp_path / "wal").load()
    assert list(recovered.entries) == list(make_entries(1, 50))


async def test_snapshots_on_a_hanging_disk_wait_in_their_own_thread(tmp_path: Path) -> None:
    switch = tmp_path / "hang"
    snapshots = DiskSnapshots(tmp_path / "snapshots", files=HangingFiles(RealFiles(), switch))
    snapshots.load()
    switch.touch()
    writing = asyncio.ensure_future(asyncio.to_thread(snapshots.write, make_snapshot(1), [b"data"]))
    done, _ = await asyncio.wait([writing], timeout=0.05)
    assert not done
    switch.unlink()
    stored = await writing
    assert DiskSnapshots(tmp_path / "snapshots").load() == stored
