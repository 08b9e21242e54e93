"""Reading the log back, and telling a torn write from corruption.

The writer syncs each record before it writes the next. Three rules follow, and they are all there is to it:

1. A broken record with a valid one behind it was durable once: **corruption**. Nothing is changed.
   "Behind it" is anywhere later in the segment, or the existence of a later segment.
2. A broken record with nothing valid behind it is what a crash leaves of the last write: **torn**. Nobody was
   told that it is stored, so it is cut: overwritten with zeros, synced, and a warning is logged.
3. A clean close writes a last record that says so. Damage before it is then found by rule 1, even damage
   to the last record with data.

A file shorter than it was made is corruption too: its size was durable before its first record, and a torn
write does not take it back. One more check covers what the rules leave: cutting must not remove an entry that
an intact record says is committed, or that the state machine has applied.

What cannot be told apart: bit rot in the very last record of a log that was not closed, and a torn write.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from oarlock.errors import CorruptLog, WireError
from oarlock.raft.types import Entry, HardState
from oarlock.storage.files import File, Files, write_zeros
from oarlock.storage.record import (
    ALIGNMENT,
    RecordHeader,
    RecordKind,
    decode_header,
    decode_payload,
    find_header,
)
from oarlock.storage.segment import (
    PREPARED_NAME,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    decode_segment_header,
    segment_name,
    segment_number,
)
from oarlock.wire.entries import decode_batch

_logger = logging.getLogger(__name__)
_PIECE_BYTES = 1 << 20


@dataclass
class Log:
    """What the records read so far amount to."""

    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    next_sequence: int = 1
    commit_index: int = 0
    """The highest that a record stated."""
    closed: bool = False
    """The last record says that the log was closed in good order."""


@dataclass
class Tail:
    """The last segment, open, and where the next record goes."""

    file: File
    path: Path
    header: SegmentHeader
    offset: int


def recover(files: Files, directory: Path, durable_index: int = 0) -> tuple[Log, Tail | None]:
    """Read every segment in ``directory``, repair a torn tail, and return what is stored.

    The tail is None if there is no segment yet. Entries up to ``durable_index`` are known, from elsewhere, to
    have been durable: losing one of them is corruption.

    Raises:
        CorruptLog: see above. Nothing was changed.
        DataDirError: written by a newer version.
        OSError: from the file system.
    """
    names = files.list_dir(directory)
    paths = _segments(directory, names)
    log = Log()
    tail: Tail | None = None
    broken = ""
    """Why reading of the segment before ended where it did."""
    for path in paths:
        file = files.open(path)
        try:
            data = file.read(0, file.size())
            header = decode_segment_header(data, path)
            _check_place(header, path, len(data), log, tail, broken)
            last, offset, broken = _read_segment(data, header, path, log)
            if path is paths[-1]:
                _cut(file, data, header, path, offset, broken, log, durable_index)
                _write_again(file, data, last, offset)
        except BaseException:
            file.close()
            raise
        finally:
            if tail is not None:
                tail.file.close()
        tail = Tail(file, path, header, offset)
    if PREPARED_NAME in names:
        files.remove(directory / PREPARED_NAME)
    return log, tail


def _check_place(
    header: SegmentHeader, path: Path, size: int, log: Log, before: Tail | None, broken: str
) -> None:
    """Raise CorruptLog unless this segment is whole and continues the log.

    ``before`` is the segment before it, where reading ended for the reason ``broken``.
    """
    if header.number != segment_number(path.name):
        raise CorruptLog(path, 0, f"this is segment {header.number} under another name")
    if size < header.size:
        raise CorruptLog(path, size, f"the file is cut off: it was made with {header.size} bytes")
    if header.first_sequence > log.next_sequence and before is not None:
        # Rule 1: this segment was begun when all records before it were durable.
        raise CorruptLog(
            before.path,
            before.offset,
            f"{broken}, and {path.name} goes on with record {header.first_sequence} "
            f"where {log.next_sequence} has to follow",
        )
    if header.first_sequence != log.next_sequence:
        raise CorruptLog(path, 0, f"it begins with record {header.first_sequence}, not {log.next_sequence}")


def _segments(directory: Path, names: list[str]) -> list[Path]:
    """The segments' paths in order, none missing."""
    numbers = sorted(number for name in names if (number := segment_number(name)) is not None)
    for expected, number in enumerate(numbers, start=1):
        if number != expected:
            raise CorruptLog(directory / segment_name(expected), 0, "the file is missing")
    return [directory / segment_name(number) for number in numbers]


