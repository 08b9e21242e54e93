"""HTTP/1.1 on the same port, for people and probes: a small, strict server (RFC 9112).

It answers what does not need gRPC: ``/health``, ``/version``. Requests are read one at a time, each with a
bounded head and, at present, without a body; everything that is unclear is refused and the connection closed,
since a guess about where a request ends is how request smuggling begins.

Like the HTTP/2 connection this is pure: bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from oarlock.http2.limits import Limits

Handler = Callable[[str, str, list[tuple[str, str]]], tuple[int, list[tuple[str, str]], bytes]]
"""``(method, target, headers) -> (status, headers, body)``; header names arrive in lower case."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET: Final = re.compile(rb"[\x21-\x7e]+")
_MAX_PIPELINED: Final = 64


class _Refused(Exception):
    """A request that is answered with an error status, after which the connection closes."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


def not_found(
    method: str, target: str, headers: list[tuple[str, str]]
) -> tuple[int, list[tuple[str, str]], bytes]:
    """The handler of a server that was given none."""
    return 404, [("content-type", "text/plain; charset=utf-8")], b"not found\n"


class Http1Connection:
    """One HTTP/1.1 connection of a server.

    Attributes:
        closed: write what is left, then close the transport.
    """

    def __init__(self, limits: Limits, handler: Handler) -> None:
        self._limits = limits
        self._handler = handler
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._waiting_since: float | None = None
        self.closed = False

    def receive_data(self, data: bytes) -> None:
        """Process received bytes; write `take()` afterwards and look at `closed`. Never raises for bad
        input."""
        if self.closed:
            return
        if not self._buffer:
            self._waiting_since = None
        self._buffer += data
        if not _TOKEN.match(self._buffer.lstrip(b"\r\n")[:1] or b"G"):
            self._refuse(_Refused(400, "this is neither HTTP/1.1 nor HTTP/2"))
            return
        for _ in range(_MAX_PIPELINED):
            end = self._buffer.find(b"\r\n\r\n", 0, self._limits.max_http1_head)
            if end < 0:
                if len(self._buffer) >= self._limits.max_http1_head:
                    self._refuse(_Refused(431, "request head is too large"))
                return
            self._waiting_since = None
            head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            try:
                self._request(head)
            except _Refused as refused:
                self._refuse(refused)
            if self.closed:
                return
        self._refuse(_Refused(429, "too many pipelined requests"))

    def take(self) -> bytes:
        """The bytes to write now."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def tick(self, now: float) -> None:
        """Close a connection whose client is silent for too long, or too slow with a request head."""
        if self._waiting_since is None:
            self._waiting_since = now
        bound = self._limits.handshake_timeout if self._buffer else self._limits.http1_idle_timeout
        if now - self._waiting_since > bound:
            self.closed = True

    def _request(self, head: bytes) -> None:
        request_line, *lines = head.lstrip(b"\r\n").split(b"\r\n")
        method, target, version = _parse_request_line(request_line)
        headers = [_parse_field(line) for line in lines]
        fields = dict(headers)
        keep_alive = _keeps_alive(version, fields)
        if version == b"HTTP/1.1" and [name for name, _ in headers].count("host") != 1:
            raise _Refused(400, "a request needs exactly one Host")
        if fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
            raise _Refused(413, "a request body is not accepted here")
        if method not in ("GET", "HEAD"):
            self._respond(405, [("allow", "GET, HEAD")], b"method not allowed\n", keep_alive=keep_alive)
            return
        try:
            status, extra, body = self._handler("GET", target, headers)
        except Exception:
            self._respond(500, [], b"internal error\n", keep_alive=False)
            raise
        self._respond(status, extra, body, keep_alive=keep_alive, send_body=method != "HEAD")

    def _refuse(self, refused: _Refused) -> None:
        self._respond(refused.status, [], f"{refused.reason}\n".encode(), keep_alive=False)

    def _respond(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        *,
        keep_alive: bool,
        send_body: bool = True,
    ) -> None:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        lines = [f"HTTP/1.1 {status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines.append(f"content-length: {len(body)}")
        if not keep_alive:
            lines.append("connection: close")
            self.closed = True
        self._out.append("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        if send_body:
            self._out.append(body)


def _parse_request_line(line: bytes) -> tuple[str, str, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise _Refused(400, "this is neither HTTP/1.1 nor HTTP/2")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise _Refused(505 if version.startswith(b"HTTP/") else 400, "HTTP/1.1 or HTTP/2 is spoken here")
    return method.decode(), target.decode(), version


def _parse_field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name) or _BAD_VALUE.search(value):
        raise _Refused(400, "malformed header field")
    return name.decode().lower(), value.strip(b" \t").decode("latin-1")


def _keeps_alive(version: bytes, fields: dict[str, str]) -> bool:
    options = [option.strip().lower() for option in fields.get("connection", "").split(",")]
    if version == b"HTTP/1.0":
        return False
    return "close" not in options
