"""What goes out, and what holds it back (RFC 9113, sections 5.2 and 6.9).

Three things limit DATA: the peer's window for the stream, its window for the connection, and the room in the
batch that goes to the transport next. Whatever does not fit is queued by stream; streams take turns, one
frame each, so that a large answer cannot starve its neighbours. Frames other than DATA are not
flow-controlled and go out at once.

The batch serves two ends: all frames of one turn of the event loop leave in a single write, and a peer that
stops reading leaves the bytes in *our* queues, which are counted and bounded, instead of in the transport's
buffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from oarlock.errors import invariant
from oarlock.http2 import frames
from oarlock.http2.errors import ConnectionFault, ErrorCode, StreamFault
from oarlock.http2.frames import DEFAULT_FRAME_SIZE, DEFAULT_WINDOW, MAX_WINDOW, Template
from oarlock.http2.limits import Limits
from oarlock.http2.stream import Stream


class Output:
    """The sending half of a connection.

    Attributes:
        parts: bytes ready to be written, in order.
        room: bytes of DATA that the current batch still takes; 0 or less while the transport is paused.
        window: the peer's window for the whole connection.
        initial_window: the peer's SETTINGS_INITIAL_WINDOW_SIZE.
        queued: body bytes in the queues of all streams together.
        scheduled: a flush is due anyway, so nobody needs to ask for one.
    """

    def __init__(self, limits: Limits, on_end: Callable[[Stream], None], *, end_matters: bool) -> None:
        self._limits = limits
        self._end_matters = end_matters  # a server's answer ends the stream even if the request has not
        self._on_end = on_end
        self.wake: Callable[[], None] = _nobody_to_wake
        self.parts: list[bytes] = []
        self.room = limits.output_batch
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_FRAME_SIZE
        self.block_prefix = b""
        self.queued = 0
        self.whole_messages = 0
        self.paused = False
        self.scheduled = False
        self._ready: dict[int, Stream] = {}

    # Sending

    def write(self, data: bytes) -> None:
        """Put a frame that is not subject to flow control into the batch."""
        self.parts.append(data)
        if not self.scheduled:
            self.scheduled = True
            self.wake()

    def message(self, stream: Stream, template: Template, lead: bytes, body: bytes) -> None:
        """A whole message: headers, ``lead`` and ``body`` in one DATA frame, trailers. Ends our side of the
        stream.

        The usual case - everything fits, nothing is queued - is rendered in one go and has no further calls.
        """
        size = len(lead) + len(body)
        if (
            size <= self.window
            and size <= self.room
            and size <= self.initial_window + stream.window_delta
            and size <= DEFAULT_FRAME_SIZE
            and not self.block_prefix
        ):
            self.window -= size
            self.room -= size + template.overhead
            template.render(self.parts, stream.id, lead, body)
            if not self.scheduled:
                self.scheduled = True
                self.wake()
            self.whole_messages += 1
            stream.local_closed = True
            if self._end_matters or stream.remote_closed:
                self._on_end(stream)
            return
        self.headers(stream, template.block, False)
        if template.trailers is None:
            self.data(stream, lead + body, True)
        else:
            self.data(stream, lead + body, False)
            self.headers(stream, template.trailers, True)

    def headers(self, stream: Stream, block: bytes, end: bool) -> None:
        """A header block; behind the stream's queue if it has one (then it has to be stateless trailers)."""
        if stream.queued:
            invariant(end, "only trailers may follow a queued body")
            stream.queued_end = block
            stream.local_closed = True
            return
        if self.block_prefix:
            block, self.block_prefix = self.block_prefix + block, b""
        self.write(frames.headers(stream.id, block, end_stream=end, max_frame=self.max_frame))
        if end:
            self._finish(stream)

    def data(self, stream: Stream, data: bytes, end: bool) -> None:
        """Body bytes, sent or queued.

        Raises:
            ConnectionFault: never; a queue beyond its bound is noticed by `overflowing`, since this is called
            by
                applications, not by the peer.
        """
        size = len(data)
        if not stream.queued:
            limit = min(self.window, self.initial_window + stream.window_delta, self.room, self.max_frame)
            if size <= limit or not size:
                self._emit(stream, data, end)
                if end:
                    self._finish(stream)
                return
        if stream.queue is None:
            stream.queue = deque()
        if size:
            stream.queue.append(data)
        stream.queued += size
        self.queued += size
        if end:
            stream.queued_end = b""
            stream.local_closed = True
        self._ready[stream.id] = stream
        self.drain()
        if stream.queued >= self._limits.stream_output:
            stream.full = True

    def _emit(self, stream: Stream, data: bytes, end: bool) -> None:
        size = len(data)
        self.window -= size
        self.room -= size + frames.HEAD_SIZE
        stream.window_delta -= size
        self.write(frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream.id, data))

    def _finish(self, stream: Stream) -> None:
        stream.local_closed = True
        self.whole_messages += 1
        self._on_end(stream)

    # Queues

    def drain(self) -> None:
        """Send from the queues as far as windows and room permit, one frame per stream and turn."""
        ready = self._ready
        while ready and self.window > 0 and self.room > 0:
            stream_id = next(iter(ready))
            stream = ready.pop(stream_id)
            if self._send_piece(stream):
                ready[stream_id] = stream

    def _send_piece(self, stream: Stream) -> bool:
        """One DATA frame from the queue of ``stream``; whether it could send more."""
        size = min(
            self.window, self.initial_window + stream.window_delta, self.room, self.max_frame, stream.queued
        )
        if size <= 0:
            return False
        piece = _take(stream, size)
        self.queued -= len(piece)
        stream.drained_since_sweep += len(piece)
        done = not stream.queued
        self._emit(stream, piece, done and stream.queued_end == b"")
        if done and stream.queued_end is not None:
            trailers, stream.queued_end = stream.queued_end, None
            if trailers:
                self.headers(stream, trailers, True)
            else:
                self._finish(stream)
        else:
            self.whole_messages += done
            if stream.full and stream.queued < self._limits.stream_output // 2:
                stream.full = False
                stream.on_writable()
        return bool(stream.queued)

    def forget(self, stream: Stream) -> None:
        """The stream is closed: drop what it has queued."""
        self.queued -= stream.queued
        stream.queued = 0
        stream.queue = None
        self._ready.pop(stream.id, None)

    @property
    def overflowing(self) -> bool:
        """More is queued than we are willing to hold for one peer."""
        return self.queued > self._limits.max_output

    # The peer's windows

    def grant_connection(self, increment: int) -> None:
        """WINDOW_UPDATE on stream 0.

        Raises:
            ConnectionFault: the window would exceed 2^31-1.
        """
        self.window += increment
        if self.window > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window above 2^31-1")
        self.drain()

    def grant_stream(self, stream: Stream, increment: int) -> None:
        """WINDOW_UPDATE on a stream.

        Raises:
            StreamFault: the window would exceed 2^31-1.
        """
        stream.window_delta += increment
        if self.initial_window + stream.window_delta > MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window above 2^31-1")
        if stream.queued:
            self._ready[stream.id] = stream
            self.drain()

    def set_initial_window(self, size: int, streams: dict[int, Stream]) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE: moves the window of every open stream, possibly below zero (6.9.2).

        The caller acknowledges the SETTINGS first and calls `drain` then: DATA that fits only the new window
        must not arrive before the acknowledgement.

        Raises:
            ConnectionFault: a window would exceed 2^31-1.
        """
        if size > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1")
        self.initial_window = size
        for stream in streams.values():
            if size + stream.window_delta > MAX_WINDOW:
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS move a stream window above 2^31-1"
                )
            if stream.queued:
                self._ready[stream.id] = stream

    # The transport

    def take(self) -> bytes:
        """The bytes of this batch, for the caller to write now; a new batch begins, filled from the queues.

        Call again while it returns anything, unless the transport has paused in between.
        """
        self.scheduled = True  # what drains now goes into the batch, nobody needs to be woken for it
        if self._ready and self.room > 0:
            self.drain()
        data = b"".join(self.parts)
        self.parts.clear()
        self.scheduled = False
        if not self.paused:
            self.room = self._limits.output_batch
        return data

    def pause(self) -> None:
        """The transport's buffer is full: DATA stays in the queues until `resume`."""
        self.paused = True
        self.room = 0

    def resume(self) -> None:
        """The transport takes more; the caller flushes next."""
        self.paused = False
        self.room = self._limits.output_batch
        self.drain()


def _take(stream: Stream, limit: int) -> bytes:
    """Up to ``limit`` bytes from the front of the queue, from one piece: nothing is joined."""
    queue = stream.queue
    if queue is None:  # `queued` is positive, so there is a queue; tells the type checker
        return b""
    head = queue[0]
    offset = stream.queue_offset
    piece = head[offset : offset + limit]
    if offset + len(piece) == len(head):
        queue.popleft()
        stream.queue_offset = 0
    else:
        stream.queue_offset = offset + len(piece)
    stream.queued -= len(piece)
    return piece


def _nobody_to_wake() -> None:
    """A connection without a shell is flushed by whoever drives it."""
