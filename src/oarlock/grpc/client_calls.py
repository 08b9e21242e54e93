"""One RPC on the client: `ClientCall` with a callback, `ClientStream` with coroutines."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from oarlock.errors import invariant
from oarlock.grpc.framing import PREFIX, PREFIX_SIZE, MessageReader, frame_message
from oarlock.grpc.metadata import decode_message
from oarlock.grpc.status import (
    RpcError,
    StatusCode,
    status_from_http,
    status_from_number,
    status_from_reset,
)
from oarlock.http2.errors import ErrorCode
from oarlock.http2.hpack import HeaderBlock
from oarlock.http2.stream import Stream

if TYPE_CHECKING:
    from oarlock.grpc.channel import Channel

logger = logging.getLogger("oarlock.grpc")

OnDone = Callable[[bytes | None, RpcError | None], None]
"""Called once: with the response, or with the error."""


class Outcome:
    """What a header block says about the call: the memo of a `HeaderBlock`.

    Attributes:
        code: the gRPC status, if the block has one.
        error: set if the block alone means failure.
    """

    __slots__ = ("code", "error", "message")

    def __init__(self, block: HeaderBlock) -> None:
        number = block.get(b"grpc-status")
        http_status = block.get(b":status")
        self.code: StatusCode | None = None
        self.message = decode_message(block.get(b"grpc-message") or b"")
        self.error: tuple[StatusCode, str] | None = None
        if number is not None:
            self.code = status_from_number(int(number) if number.isdigit() and len(number) < 4 else 2)
            if self.code is not StatusCode.OK:
                self.error = (self.code, self.message)
        elif http_status is not None and http_status != b"200":
            text = f"the server answered with HTTP status {http_status.decode('latin-1')}"
            self.error = (status_from_http(int(http_status)), text)
        elif http_status is not None and not (block.get(b"content-type") or b"").startswith(
            b"application/grpc"
        ):
            self.error = (StatusCode.UNKNOWN, "the server's answer is not gRPC")


def outcome(block: HeaderBlock) -> Outcome:
    """The remembered or new verdict on ``block``."""
    memo: Outcome | None = block.memo
    if memo is None:
        memo = block.memo = Outcome(block)
    return memo


class OutgoingCall(Stream):
    """What unary and streaming calls have in common.

    A call exists before it has a stream: it may wait in the channel's queue, with `id` 0.
    """

    id: int = 0
    done: bool = False
    _bucket: int = 0

    def __init__(self, channel: Channel, method: str, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self.channel = channel
        self.method = method
        self.metadata = metadata
        self.deadline: float | None = None

    def start(self) -> None:
        """Put the call on the wire: it has got a connection and an id."""
        raise NotImplementedError

    def finish(self, error: RpcError | None) -> None:
        """The call is over. Called once."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Give up. The call ends with CANCELLED, unless it is over already."""
        self.abandon(RpcError(StatusCode.CANCELLED, "cancelled by the caller", not_processed=not self.id))

    def expire(self) -> None:
        """The deadline has passed."""
        self.abandon(
            RpcError(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded", not_processed=not self.id)
        )

    def abandon(self, error: RpcError) -> None:
        """End the call from our side."""
        if not self.done:
            if self.id:
                self.reset(ErrorCode.CANCEL)
            self.end(error)

    def end(self, error: RpcError | None) -> None:
        """Settle the call, whatever ended it."""
        if self.done:
            return
        self.done = True
        if self._bucket:
            self.channel.wheel.discard(self, self._bucket)
        if self.id and not self.closed:
            # The server has finished first: what we still had to say is of no interest.
            self.reset(ErrorCode.CANCEL)
        self.finish(error)

    def on_headers(self, block: HeaderBlock, end: bool) -> None:
        verdict: Outcome = block.memo or outcome(block)
        if verdict.error is not None:
            self.end(RpcError(*verdict.error))
        elif end:
            if verdict.code is None:
                self.end(RpcError(StatusCode.INTERNAL, "the server ended the call without a status"))
            else:
                self.complete()

    def complete(self) -> None:
        """Status OK has arrived."""
        self.end(None)

    def on_closed(self, code: int, reason: str, *, processed: bool) -> None:
        self.end(RpcError(status_from_reset(code), reason, not_processed=not processed))


class ClientCall(OutgoingCall):
    """One unary call: the handle that `Channel.call` returns. Only `cancel` is for callers."""

    _message: bytes | None = None
    _reader: MessageReader | None = None

    def __init__(
        self,
        channel: Channel,
        method: str,
        metadata: tuple[tuple[str, str | bytes], ...],
        request: bytes,
        on_done: OnDone,
    ) -> None:
        self.channel = channel
        self.method = method
        self.metadata = metadata
        self.deadline = None
        self._request = request
        self._on_done = on_done

    def start(self) -> None:
        request = self._request
        if self.deadline is None:
            template = self.channel.template(self.method, self.metadata)
            self.connection.output.message(self, template, PREFIX.pack(0, len(request)), request)
        else:
            self.send_headers(self.channel.block(self.method, self.metadata, self.deadline))
            self.send_data(frame_message(request), end=True)

    def on_data(self, data: bytes, end: bool) -> None:
        if end:
            self.end(RpcError(StatusCode.INTERNAL, "the server ended the call without a status"))
            return
        if self._message is None and self._reader is None and len(data) >= PREFIX_SIZE:
            flags, size = PREFIX.unpack_from(data)
            if not flags and size == len(data) - PREFIX_SIZE:
                self._message = data[PREFIX_SIZE:]
                return
        self._gather(data)

    def _gather(self, data: bytes) -> None:
        if self._reader is None:
            self._reader = MessageReader(self.channel.max_message_bytes)
        self.consume(len(data))
        try:
            messages = self._reader.feed(data)
        except RpcError as error:
            self.abandon(error)
            return
        if len(messages) + (self._message is not None) > 1:
            self.abandon(RpcError(StatusCode.INTERNAL, "the server sent more than one response"))
        elif messages:
            self._message = messages[0]

    def complete(self) -> None:
        if (
            self.closed
            and self._message is not None
            and not self._bucket
            and self._reader is None
            and not self.done
        ):
            self.done = True  # as `end` would settle it, without the detours
            self.finish(None)
        elif self._message is None or (self._reader is not None and self._reader.held):
            self.end(RpcError(StatusCode.INTERNAL, "the server sent no complete response"))
        else:
            self.end(None)

    def finish(self, error: RpcError | None) -> None:
        try:
            self._on_done(self._message if error is None else None, error)
        except Exception:  # the caller's bug must not take the connection with it
            logger.exception("%s: the callback of a call failed", self.method)


class ClientStream(OutgoingCall):
    """One streaming call of any shape. `send` and `end_sending` on one side, `receive` or `messages` on the
    other."""

    def __init__(
        self,
        channel: Channel,
        method: str,
        metadata: tuple[tuple[str, str | bytes], ...],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(channel, method, metadata)
        self._loop = loop
        self._reader = MessageReader(channel.max_message_bytes)
        self._inbox: deque[tuple[bytes, int]] = deque()
        self._error: RpcError | None = None
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    def start(self) -> None:
        self.send_headers(self.channel.block(self.method, self.metadata, self.deadline))
        _wake(self._writing)

    async def send(self, message: bytes) -> None:
        """Send one message; waits for the server's flow control.

        Raises:
            RpcError: the call is over; if it ended with status OK, CANCELLED.
        """
        await self._until_open()
        self.send_data(frame_message(message))
        while not self.done and not self.writable:
            await self._wait_writing()

    async def end_sending(self) -> None:
        """There are no more messages from us."""
        if not self.done:
            await self._until_open()
            self.send_data(b"", end=True)

    async def _until_open(self) -> None:
        while not self.id and not self.done:
            await self._wait_writing()
        if self.done:
            raise self._error or RpcError(StatusCode.CANCELLED, "the server has ended this call")

    async def _wait_writing(self) -> None:
        invariant(self._writing is None, "two tasks send on one stream")
        self._writing = self._loop.create_future()
        try:
            await self._writing
        finally:
            self._writing = None

    async def receive(self) -> bytes | None:
        """The next message; None after the last, if the call ended with status OK.

        Raises:
            RpcError: it ended otherwise.
        """
        while not self._inbox:
            if self._error is not None:
                raise self._error
            if self.done:
                return None
            invariant(self._reading is None, "two tasks receive from one stream")
            self._reading = self._loop.create_future()
            try:
                await self._reading
            finally:
                self._reading = None
        message, window = self._inbox.popleft()
        if not self.done:
            self.consume(window)
        return message

    async def messages(self) -> AsyncIterator[bytes]:
        """The server's messages to the last. Raises as `receive` does."""
        while (message := await self.receive()) is not None:
            yield message

    def on_data(self, data: bytes, end: bool) -> None:
        try:
            messages = self._reader.feed(data)
        except RpcError as error:
            self.abandon(error)
            return
        unread = len(data) - self._reader.held if messages else 0
        for message in messages:
            self._inbox.append((message, 0))
        if messages:
            self._inbox[-1] = (messages[-1], unread)
        self.consume(len(data) - unread)
        if end:
            self.end(RpcError(StatusCode.INTERNAL, "the server ended the call without a status"))
        _wake(self._reading)

    def on_writable(self) -> None:
        _wake(self._writing)

    def finish(self, error: RpcError | None) -> None:
        self._error = error
        _wake(self._reading)
        _wake(self._writing)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
