"""What members send each other and what the log stores, as bytes. Pure: no sockets, no files.

Two layers:

- `framing`: a length, two version bytes, a group id and a checksum around a payload, and a reader that
  finds frames in a stream that arrives in pieces.
- `messages` and `entries`: MessagePack by msgspec. Structs are arrays in field order, which is also the
  order in their Python definition (`oarlock.raft.messages`, `oarlock.raft.types`).

**Compatibility.** The frame's first twelve bytes and the handshake keep their meaning for ever, so two
programs can always find out that they do not speak the same version and say so. Within a version, fields
are only added at the end of a struct, with a default: an older reader skips them, a newer one fills them
in. Anything else raises `PROTOCOL_VERSION`; a member speaks its own version and the one before, and the
handshake picks the highest that both know. Rolling upgrades therefore go one version at a time.

**Limits.** No length is believed: a frame above the reader's limit is refused on sight of its header, and
MessagePack's inner lengths are bounded by the frame around them. Whatever is wrong with the bytes, the
only exception that comes out is `WireError`.
"""

from __future__ import annotations

from oarlock.wire.entries import decode_batch, encode_batch
from oarlock.wire.framing import (
    FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_OLDEST,
    Frame,
    FrameKind,
    FrameReader,
    encode_frame,
)
from oarlock.wire.handshake import (
    Fetch,
    Hello,
    Invitation,
    Join,
    Refusal,
    RefusalCode,
    Welcome,
    decode_handshake,
    encode_handshake,
)
from oarlock.wire.messages import decode_messages, encode_messages

__all__ = [
    "FRAME_BYTES_MAX",
    "FRAME_HEADER_BYTES",
    "PROTOCOL_VERSION",
    "PROTOCOL_VERSION_OLDEST",
    "Fetch",
    "Frame",
    "FrameKind",
    "FrameReader",
    "Hello",
    "Invitation",
    "Join",
    "Refusal",
    "RefusalCode",
    "Welcome",
    "decode_batch",
    "decode_handshake",
    "decode_messages",
    "encode_batch",
    "encode_frame",
    "encode_handshake",
    "encode_messages",
]
