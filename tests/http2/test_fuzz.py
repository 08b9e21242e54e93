"""Mutated conversations: the connection answers or ends, never raises, never grows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.http2 import frames
from oarlock.http2.client_connection import ClientConnection
from oarlock.http2.frames import Template, frame
from oarlock.http2.hpack import encode_stateless
from oarlock.http2.limits import Limits

from .pump import REQUEST_BLOCK, OurServer, Recorder, everything

SMALL = Limits(
    max_concurrent_streams=8,
    stream_window=16_384,
    connection_window=65_535,
    max_header_list=2048,
    max_header_block=4096,
    max_strikes=50,
    max_resets=10,
    soft_output=20_000,
    max_output=40_000,
)
OK = Template(encode_stateless([(b":status", b"200")]), encode_stateless([(b"grpc-status", b"0")]))

FRAMES = st.one_of(
    st.builds(
        frame,
        st.integers(0, 11),
        st.integers(0, 255) | st.sampled_from([0, 1, 4, 5, 8, 0x2D]),
        st.integers(0, 12),
        st.binary(max_size=64) | st.just(REQUEST_BLOCK) | st.binary(min_size=5, max_size=5),
    ),
    st.builds(
        frames.headers,
        st.integers(0, 6).map(lambda n: 2 * n + 1),
        st.just(REQUEST_BLOCK),
        end_stream=st.booleans(),
    ),
    st.builds(frame, st.just(0), st.integers(0, 1), st.sampled_from([1, 3, 5]), st.binary(max_size=3000)),
    st.builds(frames.window_update, st.sampled_from([0, 1, 3]), st.integers(0, 0x7FFFFFFF)),
    st.builds(frames.reset, st.sampled_from([1, 3, 5, 7]), st.integers(0, 20)),
    st.dictionaries(st.integers(0, 7), st.integers(0, 0xFFFFFFFF), max_size=3).map(frames.settings),
    st.binary(max_size=50),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=60), st.binary(max_size=3000), st.integers(1, 400))
def test_server_survives_any_frames(pieces: list[bytes], answer: bytes, cut: int) -> None:
    """Invariant: no exception, bounded queues, and a closed connection has no streams."""
    server = OurServer(SMALL)
    server.greet()
    data = b"".join(pieces)
    now = 0.0
    for start in range(0, len(data), cut):
        server.feed(data[start : start + cut])
        for stream in server.accepted:
            if stream.ended and not stream.closed:
                server.connection.output.message(stream, OK, b"", answer)
        now += 1.0
        server.connection.tick(now)
        everything(server.connection)
        assert len(server.connection.streams) <= SMALL.max_concurrent_streams
        assert server.connection.output.queued <= SMALL.max_output + 8 * len(answer)
        assert (
            sum(stream.queued for stream in server.connection.streams.values())
            == server.connection.output.queued
        )
        if server.connection.closed:
            assert not server.connection.streams
            break


@settings(max_examples=200, deadline=None)
@given(st.lists(FRAMES, max_size=60), st.integers(1, 400))
def test_client_survives_any_frames(pieces: list[bytes], cut: int) -> None:
    connection = ClientConnection(SMALL)
    connection.receive_data(frames.settings({}))
    streams = [Recorder(connection, 0) for _ in range(3)]
    for stream in streams:
        connection.open(stream)
        stream.send_headers(REQUEST_BLOCK)
        stream.send_data(b"x" * 100, end=True)
    data = b"".join(pieces)
    for start in range(0, len(data), cut):
        connection.receive_data(data[start : start + cut])
        everything(connection)
    connection.connection_lost("over")
    assert all(stream.ended or stream.end is not None for stream in streams)
    assert not connection.streams


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_server_survives_a_valid_conversation_with_flipped_bytes(data: st.DataObject) -> None:
    good = bytearray(frames.PREFACE + frames.settings({}))
    for stream_id in (1, 3, 5):
        good += frames.headers(stream_id, REQUEST_BLOCK, end_stream=False)
        good += frame(frames.DATA, 1, stream_id, b"\0\0\0\0\x05hello")
    for _ in range(data.draw(st.integers(1, 5))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    server = OurServer(SMALL)
    server.feed(bytes(good))
    server.connection.connection_lost("over")
    assert not server.connection.streams
