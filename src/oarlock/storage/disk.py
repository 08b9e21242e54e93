"""`LogStorage` on disk: the write-ahead log with group commit.

The event loop's side queues appends; the worker's side takes all that are waiting, merges them into one
record, writes and syncs it, and sends the good news back to the loop. The two sides share nothing but
the worker's queue.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import NamedTuple

from oarlock.errors import DataDirError, DiskFailure, DiskFull, invariant
from oarlock.raft.types import Entry, HardState, Index, LogBase, Recovered
from oarlock.storage.files import FULL, Files, RealFiles
from oarlock.storage.recovery import recover
from oarlock.storage.segment import SEGMENT_BYTES
from oarlock.storage.worker import ThreadWorker, Worker
from oarlock.storage.writer import LogWriter

OnDurable = Callable[[BaseException | None], None]

BATCH_BYTES_MAX = 64 << 20
"""Entry data merged into one record."""
FEW_APPENDS = 8
"""So many are merged without counting: one alone is bounded by what may be uncommitted."""


class Append(NamedTuple):
    """One call of `DiskStorage.append`."""

    hard_state: HardState | None
    entries: Sequence[Entry]
    on_durable: OnDurable
    base: LogBase | None = None
    compact: Index = 0
    """Entries up to here are given free, once all appends before this one are written."""


_NOTHING = Append(None, (), lambda failure: None)
"""Writes nothing, but has the worker run."""


class DiskStorage:
    """Hard state and log in a directory of segments (implements `oarlock.replica.ports.LogStorage`).

    Args:
        directory: made if it does not exist. One process at a time: `DataDir` holds the lock.
        durable_index: entries up to here are known to have been stored, because the state machine has applied
            them: a log that ends before it is corrupt, not torn.
        snapshot_index: `DiskSnapshots.newest_index`: the log may end before it. It does if the power goes
            between installing a snapshot and beginning the log anew.
        segment_bytes: size of new segments; larger only for a batch that needs it.
        files: the file system.
        worker: where writing and syncing happens.
        random: salts for segments; only tests and the simulator need to choose.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable_index: Index = 0,
        snapshot_index: Index = 0,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
        worker: Worker[Append] | None = None,
        random: Random | None = None,
    ) -> None:
        self._directory = directory
        self._durable_index = durable_index
        self._snapshot_index = snapshot_index
        self._compact_to: Index = 0
        """The worker's. Not ahead of what is written: an append that waits may replace what a later one, with
        a snapshot, gives free; a log that begins behind it would not hold together."""
        self._segment_bytes = segment_bytes
        self._files: Files = RealFiles() if files is None else files
        self._worker: Worker[Append] = ThreadWorker() if worker is None else worker
        self._random = SystemRandom() if random is None else random
        self._writer: LogWriter | None = None
        self._started = False
        self._closed = False
        self.full = False
        """The disk had no room for the next segment. What this one still has is for what is under way: who
        serves requests refuses new ones, and may `try_to_grow`."""
        self._failure: BaseException | None = None
        """Set once, by the worker. Everything after it fails with it."""

    def load(self) -> Recovered:
        """Read what is stored, repair a torn tail, and make ready to append. Blocks.

        Raises:
            CorruptLog: damage that no torn write explains; names file and offset.
            DataDirError: the directory cannot be used, or a newer version wrote it.
            DiskFull, DiskFailure: the disk failed while making it ready.
        """
        invariant(self._writer is None and not self._closed, "load() is called once, before anything else")
        try:
            self._files.make_dir(self._directory)
            self._files.sync_dir(self._directory.parent)
            # A process that was killed may have left names that are not durable yet.
            self._files.sync_dir(self._directory)
            log, tail = recover(self._files, self._directory, self._durable_index, self._snapshot_index)
            self._writer = LogWriter(
                self._files, self._directory, self._segment_bytes, log, tail, self._random
            )
        except OSError as error:
            if error.errno in FULL or error.errno == errno.EIO:
                raise disk_failure(error, self._directory) from error
            raise DataDirError(f"{self._directory}: cannot use the log: {error.strerror or error}") from None
        return Recovered(log.state.hard_state, log.entries, log.state.base)

    @property
    def size(self) -> int:
        """Bytes of the log's files."""
        return 0 if self._writer is None else self._writer.size

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: OnDurable,
        base: LogBase | None = None,
    ) -> None:
        """Queue for the next batch. See `oarlock.replica.ports.LogStorage.append`.

        With ``base``, the segments before it are deleted, too, as with `compact`.
        """
        self._submit(Append(hard_state, entries, on_durable, base, 0 if base is None else base.index))

    def compact(self, index: Index) -> None:
        """Delete the segments that hold nothing behind ``index``: the worker does, one between two batches.

        See `oarlock.replica.ports.LogStorage.compact`.
        """
        self._submit(_NOTHING._replace(compact=index))

    def _submit(self, append: Append) -> None:
        invariant(
            self._writer is not None and not self._closed, "append() is called between load() and close()"
        )
        if not self._started:
            self._worker.start(self._store, self._prepare)
            self._started = True
        self._worker.submit(append)

    def try_to_grow(self) -> bool:
        """Whether there is room. If there was none, the worker looks again, for the next call to tell."""
        if self.full and self._started and not self._closed and self._writer is not None:
            self._writer.look_again()
            self._worker.submit(_NOTHING)
        return not self.full

    async def close(self) -> None:
        """Write and deliver what was appended, mark the log as closed in good order, release the files."""
        if self._closed:
            return
        self._closed = True
        if self._started:
            await self._worker.stop()
        if self._writer is not None:
            try:
                self._writer.close(in_good_order=self._failure is None)
            except OSError as error:
                raise disk_failure(error, self._directory) from error

    def _store(self, appends: list[Append]) -> Callable[[], None]:
        """On the worker: one record and one sync for all of them, unless that would be a giant."""
        if self._failure is None:
            try:
                invariant(self._writer is not None, "the worker is started after load()")
                for batch in batches(appends):
                    hard_state, entries, base = merge(batch)
                    if hard_state is not None or entries or base is not None:
                        self._writer.append(hard_state, entries, base)  # type: ignore[union-attr]
                self._compact_to = max(self._compact_to, *[append.compact for append in appends])
            except OSError as error:
                self._failure = disk_failure(error, self._directory)
            except Exception as error:
                self._failure = error
        return partial(_deliver, appends, self._failure)

    def _prepare(self) -> None:
        """On the worker, between batches. There are no more once it is closed."""
        if self._failure is None and self._writer is not None and not self._closed:
            try:
                if self._compact_to and self._writer.compact(self._compact_to):
                    self._worker.submit(_NOTHING)
                self._writer.prepare()
                self.full = self._writer.full
            except OSError as error:
                self._failure = disk_failure(error, self._directory)
            except Exception as error:
                self._failure = error


