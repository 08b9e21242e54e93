"""Appending to the log: which bytes go where, in which segment. Synchronous, for one thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random

from oarlock.errors import invariant
from oarlock.raft.types import Entry, HardState, Index
from oarlock.storage.files import File, Files, write_zeros
from oarlock.storage.record import PAYLOAD_BYTES_MAX, RecordKind, encode_record, record_bytes
from oarlock.storage.recovery import Log, Tail
from oarlock.storage.segment import SEGMENT_HEADER_BYTES, ZEROS_AHEAD, SegmentHeader, SegmentMaker
from oarlock.wire.entries import encode_batch

_logger = logging.getLogger(__name__)


class LogWriter:
    """Writes records behind the last one, each durable when its call returns.

    After an `OSError` the log's state on disk is unknown and the writer must not be used again.
    """

    def __init__(
        self, files: Files, directory: Path, segment_bytes: int, log: Log, tail: Tail | None, random: Random
    ) -> None:
        self._maker = SegmentMaker(files, directory, segment_bytes)
        self._segment_bytes = segment_bytes
        self._random = random
        self._next_sequence = log.next_sequence
        self._next_index = len(log.entries) + 1
        self._commit_index = log.commit_index
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

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Write and sync one batch. ``entries`` replace what is stored at and after the first of them."""
        payload = encode_batch(hard_state, entries)
        invariant(len(payload) <= PAYLOAD_BYTES_MAX, "a batch is larger than the log format allows")
        if hard_state is not None:
            self._commit_index = max(self._commit_index, hard_state.commit_index)
        first: Index = 0
        last: Index = 0
        term = 0 if hard_state is None else hard_state.term
        if entries:
            first, last, term = entries[0].index, entries[-1].index, entries[-1].term
            invariant(1 <= first <= self._next_index, "entries leave a gap in the log")
            self._next_index = last + 1
        self._write(payload, RecordKind.BATCH, first, last, term)

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
                self._write(b"", RecordKind.CLOSED, 0, 0, 0)
        finally:
            self._file.close()
            self._maker.close()

    def _write(self, payload: bytes, kind: RecordKind, first: Index, last: Index, term: int) -> None:
        size = record_bytes(len(payload))
        if self._offset + size > self._capacity:
            self._file.close()
            self._begin_segment(size)
        record = encode_record(
            payload,
            salt=self._salt,
            offset=self._offset,
            kind=kind,
            sequence=self._next_sequence,
            first_index=first,
            last_index=last,
            last_term=term,
            commit_index=self._commit_index,
        )
        self._file.write_through(record, self._offset)
        self._offset += size
        self._next_sequence += 1
        self._closed_well = kind == RecordKind.CLOSED

    def _begin_segment(self, record_size: int) -> None:
        """Go on in a new segment that has room for a record of this size."""
        self._number += 1
        self._salt = self._random.getrandbits(64)
        self._capacity = max(self._segment_bytes, SEGMENT_HEADER_BYTES + record_size)
        header = SegmentHeader(
            self._salt, self._number, self._next_sequence, self._next_index, self._capacity
        )
        self._file = self._maker.make(header)
        self.full = self._looked_for_room = False
        self._offset = SEGMENT_HEADER_BYTES
        self._zeroed = ZEROS_AHEAD

    def _write_zeros_ahead(self) -> None:
        begin = max(self._zeroed, self._offset)
        end = min(self._offset + ZEROS_AHEAD, self._capacity)
        if begin < end:
            write_zeros(self._file, begin, end - begin)
            self._file.fdatasync()
            self._zeroed = end
