"""Segments: the files that the log consists of.

``00000000000000000001.log`` and so on, numbered without gaps. Each begins with a header::

    offset  0       8         12    16     24       32               40            48     56
            | magic | version | crc | salt | number | first sequence | first index | size | zeros |
              8       u32       u32   u64    u64      u64              u64           u64    8

A segment gets its name only when its header, its first record and its zeros are durable. So a segment whose
header or first record is damaged is damaged, never half made; and its mere existence says that all records
before `first sequence` were durable, which makes a broken record at the end of the segment before it
corruption and not a torn write.

The first record is a summary of all records before it (`oarlock.storage.state`): the log can begin with any
segment, so those that a snapshot covers are dropped by deleting their files.

Space is reserved for a whole segment (fallocate), so that a full disk is noticed before it matters, and zeros
are really written a little ahead of the log. Reserving alone is not enough: the first write to a reserved
block changes the file's metadata, and then each sync has to write the file system's journal too. Measured on
ext4, a 17 KB write and sync takes 0.20 ms into zeros, 0.45 ms into reserved blocks, and 0.6 ms at the
end of a growing file.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from oarlock.errors import CorruptLog, DataDirError, invariant
from oarlock.storage.files import File, Files, write_zeros

FORMAT_VERSION = 2
"""1, which was never released, had no summaries."""
SEGMENT_BYTES = 64 << 20
"""As etcd's. A segment is the unit in which the log is deleted after snapshots; making one costs a few syncs,
which a thousand batches share."""
SEGMENT_HEADER_BYTES = 64
ZEROS_AHEAD = 1 << 20
"""How far ahead of the log zeros are written, at most: 60 batches of 17 KB."""
PREPARED_NAME = "next.tmp"
"""The segment in the making. Worthless after a crash."""

_MAGIC = b"OARLOCKW"
_HEADER = struct.Struct("<8sIIQQQQQ8x")
_CRC = slice(12, 16)
invariant(_HEADER.size == SEGMENT_HEADER_BYTES, "the header's size is part of the format")
_NAME = re.compile(r"(\d{20})\.log")


class SegmentHeader(NamedTuple):
    salt: int
    """A random number that enters every record's checksum."""
    number: int
    first_sequence: int
    """Sequence of the segment's first record, whether it has been written yet or not."""
    first_index: int
    """Where the log stood when the segment was begun: the index after the last one. For people."""
    size: int
    """Of the file, in bytes. It is reserved before the segment gets its name, so a shorter file was cut."""


def segment_name(number: int) -> str:
    return f"{number:020}.log"


def segment_number(name: str) -> int | None:
    """The number in a file name, or None if it is not a segment's."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def encode_segment_header(header: SegmentHeader) -> bytes:
    data = _HEADER.pack(_MAGIC, FORMAT_VERSION, 0, *header)
    return data[:12] + struct.pack("<I", google_crc32c.value(data)) + data[16:]


def decode_segment_header(data: bytes, path: Path) -> SegmentHeader:
    """Raises:
    CorruptLog: it is damaged.
    DataDirError: a newer version of the format.
    """
    if len(data) < SEGMENT_HEADER_BYTES:
        raise CorruptLog(path, len(data), "the end of the file cuts off the segment header")
    data = data[:SEGMENT_HEADER_BYTES]
    magic, version, crc, *fields = _HEADER.unpack(data)
    if magic != _MAGIC or google_crc32c.value(data[:12] + bytes(4) + data[16:]) != crc:
        raise CorruptLog(path, 0, "the segment header is damaged")
    if version != FORMAT_VERSION:
        advice = "newer version of Oarlock" if version > FORMAT_VERSION else "version that wrote it"
        raise DataDirError(
            f"{path}: written in log format {version}, this program knows format {FORMAT_VERSION}: "
            f"use the {advice}"
        )
    return SegmentHeader._make(fields)


class SegmentMaker:
    """Makes the next segment, in advance where possible: a full disk is then noticed early."""

    def __init__(self, files: Files, directory: Path, segment_bytes: int) -> None:
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._file: File | None = None
        """Reserved, begun with zeros, and durable; without a header yet."""

    @property
    def prepared(self) -> bool:
        return self._file is not None

    def prepare(self) -> File:
        """Reserve the next segment. Raises OSError, for instance on a full disk."""
        if self._file is None:
            file = self._files.create(self._directory / PREPARED_NAME)
            try:
                file.preallocate(self._segment_bytes)
                write_zeros(file, 0, min(ZEROS_AHEAD, self._segment_bytes))
                file.fdatasync()
            except OSError:
                # It may have got half-way, and others need the space.
                file.close()
                self._files.remove(self._directory / PREPARED_NAME)
                raise
            self._file = file
        return self._file

    def make(self, header: SegmentHeader, first_record: bytes) -> File:
        """The finished segment of ``header.size``, not less than usual; durable with its name."""
        file = self.prepare()
        if header.size > self._segment_bytes:
            file.preallocate(header.size)
        file.pwrite(encode_segment_header(header) + first_record, 0)
        file.fdatasync()
        # From here on it is a segment: whatever fails now, `close` must not look for it.
        self._file = None
        self._files.rename(self._directory / PREPARED_NAME, self._directory / segment_name(header.number))
        self._files.sync_dir(self._directory)
        return file

    def close(self) -> None:
        """Give up what is prepared."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._files.remove(self._directory / PREPARED_NAME)
