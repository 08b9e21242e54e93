"""One record of the log: one batch, written and synced at once.

::

    offset  0       4            8             12       16     17        24
            | magic | header crc | payload crc | length | kind | (zeros) | sequence | first index |
              u32     u32          u32           u32      u8     7 bytes   u64        u64
            40           48          56             64
            | last index | last term | commit index | payload ... | zeros up to a multiple of 8 |
              u64          u64         u64            `length` bytes

Little-endian. The payload checksum covers the payload and its padding. The header checksum covers the rest of
the header, the payload checksum in it, and also two values that are not stored here: the salt of the
segment and the record's offset in the file. So a record is valid in one place only. The same bytes
somewhere else, in a user's value or in a reused block, are no record; recovery relies on that when it looks
behind a broken record for a valid one.

The header has its own checksum so that it can be believed when the payload is damaged, and so that this
search costs one small checksum per candidate instead of one over whatever length a candidate claims.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

import google_crc32c

from oarlock.errors import invariant

_MAGIC = 0x524C4F89
MAGIC = struct.pack("<I", _MAGIC)
"""``\\x89OLR``: not text, so it is rare in values."""
_PREFIX = struct.Struct("<II")
_CHECKED = struct.Struct("<IIB7xQQQQQ")
_PLACE = struct.Struct("<QQ")
HEADER_BYTES = _PREFIX.size + _CHECKED.size
ALIGNMENT = 8
PAYLOAD_BYTES_MAX = 1 << 30
"""Largest payload. The replica bounds what is uncommitted far below it; this bounds what a damaged length
could make recovery believe, and keeps lengths within their four bytes."""

invariant(HEADER_BYTES == 64, "the header's size is part of the format")

_crc32c = google_crc32c.value
_extend = google_crc32c.extend
_PADDING = tuple(bytes(-length % ALIGNMENT) for length in range(ALIGNMENT))


class RecordKind(enum.IntEnum):
    """On disk: values never change."""

    BATCH = 1
    """Hard state and entries."""
    CLOSED = 2
    """No payload: the log was closed in good order here, so what is before it was complete."""
    SUMMARY = 3
    """What all records before it amount to (`oarlock.storage.state`). The first record of each segment."""
    RESET = 4
    """A batch behind a base: the log begins anew with it, and all entries before it are gone."""


class RecordHeader(NamedTuple):
    payload_crc: int
    length: int
    """Payload bytes, without padding."""
    kind: int
    sequence: int
    """Counts records through all segments, from 1."""
    first_index: int
    """Of the entries in the payload; 0 if there are none."""
    last_index: int
    last_term: int
    commit_index: int
    """The highest commit index stored so far."""

    @property
    def record_bytes(self) -> int:
        return record_bytes(self.length)


def record_bytes(payload_bytes: int) -> int:
    """Size of a whole record."""
    return HEADER_BYTES + payload_bytes + -payload_bytes % ALIGNMENT


def encode_record(
    payload: bytes,
    *,
    salt: int,
    offset: int,
    kind: RecordKind,
    sequence: int,
    first_index: int = 0,
    last_index: int = 0,
    last_term: int = 0,
    commit_index: int = 0,
) -> bytes:
    """A whole record, valid only at ``offset`` of the segment with ``salt``."""
    padding = _PADDING[len(payload) % ALIGNMENT]
    payload_crc = _extend(_crc32c(payload), padding)
    checked = _CHECKED.pack(
        payload_crc, len(payload), kind, sequence, first_index, last_index, last_term, commit_index
    )
    prefix = _PREFIX.pack(_MAGIC, _header_crc(checked, salt, offset))
    return b"".join((prefix, checked, payload, padding))


def _header_crc(checked: bytes, salt: int, offset: int) -> int:
    checksum: int = _extend(_crc32c(_PLACE.pack(salt, offset)), checked)
    return checksum


def decode_header(data: bytes, offset: int, salt: int) -> RecordHeader | str:
    """The header at ``offset``, or in one phrase why there is no valid one."""
    if len(data) - offset < HEADER_BYTES:
        return "a record header that the end of the file cuts off"
    magic, header_crc = _PREFIX.unpack_from(data, offset)
    if magic != _MAGIC:
        return "not the beginning of a record"
    checked = data[offset + _PREFIX.size : offset + HEADER_BYTES]
    # The seven unused bytes are under the checksum, so they need no check of their own.
    if header_crc != _header_crc(checked, salt, offset):
        return "a record header with a wrong checksum"
    return RecordHeader._make(_CHECKED.unpack(checked))


def decode_payload(data: bytes, offset: int, header: RecordHeader) -> bytes | str:
    """The payload of the record at ``offset``, or in one phrase what is wrong with it."""
    begin, end = offset + HEADER_BYTES, offset + header.record_bytes
    if end > len(data):
        return f"a record of {header.record_bytes} bytes that the end of the file cuts off"
    if _crc32c(data[begin:end]) != header.payload_crc:
        return f"a record of {header.record_bytes} bytes with a wrong checksum"
    return data[begin : begin + header.length]


def find_header(data: bytes, begin: int, salt: int) -> int | None:
    """Offset of the first valid record header at or after ``begin`` (a multiple of `ALIGNMENT`), or None."""
    position = data.find(MAGIC, begin)
    while position >= 0:
        if position % ALIGNMENT == 0 and not isinstance(decode_header(data, position, salt), str):
            return position
        position = data.find(MAGIC, position + 1)
    return None