def _read_segment(data: bytes, header: SegmentHeader, path: Path, log: Log) -> tuple[int, int, str]:
    """Add a segment's records to ``log``. Returns where the last begins and ends, and why there."""
    last = offset = SEGMENT_HEADER_BYTES
    while True:
        record = decode_header(data, offset, header.salt)
        if isinstance(record, str):
            return last, offset, record
        payload = decode_payload(data, offset, record)
        if isinstance(payload, str):
            return last, offset, payload
        if problem := _add(record, payload, log):
            raise CorruptLog(path, offset, problem)
        last = offset
        offset += record.record_bytes


def _add(record: RecordHeader, payload: bytes, log: Log) -> str | None:
    """Apply an intact record. Returns what is wrong with it, if its contents make no sense here."""
    if record.sequence != log.next_sequence:
        return f"record {record.sequence} where {log.next_sequence} has to follow"
    log.next_sequence += 1
    log.closed = record.kind == RecordKind.CLOSED
    if log.closed:
        return None
    if record.kind != RecordKind.BATCH:
        return f"a record of unknown kind {record.kind}"
    try:
        hard_state, entries = decode_batch(payload)
    except WireError as error:
        return str(error)
    if hard_state is not None:
        log.hard_state = hard_state
        log.commit_index = max(log.commit_index, hard_state.commit_index)
    if entries:
        first = entries[0].index
        if (first, entries[-1].index) != (record.first_index, record.last_index):
            return "the entries are not those that the record's header names"
        if first > len(log.entries) + 1:
            return f"entry {first} where {len(log.entries) + 1} has to follow"
        del log.entries[first - 1 :]
        log.entries += entries
    return None


def _cut(
    file: File,
    data: bytes,
    header: SegmentHeader,
    path: Path,
    offset: int,
    broken: str,
    log: Log,
    durable_index: int,
) -> None:
    """Make the last segment end at ``offset``: refuse if that is corruption, overwrite a torn write."""
    behind = find_header(data, offset + ALIGNMENT, header.salt)
    if behind is not None:
        raise CorruptLog(path, offset, f"{broken}, with a valid record behind it at {behind}")
    garbage = _end_of_data(data, offset) - offset
    if garbage:
        if (known := max(log.commit_index, durable_index)) > len(log.entries):
            raise CorruptLog(path, offset, f"{broken}, and entries up to {known} are known to be durable")
        _logger.warning(
            "%s: torn write at offset %d (%s): %d bytes cut; nobody was told that they were stored",
            path,
            offset,
            broken,
            garbage,
        )
        write_zeros(file, offset, garbage)
        file.fdatasync()


def _write_again(file: File, data: bytes, begin: int, end: int) -> None:
    """Make the last record durable: it may be in the page cache alone.

    So it is when the process before us was killed within its last write, or ended because that write's sync
    failed: then the system may take the pages for clean, and a sync alone would do nothing. The core counts
    all that it is given here as stored. The records before were durable before this one was written.
    """
    file.pwrite(data[begin:end], begin)
    file.fdatasync()


def _end_of_data(data: bytes, begin: int) -> int:
    """Where the zeros begin that reach to the end; ``begin`` or later. Fast: they are most of a segment."""
    end = len(data)
    while end > begin:
        piece = data[max(begin, end - _PIECE_BYTES) : end]
        if piece != bytes(len(piece)):
            return end - len(piece) + len(piece.rstrip(b"\0"))
        end -= len(piece)
    return begin
