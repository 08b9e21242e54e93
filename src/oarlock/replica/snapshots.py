"""Snapshots of our own: when to write one, writing it, and serving it to followers (dissertation 5.1).

Writing never blocks: the state is captured on the loop (which takes no time), and written in a thread while
commands go on being applied. Members take turns, which the leader grants to a minority at once (5.1.2), so a
majority always has its disks to itself. When a snapshot is durable the log before it may go, but for some
entries that spare a follower that is a little behind a whole snapshot.

A snapshot that cannot be written (the disk is full, the user's code raises) is tried again later; until then
the log grows. Only a failing sync stops the member.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

import msgspec

from oarlock.errors import DiskFailure, DiskFull, InvariantViolated, OarlockError, StorageError, UsageError
from oarlock.machine import Machine
from oarlock.machine.ports import Capture
from oarlock.raft import Entry, Index, Raft
from oarlock.raft.types import Snapshot, StoredSnapshot
from oarlock.replica.ports import LogStorage, SnapshotReader, SnapshotStorage
from oarlock.replica.recovery import InThread

_log = logging.getLogger("oarlock.replica")

_SERVED_SECONDS = 60.0
"""A follower whose transfer broke has that long to go on before the snapshot may be deleted."""
_RETRY_SECONDS_MAX = 60.0
_PATIENCE_TIMEOUTS = 2.0
"""Election timeouts after which a turn that did not come is asked for again."""


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a member writes a snapshot, and what it keeps of the log then.

    Raises:
        UsageError: a value is out of its range; the message names it.
    """

    entries: int = 100_000
    """Entries applied since the last one after which the next is due. etcd's `--snapshot-count`."""
    bytes: int = 64 * 1024 * 1024
    """Their bytes, likewise: whichever comes first."""
    ratio: float = 4.0
    """But not before the log is so many times as large as the last snapshot: so writing snapshots costs a
    bounded part of the disk's bandwidth, however large the state is (5.1.2)."""
    bytes_max: int = 512 * 1024 * 1024
    """The log's bytes at which a snapshot is due whatever the ratio says."""
    trailing_entries: int = 10_000
    """Entries before the snapshot that are kept for followers that are a little behind."""
    retry_after: float = 5.0
    """Seconds before another try after a failure; doubled each time, up to a minute."""

    def __post_init__(self) -> None:
        for name in ("entries", "bytes", "bytes_max"):
            if getattr(self, name) < 1:
                raise UsageError(f"snapshot policy: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("ratio", "trailing_entries"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"snapshot policy: {name} must not be negative, but is {getattr(self, name)}"
                )
        if not self.retry_after > 0:
            raise UsageError(f"snapshot policy: retry_after must be positive, not {self.retry_after}")


def is_due(policy: SnapshotPolicy, entries: int, log_bytes: int, previous_size: int) -> bool:
    """Whether it is time for a snapshot: `entries` of `log_bytes` were applied since the last one."""
    if log_bytes >= policy.bytes_max:
        return True
    enough = entries >= policy.entries or log_bytes >= policy.bytes
    return enough and log_bytes >= policy.ratio * previous_size


