"""RaftLog: the entries a member has, and how far they are durable and committed.

::

    1 ───────────── commit_index ──────── stored_index ──────────── last_index
    │  committed: never changes  │  durable on this member  │  being written │

`stored_index` may also be behind `commit_index`: a quorum of others may have made an entry durable first.
"""

from __future__ import annotations

from collections.abc import Sequence

from oarlock.errors import StorageError, invariant
from oarlock.raft.types import Entry, Index, Term

_BATCH_ENTRIES_MAX = 16384
"""Entries in one batch, however small they are: bounds the time that one takes to build and to read."""

_NO_BATCH: tuple[Index, Index, int] = (0, 0, 0)


class RaftLog:
    """Entries in memory, from index 1.

    Invariants: indexes are consecutive; terms never fall along the log; `commit_index` and `stored_index`
    are at most `last_index`; nothing at or below `commit_index` is ever truncated.
    """

    __slots__ = ("_entries", "_last_batch", "_last_batch_key", "commit_index", "stored_index")

    def __init__(self, entries: Sequence[Entry], commit_index: Index) -> None:
        self._entries: list[Entry] = list(entries)
        term = 0
        for expected, entry in enumerate(self._entries, start=1):
            if entry.index != expected or entry.term < term:
                raise StorageError(
                    f"the stored log does not hold together: entry {entry.index} of term {entry.term} "
                    f"follows entry {expected - 1} of term {term}"
                )
            term = entry.term
        if commit_index > len(self._entries):
            raise StorageError(
                f"the stored log ends at index {len(self._entries)}, but index {commit_index} is known to be "
                "committed: entries were lost. Restore this member from the other members"
            )
        self.stored_index: Index = len(self._entries)
        self.commit_index: Index = commit_index
        self._last_batch_key: tuple[Index, Index, int] = _NO_BATCH
        self._last_batch: tuple[tuple[Entry, ...], int] = ((), 0)

    @property
    def first_index(self) -> Index:
        return 1

    @property
    def last_index(self) -> Index:
        return len(self._entries)

    @property
    def last_term(self) -> Term:
        return self._entries[-1].term if self._entries else 0

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry at `index`, 0 for index 0, None for what the log does not hold."""
        if 0 < index <= len(self._entries):
            return self._entries[index - 1].term
        return 0 if index == 0 else None

    def entry(self, index: Index) -> Entry:
        invariant(0 < index <= len(self._entries), f"index {index} is outside the log")
        return self._entries[index - 1]

    def slice(self, low: Index, high: Index) -> tuple[Entry, ...]:
        """The entries from `low` to `high`, both included; empty if high < low."""
        return tuple(self._entries[low - 1 : high])

    def batch(self, low: Index, high: Index, bytes_max: int) -> tuple[tuple[Entry, ...], int]:
        """Entries from `low` to at most `high`: one, or as many as have at most `bytes_max` of data.

        Returns them and their bytes. Followers in step ask for the same batch one after the other, so the
        last one is remembered.
        """
        if self._last_batch_key == (low, high, bytes_max):
            return self._last_batch
        size = 0
        end = low
        for entry in self._entries[low - 1 : min(high, low + _BATCH_ENTRIES_MAX)]:
            if size + len(entry.data) > bytes_max and end > low:
                break
            size += len(entry.data)
            end += 1
        self._last_batch_key = (low, high, bytes_max)
        self._last_batch = (tuple(self._entries[low - 1 : end - 1]), size)
        return self._last_batch

    def up_to_date(self, last_index: Index, last_term: Term) -> bool:
        """Whether a log that ends so is at least as up-to-date as this one (dissertation 3.6.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def append(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        invariant(entries[0].index == len(self._entries) + 1, "entries are appended without a gap")
        invariant(entries[0].term >= self.last_term, "terms never fall along the log")
        self._entries.extend(entries)

    def truncate(self, index: Index) -> None:
        """Drop the entry at `index` and all after it: a leader's log disagrees with them (3.5)."""
        invariant(index > self.commit_index, f"index {index} is committed and may not be truncated")
        del self._entries[index - 1 :]
        self.stored_index = min(self.stored_index, index - 1)
        self._last_batch_key = _NO_BATCH

    def first_conflict(self, entries: Sequence[Entry]) -> tuple[int, bool]:
        """Where `entries`, which follow an agreed index, leave this log.

        Returns the position in `entries` of the first one that this log does not hold (their number if it
        holds all), and whether this log holds a different one there.
        """
        last = len(self._entries)
        if entries and entries[0].index == last + 1:
            return 0, False
        for position, entry in enumerate(entries):
            if entry.index > last:
                return position, False
            if self._entries[entry.index - 1].term != entry.term:
                return position, True
        return len(entries), False

    def agreement_hint(self, index: Index, term: Term) -> tuple[Index, Term]:
        """The last place at which this log could agree with one that holds `term` at `index`.

        Terms never fall along a log, so an entry of a later term than `term` cannot be in the other log at
        or before `index`. Skips whole terms instead of single entries (dissertation 3.5).
        """
        index = min(index, self.last_index)
        while index > 0 and self._entries[index - 1].term > term:
            index -= 1
        return index, self.term_at(index) or 0

    def bytes_between(self, low: Index, high: Index) -> int:
        """Data bytes of the entries from `low` to `high`, both included."""
        return sum(len(entry.data) for entry in self._entries[low - 1 : high])
