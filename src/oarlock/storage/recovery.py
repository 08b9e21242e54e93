"""Reading the log back, and telling a torn write from corruption.

The writer syncs each record before it writes the next. Three rules follow, and they are all there is to it:

1. A broken record with a valid one behind it was durable once: **corruption**. Nothing is changed.
   "Behind it" is anywhere later in the segment, or the existence of a later segment.
2. A broken record with nothing valid behind it is what a crash leaves of the last write: **torn**. Nobody was
   told that it is stored, so it is cut: overwritten with zeros, synced, and a warning is logged.
3. A clean close writes a last record that says so. Damage before it is then found by rule 1, even damage
   to the last record with data.

A file shorter than it was made is corruption too: its size was durable before its first record, and a torn
write does not take it back. So is a segment without its first record, which was durable before the segment's
name. And so are missing files, from the segment on with which the log begins: the last summary says which
one that is (`oarlock.storage.state`), and files before it are leftovers that nobody looks at. One more check
covers what the rules leave: a log must not end before an entry that an intact record says is committed, or
that the state machine has applied.

What cannot be told apart: bit rot in the very last record of a log that was not closed, and a torn write.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from oarlock.errors import CorruptLog, WireError
from oarlock.raft.types import Entry, Index, LogBase
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
from oarlock.storage.state import LogState, decode_summary, split_base
from oarlock.wire.entries import decode_batch

_logger = logging.getLogger(__name__)
_PIECE_BYTES = 1 << 20


@dataclass
class Log:
    """What the records read so far amount to."""

    state: LogState = field(default_factory=LogState)
    entries: list[Entry] = field(default_factory=list)
    """From `state.base` on."""
    begun: bool = False
    """The first summary was read: what is read from here on continues something."""
    closed: bool = False
    """The last record says that the log was closed in good order."""


@dataclass
class Tail:
    """The last segment, open, and where the next record goes."""

    file: File
    path: Path
    header: SegmentHeader
    offset: int


def recover(
    files: Files, directory: Path, durable_index: Index = 0, snapshot_index: Index = 0
) -> tuple[Log, Tail | None]:
    """Read every segment in ``directory``, repair a torn tail, and return what is stored.

    The tail is None if there is no segment yet. Entries up to ``durable_index`` are known, from elsewhere, to
    have been durable: losing one of them is corruption, unless a durable snapshot covers them.

    Raises:
        CorruptLog: see above. Nothing was changed.
        DataDirError: written by a newer version.
        OSError: from the file system.
    """
    names = files.list_dir(directory)
    numbers = sorted(number for name in names if (number := segment_number(name)) is not None)
    begin = _beginning(files, directory / segment_name(numbers[-1])) if numbers else 1
    paths = _segments(directory, [number for number in numbers if number >= begin])
    if durable_index <= snapshot_index:
        durable_index = 0
    if not paths and (durable_index or snapshot_index):
        raise CorruptLog(directory / segment_name(1), 0, "the file is missing, and so are all later ones")
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
                _check_end(data, header, path, offset, broken)
                if segment_number(paths[0].name) != begin:
                    raise CorruptLog(directory / segment_name(begin), 0, "the file is missing")
                _cut(file, data, path, offset, broken, log, durable_index)
                _write_again(file, data, last, offset)
        except BaseException:
            file.close()
            raise
        finally:
            if tail is not None:
                tail.file.close()
        tail = Tail(file, path, header, offset)
    for name in names:
        number = segment_number(name)
        if name == PREPARED_NAME or (number is not None and number < begin):
            files.remove(directory / name)
    return log, tail


def _beginning(files: Files, last: Path) -> int:
    """The number of the segment that the log begins with: it is in the last intact summary.

    Raises CorruptLog: the last segment's header is damaged, or its own summary.
    """
    file = files.open(last)
    try:
        data = file.read(0, file.size())
    finally:
        file.close()
    header = decode_segment_header(data, last)
    begin = 0
    offset: int | None = SEGMENT_HEADER_BYTES
    while offset is not None:
        record = decode_header(data, offset, header.salt)
        if isinstance(record, str):
            # The end, or damage that will be reported. The summary that counts may be behind it.
            offset = find_header(data, offset + ALIGNMENT, header.salt)
            continue
        if record.kind == RecordKind.SUMMARY:
            payload = decode_payload(data, offset, record)
            if not isinstance(payload, str):
                try:
                    begin = decode_summary(payload).first_segment
                except WireError as error:
                    raise CorruptLog(last, offset, str(error)) from None
        offset += record.record_bytes
    if not begin:
        raise CorruptLog(last, SEGMENT_HEADER_BYTES, "the segment's summary is damaged")
    return begin


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
    if before is None:
        log.state.next_sequence = header.first_sequence
    elif header.first_sequence > log.state.next_sequence:
        # Rule 1: this segment was begun when all records before it were durable.
        raise CorruptLog(
            before.path,
            before.offset,
            f"{broken}, and {path.name} goes on with record {header.first_sequence} "
            f"where {log.state.next_sequence} has to follow",
        )
    elif header.first_sequence < log.state.next_sequence:
        raise CorruptLog(
            path, 0, f"it begins with record {header.first_sequence}, not {log.state.next_sequence}"
        )


def _segments(directory: Path, numbers: list[int]) -> list[Path]:
    """The segments' paths, none missing between them."""
    for expected, number in enumerate(numbers, start=numbers[0] if numbers else 1):
        if number != expected:
            raise CorruptLog(directory / segment_name(expected), 0, "the file is missing")
    return [directory / segment_name(number) for number in numbers]


