"""What one member of a schedule has durably: hard state, log, snapshots, perhaps its state machine."""

from __future__ import annotations

from collections.abc import Sequence

from oarlock.raft.ready import Ready
from oarlock.raft.types import NOBODY, Entry, HardState, Index, LogBase, StoredSnapshot, Term

from .checkers import Violation
from .machine import Dump

SNAPSHOTS_KEPT = 3


class Disk:
    """Readys reach it one after the other, each wholly or not at all."""

    __slots__ = ("applied", "base", "entries", "snapshots", "state")

    def __init__(self, state: HardState, entries: Sequence[Entry]) -> None:
        self.state = state
        self.base = LogBase()
        self.entries = list(entries)
        self.snapshots: dict[Index, tuple[StoredSnapshot, Dump]] = {}
        """The latest few, oldest first."""
        self.applied: Dump | None = None
        """A durable state machine, as far as it went when it was last saved."""

    @property
    def last_index(self) -> Index:
        return self.base.index + len(self.entries)

    @property
    def newest(self) -> tuple[StoredSnapshot, Dump] | None:
        return self.snapshots[next(reversed(self.snapshots))] if self.snapshots else None

    @property
    def covered(self) -> Index:
        """What the newest snapshot covers needs no log."""
        return next(reversed(self.snapshots)) if self.snapshots else 0

    def term_at(self, index: Index) -> Term | None:
        if self.base.index < index <= self.last_index:
            return self.entries[index - self.base.index - 1].term
        return self.base.term if index == self.base.index else None

    def holds(self, entry: Entry) -> bool:
        """Whether a committed entry is here, itself or in what a snapshot says."""
        if entry.index <= max(self.covered, self.base.index):
            return True
        return entry.index <= self.last_index and self.entries[entry.index - self.base.index - 1] == entry

    def write(self, ready: Ready) -> list[Entry]:
        """Make a Ready durable. Returns the entries that are gone, but for those that a snapshot covers."""
        if (state := ready.hard_state) is not None:
            if state.term < self.state.term:
                raise Violation(f"the durable term falls: {self.state} is replaced by {state}")
            if state.term == self.state.term and self.state.voted_for not in (NOBODY, state.voted_for):
                raise Violation(f"the durable vote changes within a term: {self.state}, then {state}")
            self.state = state
        cut: list[Entry] = []
        if ready.install is not None:
            if ready.install.index not in self.snapshots:
                raise Violation(f"the log begins anew behind {ready.install}, which is not durable")
            cut = self._begin_anew(ready.install.index, ready.install.term)
        if ready.entries:
            first = ready.entries[0].index
            if not self.base.index < first <= self.last_index + 1:
                raise Violation(
                    f"entry {first} is stored where the disk holds {self.base.index + 1} to {self.last_index}"
                )
            cut += self.entries[first - self.base.index - 1 :]
            del self.entries[first - self.base.index - 1 :]
            self.entries.extend(ready.entries)
        return cut

    def _begin_anew(self, index: Index, term: Term) -> list[Entry]:
        cut = [entry for entry in self.entries if entry.index > index]
        self.base = LogBase(index, term)
        self.entries.clear()
        return cut

    def keep(self, stored: StoredSnapshot, dump: Dump) -> None:
        """A snapshot is durable."""
        self.snapshots[stored.snapshot.index] = stored, dump
        self.snapshots = dict(sorted(self.snapshots.items())[-SNAPSHOTS_KEPT:])

    def compact(self, index: Index) -> None:
        """Drop the log up to `index`, which the newest snapshot covers."""
        term = self.term_at(index)
        if index <= self.base.index or term is None or index > self.covered:
            return
        del self.entries[: index - self.base.index]
        self.base = LogBase(index, term)

    def recover(self) -> list[Entry]:
        """At a start: a snapshot became durable, but not the log that begins anew behind it: it does now."""
        if self.newest is None:
            return []
        snapshot = self.newest[0].snapshot
        if snapshot.index > self.base.index and self.term_at(snapshot.index) != snapshot.term:
            return self._begin_anew(snapshot.index, snapshot.term)
        return []
