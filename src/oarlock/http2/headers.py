"""Which header lists are well-formed (RFC 9113, sections 8.1 to 8.3).

A malformed list is a stream error of type PROTOCOL_ERROR: the stream ends, the connection goes on. Lists are
checked once per distinct block, not once per request: the verdict is kept in the (shared) `HeaderBlock`."""

from __future__ import annotations

import functools
import re
from typing import Final

from oarlock.http2.errors import ErrorCode, StreamFault
from oarlock.http2.hpack import HeaderBlock

REQUEST: Final = "request"
RESPONSE: Final = "response"
TRAILERS: Final = "trailers"

# RFC 9113 8.2.1 forbids far less than RFC 9110's token; we hold to the wider rule, as interoperability asks.
_BAD_NAME: Final = re.compile(rb"[\x00-\x20A-Z\x7f-\xff:]")
_BAD_VALUE: Final = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$")
_REMEMBERED_SIZE: Final = 256  # longer fields are checked anew each time: 1,024 of them are kept
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = {
    REQUEST: frozenset((b":method", b":scheme", b":authority", b":path")),
    RESPONSE: frozenset((b":status",)),
    TRAILERS: frozenset[bytes](),
}


def validate(block: HeaderBlock, role: str) -> None:
    """Check ``block`` as a request, a response or trailers, and fill in what was learnt.

    Raises:
        StreamFault: PROTOCOL_ERROR with the reason.
    """
    if block.oversize:
        raise StreamFault(ErrorCode.ENHANCE_YOUR_CALM, f"header list of a {role} is longer than allowed")
    pseudo = _check_fields(block, role)
    if role == REQUEST:
        _check_request(pseudo)
    elif role == RESPONSE:
        status = pseudo.get(b":status", b"")
        if len(status) != 3 or not status.isdigit():
            raise _malformed("a response needs one :status of three digits")
    block.role = role


def _check_fields(block: HeaderBlock, role: str) -> dict[bytes, bytes]:
    pseudo: dict[bytes, bytes] = {}
    allowed = _PSEUDO[role]
    regular = False
    length: int | None = None
    for name, value in block.fields:
        if name[:1] == b":":
            if regular:
                raise _malformed(f"{_show(name)} after regular fields")
            if name not in allowed or name in pseudo:
                raise _malformed(f"{_show(name)} is unknown, repeated or not allowed in a {role}")
            pseudo[name] = value
        else:
            regular = True
            if name == b"content-length":
                length = _content_length(value, length)
        if len(name) + len(value) <= _REMEMBERED_SIZE:
            _check_field(name, value)
        else:
            _check_field.__wrapped__(name, value)
    block.content_length = length
    return pseudo


@functools.lru_cache(maxsize=1024)
def _check_field(name: bytes, value: bytes) -> None:
    """Check one field by itself. Remembered: a client's fields are the same in most of its blocks, and only
    the fault-free outcome is kept."""
    if name[:1] != b":":
        if not name or _BAD_NAME.search(name):
            raise _malformed(f"field name {_show(name)} has characters that are not allowed")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
            raise _malformed(f"{_show(name)} belongs to HTTP/1.1 connections")
    if _BAD_VALUE.search(value):
        raise _malformed(f"value of {_show(name)} has characters that are not allowed")


def _content_length(value: bytes, previous: int | None) -> int:
    if not value.isdigit() or len(value) > 15 or previous not in (None, int(value)):
        raise _malformed("content-length is not one number")
    return int(value)


def _check_request(pseudo: dict[bytes, bytes]) -> None:
    if pseudo.get(b":method") == b"CONNECT":
        if b":scheme" in pseudo or b":path" in pseudo or b":authority" not in pseudo:
            raise _malformed("CONNECT takes :authority, and neither :scheme nor :path")
        return
    for name in (b":method", b":scheme", b":path"):
        if not pseudo.get(name):
            raise _malformed(f"a request needs {_show(name)}")


def _malformed(reason: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, reason)


def _show(name: bytes) -> str:
    return repr(name[:40])[1:]
