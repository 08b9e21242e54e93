"""Fetching a snapshot that the leader offers, and installing it (dissertation 5.1).

::

    offered ──▶ fetched in chunks, checked, durable ──▶ prepared for the state machine ──▶ the core is told
                 ▲      │ the connection broke:                                              │
                 └──────┘ go on behind the last byte                                         ▼
                                                     Ready.install: the log begins anew, the state is replaced

One at a time. A newer offer ends an older try; what has arrived stays on disk, so a try that breaks goes on
where it got to, also with another member that offers the same snapshot. All that is slow happens beside the
loop: this member goes on voting and answering heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from oarlock.errors import (
    DiskFailure,
    DiskFull,
    InvariantViolated,
    OarlockError,
    SnapshotUnavailable,
    StorageError,
    WireError,
    invariant,
)
from oarlock.machine import Machine
from oarlock.raft import Raft
from oarlock.raft.messages import InstallSnapshot
from oarlock.raft.types import Snapshot, StoredSnapshot
from oarlock.replica.ports import SnapshotReceiver, SnapshotStorage, Transport
from oarlock.replica.recovery import InThread, prepare

_log = logging.getLogger("oarlock.replica")

_TRIES_MAX = 6
"""Tries in a row that bring nothing new. Then the leader is told, and offers what it has by then."""
_DELAY = 0.05
_DELAY_MAX = 2.0
_DELAY_OFFER = 1.0
"""Seconds before the same offer is tried again. Another one is taken up at once."""
_DELAY_DISK = 5.0
"""Seconds before the leader may offer again to a member whose disk is full."""


class Fetching:
    """What one member does about snapshots that others offer.

    Args:
        storage: None: it can take none.
        on_installed: log and state were replaced by this one.
        wake, fail: as in `oarlock.replica.snapshots.Snapshots`.
    """

    def __init__(
        self,
        raft: Raft,
        machine: Machine,
        storage: SnapshotStorage | None,
        transport: Transport,
        group: int,
        *,
        on_installed: Callable[[StoredSnapshot], None],
        clock: Callable[[], float],
        in_thread: InThread,
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._raft = raft
        self._machine = machine
        self._storage = storage
        self._transport = transport
        self._group = group
        self._on_installed = on_installed
        self._clock = clock
        self._in_thread = in_thread
        self._wake = wake
        self._fail = fail
        self.offer: InstallSnapshot | None = None
        """What is being fetched."""
        self.received = 0
        """Its bytes that are here."""
        self._task: asyncio.Task[None] | None = None
        self._stored: StoredSnapshot | None = None
        """The last one that arrived whole."""
        self._prepared: tuple[Snapshot, Any] | None = None
        self._closed = False

    def fetch(self, offer: InstallSnapshot) -> None:
        """Get this snapshot, instead of what is being fetched."""
        if self._closed:
            return
        if self._storage is None or not self._machine.can_snapshot:
            _log.error(
                "%x offers a snapshot up to index %d, which this member cannot take: it stays behind. "
                "A state machine needs both `snapshot` and `restore`",
                offer.sender,
                offer.snapshot.index,
            )
            return
        running = self._task
        if running is not None:
            if self.offer is not None and _same(self.offer, offer) and self.offer.sender == offer.sender:
                return
            running.cancel()
        self.offer = offer
        self.received = 0
        self._prepared = None
        self._task = asyncio.get_running_loop().create_task(self._run(self._storage, offer, running))

    def install(self, snapshot: Snapshot) -> None:
        """Replace the state machine's state by the snapshot that was prepared."""
        prepared, self._prepared = self._prepared, None
        stored = self._stored
        invariant(
            prepared is not None and stored is not None and prepared[0] == stored.snapshot == snapshot,
            f"the core installs a snapshot up to index {snapshot.index} that was not fetched",
        )
        if prepared is not None and stored is not None:
            self._machine.install(prepared[1], snapshot.index)
            self._on_installed(stored)
            _log.info("installed a snapshot of %d bytes up to index %d", stored.size, snapshot.index)

    async def close(self) -> None:
        """Stop; what has arrived stays for the next run. Idempotent."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # ── inside ─────────────────────────────────────────────────────────────────────────────────────

    async def _run(
        self, storage: SnapshotStorage, offer: InstallSnapshot, before: asyncio.Task[None] | None
    ) -> None:
        try:
            if before is not None:
                await _end_of(before)  # it still has a hand in the file
            problem, delay = await self._fetch_and_prepare(storage, offer)
            if problem:
                _log.warning("no snapshot up to index %d yet: %s", offer.snapshot.index, problem)
                await asyncio.sleep(delay)
            # From here on there is nothing that a newer offer could interrupt.
            self._task = self.offer = None
            if problem:
                self._raft.snapshot_failed(self._clock())
            elif self._stored is not None:
                self._raft.snapshot_received(self._stored, self._clock())
                if self._raft.installing != offer.snapshot.index:
                    self._prepared = None  # the log has got as far meanwhile
            self._wake()
        except Exception as error:
            self._fail(error)

    async def _fetch_and_prepare(self, storage: SnapshotStorage, offer: InstallSnapshot) -> tuple[str, float]:
        """Returns what went wrong, or "", and the seconds to wait before another offer."""
        index = offer.snapshot.index
        try:
            if self._stored is None or not _is(self._stored, offer):
                problem = await self._fetch(storage, offer)
                if problem:
                    return problem, _DELAY_OFFER
            self._prepared = (
                offer.snapshot,
                await self._blocking(
                    prepare, storage, self._machine, index, lambda: self._closed or self.offer is not offer
                ),
            )
            return "", 0.0
        except InvariantViolated:
            raise
        except DiskFailure as error:
            if not isinstance(error, DiskFull):
                raise
            return str(error), _DELAY_DISK
        except Exception as error:
            # Bytes that make no sense to the state machine, or code of the user's that raised.
            return str(error) if isinstance(error, OarlockError) else repr(error), _DELAY_DISK

    async def _fetch(self, storage: SnapshotStorage, offer: InstallSnapshot) -> str:
        """Until it is durable here. Returns why not, or ""."""
        failures = 0
        while True:
            receiver: SnapshotReceiver = await self._blocking(
                storage.receive, offer.snapshot, offer.size, offer.checksum
            )
            before = receiver.received
            try:
                await self._receive(receiver, offer)
                self._stored = await self._blocking(receiver.finish)
                return ""
            except SnapshotUnavailable as error:
                return str(error)
            except StorageError:
                raise
            except (OSError, WireError) as error:
                failures = 0 if receiver.received > before and isinstance(error, OSError) else failures + 1
                if failures == _TRIES_MAX:
                    return f"{_TRIES_MAX} tries failed, the last: {error}"
                _log.info("fetching the snapshot up to index %d: %s", offer.snapshot.index, error)
            finally:
                await self._blocking(receiver.close)
            await asyncio.sleep(min(_DELAY * 2**failures, _DELAY_MAX))

    async def _receive(self, receiver: SnapshotReceiver, offer: InstallSnapshot) -> None:
        self._progress(receiver.received)
        if receiver.received < offer.size:
            chunks = self._transport.fetch_snapshot(
                self._group, offer.sender, offer.snapshot.index, receiver.received
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    await self._blocking(receiver.add, chunk)
                    self._progress(receiver.received)
        if receiver.received < offer.size:
            raise ConnectionError(f"it ended after {receiver.received} of {offer.size} bytes")

    def _progress(self, received: int) -> None:
        self.received = received
        self._raft.snapshot_progress(received)

    async def _blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        """In a thread. Being cancelled waits for the thread: nobody else may touch the file meanwhile."""
        call = asyncio.ensure_future(self._in_thread(function, *args))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await _end_of(call)
            if not call.cancelled():
                call.exception()  # nobody else will ask
            raise


async def _end_of(other: asyncio.Future[Any]) -> None:
    """Wait until it is done, even if we are cancelled meanwhile: whoever comes next waits for us only."""
    cancelled = False
    while not other.done():
        try:
            await asyncio.wait([other])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


def _same(one: InstallSnapshot, other: InstallSnapshot) -> bool:
    return (one.snapshot, one.size, one.checksum) == (other.snapshot, other.size, other.checksum)


def _is(stored: StoredSnapshot, offer: InstallSnapshot) -> bool:
    return (stored.snapshot, stored.size, stored.checksum) == (offer.snapshot, offer.size, offer.checksum)
