"""The client's end of a connection: opens streams as far as the server permits."""

from __future__ import annotations

from collections.abc import Callable

from oarlock.http2 import frames
from oarlock.http2.connection import Connection
from oarlock.http2.errors import ConnectionFault, ErrorCode, StreamFault, code_name
from oarlock.http2.headers import RESPONSE, TRAILERS, validate
from oarlock.http2.hpack import Encoder, HeaderBlock
from oarlock.http2.limits import Limits


class ClientConnection(Connection):
    """See `oarlock.http2.connection`.

    Attributes:
        encoder: for request blocks. Encode only what is put on the wire at once.
        room: called when another stream may be opened.
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
        self._max_streams = 100
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

    @property
    def may_open(self) -> bool:
        """Whether the server takes another stream now."""
        return len(self.streams) < self._max_streams and not self.draining and not self.closed

    def take_id(self) -> int:
        """Id for a new stream; its HEADERS have to be sent before those of a later one."""
        stream_id = self._next_id
        self._next_id += 2
        if self._next_id > frames.MAX_STREAM_ID:
            self.draining = True  # ids are used up (5.1.1): after a billion calls a new connection is needed
        return stream_id

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
        if not stream.responded:
            if block.role != RESPONSE:
                validate(block, RESPONSE)
            if block.fields[0][1][:1] == b"1":
                if end:
                    raise StreamFault(ErrorCode.PROTOCOL_ERROR, "interim response with END_STREAM")
                self.strike()
                return
            stream.responded = True
            if block.content_length is not None and not end:
                stream.length_left = block.content_length
                stream.fast_data = False
        else:
            if block.role != TRAILERS:
                validate(block, TRAILERS)
            if not end:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers without END_STREAM")
            self._count_length(stream, 0, True)
        if not end:
            stream.on_headers(block, False)
            return
        stream.fast_data = False
        stream.remote_closed = True
        if stream.local_closed and not stream.queued:
            self._forget(stream)
        stream.on_headers(block, True)

    def is_idle(self, stream_id: int) -> bool:
        return stream_id >= self._next_id or not stream_id & 1

    def header_table_setting(self, size: int) -> None:
        self.encoder.resize(size)

    def max_streams_setting(self, limit: int) -> None:
        self._max_streams = limit
        self.stream_closed()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        first = not self.settled and not flags & frames.ACK
        if first:
            self.settled = True
            self._max_streams = frames.MAX_STREAM_ID  # no such setting means no limit
        super()._on_settings(flags, stream_id, payload)
        if first and self.on_settled is not None:
            self.on_settled()

    def stream_closed(self) -> None:
        if self.draining:
            if not self.streams:
                self.closed = True  # nothing more can come of this connection
        elif self.room is not None and self.may_open:
            self.room()

    def goaway_received(self, last_stream: int, code: int, debug: str) -> None:
        """No new streams. Those above ``last_stream`` were not processed: a retry elsewhere is safe."""
        self.draining = True
        reason = f"the server is going away ({code_name(code)}: {debug})"
        for stream in [s for s in self.streams.values() if s.id > last_stream]:
            self._forget(stream)
            stream.on_closed(ErrorCode.REFUSED_STREAM, reason, processed=False)
        if self.going_away is not None:
            self.going_away(reason)
        self.stream_closed()
