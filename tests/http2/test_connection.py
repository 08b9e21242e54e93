"""The frame machine against bytes written by hand: every rule of RFC 9113 that a peer can break, and what
follows."""

from __future__ import annotations

import pytest

from oarlock.http2 import frames
from oarlock.http2.client_connection import ClientConnection
from oarlock.http2.errors import ErrorCode
from oarlock.http2.frames import Template, frame
from oarlock.http2.hpack import encode_stateless
from oarlock.http2.limits import Limits

from .pump import REQUEST_BLOCK, OurServer, Recorder, everything, goaway_code, parse, reset_codes

HEADERS = encode_stateless([(b":status", b"200")])
OK = Template(HEADERS, encode_stateless([(b"grpc-status", b"0")]))
OPEN = frames.headers(1, REQUEST_BLOCK, end_stream=False)
WHOLE = frames.headers(1, REQUEST_BLOCK, end_stream=True)


def request(*fields: tuple[bytes, bytes], stream_id: int = 1, end: bool = True) -> bytes:
    return frames.headers(stream_id, encode_stateless(fields), end_stream=end)


GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"))

CONNECTION_ERRORS = {
    "data_on_stream_0": (frame(frames.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data_on_idle_stream": (frame(frames.DATA, 0, 5, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data_with_too_much_padding": (OPEN + frame(frames.DATA, 8, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "padded_data_without_length": (OPEN + frame(frames.DATA, 8, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
    "headers_on_stream_0": (frame(frames.HEADERS, 5, 0, REQUEST_BLOCK), ErrorCode.PROTOCOL_ERROR),
    "headers_on_even_stream": (frame(frames.HEADERS, 5, 2, REQUEST_BLOCK), ErrorCode.PROTOCOL_ERROR),
    "headers_on_lower_stream": (
        frames.headers(5, REQUEST_BLOCK, end_stream=True) + frames.headers(3, REQUEST_BLOCK, end_stream=True),
        ErrorCode.STREAM_CLOSED,
    ),
    "headers_padding_too_long": (
        frame(frames.HEADERS, 0xD, 1, b"\x20" + REQUEST_BLOCK[:10]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "headers_depend_on_themselves": (
        frame(frames.HEADERS, 0x25, 1, b"\0\0\0\x01\x10" + REQUEST_BLOCK),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "headers_too_short_for_priority": (frame(frames.HEADERS, 0x25, 1, b"\0\0"), ErrorCode.FRAME_SIZE_ERROR),
    "header_block_undecodable": (
        frame(frames.HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "header_block_interrupted_by_ping": (
        frame(frames.HEADERS, 0, 1, REQUEST_BLOCK) + frames.ping(b"12345678"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "header_block_continued_on_another_stream": (
        frame(frames.HEADERS, 0, 1, REQUEST_BLOCK) + frame(frames.CONTINUATION, 4, 3, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "header_block_interrupted_by_unknown_type": (
        frame(frames.HEADERS, 0, 1, REQUEST_BLOCK) + frame(0x77, 0, 1, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "continuation_without_headers": (OPEN + frame(frames.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "continuations_without_end": (
        frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1, b"") * 100,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "header_block_too_large": (
        frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1, b"x" * 16_384) * 5,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "frame_too_large": (frame(frames.DATA, 0, 1, b"x" * 16_385), ErrorCode.FRAME_SIZE_ERROR),
    "priority_on_stream_0": (frame(frames.PRIORITY, 0, 0, b"\0\0\0\0\0"), ErrorCode.PROTOCOL_ERROR),
    "rst_on_stream_0": (frame(frames.RST_STREAM, 0, 0, b"\0\0\0\0"), ErrorCode.PROTOCOL_ERROR),
    "rst_on_idle_stream": (frame(frames.RST_STREAM, 0, 9, b"\0\0\0\0"), ErrorCode.PROTOCOL_ERROR),
    "rst_of_wrong_size": (OPEN + frame(frames.RST_STREAM, 0, 1, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
    "settings_on_a_stream": (frame(frames.SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "settings_of_wrong_size": (frame(frames.SETTINGS, 0, 0, b"\0" * 5), ErrorCode.FRAME_SIZE_ERROR),
    "settings_ack_with_payload": (frame(frames.SETTINGS, 1, 0, b"\0" * 6), ErrorCode.FRAME_SIZE_ERROR),
    "settings_window_too_large": (frames.settings({4: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
    "settings_frame_size_too_small": (frames.settings({5: 16_383}), ErrorCode.PROTOCOL_ERROR),
    "settings_frame_size_too_large": (frames.settings({5: 1 << 24}), ErrorCode.PROTOCOL_ERROR),
    "settings_push_neither_0_nor_1": (frames.settings({2: 2}), ErrorCode.PROTOCOL_ERROR),
    "settings_overflow_open_window": (
        OPEN + frames.window_update(1, 0x7FFFFFFF - 65_535) + frames.settings({4: 65_536}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "push_promise": (OPEN + frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\x02"), ErrorCode.PROTOCOL_ERROR),
    "ping_on_a_stream": (frame(frames.PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
    "ping_of_wrong_size": (frame(frames.PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    "goaway_on_a_stream": (frame(frames.GOAWAY, 0, 1, b"\0" * 8), ErrorCode.PROTOCOL_ERROR),
    "goaway_too_short": (frame(frames.GOAWAY, 0, 0, b"\0" * 7), ErrorCode.FRAME_SIZE_ERROR),
    "window_update_of_wrong_size": (frame(frames.WINDOW_UPDATE, 0, 0, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
    "window_update_of_0": (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "window_update_on_idle_stream": (frames.window_update(7, 1), ErrorCode.PROTOCOL_ERROR),
    "connection_window_overflow": (frames.window_update(0, 0x7FFFFFFF), ErrorCode.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_breach_ends_the_connection_with_the_right_code(name: str) -> None:
    data, code = CONNECTION_ERRORS[name]
    server = OurServer()
    server.greet()
    answer = server.feed(data)
    assert goaway_code(answer) == code
    assert server.connection.closed
    assert all(stream.end is not None or stream.ended for stream in server.accepted)
    assert server.feed(WHOLE) == b""  # nothing is processed after the end


STREAM_ERRORS = {
    "data_after_end": (WHOLE + frame(frames.DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
    "window_overflow": (OPEN + frames.window_update(1, 0x7FFFFFFF), ErrorCode.FLOW_CONTROL_ERROR),
    "window_update_of_0": (OPEN + frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "priority_of_wrong_size": (OPEN + frame(frames.PRIORITY, 0, 1, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
    "second_headers_without_end": (OPEN + OPEN, ErrorCode.PROTOCOL_ERROR),
    "headers_after_end": (WHOLE + WHOLE, ErrorCode.STREAM_CLOSED),
    "pseudo_header_in_trailers": (OPEN + WHOLE, ErrorCode.PROTOCOL_ERROR),
    "no_path": (request(*GET[:2]), ErrorCode.PROTOCOL_ERROR),
    "empty_path": (request(*GET[:2], (b":path", b"")), ErrorCode.PROTOCOL_ERROR),
    "two_paths": (request(*GET, (b":path", b"/")), ErrorCode.PROTOCOL_ERROR),
    "unknown_pseudo_header": (request(*GET, (b":proto", b"x")), ErrorCode.PROTOCOL_ERROR),
    "response_pseudo_header": (request(*GET, (b":status", b"200")), ErrorCode.PROTOCOL_ERROR),
    "pseudo_header_after_field": (request(*GET[:2], (b"a", b"b"), GET[2]), ErrorCode.PROTOCOL_ERROR),
    "upper_case_name": (request(*GET, (b"Accept", b"x")), ErrorCode.PROTOCOL_ERROR),
    "empty_name": (request(*GET, (b"", b"x")), ErrorCode.PROTOCOL_ERROR),
    "line_break_in_value": (request(*GET, (b"a", b"x\r\ny")), ErrorCode.PROTOCOL_ERROR),
    "space_around_value": (request(*GET, (b"a", b" x")), ErrorCode.PROTOCOL_ERROR),
    "connection_header": (request(*GET, (b"connection", b"close")), ErrorCode.PROTOCOL_ERROR),
    "te_other_than_trailers": (request(*GET, (b"te", b"gzip")), ErrorCode.PROTOCOL_ERROR),
    "connect_with_path": (request((b":method", b"CONNECT"), *GET[1:]), ErrorCode.PROTOCOL_ERROR),
    "content_length_not_a_number": (request(*GET, (b"content-length", b"x")), ErrorCode.PROTOCOL_ERROR),
    "content_length_without_body": (request(*GET, (b"content-length", b"3")), ErrorCode.PROTOCOL_ERROR),
    "body_shorter_than_declared": (
        request(*GET, (b"content-length", b"3"), end=False) + frame(frames.DATA, 1, 1, b"ab"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "body_longer_than_declared": (
        request(*GET, (b"content-length", b"3"), end=False) + frame(frames.DATA, 0, 1, b"abcd"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "trailers_before_declared_length": (
        request(*GET, (b"content-length", b"3"), end=False) + request((b"a", b"b")),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "stream_window_exceeded": (
        OPEN + frame(frames.DATA, 0, 1, b"x" * 16_384) * 17,
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "stream_window_exceeded_with_padding": (
        OPEN + frame(frames.DATA, 8, 1, b"\x00" + b"x" * 16_383) * 17,
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
}


class Hoarder(Recorder):
    """Never gives received bytes back."""

    def on_data(self, data: bytes, end: bool) -> None:
        self.ended = end


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_breach_ends_one_stream_and_leaves_the_others_alone(name: str) -> None:
    data, code = STREAM_ERRORS[name]
    server = OurServer(kind=Hoarder)
    server.greet()
    answer = server.feed(data)
    assert goaway_code(answer) is None
    assert reset_codes(answer)[1] == code
    assert 1 not in server.connection.streams
    assert not server.connection.closed
    server.feed(frames.headers(3, REQUEST_BLOCK, end_stream=True))
    assert server.accepted[-1].id == 3


def test_stream_beyond_the_limit_is_refused_and_others_go_on() -> None:
    server = OurServer(Limits(max_concurrent_streams=3))
    server.greet()
    answer = b"".join(
        server.feed(frames.headers(i, REQUEST_BLOCK, end_stream=False)) for i in range(1, 11, 2)
    )
    assert reset_codes(answer) == {7: ErrorCode.REFUSED_STREAM, 9: ErrorCode.REFUSED_STREAM}
    server.connection.output.message(server.accepted[0], OK, b"", b"x")
    server.feed(frames.headers(11, REQUEST_BLOCK, end_stream=False))
    assert server.accepted[-1].id == 11


def test_frames_that_cross_our_reset_are_ignored() -> None:
    server = OurServer()
    server.greet()
    server.feed(OPEN)
    server.accepted[0].reset(ErrorCode.CANCEL)
    assert reset_codes(everything(server.connection)) == {1: ErrorCode.CANCEL}
    late = frame(frames.DATA, 0, 1, b"x") + frames.window_update(1, 5) + frames.reset(1, 8)
    late += frames.headers(1, REQUEST_BLOCK, end_stream=True)
    assert server.feed(late) == b""
    assert not server.connection.closed


def test_data_for_a_closed_stream_still_counts_for_the_connection_window() -> None:
    server = OurServer(Limits(connection_window=65_535))
    server.greet()
    server.feed(OPEN)
    server.accepted[0].reset(ErrorCode.CANCEL)
    answer = b"".join(server.feed(frame(frames.DATA, 0, 1, b"x" * 16_000)) for _ in range(5))
    assert any(kind == frames.WINDOW_UPDATE and stream_id == 0 for kind, _, stream_id, _ in parse(answer))


def test_connection_window_exceeded_ends_the_connection() -> None:
    server = OurServer(Limits(connection_window=65_535))
    server.greet()
    answer = server.feed(OPEN + frame(frames.DATA, 0, 1, b"x" * 16_384) * 5)
    assert goaway_code(answer) == ErrorCode.FLOW_CONTROL_ERROR


def test_unknown_frames_settings_and_flags_are_ignored() -> None:
    server = OurServer()
    server.greet()
    server.feed(frame(0x42, 0xFF, 7, b"whatever") + frames.settings({0x99: 7}))
    server.feed(
        frames.HEAD.pack(0, len(REQUEST_BLOCK), frames.HEADERS, 0x5 | 0xC0 & 0x40, 0x80000001) + REQUEST_BLOCK
    )
    assert server.accepted[0].id == 1


def test_send_window_may_become_negative() -> None:
    server = OurServer()
    server.greet()
    server.feed(WHOLE)
    stream = server.accepted[0]
    stream.send_headers(HEADERS)
    stream.send_data(b"a" * 60_000)
    everything(server.connection)
    server.feed(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1000}))
    stream.send_data(b"b" * 500, end=True)
    assert everything(server.connection) == b""
    assert server.feed(frames.window_update(1, 59_000)) == b""  # the window is exactly 0 now
    assert parse(server.feed(frames.window_update(1, 100))) == [(frames.DATA, 0, 1, b"b" * 100)]
    assert parse(server.feed(frames.window_update(1, 400))) == [(frames.DATA, 1, 1, b"b" * 400)]
    assert not server.connection.streams


def test_paused_transport_keeps_data_in_the_queues_and_control_frames_flowing() -> None:
    server = OurServer()
    server.greet()
    server.feed(WHOLE)
    server.connection.output.pause()
    stream = server.accepted[0]
    server.connection.output.message(stream, OK, b"", b"x" * 1000)
    out = parse(everything(server.connection))
    assert [kind for kind, *_ in out] == [frames.HEADERS]
    assert server.connection.output.queued == 1000
    assert parse(server.feed(frames.ping(b"12345678")))[0][0] == frames.PING
    server.connection.output.resume()
    assert [kind for kind, *_ in parse(everything(server.connection))] == [frames.DATA, frames.HEADERS]
    assert not server.connection.streams


def test_output_beyond_the_soft_bound_refuses_streams_and_beyond_the_hard_one_ends_the_connection() -> None:
    server = OurServer(Limits(soft_output=100_000, max_output=200_000))
    server.greet()
    server.feed(WHOLE + frames.headers(3, REQUEST_BLOCK, end_stream=True))
    server.connection.output.message(server.accepted[0], OK, b"", b"x" * 170_000)
    answer = server.feed(frames.headers(5, REQUEST_BLOCK, end_stream=True))
    assert reset_codes(answer) == {5: ErrorCode.REFUSED_STREAM}
    server.connection.output.message(server.accepted[1], OK, b"", b"x" * 170_000)
    assert goaway_code(server.feed(frames.ping(b"12345678"))) == ErrorCode.ENHANCE_YOUR_CALM


def test_sender_hears_when_it_may_go_on() -> None:
    server = OurServer(Limits(stream_output=10_000))
    server.greet()
    server.feed(WHOLE)
    stream = server.accepted[0]
    stream.send_headers(HEADERS)
    stream.send_data(b"x" * 65_535)
    assert stream.writable
    stream.send_data(b"y" * 20_000)
    stream.writable_calls = 0
    assert not stream.writable
    server.feed(frames.window_update(0, 1 << 20) + frames.window_update(1, 10_000))
    assert stream.writable_calls == 0
    for _ in range(7):
        server.feed(frames.window_update(1, 1_000))
    assert stream.writable_calls == 1
    assert stream.writable


def test_shutdown_serves_what_crossed_it_then_names_the_last_stream_and_closes() -> None:
    server = OurServer()
    server.greet()
    server.feed(WHOLE)
    server.connection.shutdown()
    announced = parse(everything(server.connection))
    assert [kind for kind, *_ in announced] == [frames.GOAWAY, frames.PING]
    assert int.from_bytes(announced[0][3][:4], "big") == 0x7FFFFFFF
    server.feed(frames.headers(3, REQUEST_BLOCK, end_stream=True))  # crossed the announcement
    final = parse(server.feed(frames.ping(announced[1][3], ack=True)))
    assert [kind for kind, *_ in final] == [frames.GOAWAY]
    assert int.from_bytes(final[0][3][:4], "big") == 3
    late = frames.headers(5, REQUEST_BLOCK, end_stream=False) + frame(frames.DATA, 1, 5, b"x")
    assert server.feed(late) == b""
    assert [stream.id for stream in server.accepted] == [1, 3]
    for stream in server.accepted:
        assert not server.connection.closed
        server.connection.output.message(stream, OK, b"", b"bye")
    assert server.connection.closed
    assert len(parse(everything(server.connection))) == 6


def test_idle_connection_closes_at_once_on_shutdown() -> None:
    server = OurServer()
    server.greet()
    server.connection.shutdown()
    ping = parse(everything(server.connection))[1]
    server.feed(frames.ping(ping[3], ack=True))
    assert server.connection.closed


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\0" * 100])
def test_wrong_preface_is_refused(first: bytes) -> None:
    assert goaway_code_after_settings(OurServer().feed(first)) == ErrorCode.PROTOCOL_ERROR


def test_first_frame_has_to_be_settings() -> None:
    assert goaway_code_after_settings(OurServer().feed(frames.PREFACE + OPEN)) == ErrorCode.PROTOCOL_ERROR


def goaway_code_after_settings(data: bytes) -> int | None:
    assert parse(data)[0][0] == frames.SETTINGS
    return goaway_code(data)


def test_bytes_may_come_one_by_one() -> None:
    server = OurServer()
    for byte in frames.PREFACE + frames.settings({}) + OPEN + frame(frames.DATA, 1, 1, b"hello"):
        server.feed(bytes([byte]))
    assert server.accepted[0].body == b"hello"
    assert server.accepted[0].ended


def client() -> tuple[ClientConnection, Recorder]:
    """A client with one open call."""
    connection = ClientConnection(Limits())
    connection.receive_data(frames.settings({}))
    stream = Recorder(connection, 0)
    connection.open(stream)
    stream.send_headers(connection.encoder.encode([(b":method", b"GET")])[0], end=True)
    everything(connection)
    return connection, stream


CLIENT_STREAM_ERRORS = {
    "no_status": (
        frames.headers(1, encode_stateless([(b"a", b"b")]), end_stream=False),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "bad_status": (frames.headers(1, encode_stateless([(b":status", b"2x0")]), end_stream=False), 1),
    "trailers_without_end": (frames.headers(1, HEADERS, end_stream=False) * 2, ErrorCode.PROTOCOL_ERROR),
    "interim_response_with_end": (
        frames.headers(1, encode_stateless([(b":status", b"100")]), end_stream=True),
        ErrorCode.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("name", CLIENT_STREAM_ERRORS)
def test_client_resets_a_malformed_response(name: str) -> None:
    data, code = CLIENT_STREAM_ERRORS[name]
    connection, stream = client()
    connection.receive_data(data)
    assert reset_codes(everything(connection)) == {1: code}
    assert stream.end is not None
    assert not connection.closed


@pytest.mark.parametrize(
    "data",
    [
        frames.headers(2, HEADERS, end_stream=True),
        frames.headers(9, HEADERS, end_stream=True),
        frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\x02" + HEADERS),
        frames.settings({frames.SETTINGS_ENABLE_PUSH: 1}),
    ],
)
def test_client_ends_the_connection_on_what_no_server_may_send(data: bytes) -> None:
    connection, stream = client()
    connection.receive_data(data)
    assert goaway_code(everything(connection)) == ErrorCode.PROTOCOL_ERROR
    assert stream.end is not None


def test_refused_stream_may_be_retried() -> None:
    connection, stream = client()
    connection.receive_data(frames.reset(1, ErrorCode.REFUSED_STREAM))
    assert stream.end is not None
    assert stream.end[2] is False


def test_client_learns_the_servers_limit_on_streams() -> None:
    connection = ClientConnection(Limits())
    assert connection.open_limit == 100
    connection.receive_data(frames.settings({}))
    assert connection.open_limit > 1 << 30
    connection.receive_data(frames.settings({frames.SETTINGS_MAX_CONCURRENT_STREAMS: 7}))
    assert connection.open_limit == 7
