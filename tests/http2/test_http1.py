"""The small HTTP/1.1 server: strict about where a request ends, clear about what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.http2.http1 import Http1Connection
from oarlock.http2.limits import Limits


def handler(
    method: str, target: str, headers: list[tuple[str, str]]
) -> tuple[int, list[tuple[str, str]], bytes]:
    if target == "/health":
        return 200, [("content-type", "application/json")], b'{"health":"true"}'
    return 404, [], b"not found\n"


def connection(limits: Limits | None = None) -> Http1Connection:
    return Http1Connection(limits or Limits(), handler)


def status(data: bytes) -> int:
    one = connection()
    one.receive_data(data)
    answer = one.take()
    assert answer.startswith(b"HTTP/1.1 ")
    return int(answer.split()[1])


def test_get_is_answered_and_the_connection_stays() -> None:
    one = connection()
    for _ in range(3):
        one.receive_data(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = one.take()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'content-length: 17\r\n\r\n{"health":"true"}')
    assert not one.closed


def test_head_has_the_length_but_no_body() -> None:
    one = connection()
    one.receive_data(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert one.take().endswith(b"content-length: 17\r\n\r\n")


def test_request_may_come_byte_by_byte_and_several_at_once() -> None:
    one = connection()
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    for byte in request:
        one.receive_data(bytes([byte]))
    one.receive_data(request * 3)
    assert one.take().count(b"HTTP/1.1 200 OK") == 4


@pytest.mark.parametrize(
    "head", [b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET /health HTTP/1.0\r\n\r\n"]
)
def test_connection_closes_when_asked_or_of_old(head: bytes) -> None:
    one = connection()
    one.receive_data(head)
    assert b"200 OK" in one.take()
    assert one.closed


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"DELETE /health HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nname : value\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nfolded: a\r\n b\r\n\r\n", 400),
        (b"GET /health HTTP/2.7\r\nHost: x\r\n\r\n", 505),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"GET /" + b"x" * 20_000, 431),
        (b"\x16\x03\x01\x02\x00", 400),
    ],
)
def test_what_is_wrong_gets_its_status(data: bytes, code: int) -> None:
    assert status(data) == code


def test_refused_connection_is_over() -> None:
    one = connection()
    one.receive_data(b"GET / HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert one.take().count(b"HTTP/1.1") == 1
    assert one.closed


def test_slow_head_and_long_silence_end_the_connection() -> None:
    limits = Limits(handshake_timeout=10, http1_idle_timeout=60)
    slow, idle = connection(limits), connection(limits)
    slow.receive_data(b"GET /hea")
    for now in range(9):
        slow.tick(now)
        slow.receive_data(b"l")
    assert not slow.closed
    slow.tick(11)
    assert slow.closed
    idle.receive_data(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    idle.tick(0)
    idle.tick(50)
    assert not idle.closed
    idle.tick(61)
    assert idle.closed


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_answered_or_awaited(pieces: list[bytes]) -> None:
    one = connection()
    for piece in pieces:
        one.receive_data(piece)
        answer = one.take()
        assert not answer or answer.startswith(b"HTTP/1.1 ")