class Snapshots:
    """One member's own snapshots.

    Args:
        storage: None: none are written, and the log is kept whole.
        stored: the newest that is durable.
        wake: the core has something new to say.
        fail: this member cannot go on.
    """

    def __init__(
        self,
        raft: Raft,
        machine: Machine,
        storage: SnapshotStorage | None,
        log: LogStorage,
        *,
        policy: SnapshotPolicy,
        stored: StoredSnapshot | None,
        clock: Callable[[], float],
        in_thread: InThread,
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._raft = raft
        self._machine = machine
        self._storage = storage
        self._log_storage = log
        self._policy = policy
        self._clock = clock
        self._in_thread = in_thread
        self._wake = wake
        self._fail = fail
        self._able = storage is not None and machine.can_snapshot
        self.newest = stored
        """The newest that is durable here: ours, or one that was received."""
        self.taken_at: float | None = None
        """When it was written or installed, by our clock; None: in an earlier run."""
        self._entries = 0
        self._bytes = 0
        """Applied since `newest`."""
        self._failures = 0
        """In a row."""
        self._failed = False
        """The last try did, and the next is not due yet."""
        self._timer: asyncio.TimerHandle | None = None
        """When to ask again, for the answer or after a failure."""
        self._writing: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._closed = False
        self._served = _Served(clock)

    @property
    def writing(self) -> bool:
        """Whether one is being written now."""
        return self._writing is not None

    # ── when ───────────────────────────────────────────────────────────────────────────────────────

    def recovered(self, entries: Sequence[Entry], applied_index: Index) -> None:
        """These were in the log at the start; what was applied of them in an earlier run counts, too."""
        if self._able:
            since = 0 if self.newest is None else self.newest.snapshot.index
            applied = [entry for entry in entries if since < entry.index <= applied_index]
            self._entries += len(applied)
            self._bytes += sum([len(entry.data) for entry in applied])

    def applied(self, entries: int, size: int) -> None:
        """So many entries of so many bytes were applied: it may be time."""
        if not self._able:
            return
        self._entries += entries
        self._bytes += size
        if self._timer is None and self._writing is None:
            self._ask_if_due()

    def _ask_if_due(self) -> None:
        """Ask for a turn if it is time. It may not come while others write: then ask again after a while."""
        size = 0 if self.newest is None else self.newest.size
        if is_due(self._policy, self._entries, self._bytes, size):
            self._raft.ask_for_snapshot_turn(self._clock())
            self._arm(_PATIENCE_TIMEOUTS * self._raft.config.election_timeout)

    def _arm(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._failed = False
        if self._writing is None:
            self._ask_if_due()
            self._wake()

    # ── writing ────────────────────────────────────────────────────────────────────────────────────

    def take(self) -> None:
        """Write one of what is applied now: it is our turn, or a follower needs it."""
        if self._closed or self._writing is not None or self._failed:
            return  # the one that is being written will do; or the last try failed, and the next is due soon
        now = self._clock()
        index = self._raft.applied_index
        if self._storage is None or not self._able:
            self._raft.snapshot_turn_done(now)
            return
        if self.newest is not None and self.newest.snapshot.index >= index:
            self._raft.snapshot_taken(self.newest, now)
            self._raft.snapshot_turn_done(now)
            return
        try:
            capture = self._machine.capture()
        except Exception as error:
            self._not_written(error)
            return
        snapshot = self._raft.snapshot_at(index)
        self._writing = asyncio.get_running_loop().create_task(self._write(self._storage, snapshot, capture))

    async def _write(self, storage: SnapshotStorage, snapshot: Snapshot, capture: Capture) -> None:
        entries, size = self._entries, self._bytes
        try:
            try:
                stored = await self._in_thread(storage.write, snapshot, self._chunks(capture))
            finally:
                capture.close()
            if not self._closed:
                self._written(stored, entries, size)
                await self._tidy(storage)
        except Exception as error:
            if not self._closed:
                self._not_written(error)
        finally:
            self._writing = None

    def _chunks(self, capture: Capture) -> Iterator[bytes]:
        """In the thread: so that closing need not wait for the whole of a large one."""
        for chunk in capture.chunks():
            if self._closed:
                raise _GivenUp("the member stops")
            yield chunk

    def _written(self, stored: StoredSnapshot, entries: int, size: int) -> None:
        """It is durable, and covers so many entries of such a size."""
        self._failures = 0
        now = self._clock()
        if self.newest is None or stored.snapshot.index > self.newest.snapshot.index:
            self._entries -= entries
            self._bytes -= size
            self._became_newest(stored)
            self._raft.snapshot_taken(stored, now)
            _log.info("wrote a snapshot of %d bytes up to index %d", stored.size, stored.snapshot.index)
            if stored.snapshot.index > self._policy.trailing_entries:
                self._log_storage.compact(stored.snapshot.index - self._policy.trailing_entries)
        # Else a newer one was received meanwhile.
        self._raft.snapshot_turn_done(now)
        self._wake()

    def _not_written(self, error: Exception) -> None:
        if isinstance(error, InvariantViolated) or (
            isinstance(error, DiskFailure) and not isinstance(error, DiskFull)
        ):
            self._fail(error)
            return
        delay = min(self._policy.retry_after * 2**self._failures, _RETRY_SECONDS_MAX)
        self._failures += 1
        _log.warning(
            "no snapshot could be written, and the log grows until one is: %s; next try in %.3g s",
            error if isinstance(error, OarlockError) else f"{type(error).__name__}: {error}",
            delay,
            exc_info=None if isinstance(error, OarlockError) else error,
        )
        self._raft.snapshot_turn_done(self._clock())
        self._failed = True
        self._arm(delay)
        self._wake()

    async def _tidy(self, storage: SnapshotStorage) -> None:
        """Delete what is neither the newest, nor on offer to a follower, nor on its way to one, or to us."""
        wanted = [
            progress.snapshot.snapshot.index
            for progress in self._raft.progress.values()
            if progress.snapshot is not None
        ]
        if self._raft.fetching is not None:
            wanted.append(self._raft.fetching.snapshot.index)
        if self.newest is not None:
            wanted.append(
                self.newest.snapshot.index
            )  # on disk may be a newer one, whose fetching was given up
        try:
            await self._in_thread(storage.keep, [*wanted, *self._served.indexes()])
        except StorageError as error:
            _log.warning("old snapshots could not be deleted: %s", error)

    # ── received ones, and serving ─────────────────────────────────────────────────────────────────

    def installed(self, stored: StoredSnapshot) -> None:
        """A snapshot that was received has replaced log and state."""
        self._entries = self._bytes = 0
        self._became_newest(stored)
        if self._storage is not None and self._tidying is None:
            self._tidying = asyncio.get_running_loop().create_task(self._tidy(self._storage))
            self._tidying.add_done_callback(self._tidied)

    def _tidied(self, task: asyncio.Task[None]) -> None:
        self._tidying = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _became_newest(self, stored: StoredSnapshot) -> None:
        self.newest = stored
        self.taken_at = self._clock()

    def open(self, index: Index) -> SnapshotReader | None:
        """For `Transport.serve_snapshots`."""
        reader = None if self._storage is None else self._storage.open(index)
        return None if reader is None else self._served.watched(index, reader)

    async def close(self) -> None:
        """Give up what is being written. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if tasks := [task for task in (self._writing, self._tidying) if task is not None]:
            await asyncio.wait(tasks)


class _GivenUp(OarlockError):
    """The member stops while a snapshot is being written."""


class _Served:
    """Which snapshots are on their way to followers: open now, or lately, so that a broken try can go on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[Index, int] = {}
        self._last_use: dict[Index, float] = {}

    def watched(self, index: Index, reader: SnapshotReader) -> SnapshotReader:
        self._open[index] = self._open.get(index, 0) + 1
        return _WatchedReader(reader, lambda: self._closed(index))

    def _closed(self, index: Index) -> None:
        self._open[index] -= 1
        self._last_use[index] = self._clock()

    def indexes(self) -> list[Index]:
        now = self._clock()
        self._open = {index: count for index, count in self._open.items() if count}
        self._last_use = {i: at for i, at in self._last_use.items() if now - at < _SERVED_SECONDS}
        return sorted({*self._open, *self._last_use})


class _WatchedReader:
    """A reader that says when it is closed."""

    def __init__(self, reader: SnapshotReader, on_close: Callable[[], None]) -> None:
        self._reader = reader
        self._on_close = on_close
        self._closed = False
        self.size = reader.size

    def read(self, offset: int, size: int) -> bytes:
        return self._reader.read(offset, size)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_close()
        self._reader.close()
