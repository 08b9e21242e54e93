"""The gRPC client: one connection to one server.

A `Channel` is one HTTP/2 connection and never reconnects on its own: when the connection is gone, calls fail
at once with UNAVAILABLE, and `RpcError.not_processed` says whether a retry is safe. Choosing another
endpoint, waiting and retrying belong to the client above, which knows what is at stake; it calls `connect`
again when it wants to.

`call` is the hot path and the load generator's: a callback, no task, no future. `unary` and `stream` are for
people."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import ssl as tls
from collections import deque
from typing import Final

from oarlock.grpc.client_calls import ClientCall, ClientStream, OnDone, OutgoingCall
from oarlock.grpc.deadlines import Wheel
from oarlock.grpc.metadata import Metadata, encode_metadata, format_timeout
from oarlock.grpc.status import RpcError, StatusCode
from oarlock.http2.aio import ClientShell
from oarlock.http2.client_connection import ClientConnection
from oarlock.http2.frames import DEFAULT_FRAME_SIZE, Template
from oarlock.http2.hpack import encode_stateless
from oarlock.http2.limits import Limits

USER_AGENT: Final = b"grpc-python-oarlock/0.1"
MAX_QUEUED: Final = 100_000
"""Calls that wait for the server to permit another stream. Beyond it calls fail with RESOURCE_EXHAUSTED."""
MAX_TEMPLATES: Final = 1024
"""Request blocks remembered per connection; metadata that differs in each call must not fill the memory."""
MAX_RESPONSE: Final = 64 * 1024 * 1024
"""Largest response accepted by default: a range over a whole etcd database of usual size."""


CLIENT_LIMITS: Final = Limits(keepalive_interval=math.inf)
"""What a channel uses by default. It sends no keepalive PINGs: gRPC servers end connections that do so more
often than they expect ("too many pings"; five minutes by default). With a server that allows more, pass other
limits."""


class Channel:
    """One connection to a gRPC server.

    Args:
        host, port: where to connect to.
        ssl: a client-side context for TLS.
        authority: the ``:authority`` to send; default is host and port.
        limits: bounds of the connection.
        max_message_bytes: largest response accepted.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ssl: tls.SSLContext | None = None,
        authority: str | None = None,
        limits: Limits | None = None,
        max_message_bytes: int = MAX_RESPONSE,
    ) -> None:
        self._host = host
        self._port = port
        self._ssl = ssl
        shown = f"[{host}]" if ":" in host else host
        self._target = f"{shown}:{port}"
        self._authority = (authority or self._target).encode("latin-1")
        self._limits = limits or CLIENT_LIMITS
        self.max_message_bytes = max_message_bytes
        self.wheel = Wheel()
        self._connection: ClientConnection | None = None
        self._shell: ClientShell | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gone: asyncio.Event = asyncio.Event()
        self._reason = "not connected"
        self._farewell = (
            ""  # the server's words, which explain more than the end of the connection that follows
        )
        self._waiting: deque[OutgoingCall] = deque()
        self._templates: dict[str | tuple[str, tuple[tuple[str, str | bytes], ...]], Template] = {}
        self._blocks: dict[tuple[str, tuple[tuple[str, str | bytes], ...]], bytes] = {}
        self._version = -1

    # Connecting

    @property
    def connected(self) -> bool:
        """Whether new calls have a connection to go to."""
        return self._connection is not None and not self._connection.draining and not self._connection.closed

    async def connect(self, timeout: float = 5.0) -> None:
        """Connect, and wait until the server has shown that it speaks HTTP/2. Does nothing if connected.

        Raises:
            RpcError: UNAVAILABLE with the reason.
        """
        if self.connected:
            return
        await self._drop()
        self._loop = loop = asyncio.get_running_loop()
        connection = ClientConnection(self._limits)
        settled: asyncio.Future[str | None] = loop.create_future()
        shell = ClientShell(connection, loop, lambda reason: self._lost(connection, reason, settled))
        connection.on_settled = functools.partial(_settle, settled)
        connection.room = self._start_waiting
        connection.going_away = self._going_away
        self._gone = asyncio.Event()
        self._farewell = ""
        try:
            async with asyncio.timeout(timeout):
                server_hostname = self._host if self._ssl else None
                await loop.create_connection(
                    lambda: shell, self._host, self._port, ssl=self._ssl, server_hostname=server_hostname
                )
                problem = await settled
        except TimeoutError:
            problem = f"no HTTP/2 answer within {timeout:g} s"
        except OSError as error:
            problem = _plainly(error)
        except asyncio.CancelledError:
            shell.abort()
            raise
        if problem is not None:
            shell.abort()
            raise RpcError(
                StatusCode.UNAVAILABLE, f"cannot connect to {self._target}: {problem}", not_processed=True
            )
        self._connection, self._shell = connection, shell
        self._templates.clear()
        self._blocks.clear()
        self._version = connection.encoder.table.version

    def _lost(self, connection: ClientConnection, reason: str, settled: asyncio.Future[str | None]) -> None:
        if not settled.done():
            settled.set_result(reason)
        if connection is self._connection or self._connection is None:
            self._connection = self._shell = None
            self._reason = self._farewell or reason
            self._gone.set()
            self._fail_waiting(self._reason)

    def _going_away(self, reason: str) -> None:
        self._reason = self._farewell = reason
        self._fail_waiting(reason)

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.end(RpcError(StatusCode.UNAVAILABLE, f"{self._target}: {reason}", not_processed=True))

    async def wait_closed(self) -> str:
        """Wait until the connection is gone; returns why."""
        if self._connection is not None:
            await self._gone.wait()
        return self._reason

    async def close(self) -> None:
        """Cut the connection. Calls in progress fail with UNAVAILABLE."""
        self._fail_waiting("the channel was closed")
        await self._drop()
        self._reason = "the channel was closed"
        self.wheel.close()

    async def _drop(self) -> None:
        if self._connection is not None and self._shell is not None:
            gone = self._gone
            self._connection.connection_lost("the channel was closed")
            self._shell.flush()
            await gone.wait()

    # Calls

    def call(
        self,
        method: str,
        message: bytes,
        on_done: OnDone,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> ClientCall:
        """Make a unary call. ``on_done(response, error)`` is called exactly once, never from within this
        method.

        Returns:
            A handle with `cancel()`, which settles the call at once.

        Raises:
            UsageError: the metadata is not allowed.
        """
        call = ClientCall(self, method, tuple(metadata) if metadata else (), message, on_done)
        connection = self._connection
        if (
            timeout is None
            and connection is not None
            and not self._waiting
            and len(connection.streams) < connection.open_limit
        ):
            connection.open(call)
            call.start()
        else:
            self._submit(call, timeout)
        return call

    async def unary(
        self, method: str, message: bytes, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> bytes:
        """Make a unary call and wait for the response.

        Raises:
            RpcError: it failed.
        """
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_done(response: bytes | None, error: RpcError | None) -> None:
            if future.done():
                return
            if response is not None:
                future.set_result(response)
            else:
                future.set_exception(error or RpcError(StatusCode.INTERNAL))

        call = self.call(method, message, on_done, timeout=timeout, metadata=metadata)
        try:
            return await future
        except asyncio.CancelledError:
            call.cancel()
            raise

    def stream(self, method: str, *, timeout: float | None = None, metadata: Metadata = ()) -> ClientStream:
        """Begin a streaming call; its failure shows when sending or receiving."""
        call = ClientStream(self, method, tuple(metadata), asyncio.get_running_loop())
        self._submit(call, timeout)
        return call

    def _submit(self, call: OutgoingCall, timeout: float | None) -> None:
        """The general way: with a deadline, with a queue, or with nobody to talk to."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        encode_metadata(call.metadata)  # tells the caller at once what is wrong with it
        connection = self._connection
        if timeout is not None:
            call.deadline = loop.time() + timeout
            call._bucket = self.wheel.add(call, call.deadline, loop)
        if connection is None or connection.draining or connection.closed:
            text = f"{self._target}: {self._reason}"
            loop.call_soon(call.end, RpcError(StatusCode.UNAVAILABLE, text, not_processed=True))
        elif len(self._waiting) >= MAX_QUEUED:
            text = f"more than {MAX_QUEUED} calls wait for {self._target}"
            loop.call_soon(call.end, RpcError(StatusCode.RESOURCE_EXHAUSTED, text, not_processed=True))
        else:
            self._waiting.append(call)
            self._start_waiting()

    def _start_waiting(self) -> None:
        """Put calls on the wire as far as the server permits."""
        connection = self._connection
        if connection is None:
            return
        while self._waiting and len(connection.streams) < connection.open_limit:
            call = self._waiting.popleft()
            if not call.done:  # not cancelled or expired while it waited
                connection.open(call)
                call.start()
        connection.notify_closed = bool(self._waiting)

    # Header blocks

    def template(self, method: str, metadata: tuple[tuple[str, str | bytes], ...]) -> Template:
        """A prepared request, with the headers of this method and metadata."""
        connection = self._connection
        if connection is None or connection.encoder.table.version != self._version:
            self._forget_blocks()
        key = (method, metadata) if metadata else method
        template = self._templates.get(key)
        if template is None:
            template = Template(self.block(method, metadata, None))
            if (method, metadata) in self._blocks and len(template.block) <= DEFAULT_FRAME_SIZE:
                self._templates[key] = template
        return template

    def block(
        self, method: str, metadata: tuple[tuple[str, str | bytes], ...], deadline: float | None
    ) -> bytes:
        """The encoded headers of a request. Has to be sent before another one is made."""
        connection = self._connection
        if connection is None or self._loop is None:
            return b""
        key = (method, metadata)
        if connection.encoder.table.version != self._version:
            self._forget_blocks()
        block = self._blocks.get(key)
        if block is None:
            block, stable = connection.encoder.encode(self._fields(method, metadata))
            if stable and len(self._blocks) < MAX_TEMPLATES:
                self._blocks[key] = block
        if deadline is not None:
            left = max(deadline - self._loop.time(), 1e-6)
            block += encode_stateless([(b"grpc-timeout", format_timeout(left))])
        return block

    def _fields(self, method: str, metadata: Metadata) -> list[tuple[bytes, bytes]]:
        return [
            (b":method", b"POST"),
            (b":scheme", b"https" if self._ssl else b"http"),
            (b":path", method.encode("latin-1")),
            (b":authority", self._authority),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", USER_AGENT),
            *encode_metadata(metadata),
        ]

    def _forget_blocks(self) -> None:
        """The encoder's table has moved: blocks made before mean something else now."""
        self._templates.clear()
        self._blocks.clear()
        if self._connection is not None:
            self._version = self._connection.encoder.table.version


def _plainly(error: OSError) -> str:
    """What went wrong, without asyncio's additions: "Connection refused"."""
    if isinstance(error, tls.SSLError) or error.errno is None or error.errno <= 0:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _settle(settled: asyncio.Future[str | None]) -> None:
    """The server has sent its SETTINGS: it speaks HTTP/2."""
    if not settled.done():
        settled.set_result(None)
