"""HTTP/2 error codes and what this layer raises (RFC 9113, sections 5.4 and 7).

RFC 9113 knows two scopes of error. A *connection error* ends the whole connection with GOAWAY; a *stream
error* ends one stream with RST_STREAM and leaves its neighbours alone. Both are always the peer's doing,
never a bug of ours: our own mistakes raise `oarlock.errors.InvariantViolated`."""

from __future__ import annotations

from enum import IntEnum

from oarlock.errors import OarlockError


class ErrorCode(IntEnum):
    """The codes of RST_STREAM and GOAWAY (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def code_name(code: int) -> str:
    """Name of an error code; unknown ones are allowed on the wire and get their number."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"code {code:#x}"


class Http2Error(OarlockError):
    """The peer broke HTTP/2.

    Attributes:
        code: the `ErrorCode` we tell the peer.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code.name}: {reason}")


class ConnectionFault(Http2Error):
    """Nothing on this connection can be trusted any more: GOAWAY, then close (section 5.4.1)."""


class StreamFault(Http2Error):
    """One stream is broken, the connection is fine: RST_STREAM (section 5.4.2)."""
