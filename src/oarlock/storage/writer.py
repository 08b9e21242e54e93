"""Appending to the log, and dropping its beginning: which bytes go where. Synchronous, for one thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random

from oarlock.errors import invariant
from oarlock.raft.types import Entry, HardState, Index, LogBase
from oarlock.storage.files import File, Files, write_zeros
from oarlock.storage.record import PAYLOAD_BYTES_MAX, RecordKind, encode_record, record_bytes
from oarlock.storage.recovery import Log, Tail
from oarlock.storage.segment import (
    SEGMENT_HEADER_BYTES,
    ZEROS_AHEAD,
    SegmentHeader,
    SegmentMaker,
    segment_name,
)
from oarlock.storage.state import SUMMARY_BYTES, encode_base, encode_summary
from oarlock.wire.entries import encode_batch

_logger = logging.getLogger(__name__)
_SUMMARY_RECORD_BYTES = record_bytes(SUMMARY_BYTES)


class LogWriter:
    """Writes records behind the last one, each durable when its call returns.

    After an `OSError` the log's state on disk is unknown and the writer must not be used again.
    """

    def __init__(
        self, files: Files, directory: Path, segment_bytes: int, log: Log, tail: Tail | None, random: Random
    ) -> None:
        self._files = files
        self._directory = directory
        self._maker = SegmentMaker(files, directory, segment_bytes)
        self._segment_bytes = segment_bytes
        self._random = random
        self._state = log.state
        self._closed_well = log.closed
        self.full = False
        """There was no room for the next segment when it was last looked for; this one still has some."""
        self._looked_for_room = False
        self._file: File
        self._offset: int
        """Where the next record goes."""
        self._zeroed: int
        """Up to here the file is zeros that were really written, not just reserved."""
        if tail is None:
            self._number = 0
            self._begin_segment(0)
        else:
            self._number = tail.header.number
            self._file, self._salt = tail.file, tail.header.salt
            self._offset, self._capacity = tail.offset, tail.header.size
            self._zeroed = tail.offset
            self._write_zeros_ahead()

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._state.segments)

    def append(
        self, hard_state: HardState | None, entries: Sequence[Entry], base: LogBase | None = None
    ) -> None:
        """Write and sync one batch. ``entries`` replace what is stored at and after the first of them.

        With ``base`` the log begins anew behind it.
        """
        problem = self._state.problem(entries, base)
        invariant(problem is None, f"entries leave a gap in the log: {problem}")
        kind, payload = RecordKind.BATCH, encode_batch(hard_state, entries)
        if base is not None:
            kind, payload = RecordKind.RESET, encode_base(base) + payload
        invariant(len(payload) <= PAYLOAD_BYTES_MAX, "a batch is larger than the log format allows")
        term = 0 if hard_state is None else hard_state.term
        if hard_state is not None:
            self._state.commit_index = max(self._state.commit_index, hard_state.commit_index)
        if entries:
            self._write(payload, kind, entries[0].index, entries[-1].index, entries[-1].term)
        else:
            self._write(payload, kind, term=term)
        self._state.add(hard_state, entries, base)

    def compact(self, index: Index) -> bool:
        """Delete the oldest segment if the log can do without it: ``index`` is covered by a snapshot.

        One at a time, because deleting a large file can take as long as several batches.

        Returns:
            Whether there is another one to delete.
        """
        state = self._state
        needed = state.first_needed(index)
        oldest = state.segments[0].number
        if needed == oldest or not self._allow_beginning_with(needed):
            return False
        # Not synced: should it come back after a power cut, it is deleted then.
        self._files.remove(self._directory / segment_name(oldest))
        del state.segments[0]
        return needed > oldest + 1

    def _allow_beginning_with(self, number: int) -> bool:
        """Have a durable record which says that the log begins with this segment."""
        if self._state.first_segment >= number:
            return True
        if self._offset + _SUMMARY_RECORD_BYTES <= self._capacity:
            self._state.first_segment = number
            self._write(encode_summary(self._state.summary()), RecordKind.SUMMARY)
            return True
        if self._maker.prepared:
            self._state.first_segment = number
            self._file.close()
            self._begin_segment(0)
            return True
        return False  # The next batch has to begin a segment: after that.

    def prepare(self) -> None:
        """Between batches: write zeros ahead; reserve the next segment once this one is half full.

        Sets `full`.

        Raises:
            OSError: from writing zeros; final, as in `append`.
        """
        if self._zeroed - self._offset < ZEROS_AHEAD // 2:
            self._write_zeros_ahead()
        if self._looked_for_room or self._maker.prepared or self._offset < self._capacity // 2:
            return
        self._looked_for_room = True
        try:
            self._maker.prepare()
            self.full = False
        except OSError as error:
            # Nothing is lost yet. If it fails again when the segment is needed, that is final.
            if not self.full:
                _logger.warning("cannot make the next log segment ready in advance: %s", error)
            self.full = True

    def look_again(self) -> None:
        """Let `prepare` try once more, should it have failed."""
        self._looked_for_room = False

    def close(self, in_good_order: bool) -> None:
        """Release the files; ``in_good_order``: mark first that all is written that ever will be."""
        try:
            if in_good_order and not self._closed_well:
                self._write(b"", RecordKind.CLOSED)
        finally:
            self._file.close()
            self._maker.close()

    def _write(
        self, payload: bytes, kind: RecordKind, first: Index = 0, last: Index = 0, term: int = 0
    ) -> None:
        size = record_bytes(len(payload))
        if self._offset + size > self._capacity:
            self._file.close()
            self._begin_segment(size)
        record = self._encode(payload, self._offset, kind, first, last, term)
        self._file.write_through(record, self._offset)
        self._offset += size
        self._state.next_sequence += 1
        self._closed_well = kind == RecordKind.CLOSED

    def _encode(
        self, payload: bytes, offset: int, kind: RecordKind, first: Index = 0, last: Index = 0, term: int = 0
    ) -> bytes:
        return encode_record(
            payload,
            salt=self._salt,
            offset=offset,
            kind=kind,
            sequence=self._state.next_sequence,
            first_index=first,
            last_index=last,
            last_term=term,
            commit_index=self._state.commit_index,
        )

    def _begin_segment(self, record_size: int) -> None:
        """Go on in a new segment that has room for a record of this size behind its summary."""
        state = self._state
        self._number += 1
        self._salt = self._random.getrandbits(64)
        begin = SEGMENT_HEADER_BYTES + _SUMMARY_RECORD_BYTES
        self._capacity = max(self._segment_bytes, begin + record_size)
        header = SegmentHeader(
            self._salt, self._number, state.next_sequence, state.last.index + 1, self._capacity
        )
        summary = encode_summary(state.summary())
        self._file = self._maker.make(header, self._encode(summary, SEGMENT_HEADER_BYTES, RecordKind.SUMMARY))
        state.next_sequence += 1
        state.add_segment(self._number, self._capacity)
        self.full = self._looked_for_room = False
        self._offset = begin
        self._zeroed = ZEROS_AHEAD

    def _write_zeros_ahead(self) -> None:
        begin = max(self._zeroed, self._offset)
        end = min(self._offset + ZEROS_AHEAD, self._capacity)
        if begin < end:
            write_zeros(self._file, begin, end - begin)
            self._file.fdatasync()
            self._zeroed = end
