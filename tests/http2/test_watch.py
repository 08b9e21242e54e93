"""Liveness and progress, on a clock that the test turns."""

from __future__ import annotations

from oarlock.http2 import frames
from oarlock.http2.errors import ErrorCode
from oarlock.http2.frames import Template, frame
from oarlock.http2.hpack import encode_stateless
from oarlock.http2.limits import Limits

from .pump import REQUEST_BLOCK, OurServer, everything, goaway_code, parse, reset_codes

OK = Template(encode_stateless([(b":status", b"200")]), encode_stateless([(b"grpc-status", b"0")]))
WHOLE = frames.headers(1, REQUEST_BLOCK, end_stream=True)
OPEN = frames.headers(1, REQUEST_BLOCK, end_stream=False)


class Clock:
    """Ticks a server every second and keeps what it says."""

    def __init__(self, server: OurServer) -> None:
        self.server = server
        self.now = 1000.0
        self.said = b""
        server.connection.watch.advance(self.now)

    def run(self, seconds: int, *, answer_pings: bool = True) -> bytes:
        said = b""
        for _ in range(seconds):
            self.now += 1.0
            self.server.connection.tick(self.now)
            new = everything(self.server.connection)
            said += new
            for kind, flags, _, payload in parse(new):
                if answer_pings and kind == frames.PING and not flags:
                    said += self.server.feed(frames.ping(payload, ack=True))
        return said


def started(limits: Limits | None = None) -> tuple[OurServer, Clock]:
    server = OurServer(limits)
    clock = Clock(server)
    server.greet()
    return server, clock


def test_handshake_has_to_be_completed() -> None:
    server = OurServer()
    clock = Clock(server)
    server.feed(frames.PREFACE[:10])
    clock.run(9)
    assert not server.connection.closed
    assert goaway_code(clock.run(3)) == ErrorCode.SETTINGS_TIMEOUT


def test_partial_frame_has_to_be_completed() -> None:
    server, clock = started()
    server.feed(OPEN[:20])
    assert goaway_code(clock.run(40)) == ErrorCode.PROTOCOL_ERROR


def test_header_block_has_to_be_completed() -> None:
    server, clock = started()
    server.feed(frame(frames.HEADERS, 0, 1, REQUEST_BLOCK))
    assert goaway_code(clock.run(40)) == ErrorCode.PROTOCOL_ERROR


def test_busy_connection_that_is_cut_in_a_frame_at_every_tick_is_left_alone() -> None:
    server, clock = started()
    ping = frames.ping(b"12345678")
    rest = ping
    for _ in range(100):
        server.feed(rest + ping[:5])
        rest = ping[5:]
        clock.run(1)
    assert not server.connection.closed


def test_silence_is_answered_with_a_ping_and_then_with_the_end() -> None:
    server, clock = started()
    assert parse(clock.run(31, answer_pings=False))[0][0] == frames.PING
    assert goaway_code(clock.run(20, answer_pings=False)) == ErrorCode.NO_ERROR
    assert server.connection.closed


def test_client_that_answers_pings_may_be_silent_for_long() -> None:
    server, clock = started()
    clock.run(1800)
    assert not server.connection.closed


def test_connection_without_streams_is_closed_after_an_hour() -> None:
    server, clock = started()
    clock.run(3600)
    assert not server.connection.closed
    assert goaway_code(clock.run(10)) == ErrorCode.NO_ERROR


def test_stream_keeps_the_connection_open() -> None:
    server, clock = started()
    server.feed(WHOLE)
    clock.run(4000)
    assert not server.connection.closed


def test_unary_request_has_to_arrive_in_time() -> None:
    server, clock = started()
    server.feed(OPEN)
    clock.run(50)
    assert server.connection.streams
    assert reset_codes(clock.run(40)) == {1: ErrorCode.ENHANCE_YOUR_CALM}
    assert server.accepted[0].end is not None


def test_long_lived_request_may_take_its_time() -> None:
    server, clock = started()
    server.feed(OPEN)
    server.accepted[0].long_lived = True
    clock.run(1000)
    assert server.connection.streams


def test_reader_that_takes_nothing_loses_its_stream() -> None:
    server, clock = started()
    server.feed(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}) + WHOLE)
    server.connection.output.message(server.accepted[0], OK, b"", b"x" * 100_000)
    clock.run(50)
    assert server.connection.streams
    assert reset_codes(clock.run(40)) == {1: ErrorCode.ENHANCE_YOUR_CALM}
    assert server.connection.output.queued == 0


def test_reader_that_takes_a_byte_per_second_loses_its_stream() -> None:
    server, clock = started()
    server.feed(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}) + WHOLE)
    server.connection.output.message(server.accepted[0], OK, b"", b"x" * 100_000)
    said = b""
    for _ in range(100):
        said += server.feed(frames.window_update(1, 1)) + clock.run(1)
    assert reset_codes(said) == {1: ErrorCode.ENHANCE_YOUR_CALM}


def test_slow_reader_keeps_its_stream() -> None:
    server, clock = started()
    server.feed(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}) + WHOLE)
    server.connection.output.message(server.accepted[0], OK, b"", b"x" * 200_000)
    for _ in range(200):
        server.feed(frames.window_update(0, 500) + frames.window_update(1, 500))
        assert not reset_codes(clock.run(1))
    assert server.connection.streams
