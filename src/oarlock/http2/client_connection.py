"""The client's end of a connection: opens streams as far as the server permits."""

from __future__ import annotations

from collections.abc import Callable

from oarlock.http2 import frames
from oarlock.http2.connection import Connection
from oarlock.http2.errors import ConnectionFault, ErrorCode, StreamFault, code_name
from oarlock.http2.headers import RESPONSE, TRAILERS, validate
from oarlock.http2.hpack import Encoder, HeaderBlock
from oarlock.http2.limits import Limits
from oarlock.http2.stream import Stream


class ClientConnection(Connection):
    """See `oarlock.http2.connection`.

    Attributes:
        encoder: for request blocks. Encode only what is put on the wire at once.
        open_limit: so many streams may be open at the same time; 0 if there will be no more.
        room: called when another stream may be opened, if `notify_closed` is set.
        on_settled: called once, when the server has sent its first SETTINGS.
        going_away: called when the server has said GOAWAY, with its words.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.encoder = Encoder()
        self.room: Callable[[], None] | None = None
        self.on_settled: Callable[[], None] | None = None
        self.going_away: Callable[[str], None] | None = None
        self.settled = False
        """The server's first SETTINGS have been processed."""
        self._next_id = 1
        # RFC 9113 6.5.2 recommends to assume at least 100 until the server has said something.
        self.open_limit = 100
        self.output.write(
            frames.PREFACE
            + frames.settings(
                {
                    frames.SETTINGS_ENABLE_PUSH: 0,
                    frames.SETTINGS_INITIAL_WINDOW_SIZE: limits.stream_window,
                    frames.SETTINGS_HEADER_TABLE_SIZE: limits.header_table,
                    frames.SETTINGS_MAX_HEADER_LIST_SIZE: limits.max_header_list,
                }
            )
        )
        if limits.connection_window > frames.DEFAULT_WINDOW:
            self.output.write(frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW))

    def open(self, stream: Stream) -> None:
        """Give ``stream`` its id; its HEADERS have to be sent before those of a later one.

        The caller has made sure that fewer than `open_limit` streams are open.
        """
        stream.connection = self
        stream.id = stream_id = self._next_id
        self._next_id = stream_id + 2
        self.streams[stream_id] = stream
        if stream_id >= frames.MAX_STREAM_ID - 2:
            self._drain()  # ids are used up (5.1.1): after a billion calls a new connection is needed

    def _drain(self) -> None:
        self.draining = True
        self.open_limit = 0
        self.notify_closed = True

    def headers_received(self, stream_id: int, block: HeaderBlock, end: bool) -> None:
        """A response, an interim response, or trailers."""
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.is_idle(stream_id):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on idle stream {stream_id}")
            self.strike()
            return
        if stream.remote_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if stream.responded:
            if block.role != TRAILERS:
                validate(block, TRAILERS)
            if not end:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers without END_STREAM")
            if stream.length_left:
                self._count_length(stream, 0, True)
        else:
            if block.role != RESPONSE:
                validate(block, RESPONSE)
            if not self._response(stream, block, end):
                return
        if end:
            stream.fast_data = False
            stream.remote_closed = True
            if stream.local_closed and not stream.queued:
                self._local_end(stream)
        stream.on_headers(block, end)

    def _response(self, stream: Stream, block: HeaderBlock, end: bool) -> bool:
        """Response headers; False if they are interim (1xx), of no interest to gRPC."""
        if block.fields[0][1][:1] == b"1":
            if end:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "interim response with END_STREAM")
            self.strike()
            return False
        stream.responded = True
        if block.content_length is not None and not end:
            stream.length_left = block.content_length
            stream.fast_data = False
        return True

    def is_idle(self, stream_id: int) -> bool:
        return stream_id >= self._next_id or not stream_id & 1

    def header_table_setting(self, size: int) -> None:
        self.encoder.resize(size)

    def max_streams_setting(self, limit: int) -> None:
        if not self.draining:
            self.open_limit = limit
            self.stream_closed()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        first = not self.settled and not flags & frames.ACK
        if first:
            self.settled = True
            self.open_limit = frames.MAX_STREAM_ID  # no such setting means no limit
        super()._on_settings(flags, stream_id, payload)
        if first and self.on_settled is not None:
            self.on_settled()

    def stream_closed(self) -> None:
        if self.draining:
            if not self.streams:
                self.closed = True  # nothing more can come of this connection
        elif self.room is not None and len(self.streams) < self.open_limit:
            self.room()

    def connection_lost(self, reason: str) -> None:
        self.open_limit = 0
        super().connection_lost(reason)

    def goaway_received(self, last_stream: int, code: int, debug: str) -> None:
        """No new streams. Those above ``last_stream`` were not processed: a retry elsewhere is safe."""
        self._drain()
        reason = f"the server is going away ({code_name(code)}: {debug})"
        for stream in [s for s in self.streams.values() if s.id > last_stream]:
            self._forget(stream)
            stream.on_closed(ErrorCode.REFUSED_STREAM, reason, processed=False)
        if self.going_away is not None:
            self.going_away(reason)
        self.stream_closed()
