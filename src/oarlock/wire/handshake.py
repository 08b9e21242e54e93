"""The first frames of a connection: who is calling, whom they mean to reach, and the answer.

::

    dialer                                     listener
      Hello(versions, cluster, sender, to, urls)
                                            →
                                            ←  Welcome(version)      messages may follow
      Fetch(hello, group, index, offset)    →
                                            ←  Welcome(version)      chunks of a snapshot follow, from here
      Join(versions, peer_urls, name)       →
                                            ←  Invitation(…)         and the connection is closed
      any of them                           →
                                            ←  Refusal(reason, code) and the connection is closed

The `Hello` keeps two clusters apart that a wrong address brings together: without it, members of one could
vote in the other. It is no authentication; mutual TLS is. A `Join` comes from a server that is to become a
member and knows no more than one member's address, so it can name no cluster: it asks.
"""

from __future__ import annotations

import enum

import msgspec

from oarlock.errors import WireError
from oarlock.raft.types import Member
from oarlock.wire.framing import FrameKind, encode_frame
from oarlock.wire.messages import DECODE_ERRORS, number_problem

HANDSHAKE_BYTES_MAX = 4096
"""Largest handshake payload that a listener takes: a Hello and a Join have a few URLs."""
HELLO_URL_BYTES_MAX = 2048
"""More bytes of URLs than that are left out of a Hello."""
INVITATION_BYTES_MAX = 1 << 20
"""Largest answer that a joining server takes: thousands of members."""

REASON_CHARACTERS_MAX = 500


class RefusalCode(enum.IntEnum):
    """What a program has to know about a refusal, whose text is for people. Values never change."""

    OTHER = 0
    REMOVED = 1
    """The caller was removed from the cluster for good."""
    UNAVAILABLE = 2
    """The snapshot is not here (any more)."""
    BUSY = 3
    """A bound is reached: the same question may be answered later."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=1):
    version_oldest: int
    version_newest: int
    cluster_id: int
    sender: int
    to: int
    """The member that the dialer means to reach."""
    urls: tuple[str, ...] = ()
    """Where the dialer can be called back: a listener that was away for long does not know from its log."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=2):
    version: int
    """What the dialer speaks from here on."""


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=3):
    reason: str
    """One line for the dialer's log."""
    code: int = RefusalCode.OTHER
    """A `RefusalCode`, or a value that a later version defines."""


class Fetch(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=4):
    """A Hello for a connection that carries one snapshot, from the listener to the dialer."""

    hello: Hello
    group: int
    index: int
    """Of the snapshot."""
    offset: int
    """Bytes of it that the dialer has already."""


class Join(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=5):
    """From a server that was added to the membership, and has to learn who it is."""

    version_oldest: int
    version_newest: int
    peer_urls: tuple[str, ...]
    """Where the server will be reached by the members."""
    name: str


class Invitation(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag=6):
    """What a joining server has to know."""

    cluster_id: int
    member_id: int
    """Who it is."""
    members: tuple[Member, ...]
    """Everyone, the joining server too."""


Handshake = Hello | Welcome | Refusal | Fetch | Join | Invitation

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
    if problem := _problem(message):
        raise WireError(f"malformed {type(message).__name__}: {problem}")
    return message


def _problem(message: Handshake) -> str | None:
    """What is wrong with a decoded handshake, or None. A Hello's numbers are compared with ours anyway."""
    if isinstance(message, Fetch):
        return number_problem((message.group, message.index, message.offset), "Fetch")
    if isinstance(message, Invitation):
        ids = [member.id for member in message.members]
        if problem := number_problem(message, "Invitation"):
            return problem
        if message.member_id not in ids or 0 in ids or len(set(ids)) != len(ids):
            return "its members are not distinct, or the one invited is not among them"
    return None
