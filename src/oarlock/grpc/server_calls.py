"""One RPC on the server: `Call` for unary callbacks, `ServerStream` for everything that streams.

A unary call is a stream object, a dictionary lookup for its headers and one function call; no task, no
future. Streaming calls last longer and are fewer, so each gets a task and may wait for messages, for room to
send, or be cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from oarlock.errors import invariant
from oarlock.grpc.framing import PREFIX, PREFIX_SIZE, MessageReader, frame_message
from oarlock.grpc.metadata import decode_metadata, encode_message
from oarlock.grpc.status import RpcError, StatusCode
from oarlock.http2.connection import Connection
from oarlock.http2.frames import Template
from oarlock.http2.hpack import HeaderBlock, encode_stateless
from oarlock.http2.stream import Stream

if TYPE_CHECKING:
    from oarlock.grpc.server import Route

logger = logging.getLogger("oarlock.grpc")

_HEADERS: Final = encode_stateless([(b":status", b"200"), (b"content-type", b"application/grpc")])
_OK_TRAILERS: Final = encode_stateless([(b"grpc-status", b"0")])
_OK: Final = Template(_HEADERS, _OK_TRAILERS)
_MAX_STATUS_MESSAGE: Final = 4096  # characters of grpc-message; clients bound their header lists at 8 KiB
_MESSAGE_OVERHEAD: Final = 100  # memory of one queued message besides its bytes, for the receive budget


class ServerCall(Stream):
    """What unary and streaming calls have in common.

    Attributes:
        deadline: when the client stops waiting, in `loop.time()`; None if it never does.
        cancelled: the client no longer waits: cancelled, timed out or gone.
    """

    deadline: float | None = None
    cancelled: bool = False
    _bucket: int = 0
    _held: int = 0
    _headers_sent: bool = False

    def __init__(self, connection: Connection, stream_id: int, block: HeaderBlock) -> None:
        self.connection = connection
        self.id = stream_id
        self.block = block

    @property
    def route(self) -> Route:
        """Where the call goes; resolved once per header block."""
        return self.block.memo  # type: ignore[no-any-return]

    @property
    def method(self) -> str:
        """Full name, like ``/etcdserverpb.KV/Put``."""
        return self.route.method

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What the client sent along; names in ``-bin`` have bytes as value."""
        return decode_metadata(self.block.fields)

    @property
    def peer(self) -> str:
        """Address of the client, like ``ipv4:127.0.0.1:50000``."""
        return self.connection.peer

    def fail(self, code: StatusCode, message: str) -> None:
        """End the call with an error."""
        if self.closed or self.local_closed:
            return
        self.release()
        trailers = [
            (b"grpc-status", b"%d" % code),
            (b"grpc-message", encode_message(message[:_MAX_STATUS_MESSAGE])),
        ]
        if code == StatusCode.UNIMPLEMENTED:
            trailers.append((b"grpc-accept-encoding", b"identity"))
        if not self._headers_sent:  # gRPC's "Trailers-Only"
            trailers[:0] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        self.send_headers(encode_stateless(trailers), end=True)

    def crashed(self, error: Exception) -> None:
        """The handler raised: an `RpcError` is its answer, anything else its bug."""
        if isinstance(error, RpcError):
            self.fail(error.code, error.message)
        else:
            logger.error("%s: handler failed", self.method, exc_info=error)
            self.fail(
                StatusCode.UNKNOWN,
                f"{type(error).__name__} in the handler of {self.method}; see the server's log",
            )

    def arm(self, deadline: float, bucket: int) -> None:
        """Note the deadline and its place on the wheel."""
        self.deadline = deadline
        self._bucket = bucket

    def expire(self) -> None:
        """The deadline has passed."""
        self.fail(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded")
        self.cancelled = True

    def hold(self, change: int) -> None:
        """Count received bytes that this call keeps; see `Connection.buffered`."""
        self._held += change
        self.connection.buffered(change)

    def release(self) -> None:
        """The call is over: give back what it holds."""
        if self._bucket:
            self.route.server.wheel.discard(self, self._bucket)
            self._bucket = 0
        if self._held:
            self.connection.buffered(-self._held)
            self._held = 0

    def on_closed(self, code: int, reason: str, *, processed: bool) -> None:
        self.cancelled = True
        self.release()


class Call(ServerCall):
    """One unary RPC. The handler gets it with the request and calls `reply` or `fail`, once, at any time.

    Both do nothing if the client has gone, so a handler need not look at `cancelled`, unless it can save
    work."""

    _reader: MessageReader | None = None
    _message: bytes | None = None  # complete, but END_STREAM is still to come

    def reply(self, message: bytes) -> None:
        """Answer. Leaves with everything else that is sent in this turn of the event loop."""
        if self.closed or self.local_closed:
            return
        if self._bucket:
            self.release()
        self.connection.output.message(self, _OK, PREFIX.pack(0, len(message)), message)

    def on_data(self, data: bytes, end: bool) -> None:
        route: Route = self.block.memo
        if end and self._reader is None and len(data) >= PREFIX_SIZE:
            flags, size = PREFIX.unpack_from(data)
            if not flags and size == len(data) - PREFIX_SIZE and size <= route.max_message:
                try:
                    route.handler(self, data[PREFIX_SIZE:])
                except Exception as error:
                    self.crashed(error)
                return
        self._gather(route, data, end)

    def _gather(self, route: Route, data: bytes, end: bool) -> None:
        """The request does not come in one piece."""
        self.consume(len(data))
        if self.local_closed:
            return  # already answered: what still comes is of no interest
        if self._reader is None:
            self._reader = MessageReader(route.max_message)
        try:
            messages = self._reader.feed(data)
            if self._message is not None:
                messages.insert(0, self._message)
            if len(messages) > 1 or (messages and self._reader.held) or (end and not messages):
                raise RpcError(StatusCode.INTERNAL, "a unary call takes exactly one message")
        except RpcError as error:
            self.fail(error.code, error.message)
            return
        if end:
            self._dispatch(route, messages[0])
        else:
            self._message = messages[0] if messages else None
            self.hold(len(data))

    def _dispatch(self, route: Route, message: bytes) -> None:
        if self._held:
            self.connection.buffered(-self._held)
            self._held = 0
        try:
            route.handler(self, message)
        except Exception as error:
            self.crashed(error)


class ServerStream(ServerCall):
    """One streaming RPC. The handler is a coroutine; its end is the end of the call, with status OK.

    It ends the call otherwise by raising `RpcError`. When the client goes away the handler is cancelled.
    """

    long_lived = True

    def __init__(self, connection: Connection, stream_id: int, block: HeaderBlock) -> None:
        super().__init__(connection, stream_id, block)
        self._reader = MessageReader(self.route.max_message)
        self._inbox: deque[tuple[bytes, int]] = (
            deque()
        )  # a message, and the window to give back when it is read
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        server = self.route.server
        self._task = server.loop.create_task(self._run())
        server.tasks[self._task] = None
        self._task.add_done_callback(server.tasks.pop)

    async def _run(self) -> None:
        try:
            await self.route.handler(self)
        except asyncio.CancelledError:
            self.fail(StatusCode.CANCELLED, "the call was cancelled")
            raise
        except Exception as error:
            if not self.cancelled:
                self.crashed(error)
            return
        self._send_initial_headers()
        self.release()
        self.send_headers(_OK_TRAILERS, end=True)

    # Receiving

    async def receive(self) -> bytes | None:
        """The next message; None when the client has sent its last. Garbage ends the call and cancels the
        handler."""
        while not self._inbox:
            if self.remote_closed or self.closed:
                return None
            invariant(self._reading is None, "two tasks receive from one stream")
            self._reading = self.route.server.loop.create_future()
            try:
                await self._reading
            finally:
                self._reading = None
        message, window = self._inbox.popleft()
        if not self.closed:
            self.hold(-len(message) - _MESSAGE_OVERHEAD)
            self.consume(window)
        return message

    async def messages(self) -> AsyncIterator[bytes]:
        """The client's messages, to its last."""
        while (message := await self.receive()) is not None:
            yield message

    def on_data(self, data: bytes, end: bool) -> None:
        if self.local_closed:
            self.consume(len(data))
            return
        before = self._reader.held
        try:
            messages = self._reader.feed(data)
            if end and self._reader.held:
                raise RpcError(StatusCode.INTERNAL, "the last message is not complete")
        except RpcError as error:
            self.fail(error.code, error.message)
            self._task.cancel()
            return
        kept = self._reader.held - before + sum(map(len, messages)) + _MESSAGE_OVERHEAD * len(messages)
        unfinished = self._reader.held if messages else len(data)
        for message in messages:
            self._inbox.append((message, 0))
        if messages:
            # What belongs to messages nobody has read yet stays on the peer's account.
            self._inbox[-1] = (messages[-1], len(data) - unfinished)
        self.consume(unfinished)
        _wake(self._reading)
        self.hold(kept)

    # Sending

    async def send(self, message: bytes) -> None:
        """Send a message; waits while more than `Limits.stream_output` is queued for this client.

        Raises:
            RpcError: CANCELLED, the client has gone.
        """
        if self.closed or self.local_closed:
            raise RpcError(StatusCode.CANCELLED, "the client has gone")
        self._send_initial_headers()
        self.send_data(frame_message(message))
        while not self.writable and not self.closed:
            invariant(self._writing is None, "two tasks send to one stream")
            self._writing = self.route.server.loop.create_future()
            try:
                await self._writing
            finally:
                self._writing = None

    def _send_initial_headers(self) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            self.send_headers(_HEADERS)

    def on_writable(self) -> None:
        _wake(self._writing)

    # Ends

    def on_closed(self, code: int, reason: str, *, processed: bool) -> None:
        super().on_closed(code, reason, processed=processed)
        self._task.cancel()

    def expire(self) -> None:
        super().expire()
        self._task.cancel()


class Refusal(ServerCall):
    """A call that fails because of its headers alone: answered before anything of the body is read."""

    def __init__(self, connection: Connection, stream_id: int, block: HeaderBlock) -> None:
        super().__init__(connection, stream_id, block)
        error = self.route.refusal
        self.fail(error.code, error.message)


UnaryHandler = Callable[[Call, bytes], None]
StreamHandler = Callable[[ServerStream], Awaitable[None]]
AnyHandler = Callable[..., Any]


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