def batches(appends: Sequence[Append]) -> Iterator[Sequence[Append]]:
    """What of ``appends`` is merged into one record: as many as have at most `BATCH_BYTES_MAX` of data.

    Usually that is all of them. But a leader's log goes on growing while its own disk hangs and the
    others' do not, and a record has a size that it cannot exceed.
    """
    if len(appends) <= FEW_APPENDS:
        yield appends
        return
    begin, size = 0, 0
    for position, append in enumerate(appends):
        size += sum(len(entry.data) for entry in append.entries)
        if size > BATCH_BYTES_MAX and position > begin:
            yield appends[begin:position]
            begin, size = position, sum(len(entry.data) for entry in append.entries)
    yield appends[begin:]


def merge(appends: Sequence[Append]) -> tuple[HardState | None, Sequence[Entry], LogBase | None]:
    """One append with the effect of all of them in order."""
    if len(appends) == 1:
        return appends[0].hard_state, appends[0].entries, appends[0].base
    hard_state: HardState | None = None
    entries: list[Entry] = []
    base: LogBase | None = None
    for append in appends:
        if append.hard_state is not None:
            hard_state = append.hard_state
        if append.base is not None:
            # Nothing that was appended before it is left; nor is a base before it.
            base, entries = append.base, []
        if append.entries:
            if entries:
                # The later call replaces what the earlier ones would have stored at its indexes.
                del entries[max(append.entries[0].index - entries[0].index, 0) :]
            entries += append.entries
    return hard_state, entries, base


def disk_failure(error: OSError, path: Path) -> DiskFailure:
    """Our error for one of the operating system's."""
    where = error.filename or path
    if error.errno in FULL:
        return DiskFull(f"{where}: no space left on the disk: free some and start this member again")
    return DiskFailure(
        f"{where}: the disk failed: {error.strerror or error}. It is not known what it holds, so this "
        "member has to stop; it recovers when started again on a sound disk"
    )


def _deliver(appends: list[Append], failure: BaseException | None) -> None:
    """On the event loop. One caller's mistake must not keep the news from the others."""
    for append in appends:
        try:
            append.on_durable(failure)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "on_durable raised", "exception": error}
            )
