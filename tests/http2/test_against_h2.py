"""Both roles of ours against `h2`, joined in memory: what RFC 9113 asks, checked by somebody else's reading
of it."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.http2 import frames
from oarlock.http2.client_connection import ClientConnection
from oarlock.http2.errors import ErrorCode
from oarlock.http2.frames import Template
from oarlock.http2.hpack import encode_stateless
from oarlock.http2.limits import Limits

from .pump import REQUEST, OurServer, Recorder, exchange, h2_client, h2_server

HEADERS = encode_stateless([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encode_stateless([(b"grpc-status", b"0")])
OK = Template(HEADERS, TRAILERS)


def body_of(events: list[Any], stream_id: int) -> bytes:
    return b"".join(
        event.data
        for event in events
        if isinstance(event, h2.events.DataReceived) and event.stream_id == stream_id
    )


def give_back(client: h2.connection.H2Connection, events: list[Any]) -> None:
    """Return the windows that the received DATA has used."""
    for event in events:
        if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
            client.increment_flow_control_window(event.flow_controlled_length)
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                client.increment_flow_control_window(event.flow_controlled_length, event.stream_id)


def drain(server: OurServer, client: h2.connection.H2Connection, *, rounds: int = 10_000) -> list[Any]:
    """Exchange, giving back every window the client has used, until all is quiet."""
    events: list[Any] = []
    for _ in range(rounds):
        new = exchange(server.connection, client)
        if not new:
            return events
        events += new
        give_back(client, new)
    raise AssertionError("does not come to rest")


def test_request_and_response_in_one_go() -> None:
    server, client = OurServer(), h2_client()
    client.send_headers(1, REQUEST)
    client.send_data(1, b"hello", end_stream=True)
    exchange(server.connection, client)
    (stream,) = server.accepted
    assert stream.body == b"hello"
    assert stream.ended
    server.connection.output.message(stream, OK, b"\0\0\0\0\2", b"hi")
    events = exchange(server.connection, client)
    assert body_of(events, 1) == b"\0\0\0\0\2hi"
    assert any(isinstance(event, h2.events.TrailersReceived) for event in events)
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)
    assert not server.connection.streams


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_535, 65_536, 1_000_000])
def test_response_of_any_size_arrives_whole(size: int) -> None:
    body = random.Random(size).randbytes(size)
    server, client = OurServer(), h2_client()
    client.send_headers(1, REQUEST, end_stream=True)
    exchange(server.connection, client)
    server.connection.output.message(server.accepted[0], OK, b"", body)
    events = drain(server, client)
    assert body_of(events, 1) == body
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)
    assert server.connection.output.queued == 0
    assert not server.connection.streams


@pytest.mark.parametrize("size", [0, 1, 16_384, 300_000, 3_000_000])
def test_request_of_any_size_arrives_whole(size: int) -> None:
    body = random.Random(size).randbytes(size)
    server, client = OurServer(), h2_client()
    client.send_headers(1, REQUEST)
    exchange(server.connection, client)
    sent = 0
    while sent < size:
        chunk = min(16_384, client.local_flow_control_window(1), size - sent)
        assert chunk > 0, "our server does not give the window back"
        client.send_data(1, body[sent : sent + chunk])
        sent += chunk
        exchange(server.connection, client)
    client.end_stream(1)
    exchange(server.connection, client)
    assert server.accepted[0].body == body
    assert server.accepted[0].ended


def test_many_streams_take_turns() -> None:
    server, client = OurServer(), h2_client()
    ids = range(1, 41, 2)
    for stream_id in ids:
        client.send_headers(stream_id, REQUEST, end_stream=True)
    exchange(server.connection, client)
    for stream in server.accepted:
        server.connection.output.message(stream, OK, b"", bytes([stream.id]) * 50_000)
    events = exchange(server.connection, client)  # ends with the client's connection window of 65,535
    client.increment_flow_control_window(100_000)
    second = exchange(server.connection, client)
    served = {event.stream_id for event in second if isinstance(event, h2.events.DataReceived)}
    assert len(served) >= 6
    give_back(client, events + second)
    events += second + drain(server, client)
    for stream_id in ids:
        assert body_of(events, stream_id) == bytes([stream_id]) * 50_000


def test_initial_window_change_applies_to_open_streams() -> None:
    server, client = OurServer(), h2_client(INITIAL_WINDOW_SIZE=1000)
    client.send_headers(1, REQUEST, end_stream=True)
    exchange(server.connection, client)
    stream = server.accepted[0]
    stream.send_headers(HEADERS)
    stream.send_data(b"a" * 5000, end=True)
    assert body_of(exchange(server.connection, client), 1) == b"a" * 1000
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1500})
    assert body_of(exchange(server.connection, client), 1) == b"a" * 500
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100_000})
    events = exchange(server.connection, client)
    assert body_of(events, 1) == b"a" * 3500
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)


def test_smaller_header_table_is_acknowledged_in_the_next_block() -> None:
    server, client = OurServer(), h2_client()
    client.send_headers(1, REQUEST, end_stream=True)
    client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    exchange(server.connection, client)
    server.connection.output.message(server.accepted[0], OK, b"", b"hi")
    assert body_of(exchange(server.connection, client), 1) == b"hi"  # h2 would have raised without the update


def test_padding_priority_and_continuation_are_understood() -> None:
    server, client = OurServer(), h2_client()
    fields = [*REQUEST, *((f"x-{number}", "v" * 900) for number in range(30))]  # 27 KB: three CONTINUATIONs
    client.send_headers(1, fields)
    client.send_headers(3, REQUEST, end_stream=True, priority_weight=17)
    client.send_data(1, b"abc", pad_length=200)
    client.send_data(1, b"def", pad_length=0, end_stream=True)
    client.prioritize(5, weight=5)
    exchange(server.connection, client)
    stream, other = server.accepted
    assert other.ended
    assert len(stream.headers[0]) == len(fields)
    assert stream.body == b"abcdef"
    assert stream.ended


def test_padding_is_given_back_to_the_window() -> None:
    server, client = OurServer(), h2_client()
    client.send_headers(1, REQUEST)
    exchange(server.connection, client)
    for _ in range(5000):
        if client.local_flow_control_window(1) < 256:
            exchange(server.connection, client)
        client.send_data(1, b"", pad_length=255)
    exchange(server.connection, client)
    assert client.local_flow_control_window(1) > 100_000


def test_request_trailers_end_the_request() -> None:
    server, client = OurServer(), h2_client()
    client.send_headers(1, REQUEST)
    client.send_data(1, b"x")
    client.send_headers(1, [("x-sum", "1")], end_stream=True)
    exchange(server.connection, client)
    assert server.accepted[0].ended


def test_early_answer_asks_the_client_to_stop() -> None:
    server, client = OurServer(), h2_client()
    client.send_headers(1, REQUEST)
    exchange(server.connection, client)
    server.connection.output.message(server.accepted[0], OK, b"", b"no")
    events = exchange(server.connection, client)
    (reset,) = [event for event in events if isinstance(event, h2.events.StreamReset)]
    assert reset.error_code == ErrorCode.NO_ERROR
    assert not server.connection.streams


def test_client_reset_reaches_the_application() -> None:
    server, client = OurServer(), h2_client()
    client.send_headers(1, REQUEST)
    client.reset_stream(1, ErrorCode.CANCEL)
    exchange(server.connection, client)
    end = server.accepted[0].end
    assert end is not None
    assert end[0] == ErrorCode.CANCEL
    assert not server.connection.streams


def test_ping_is_answered() -> None:
    server, client = OurServer(), h2_client()
    client.ping(b"12345678")
    events = exchange(server.connection, client)
    (ack,) = [event for event in events if isinstance(event, h2.events.PingAckReceived)]
    assert ack.ping_data == b"12345678"


def test_our_client_speaks_to_a_foreign_server() -> None:
    ours, theirs = ClientConnection(Limits()), h2_server()
    exchange(ours, theirs)
    assert ours.settled
    stream = Recorder(ours, 0)
    ours.open(stream)
    block, _ = ours.encoder.encode([(name.encode(), value.encode()) for name, value in REQUEST])
    ours.output.message(stream, Template(block), b"", b"hello")
    events = exchange(ours, theirs)
    assert body_of(events, 1) == b"hello"
    theirs.send_headers(1, [(":status", "103"), ("x", "y")])
    theirs.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    theirs.send_data(1, b"world")
    theirs.send_headers(1, [("grpc-status", "0")], end_stream=True)
    exchange(ours, theirs)
    assert stream.body == b"world"
    assert stream.ended
    assert len(stream.headers) == 2  # the interim response is none of the application's business
    assert not ours.streams


def test_our_client_receives_large_bodies() -> None:
    ours, theirs = ClientConnection(Limits()), h2_server()
    exchange(ours, theirs)
    stream = Recorder(ours, 0)
    ours.open(stream)
    block, _ = ours.encoder.encode([(name.encode(), value.encode()) for name, value in REQUEST])
    ours.output.message(stream, Template(block), b"", b"hello")
    exchange(ours, theirs)
    theirs.send_headers(1, [(":status", "200")])
    body = random.Random(1).randbytes(40_000_000 // 16)
    sent = 0
    while sent < len(body):
        chunk = min(16_384, theirs.local_flow_control_window(1))
        assert chunk > 0
        theirs.send_data(1, body[sent : sent + chunk])
        sent += chunk
        exchange(ours, theirs)
    theirs.end_stream(1)
    exchange(ours, theirs)
    assert stream.body == body
    assert stream.ended


def test_goaway_tells_our_client_which_calls_may_be_retried() -> None:
    ours, theirs = ClientConnection(Limits()), h2_server()
    exchange(ours, theirs)
    streams = [Recorder(ours, 0) for _ in range(3)]
    for stream in streams:
        ours.open(stream)
        block, _ = ours.encoder.encode([(name.encode(), value.encode()) for name, value in REQUEST])
        ours.output.message(stream, Template(block), b"", b"x")
    exchange(ours, theirs)
    ours.receive_data(frames.goaway(1, ErrorCode.NO_ERROR, "bye"))
    assert streams[0].end is None
    for stream in streams[1:]:
        assert stream.end is not None
        assert stream.end[2] is False
    assert ours.open_limit == 0
    assert not ours.closed
    ours.receive_data(frames.headers(1, HEADERS, end_stream=True))
    assert ours.closed


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_conversation_with_any_segmentation_arrives_as_sent(data: st.DataObject) -> None:
    """A foreign client sends random requests, cut into random pieces; the echo arrives, whatever the
    windows."""
    window = data.draw(st.sampled_from([100, 16_384, 65_535, 1_000_000]))
    client = h2_client(INITIAL_WINDOW_SIZE=window)
    server = OurServer(Limits(stream_window=16_384, connection_window=65_535))
    bodies = data.draw(st.lists(st.binary(max_size=3000), min_size=1, max_size=5))
    for number, body in enumerate(bodies):
        stream_id = 2 * number + 1
        client.send_headers(stream_id, [*REQUEST, ("x-number", str(number))])
        if body:
            client.send_data(stream_id, body, pad_length=data.draw(st.sampled_from([None, 0, 10])))
        client.end_stream(stream_id)
    stream = client.data_to_send()
    while stream:
        size = data.draw(st.integers(1, max(1, len(stream))))
        server.connection.receive_data(stream[:size])
        stream = stream[size:]
    for accepted in server.accepted:
        server.connection.output.message(accepted, OK, b"", accepted.body)
    events = drain(server, client, rounds=20_000)
    for number, body in enumerate(bodies):
        assert body_of(events, 2 * number + 1) == body
    assert not server.connection.streams
    assert server.connection.output.queued == 0
