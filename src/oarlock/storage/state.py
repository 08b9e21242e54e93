"""What the records of a log amount to, without its entries: kept while reading, and then while writing.

It is stored, too. Each segment begins with a *summary* of all records before it, so a log can begin with any
segment: what was in the earlier ones is dropped by deleting their files, and nothing has to be copied. Two
things have to be known for that.

**May the log begin with this segment?** Yes, once a snapshot covers the log as it was when the segment was
begun: then all entries that are still needed are in it or behind it. Except where a later record replaced
some of those entries before: the segment's summary then names a last entry that is none any more. Such a
segment never becomes the first one; the next can.

**Is a file missing, or was it dropped?** A summary also says with which segment the log begins. One that says
so is durable before the first file is deleted. So whatever of the files before that segment is still there
after a crash means nothing, and any file that is missing from it on is lost.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from oarlock.errors import WireError
from oarlock.raft.types import Entry, HardState, Index, LogBase

_SUMMARY = struct.Struct("<QQQQQQ")
_BASE = struct.Struct("<QQ")
SUMMARY_BYTES = _SUMMARY.size
"""Of a summary's payload."""


class Summary(NamedTuple):
    """What all records before this one amount to. The payload of a summary record."""

    hard_state: HardState
    last: LogBase
    """The log's last entry."""
    first_segment: int
    """The log begins with it: those before it may have been deleted."""


@dataclass
class Segment:
    """One file of the log."""

    number: int
    size: int
    covered: Index | None
    """The log can begin with this segment once a snapshot covers it up to here. None: it never can."""


@dataclass
class LogState:
    """See the module's docstring. Invariant: `segments` are consecutive, and the last is being written."""

    hard_state: HardState = field(default_factory=HardState)
    base: LogBase = field(default_factory=LogBase)
    """The entry before the first one when it was read, or the base of the latest reset."""
    last: LogBase = field(default_factory=LogBase)
    """The last entry; the base if there is none."""
    commit_index: Index = 0
    """The highest that a record stated."""
    next_sequence: int = 1
    first_segment: int = 1
    segments: list[Segment] = field(default_factory=list)

    def summary(self) -> Summary:
        return Summary(self.hard_state, self.last, self.first_segment)

    def add_segment(self, number: int, size: int) -> None:
        """It begins behind everything so far."""
        self.segments.append(Segment(number, size, self.last.index))

    def problem(self, entries: Sequence[Entry], base: LogBase | None) -> str | None:
        """Why this batch cannot follow, or None if it can."""
        before, last = (self.base, self.last) if base is None else (base, base)
        if entries and not before.index < entries[0].index <= last.index + 1:
            return f"entry {entries[0].index} in a log of {before.index + 1} to {last.index}"
        return None

    def add(self, hard_state: HardState | None, entries: Sequence[Entry], base: LogBase | None) -> None:
        """A batch without a `problem` is stored."""
        if hard_state is not None:
            self.hard_state = hard_state
            self.commit_index = max(self.commit_index, hard_state.commit_index)
        if base is not None:
            self.base = self.last = base
            for segment in self.segments:
                # Whatever it begins with, this batch replaces it.
                if segment.covered is not None:
                    segment.covered = min(segment.covered, base.index)
        if entries:
            if entries[0].index <= self.last.index:
                self._replaced_from(entries[0].index)
            self.last = LogBase(entries[-1].index, entries[-1].term)

    def _replaced_from(self, index: Index) -> None:
        for segment in self.segments:
            if segment.covered is not None and segment.covered >= index:
                segment.covered = None

    def first_needed(self, index: Index) -> int:
        """The number of the last segment that the log can begin with once ``index`` is covered."""
        for segment in reversed(self.segments):
            if segment.covered is not None and segment.covered <= index:
                return segment.number
        return self.segments[0].number


def encode_summary(summary: Summary) -> bytes:
    state, last = summary.hard_state, summary.last
    return _SUMMARY.pack(
        state.term, state.voted_for, state.commit_index, last.index, last.term, summary.first_segment
    )


def decode_summary(payload: bytes) -> Summary:
    """Raises WireError."""
    if len(payload) != SUMMARY_BYTES:
        raise WireError(f"a summary of {len(payload)} bytes")
    term, voted_for, commit_index, last_index, last_term, first_segment = _SUMMARY.unpack(payload)
    return Summary(HardState(term, voted_for, commit_index), LogBase(last_index, last_term), first_segment)


def encode_base(base: LogBase) -> bytes:
    """What the payload of a reset has before its batch."""
    return _BASE.pack(base.index, base.term)


def split_base(payload: bytes) -> tuple[LogBase, bytes]:
    """The base, and the batch behind it. Raises WireError."""
    if len(payload) < _BASE.size:
        raise WireError(f"a reset of {len(payload)} bytes")
    return LogBase(*_BASE.unpack_from(payload)), payload[_BASE.size :]
