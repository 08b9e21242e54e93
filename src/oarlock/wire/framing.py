"""Frames: where one piece of a byte stream ends and the next begins, and whether it arrived intact.

::

    offset  0        4        8     9     10        12           20
            | length | crc32c | ver | kind | (zero) |  group id  | payload ...
              u32      u32      u8    u8     u16       u64         `length` bytes, little-endian throughout

The checksum covers everything behind itself. TCP has one too, but it is 16 bits wide and is often computed
by the network card: over a year of traffic, damaged segments do get through. A Raft message that says
something nobody said may break safety, so damage closes the connection.

The group id is in every frame because many groups will share one connection. It is 0 in the handshake.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

import google_crc32c

from oarlock.errors import WireError, invariant

PROTOCOL_VERSION = 1
PROTOCOL_VERSION_OLDEST = 1
"""The oldest version that this program still speaks."""

FRAME_BYTES_MAX = 64 << 20
"""Largest payload that is sent or accepted, in bytes. etcd's largest request is 1.5 MiB by default and a
leader sends batches of a few MiB, so this is far above use, and far below what hurts a process. Snapshots
travel in chunks and never need more."""

_HEADER = struct.Struct("<IIBBHQ")
_CHECKED = struct.Struct("<BBHQ")
_PREFIX = struct.Struct("<II")
FRAME_HEADER_BYTES = _HEADER.size
invariant(_PREFIX.size + _CHECKED.size == FRAME_HEADER_BYTES, "the checked part is the header's tail")

_crc32c = google_crc32c.value
_extend = google_crc32c.extend


class FrameKind(enum.IntEnum):
    """What a payload holds. On the wire: values never change."""

    HANDSHAKE = 1
    MESSAGES = 2
    SNAPSHOT_CHUNK = 3
    """Bytes of a snapshot, on a connection that a `Fetch` opened."""
    SNAPSHOT_END = 4
    """No bytes of it are left: the payload is its size, so that a missing chunk cannot go unnoticed."""


class Frame(NamedTuple):
    version: int
    kind: int
    """A `FrameKind`, or a value that a later version defines: the receiver decides whether to skip it."""
    group: int
    payload: bytes


def encode_frame(kind: FrameKind, group: int, payload: bytes, version: int = PROTOCOL_VERSION) -> bytes:
    """One frame. The caller keeps payloads within `FRAME_BYTES_MAX`."""
    invariant(len(payload) <= FRAME_BYTES_MAX, "a frame's payload is above the limit")
    checked = _CHECKED.pack(version, kind, 0, group)
    return _PREFIX.pack(len(payload), _extend(_crc32c(checked), payload)) + checked + payload


class FrameReader:
    """Turns a stream that arrives in arbitrary pieces into frames.

    Holds at most one unfinished frame, so at most ``payload_bytes_max`` + `FRAME_HEADER_BYTES` + one piece.
    After a `WireError` the stream's position is lost: the caller closes the connection.
    """

    __slots__ = ("_buffer", "_needed", "payload_bytes_max")

    def __init__(self, payload_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.payload_bytes_max = payload_bytes_max
        """May be changed between two calls: small before the handshake, large after it."""
        self._buffer = bytearray()
        self._needed = FRAME_HEADER_BYTES
        """Bytes that must be buffered before looking again makes sense: large frames are scanned once."""

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Frames that ``data`` completes, in order.

        Raises:
            WireError: a length above the limit, a bad checksum, or a nonzero reserved field.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        frames: list[Frame] = []
        position, end = 0, len(data)
        self._needed = FRAME_HEADER_BYTES
        while end - position >= FRAME_HEADER_BYTES:
            length, checksum, version, kind, reserved, group = _HEADER.unpack_from(data, position)
            if length > self.payload_bytes_max:
                raise WireError(f"a frame of {length} bytes is above the limit of {self.payload_bytes_max}")
            stop = position + FRAME_HEADER_BYTES + length
            if stop > end:
                self._needed = stop - position
                break
            if _crc32c(data[position + _PREFIX.size : stop]) != checksum:
                raise WireError("a frame's checksum does not match: damaged on the way, or not our protocol")
            if reserved:
                raise WireError("a frame's reserved field is not zero")
            frames.append(Frame(version, kind, group, data[position + FRAME_HEADER_BYTES : stop]))
            position = stop
        if position < end:
            self._buffer += data[position:]
        return frames
