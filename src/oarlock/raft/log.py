"""RaftLog: the entries a member has, and how far they are durable and committed.

::

    … base_index │ first_index ───────── commit_index ──────── stored_index ──────────── last_index
      dropped    │  committed: never changes  │  durable on this member  │  being written │

`stored_index` may also be behind `commit_index`: a quorum of others may have made an entry durable first.
What is dropped was applied here; who still needs it gets a snapshot (dissertation 5.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from oarlock.errors import StorageError, invariant
from oarlock.raft.types import Entry, Index, LogBase, Term

_BATCH_ENTRIES_MAX = 16384
"""Entries in one batch, however small they are: bounds the time that one takes to build and to read."""
_NO_BATCH = (0, 0, 0)


class RaftLog:
    """Entries in memory, behind a base: the last entry that is not there any more.

    Invariants: indexes are consecutive; terms never fall along the log; `commit_index` and `stored_index`
    are at most `last_index`; nothing at or below `commit_index` is ever truncated; nothing that is not both
    committed and stored is ever dropped.
    """

    __slots__ = (
        "_entries",
        "_last_batch",
        "_last_batch_key",
        "base_index",
        "base_term",
        "bytes",
        "commit_index",
        "stored_index",
    )

    def __init__(self, entries: Sequence[Entry], commit_index: Index, base: LogBase | None = None) -> None:
        base = LogBase() if base is None else base
        self._entries: list[Entry] = list(entries)
        term = base.term
        for expected, entry in enumerate(self._entries, start=base.index + 1):
            if entry.index != expected or entry.term < term:
                raise StorageError(
                    f"the stored log does not hold together: entry {entry.index} of term {entry.term} "
                    f"follows entry {expected - 1} of term {term}"
                )
            term = entry.term
        self.base_index: Index = base.index
        self.base_term: Term = base.term
        if commit_index > self.last_index:
            raise StorageError(
                f"the stored log ends at index {self.last_index}, but index {commit_index} is known to be "
                "committed: entries were lost. Restore this member from the other members"
            )
        self.stored_index: Index = self.last_index
        self.commit_index: Index = max(commit_index, base.index)
        self.bytes: int = sum(len(entry.data) for entry in self._entries)
        """Data of the entries in memory."""
        self._last_batch_key: tuple[Index, Index, int] = _NO_BATCH
        self._last_batch: tuple[tuple[Entry, ...], int] = ((), 0)

    @property
    def first_index(self) -> Index:
        """The first entry that is here, or would be."""
        return self.base_index + 1

    @property
    def last_index(self) -> Index:
        return self.base_index + len(self._entries)

    @property
    def last_term(self) -> Term:
        return self._entries[-1].term if self._entries else self.base_term

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry at `index`; None for what the log does not hold, or not any more."""
        position = index - self.base_index - 1
        if 0 <= position < len(self._entries):
            return self._entries[position].term
        return self.base_term if position == -1 else None

    def entry(self, index: Index) -> Entry:
        invariant(self.base_index < index <= self.last_index, f"index {index} is outside the log")
        return self._entries[index - self.base_index - 1]

    def slice(self, low: Index, high: Index) -> tuple[Entry, ...]:
        """The entries from `low` to `high`, both included; empty if high < low."""
        if high < low:
            return ()
        invariant(low > self.base_index, f"index {low} is not in the log any more")
        return tuple(self._entries[low - self.base_index - 1 : high - self.base_index])

    def batch(self, low: Index, high: Index, bytes_max: int) -> tuple[tuple[Entry, ...], int]:
        """Entries from `low` to at most `high`: one, or as many as have at most `bytes_max` of data.

        Returns them and their bytes. Followers in step ask for the same batch one after the other, so the
        last one is remembered.
        """
        if self._last_batch_key == (low, high, bytes_max):
            return self._last_batch
        invariant(low > self.base_index, f"index {low} is not in the log any more")
        size = 0
        begin = end = low - self.base_index - 1
        for entry in self._entries[begin : min(high - self.base_index, begin + _BATCH_ENTRIES_MAX)]:
            if size + len(entry.data) > bytes_max and end > begin:
                break
            size += len(entry.data)
            end += 1
        self._last_batch_key = (low, high, bytes_max)
        self._last_batch = (tuple(self._entries[begin:end]), size)
        return self._last_batch

    def up_to_date(self, last_index: Index, last_term: Term) -> bool:
        """Whether a log that ends so is at least as up-to-date as this one (dissertation 3.6.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def append(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        invariant(entries[0].index == self.last_index + 1, "entries are appended without a gap")
        invariant(entries[0].term >= self.last_term, "terms never fall along the log")
        self._entries.extend(entries)
        self.bytes += sum([len(entry.data) for entry in entries])

    def truncate(self, index: Index) -> None:
        """Drop the entry at `index` and all after it: a leader's log disagrees with them (3.5)."""
        invariant(index > self.commit_index, f"index {index} is committed and may not be truncated")
        self.bytes -= self.bytes_between(index, self.last_index)
        del self._entries[index - self.base_index - 1 :]
        self.stored_index = min(self.stored_index, index - 1)
        self._last_batch_key = _NO_BATCH

    def compact(self, index: Index) -> None:
        """Drop the entries up to `index` from memory: it becomes the base."""
        if index <= self.base_index:
            return
        invariant(index <= min(self.commit_index, self.stored_index), f"index {index} is still needed")
        term = self.entry(index).term
        self.bytes -= self.bytes_between(self.first_index, index)
        del self._entries[: index - self.base_index]
        self.base_index, self.base_term = index, term
        self._last_batch_key = _NO_BATCH

    def restart(self, base: LogBase) -> None:
        """Forget everything: a snapshot replaces it (5.1). The log goes on behind `base`."""
        invariant(base.index > self.commit_index, "a snapshot that replaces the log is ahead of it")
        self._entries.clear()
        self.base_index, self.base_term = base.index, base.term
        self.commit_index = self.stored_index = base.index
        self.bytes = 0
        self._last_batch_key = _NO_BATCH

    def surplus(self, limit: Index, entries_kept: int, bytes_kept: int) -> Index:
        """Up to where entries may be dropped, at most to `limit`, so that about this much is left."""
        count, size = len(self._entries), self.bytes
        index = self.base_index
        for entry in self._entries:
            if index >= limit or (count <= entries_kept and size <= bytes_kept):
                break
            index += 1
            count -= 1
            size -= len(entry.data)
        return index

    def first_conflict(self, entries: Sequence[Entry]) -> tuple[int, bool]:
        """Where `entries`, which follow an agreed index, leave this log.

        Returns the position in `entries` of the first one that this log does not hold (their number if it
        holds all), and whether this log holds a different one there.
        """
        last = self.last_index
        if entries and entries[0].index == last + 1:
            return 0, False
        for position, entry in enumerate(entries):
            if entry.index > last:
                return position, False
            if self.entry(entry.index).term != entry.term:
                return position, True
        return len(entries), False

    def agreement_hint(self, index: Index, term: Term) -> tuple[Index, Term]:
        """The last place at which this log could agree with one that holds `term` at `index`.

        Terms never fall along a log, so an entry of a later term than `term` cannot be in the other log at
        or before `index`. Skips whole terms instead of single entries (dissertation 3.5).
        """
        index = min(index, self.last_index)
        while index > self.base_index and self.entry(index).term > term:
            index -= 1
        return index, self.term_at(index) or 0

    def bytes_between(self, low: Index, high: Index) -> int:
        """Data bytes of the entries from `low` to `high`, both included, as far as they are here."""
        begin = max(low - self.base_index - 1, 0)
        return sum([len(entry.data) for entry in self._entries[begin : max(high - self.base_index, 0)]])