def _read_segment(data: bytes, header: SegmentHeader, path: Path, log: Log) -> tuple[int, int, str]:
    """Add a segment's records to ``log``. Returns where the last begins and ends, and why there."""
    last = offset = SEGMENT_HEADER_BYTES
    while True:
        record = decode_header(data, offset, header.salt)
        payload = record if isinstance(record, str) else decode_payload(data, offset, record)
        if isinstance(record, str) or isinstance(payload, str):
            broken = record if isinstance(record, str) else str(payload)
            if offset == SEGMENT_HEADER_BYTES:
                raise CorruptLog(path, offset, f"{broken}, where the segment's summary was made durable")
            return last, offset, broken
        if offset == SEGMENT_HEADER_BYTES and record.kind != RecordKind.SUMMARY:
            raise CorruptLog(path, offset, f"a record of kind {record.kind} where a segment has its summary")
        if problem := _add(record, payload, log):
            raise CorruptLog(path, offset, problem)
        if offset == SEGMENT_HEADER_BYTES:
            log.state.add_segment(header.number, header.size)
        last = offset
        offset += record.record_bytes


def _add(record: RecordHeader, payload: bytes, log: Log) -> str | None:
    """Apply an intact record. Returns what is wrong with it, if its contents make no sense here."""
    if record.sequence != log.state.next_sequence:
        return f"record {record.sequence} where {log.state.next_sequence} has to follow"
    log.state.next_sequence += 1
    log.closed = record.kind == RecordKind.CLOSED
    try:
        if record.kind == RecordKind.SUMMARY:
            return _add_summary(payload, log)
        if record.kind == RecordKind.BATCH:
            return _add_batch(record, None, payload, log)
        if record.kind == RecordKind.RESET:
            return _add_batch(record, *split_base(payload), log)
    except WireError as error:
        return str(error)
    return None if log.closed else f"a record of unknown kind {record.kind}"


def _add_summary(payload: bytes, log: Log) -> str | None:
    """The first one is where the log begins for us; all later ones must say what we know."""
    summary, state = decode_summary(payload), log.state
    if log.begun and (summary.hard_state, summary.last) != (state.hard_state, state.last):
        return f"a summary that does not fit the records before it: {summary.hard_state}, {summary.last}"
    if not log.begun:
        state.add(summary.hard_state, (), summary.last)
        log.begun = True
    state.first_segment = max(state.first_segment, summary.first_segment)
    return None


def _add_batch(record: RecordHeader, base: LogBase | None, payload: bytes, log: Log) -> str | None:
    hard_state, entries = decode_batch(payload)
    if entries and (entries[0].index, entries[-1].index) != (record.first_index, record.last_index):
        return "the entries are not those that the record's header names"
    if problem := log.state.problem(entries, base):
        return problem
    log.state.add(hard_state, entries, base)
    if base is not None:
        log.entries.clear()
    if entries:
        del log.entries[entries[0].index - log.state.base.index - 1 :]
        log.entries += entries
    return None


def _check_end(data: bytes, header: SegmentHeader, path: Path, offset: int, broken: str) -> None:
    """Rule 1, in the last segment, where reading ended at ``offset`` for the reason ``broken``."""
    behind = find_header(data, offset + ALIGNMENT, header.salt)
    if behind is not None:
        raise CorruptLog(path, offset, f"{broken}, with a valid record behind it at {behind}")


def _cut(
    file: File, data: bytes, path: Path, offset: int, broken: str, log: Log, durable_index: Index
) -> None:
    """Make the last segment end at ``offset``: refuse if that is corruption, overwrite a torn write."""
    garbage = _end_of_data(data, offset) - offset
    known = max(log.state.commit_index, durable_index) if garbage else durable_index
    if known > log.state.last.index:
        raise CorruptLog(path, offset, f"{broken}, and entries up to {known} are known to be durable")
    if garbage:
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
