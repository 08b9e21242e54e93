"""The first frames of a connection: who is calling, whom they mean to reach, and the answer.

::

    dialer                                     listener
      Hello(versions, cluster, sender, to)  →
                                            ←  Welcome(version)      messages may follow
                                            ←  Refusal(reason)       and the connection is closed

It keeps two clusters apart that a wrong address brings together: without it, members of one could vote in
the other. It is no authentication; mutual TLS is.
"""

from __future__ import annotations

import msgspec

from oarlock.errors import WireError
from oarlock.wire.framing import FrameKind, encode_frame
from oarlock.wire.messages import DECODE_ERRORS

HANDSHAKE_BYTES_MAX = 4096
"""Largest handshake payload: a Hello is under 60 bytes, a Refusal has one sentence."""

REASON_CHARACTERS_MAX = 500


class Hello(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=1):
    version_oldest: int
    version_newest: int
    cluster_id: int
    sender: int
    to: int
    """The member that the dialer means to reach."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=2):
    version: int
    """What the dialer speaks from here on."""


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=3):
    reason: str
    """One line for the dialer's log."""


Handshake = Hello | Welcome | Refusal

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Handshake).decode


def encode_handshake(message: Handshake) -> bytes:
    """A whole frame."""
    return encode_frame(FrameKind.HANDSHAKE, 0, _encode(message))


def decode_handshake(payload: bytes) -> Handshake:
    """The message in a handshake frame's payload.

    Raises:
        WireError: anything else than a handshake.
    """
    try:
        message: Handshake = _decode(payload)
    except DECODE_ERRORS as error:
        raise WireError(f"undecodable handshake: {error}") from None
    return message
