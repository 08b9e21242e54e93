"""Frames to bytes: constants and builders (RFC 9113, sections 4 and 6).

A frame is nine bytes of head (length 24 bit, type, flags, reserved bit and stream id 31 bit) and a payload.
Reading them is one `struct` call per frame in `oarlock.http2.connection`; building the rare ones is a
function each here. The frequent ones (a whole unary request or response) come out of a `Template` that was
rendered in advance."""

from __future__ import annotations

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_SIZE: Final = 9
DEFAULT_FRAME_SIZE: Final = 16_384
MAX_FRAME_SIZE: Final = (1 << 24) - 1
DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = (1 << 31) - 1
MAX_STREAM_ID: Final = (1 << 31) - 1

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

SETTINGS_HEADER_TABLE_SIZE: Final = 0x1
SETTINGS_ENABLE_PUSH: Final = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTINGS_INITIAL_WINDOW_SIZE: Final = 0x4
SETTINGS_MAX_FRAME_SIZE: Final = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE: Final = 0x6

# The 24-bit length is read as 16 + 8 bits: length = high << 8 | low.
HEAD: Final = struct.Struct(">HBBBI")
_SETTING: Final = struct.Struct(">HI")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """SETTINGS with these values."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """The pairs of a SETTINGS payload, whose length the caller has checked to be a multiple of six."""
    return [(key, value) for key, value in _SETTING.iter_unpack(payload)]


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """PING; ``payload`` is eight bytes."""
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: int, debug: str = "") -> bytes:
    """GOAWAY. ``debug`` is for people who look at the wire."""
    tail = debug.encode("utf-8", "replace")[:256]
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code) + tail)


def reset(stream_id: int, code: int) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def headers(stream_id: int, block: bytes, *, end_stream: bool, max_frame: int = DEFAULT_FRAME_SIZE) -> bytes:
    """HEADERS with an encoded block, and as many CONTINUATION frames as it needs."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [frame(HEADERS, flags, stream_id, block[:max_frame])]
    for start in range(max_frame, len(block), max_frame):
        last = END_HEADERS if start + max_frame >= len(block) else 0
        parts.append(frame(CONTINUATION, last, stream_id, block[start : start + max_frame]))
    return b"".join(parts)


class Template:
    """A whole message - HEADERS, one DATA frame, and trailers if any - with only stream id and body left
    open.

    Rendering costs two `struct` calls and no copy of the body; put together from single frames it would
    cost a third more, and on the hot path every tenth of a microsecond is one per cent of the budget.

    Invariant: both blocks fit one frame of the smallest permitted maximum, and change no HPACK dynamic table.
    """

    __slots__ = ("_data_flags", "_first", "_head", "_last", "_tail", "block", "overhead", "trailers")

    def __init__(self, block: bytes, trailers: bytes | None = None) -> None:
        self.block = block
        self.trailers = trailers
        self._head = struct.Struct(f">5sI{len(block)}sHBBBI").pack
        self._first = frame(HEADERS, END_HEADERS, 0, block)[:5]
        self._data_flags = END_STREAM if trailers is None else 0
        self._tail = struct.Struct(f">5sI{len(trailers or b'')}s").pack
        self._last = frame(HEADERS, END_HEADERS | END_STREAM, 0, trailers or b"")[:5]
        self.overhead = 3 * HEAD_SIZE + len(block) + len(trailers or b"")

    def render(self, parts: list[bytes], stream_id: int, lead: bytes, body: bytes) -> None:
        """Append the frames of one message to ``parts``. Its content is ``lead`` and ``body`` in a row, which
        have to fit one DATA frame and both windows: the caller has checked.
        """
        size = len(lead) + len(body)
        head = self._head(
            self._first, stream_id, self.block, size >> 8, size & 0xFF, DATA, self._data_flags, stream_id
        )
        if self.trailers is None:
            parts += (head, lead, body)
        else:
            parts += (head, lead, body, self._tail(self._last, stream_id, self.trailers))
