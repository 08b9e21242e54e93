"""The server's end of a connection: accepts streams, refuses what is too much, leaves gracefully."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from oarlock.http2 import frames
from oarlock.http2.connection import Connection
from oarlock.http2.errors import ConnectionFault, ErrorCode, StreamFault
from oarlock.http2.frames import MAX_STREAM_ID
from oarlock.http2.headers import REQUEST, TRAILERS, validate
from oarlock.http2.hpack import HeaderBlock
from oarlock.http2.limits import Limits
from oarlock.http2.stream import Stream

_SHUTDOWN: Final = b"shutdown"

Accept = Callable[["ServerConnection", int, HeaderBlock], Stream]
"""Makes the stream object for a request with these (validated) headers. May raise `StreamFault` to refuse
it."""


class ServerConnection(Connection):
    """See `oarlock.http2.connection`. ``accept`` is called once per request."""

    is_server = True

    def __init__(self, limits: Limits, accept: Accept) -> None:
        super().__init__(limits)
        self._accept = accept
        self._leaving: str = ""
        self._max_streams = limits.max_concurrent_streams
        self._soft_output = limits.soft_output
        self.output.write(
            frames.settings(
                {
                    frames.SETTINGS_MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                    frames.SETTINGS_INITIAL_WINDOW_SIZE: limits.stream_window,
                    frames.SETTINGS_HEADER_TABLE_SIZE: limits.header_table,
                    frames.SETTINGS_MAX_HEADER_LIST_SIZE: limits.max_header_list,
                }
            )
        )
        if limits.connection_window > frames.DEFAULT_WINDOW:
            self.output.write(frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW))

    def headers_received(self, stream_id: int, block: HeaderBlock, end: bool) -> None:
        """A request, or its trailers."""
        if stream_id <= self.last_peer_stream or not stream_id & 1:
            stream = self.streams.get(stream_id)
            if stream is None:
                self._not_new(stream_id)
            else:
                self._trailers(stream, block, end)
            return
        self.last_peer_stream = stream_id
        if block.role != REQUEST:
            validate(block, REQUEST)
        streams = self.streams
        unusual = len(streams) >= self._max_streams or self.output.queued > self._soft_output or self._leaving
        if unusual and self._refuse(stream_id):
            return
        stream = self._accept(self, stream_id, block)
        if stream.closed:
            return  # answered and done with
        streams[stream_id] = stream
        if block.content_length is not None:
            stream.length_left = block.content_length
            stream.fast_data = False
            if end and block.content_length:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "content-length without a body")
        if end:
            self.end_received(stream)

    def _refuse(self, stream_id: int) -> bool:
        """Something is unusual: whether the stream is to be ignored. Raises `StreamFault` to refuse it."""
        if self._leaving == "last":  # after the final GOAWAY: the client knows that nobody looks at these
            self._remember_reset(stream_id)
            return True
        if len(self.streams) >= self._max_streams or self.output.queued > self._soft_output:
            raise StreamFault(ErrorCode.REFUSED_STREAM, "too many streams, or too much unread output")
        return False

    def _trailers(self, stream: Stream, block: HeaderBlock, end: bool) -> None:
        if stream.remote_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if not end:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "second HEADERS without END_STREAM")
        validate(block, TRAILERS)
        self._count_length(stream, 0, True)
        self.end_received(stream)

    def _not_new(self, stream_id: int) -> None:
        if stream_id in self._our_resets:
            self.strike()
            return
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"client opened even stream {stream_id}")
        raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")

    def is_idle(self, stream_id: int) -> bool:
        return stream_id > self.last_peer_stream or not stream_id & 1

    # Leaving

    def shutdown(self) -> None:
        """Begin to leave gracefully (6.8): first announce it, one round trip later name the last stream.

        Requests that cross the announcement on the way are still served. `closed` turns True when the last
        stream has ended."""
        if self.draining or self.closed:
            return
        self.draining = True
        self._leaving = "announced"
        self.output.write(frames.goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR, "shutting down"))
        self.output.write(frames.ping(_SHUTDOWN))

    def ping_answered(self, payload: bytes) -> None:
        if payload == _SHUTDOWN and self._leaving == "announced":
            self._leaving = "last"
            self.notify_closed = True
            self.output.write(frames.goaway(self.last_peer_stream, ErrorCode.NO_ERROR, "shutting down"))
            self.stream_closed()

    def stream_closed(self) -> None:
        if self._leaving == "last" and not self.streams:
            self.closed = True
