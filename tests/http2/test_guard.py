"""The flood budget: bursts are fine, work and time pay off, excess ends the connection."""

from __future__ import annotations

import pytest

from oarlock.http2 import frames
from oarlock.http2.errors import ConnectionFault, ErrorCode
from oarlock.http2.frames import Template
from oarlock.http2.guard import Budget
from oarlock.http2.hpack import encode_stateless
from oarlock.http2.limits import Limits

from .pump import REQUEST_BLOCK, OurServer, everything, goaway_code

OK = Template(encode_stateless([(b":status", b"200")]), encode_stateless([(b"grpc-status", b"0")]))


def budget() -> Budget:
    return Budget("things", limit=10, per_second=5, per_unit=2)


def test_burst_within_the_limit_is_fine_and_beyond_it_is_not() -> None:
    account = budget()
    for _ in range(10):
        account.strike(0)
    with pytest.raises(ConnectionFault, match="too many things") as caught:
        account.strike(0)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_time_pays_off() -> None:
    account = budget()
    for _ in range(100):
        account.strike(0)
        account.forgive(0.2)
    assert account.debt == 0


def test_work_pays_off_once() -> None:
    account = budget()
    for _ in range(10):
        account.strike(0)
    account.strike(1)  # one unit of work pays for two
    account.strike(1)
    with pytest.raises(ConnectionFault):
        account.strike(1)


def test_rapid_reset_ends_the_connection() -> None:
    server = OurServer(Limits(max_resets=100))
    server.greet()
    flood = [
        frames.headers(stream_id, REQUEST_BLOCK, end_stream=True) + frames.reset(stream_id, 8)
        for stream_id in range(1, 400, 2)
    ]
    assert goaway_code(server.feed(b"".join(flood))) == ErrorCode.ENHANCE_YOUR_CALM
    assert len(server.accepted) == 101


def test_client_that_cancels_half_of_what_it_asks_is_left_alone() -> None:
    server = OurServer(Limits(max_resets=100))
    server.greet()
    for stream_id in range(1, 4000, 4):
        server.feed(frames.headers(stream_id, REQUEST_BLOCK, end_stream=True))
        server.connection.output.message(server.accepted[-1], OK, b"", b"x")
        server.feed(frames.headers(stream_id + 2, REQUEST_BLOCK, end_stream=True))
        server.feed(frames.reset(stream_id + 2, 8))
        everything(server.connection)
    assert not server.connection.closed


def test_window_change_weighs_as_much_as_the_streams_it_moves() -> None:
    server = OurServer(Limits(max_strikes=1000))
    server.greet()
    opening = [frames.headers(stream_id, REQUEST_BLOCK, end_stream=True) for stream_id in range(1, 3201, 2)]
    server.feed(b"".join(opening))
    change = frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1000})
    assert goaway_code(server.feed(change * 20)) == ErrorCode.ENHANCE_YOUR_CALM
