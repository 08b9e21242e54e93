"""gRPC status codes, and the exception that carries one (gRPC over HTTP/2 protocol, "Responses")."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from oarlock.errors import OarlockError
from oarlock.http2.errors import ErrorCode
from oarlock.http2.stream import CONNECTION_LOST


class StatusCode(IntEnum):
    """The seventeen codes, with gRPC's numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(OarlockError):
    """A call failed.

    Attributes:
        code: why, as a `StatusCode`.
        message: the server's words, or ours if it said nothing.
        not_processed: True if the server certainly did not act on the call, so that a retry is safe.
    """

    def __init__(self, code: StatusCode, message: str = "", *, not_processed: bool = False) -> None:
        self.code = code
        self.message = message
        self.not_processed = not_processed
        super().__init__(f"{code.name}: {message}" if message else code.name)


def status_from_number(number: int) -> StatusCode:
    """A status number from the wire; unknown ones mean UNKNOWN."""
    try:
        return StatusCode(number)
    except ValueError:
        return StatusCode.UNKNOWN


# "HTTP2 Transport Mapping", section Errors.
_FROM_RESET: Final[dict[int, StatusCode]] = {
    CONNECTION_LOST: StatusCode.UNAVAILABLE,
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}

# "HTTP to gRPC Status Code Mapping".
_FROM_HTTP: Final = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}


def status_from_reset(code: int) -> StatusCode:
    """What RST_STREAM with this code means for a call."""
    return _FROM_RESET.get(code, StatusCode.INTERNAL)


def status_from_http(status: int) -> StatusCode:
    """What an HTTP status without a gRPC status means for a call."""
    return _FROM_HTTP.get(status, StatusCode.UNKNOWN)
