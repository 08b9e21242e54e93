"""One HTTP/2 connection without any I/O: bytes in, bytes out, and callbacks to streams (RFC 9113).

The shell around it (`oarlock.http2.aio`, or a test) does four things: passes received bytes to
`receive_data`, writes what `output.take()` returns, calls `tick` about once a second, and reports the end
with `connection_lost`. There is no clock in here: `tick` brings the time.

How it is made fast. Almost all traffic is two kinds of frame: a HEADERS frame that is complete in itself, and
a DATA frame without padding. `receive_data` handles both inline, without building an object per frame;
everything else takes the slow way through a method per frame type, where the protocol is spelled out. Both
ways lead to the same methods of `Stream`, and the differential tests against `h2` drive both.

Errors of the peer are raised as `ConnectionFault` or `StreamFault` wherever they are found and handled in one
place, `receive_data`. It therefore never raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from oarlock.http2 import frames, guard
from oarlock.http2.errors import ConnectionFault, ErrorCode, StreamFault, code_name
from oarlock.http2.flow_control import Output
from oarlock.http2.frames import HEAD_SIZE, MAX_STREAM_ID, MAX_WINDOW
from oarlock.http2.hpack import SHRINK_TO_NOTHING, Decoder, HeaderBlock
from oarlock.http2.limits import Limits
from oarlock.http2.stream import CONNECTION_LOST, Stream
from oarlock.http2.watch import Watch

_STREAMS_PER_STRIKE: Final = 16  # a visit costs a fraction of a frame
_SIMPLE_HEADERS: Final = frames.END_HEADERS | frames.PADDED | frames.HAS_PRIORITY


class Connection:
    """What client and server have in common. See `ServerConnection` and `ClientConnection`.

    Attributes:
        streams: open streams by id.
        output: the sending half.
        closed: no more input is accepted; write what `output` holds, then close the transport.
        fault: why, if it was the peer's doing.
        draining: GOAWAY was sent or received: no new streams.
        peer: address of the peer for messages and `Call.peer`; set by the shell.
    """

    is_server: bool = False

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        self.output = Output(limits, self._local_end, end_matters=self.is_server)
        self.decoder = Decoder(limits)
        self.closed = False
        self.fault: ConnectionFault | None = None
        self.draining = False
        self.peer = ""
        self.notify_closed = False
        self.window_batch = limits.stream_window // 2
        self.receive_buffered = 0
        self.last_peer_stream = 0
        self.ready = False
        """The peer's preface and first SETTINGS have arrived."""
        self.watch = Watch(limits)
        self._strikes = guard.strikes(limits)
        self._resets = guard.resets(limits)
        self._tail = b""
        self._assembling: tuple[int, int] | None = None  # stream and flags of a header block still incomplete
        self._fragments: list[bytes] = []
        self._received = 0  # flow-controlled bytes not yet given back to the peer
        self._our_resets: dict[int, None] = {}
        self._slow: dict[int, Callable[[int, int, bytes], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_stray_continuation,
        }

    # Input

    def receive_data(self, data: bytes) -> None:
        """Process received bytes. Afterwards write ``output.take()`` and look at `closed`. Never raises."""
        if self.closed:
            return
        self.watch.heard = True
        if self._tail:
            data = self._tail + data
        pos = 0
        try:
            if not self.ready:
                pos = self._begin(data)
            if self.ready:
                pos = self._frames(data, pos)
            if self._received:
                self._replenish_connection()
            if self.output.overflowing:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not being read")
        except ConnectionFault as fault:
            self.fail(fault)
            pos = len(data)
        self._tail = data[pos:]
        if pos:
            self.watch.completed = True

    def _frames(self, data: bytes, pos: int) -> int:
        """Process all complete frames of ``data`` from ``pos``; returns where the first incomplete one
        begins."""
        size = len(data)
        unpack = frames.HEAD.unpack_from
        streams = self.streams
        remembered = self.decoder.remembered
        window = self.limits.stream_window
        while size - pos >= HEAD_SIZE:
            high, low, kind, flags, stream_id = unpack(data, pos)
            length = high << 8 | low
            if length > frames.DEFAULT_FRAME_SIZE:  # we never announce another SETTINGS_MAX_FRAME_SIZE
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes")
            pos += HEAD_SIZE
            end = pos + length
            if end > size:
                return pos - HEAD_SIZE
            stream_id &= MAX_STREAM_ID  # the reserved bit is ignored
            try:
                if self._assembling is not None:
                    self._continue(kind, flags, stream_id, data[pos:end])
                elif kind == frames.DATA and flags <= frames.END_STREAM:
                    stream = streams.get(stream_id)
                    if stream is None or not stream.fast_data or not (length or flags):
                        self._on_data(flags, stream_id, data[pos:end])
                    else:
                        used = stream.recv_used + length
                        if used > window:
                            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the stream window")
                        self._received += length
                        if flags:
                            stream.fast_data = False
                            stream.remote_closed = True
                            stream.on_data(data[pos:end], True)
                            if stream.local_closed and not stream.closed and not stream.queued:
                                self._forget(stream)
                        else:
                            stream.recv_used = used
                            stream.on_data(data[pos:end], False)
                elif kind == frames.HEADERS and flags & _SIMPLE_HEADERS == frames.END_HEADERS:
                    raw = data[pos:end]
                    block = remembered.get(raw)
                    if block is None:
                        if not stream_id:
                            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
                        block = self.decoder.decode(raw)
                    self.headers_received(stream_id, block, bool(flags & frames.END_STREAM))
                else:
                    handler = self._slow.get(kind)
                    if handler is None:
                        self.strike()  # unknown types are ignored (5.5)
                    else:
                        handler(flags, stream_id, data[pos:end])
            except StreamFault as fault:
                self._stream_fault(stream_id, fault)
            if self.closed:
                return size
            pos = end
        return pos

    def headers_received(self, stream_id: int, block: HeaderBlock, end: bool) -> None:
        """A complete header block. The roles differ here."""
        raise NotImplementedError

    def _begin(self, data: bytes) -> int:
        """The peer's preface, up to and without its SETTINGS frame; sets `ready` once that has begun."""
        start = len(frames.PREFACE) if self.is_server else 0
        if data[:start] != frames.PREFACE[: min(start, len(data))]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 connection preface")
        if len(data) < start + HEAD_SIZE:
            return 0
        kind, flags = data[start + 3], data[start + 4]
        if kind != frames.SETTINGS or flags & frames.ACK:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self.ready = True
        return start

    # DATA

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        size = len(payload)
        self._received += size
        data = self._unpad(payload) if flags & frames.PADDED else payload
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_closed_stream(stream_id)
            return
        if stream.remote_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        end = bool(flags & frames.END_STREAM)
        if not data and not end:
            self.strike()
        if stream.recv_used + size > self.limits.stream_window:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the stream window")
        stream.recv_used += size
        self._count_length(stream, len(data), end)
        if end:
            self.end_received(stream, data)
        else:
            if size > len(data):
                stream.consume(size - len(data))
            if data:
                stream.on_data(data, False)

    def _count_length(self, stream: Stream, size: int, end: bool) -> None:
        """Hold the body to its content-length (8.1.1)."""
        if stream.length_left is None:
            return
        stream.length_left -= size
        if stream.length_left < 0 or (end and stream.length_left):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "body does not have the declared content-length")

    def end_received(self, stream: Stream, data: bytes = b"") -> None:
        """The peer has finished its side of ``stream``, with this last piece of body."""
        stream.fast_data = False
        stream.remote_closed = True
        stream.on_data(data, True)
        if stream.local_closed and not stream.queued:
            self._forget(stream)

    def _on_closed_stream(self, stream_id: int) -> None:
        """DATA on a stream that is not open: fatal if it never was, tolerated after our reset (5.1)."""
        if self.is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"frame on idle stream {stream_id}")
        self.strike()
        if stream_id not in self._our_resets:
            self.output.write(frames.reset(stream_id, ErrorCode.STREAM_CLOSED))
            self._remember_reset(stream_id)

    def is_idle(self, stream_id: int) -> bool:
        """Whether no such stream was ever opened."""
        raise NotImplementedError

    def _unpad(self, payload: bytes) -> bytes:
        if not payload:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
        pad = payload[0]
        if pad >= len(payload):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
        return payload[1 : len(payload) - pad]

    # HEADERS, CONTINUATION

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & frames.PADDED:
            payload = self._unpad(payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            self._check_dependency(stream_id, payload)
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._block_complete(stream_id, flags, payload)
        else:
            self._assembling = (stream_id, flags)
            self._fragments = [payload]

    def _continue(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Between HEADERS and its END_HEADERS nothing else may come (6.10)."""
        if self._assembling is None or kind != frames.CONTINUATION or stream_id != self._assembling[0]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "header block interrupted")
        self._fragments.append(payload)
        size = sum(map(len, self._fragments))
        if size > self.limits.max_header_block or len(self._fragments) > self.limits.max_header_frames:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block without end")
        if flags & frames.END_HEADERS:
            first_flags = self._assembling[1]
            block = b"".join(self._fragments)
            self._assembling = None
            self._fragments = []
            self._block_complete(stream_id, first_flags, block)

    def _block_complete(self, stream_id: int, flags: int, raw: bytes) -> None:
        block = self.decoder.remembered.get(raw) or self.decoder.decode(raw)
        self.headers_received(stream_id, block, bool(flags & frames.END_STREAM))

    def _on_stray_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Deprecated (5.3): checked and otherwise ignored."""
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self.strike()
        if len(payload) != 5:
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not five bytes")
        self._check_dependency(stream_id, payload)

    def _check_dependency(self, stream_id: int, payload: bytes) -> None:
        if int.from_bytes(payload[:4], "big") & MAX_STREAM_ID == stream_id:
            # A stream error by the letter, but the block that follows must still be decoded: end it all.
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} depends on itself")

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, but push is off")

    # Control frames

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not four bytes")
        if not stream_id or self.is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on idle stream {stream_id}")
        stream = self.streams.get(stream_id)
        if stream is None:
            self.strike()
            return
        code = int.from_bytes(payload, "big")
        self._forget(stream)
        stream.on_closed(
            code, f"stream reset by the peer: {code_name(code)}", processed=code != ErrorCode.REFUSED_STREAM
        )
        if self.is_server:
            self._resets.strike(self.output.whole_messages)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        self.strike()
        if flags & frames.ACK:
            return
        for key, value in frames.parse_settings(payload):
            self._setting(key, value)
        self.output.write(frames.SETTINGS_ACK)
        self.output.drain()

    def _setting(self, key: int, value: int) -> None:
        if key == frames.SETTINGS_INITIAL_WINDOW_SIZE:
            # It is the one frame of six bytes that makes us visit every stream.
            self.strike(len(self.streams) // _STREAMS_PER_STRIKE)
            self.output.set_initial_window(value, self.streams)
        elif key == frames.SETTINGS_MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_SIZE <= value <= frames.MAX_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE {value}")
            # Larger frames would only make other streams wait longer: we stay with the default.
        elif key == frames.SETTINGS_HEADER_TABLE_SIZE:
            self.header_table_setting(value)
        elif key == frames.SETTINGS_MAX_CONCURRENT_STREAMS:
            self.max_streams_setting(value)
        elif key == frames.SETTINGS_ENABLE_PUSH and (value > 1 or (value and not self.is_server)):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH {value}")

    def header_table_setting(self, size: int) -> None:
        """The peer limits our encoder's table. Stateless blocks need no table: say so once (RFC 7541,
        4.2)."""
        if size < self.limits.header_table:
            self.output.block_prefix = SHRINK_TO_NOTHING

    def max_streams_setting(self, limit: int) -> None:
        """The peer limits the streams we may open. A server opens none."""

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not eight bytes")
        self.strike()
        if flags & frames.ACK:
            self.ping_answered(payload)
        else:
            self.output.write(frames.ping(payload, ack=True))

    def ping_answered(self, payload: bytes) -> None:
        """A PING of ours has come back."""

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY too short")
        self.strike()
        last = int.from_bytes(payload[:4], "big") & MAX_STREAM_ID
        code = int.from_bytes(payload[4:8], "big")
        self.goaway_received(last, code, payload[8:264].decode("utf-8", "replace"))

    def goaway_received(self, last_stream: int, code: int, debug: str) -> None:
        """The peer takes no more streams. For a server that means nothing: it opens none."""

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four bytes")
        self.strike()
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if not stream_id:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self.output.grant_connection(increment)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.is_idle(stream_id):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on idle stream {stream_id}")
            return
        if not increment:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        self.output.grant_stream(stream, increment)

    # Receive windows

    def _replenish_connection(self) -> None:
        """Give the connection window back in batches of half its size; see `Limits.connection_window`."""
        if self._received > self.limits.connection_window:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the connection window")
        if self._received * 2 >= self.limits.connection_window:
            self.output.write(frames.window_update(0, self._received))
            self._received = 0

    def replenish(self, stream: Stream) -> None:
        """Tell the peer about the consumed bytes of ``stream``."""
        self.output.write(frames.window_update(stream.id, stream.recv_unreported))
        stream.recv_used -= stream.recv_unreported
        stream.recv_unreported = 0

    def buffered(self, change: int) -> None:
        """An application keeps ``change`` more (or fewer) received bytes: unfinished or unread messages.

        Raises:
            StreamFault: the connection holds more than `Limits.max_receive_buffer`.
        """
        self.receive_buffered += change
        if change > 0 and self.receive_buffered > self.limits.max_receive_buffer:
            raise StreamFault(ErrorCode.ENHANCE_YOUR_CALM, "too many unfinished messages on one connection")

    @property
    def held(self) -> int:
        """Bytes that this connection makes us keep: output nobody reads, input nobody has consumed."""
        return self.output.queued + self.receive_buffered

    # Ends of streams

    def _local_end(self, stream: Stream) -> None:
        """Our side of ``stream`` is completely sent."""
        if stream.remote_closed:
            if not stream.closed:
                stream.closed = True
                self.streams.pop(stream.id, None)
                if self.notify_closed:
                    self.stream_closed()
        elif self.is_server and not stream.closed:
            # The answer is complete, the rest of the request is of no interest (8.1).
            self.reset_stream(stream, ErrorCode.NO_ERROR)

    def _forget(self, stream: Stream) -> None:
        if not stream.closed:
            stream.closed = True
            self.streams.pop(stream.id, None)
            if stream.queued:
                self.output.forget(stream)
            if self.notify_closed:
                self.stream_closed()

    def stream_closed(self) -> None:
        """A stream is gone. Called only while `notify_closed` is set."""

    def reset_stream(self, stream: Stream, code: ErrorCode) -> None:
        """End ``stream`` from our side."""
        self.output.write(frames.reset(stream.id, code))
        self._remember_reset(stream.id)
        self._forget(stream)

    def _remember_reset(self, stream_id: int) -> None:
        self._our_resets[stream_id] = None
        if len(self._our_resets) > self.limits.remembered_resets:
            del self._our_resets[next(iter(self._our_resets))]

    def _stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        """The peer broke one stream."""
        stream = self.streams.get(stream_id)
        if stream is None:
            self.output.write(frames.reset(stream_id, fault.code))
            self._remember_reset(stream_id)
        else:
            self.reset_stream(stream, fault.code)
            stream.on_closed(fault.code, fault.reason, processed=True)
        try:
            self.strike()
        except ConnectionFault as end:
            self.fail(end)

    def strike(self, weight: int = 1) -> None:
        """Count a frame that brought nothing.

        Raises:
            ConnectionFault: ENHANCE_YOUR_CALM, too many of them.
        """
        self._strikes.strike(self.output.whole_messages, weight)

    # Ends of connections

    def fail(self, fault: ConnectionFault) -> None:
        """Say GOAWAY and stop (5.4.1). The shell writes what is left and closes."""
        if self.closed:
            return
        self.fault = fault
        self.output.write(frames.goaway(self.last_peer_stream, fault.code, fault.reason))
        self.connection_lost(f"connection closed: {fault}")

    def connection_lost(self, reason: str) -> None:
        """The connection is gone: every open stream hears of it. May be called again."""
        self.closed = True
        self._tail = b""
        self._fragments = []
        for stream in list(self.streams.values()):
            self._forget(stream)
            stream.on_closed(CONNECTION_LOST, reason, processed=True)

    def tick(self, now: float) -> None:
        """Time has passed: check the peer's liveness and progress. Call about once a second, then flush.

        Args:
            now: seconds of any monotonic clock.
        """
        if self.closed:
            return
        elapsed = self.watch.advance(now)
        self._strikes.forgive(elapsed)
        self._resets.forgive(elapsed)
        try:
            if self.output.overflowing:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not being read")
            self.watch.check(self, now, partial=bool(self._tail) or self._assembling is not None)
        except ConnectionFault as fault:
            self.fail(fault)
