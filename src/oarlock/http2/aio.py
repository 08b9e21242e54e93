"""The asyncio shell: sockets, TLS, time. The only file of this package that does I/O.

One `asyncio.Protocol` per connection, on the stock loop or uvloop. Everything received in one call is
processed in one go and answered with one write; what the application sends later, on its own time, is
gathered by `call_soon` and leaves with the turn of the loop in which it was sent. There is no task and no
future per connection, let alone per request.

The first bytes of a connection decide what it speaks: HTTP/2 begins with a preface that no HTTP/1.1 request
can have (RFC 9113, section 3.4). With TLS the context should offer ALPN ``h2`` and ``http/1.1``; the bytes
still decide."""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from collections.abc import Callable
from typing import cast

from oarlock.http2.client_connection import ClientConnection
from oarlock.http2.connection import Connection
from oarlock.http2.frames import PREFACE
from oarlock.http2.http1 import Handler, Http1Connection, not_found
from oarlock.http2.limits import Limits
from oarlock.http2.server_connection import Accept, ServerConnection

logger = logging.getLogger("oarlock.http2")


class Shell(asyncio.Protocol):
    """One HTTP/2 connection on one transport. Both roles share it."""

    connection: Connection | None = None

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._aborter: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def attach(self, connection: Connection) -> None:
        """From now on the transport's bytes belong to ``connection``."""
        self.connection = connection
        connection.peer = self.peer
        connection.output.wake = self._wake
        connection.watch.advance(self._loop.time())
        if connection.output.parts:
            self._wake()

    @property
    def peer(self) -> str:
        """Address of the peer in gRPC's notation."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        if not isinstance(name, tuple):
            return "unix:"
        return f"ipv4:{name[0]}:{name[1]}" if len(name) == 2 else f"ipv6:[{name[0]}]:{name[1]}"

    @property
    def held(self) -> int:
        """Bytes of memory that the peer makes us hold."""
        return self.connection.held if self.connection is not None else 0

    def _wake(self) -> None:
        self._loop.call_soon(self.flush)

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        if connection is not None:
            connection.output.scheduled = True  # `flush` follows: nobody needs to ask for it
            connection.receive_data(data)
            self.flush()

    def flush(self) -> None:
        """Write what is due, and close if the connection is over."""
        connection, transport = self.connection, self._transport
        if connection is None or transport is None:
            return
        output = connection.output
        while data := output.take():
            transport.write(data)
            if output.paused:
                if transport.get_write_buffer_size() > self._limits.max_unsent:
                    logger.debug("%s: does not read what it asks for; connection cut", connection.peer)
                    self.abort()
                    return
                break
        if connection.closed:
            self.close()

    def pause_writing(self) -> None:
        if self.connection is not None:
            self.connection.output.pause()

    def resume_writing(self) -> None:
        if self.connection is not None:
            self.connection.output.resume()
            self.flush()

    def tick(self, now: float) -> None:
        """Pass the time on."""
        if self.connection is not None:
            self.connection.tick(now)
            self.flush()

    def close(self) -> None:
        """Let the peer read the last bytes for a moment, then close for good."""
        if self._transport is not None and self._aborter is None:
            self._transport.close()
            self._aborter = self._loop.call_later(self._limits.close_timeout, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._aborter is not None:
            self._aborter.cancel()
            self._aborter = None
        connection = self.connection
        if connection is not None:
            connection.output.wake = _ignore
            connection.connection_lost(f"connection lost: {exc}" if exc else "connection closed by the peer")
            if connection.fault is not None and connection.is_server:
                logger.debug("%s: %s", connection.peer, connection.fault)


class _ServerShell(Shell):
    """A connection whose client has yet to show which HTTP it speaks."""

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(listener.limits, loop)
        self._listener = listener
        self._first_bytes = b""
        self._http1: Http1Connection | None = None
        self._opened = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._listener.register(self):
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self.connection is not None:
            super().data_received(data)
        elif self._http1 is not None:
            self._serve_http1(data)
        else:
            self._first_bytes += data
            self._detect()

    def _detect(self) -> None:
        data = self._first_bytes
        if PREFACE.startswith(data[: len(PREFACE)]):
            if len(data) >= len(PREFACE):
                self._first_bytes = b""
                self.attach(self._listener.new_connection())
                super().data_received(data)
            return
        self._first_bytes = b""
        self._http1 = Http1Connection(self._limits, self._listener.http1)
        self._serve_http1(data)

    def _serve_http1(self, data: bytes) -> None:
        if self._http1 is None or self._transport is None:
            return
        try:
            self._http1.receive_data(data)
        except Exception:
            logger.exception("%s: HTTP/1.1 handler failed", self.peer)
        self._transport.write(self._http1.take())
        if self._http1.closed:
            self.close()
        elif (
            self._transport is not None and self._transport.get_write_buffer_size() > self._limits.max_unsent
        ):
            self.abort()

    def tick(self, now: float) -> None:
        if self.connection is not None:
            super().tick(now)
        elif self._http1 is not None:
            self._http1.tick(now)
            if self._http1.closed:
                self.close()
        elif now - self._opened > self._limits.handshake_timeout:
            self.abort()

    def shutdown(self) -> None:
        """Begin to leave: HTTP/2 announces it, anything else simply ends."""
        if isinstance(self.connection, ServerConnection):
            self.connection.shutdown()
        else:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.unregister(self)
        super().connection_lost(exc)


class Listener:
    """Listening sockets and their connections.

    Attributes:
        http1: answers HTTP/1.1 requests; may be replaced at any time.
    """

    def __init__(self, limits: Limits, accept: Accept) -> None:
        self.limits = limits
        self.http1: Handler = not_found
        self._accept = accept
        self._servers: list[asyncio.Server] = []
        self._shells: dict[_ServerShell, None] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._closing = False
        self._emptied: asyncio.Event = asyncio.Event()

    def new_connection(self) -> ServerConnection:
        """The HTTP/2 side of an accepted connection."""
        return ServerConnection(self.limits, self._accept)

    async def listen(self, host: str, port: int, *, ssl: tls.SSLContext | None = None) -> tuple[str, int]:
        """Listen; may be called several times. Port 0 takes a free one. Returns host and port in use.

        Raises:
            OSError: the address is in use or not ours.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _ServerShell(self, loop),
            host,
            port,
            ssl=ssl,
            ssl_handshake_timeout=self.limits.handshake_timeout if ssl else None,
            backlog=1024,
        )
        self._servers.append(server)
        if self._ticker is None:
            self._schedule_tick(loop)
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    def _schedule_tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticker = loop.call_later(self.limits.tick, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._schedule_tick(loop)
        now = loop.time()
        for shell in list(self._shells):
            shell.tick(now)
        self._bound_memory()

    def _bound_memory(self) -> None:
        """Cut the connections that hold most, while all together hold too much."""
        holders = [(shell.held, number, shell) for number, shell in enumerate(self._shells)]
        total = sum(held for held, _, _ in holders)
        for held, _, shell in sorted(holders, reverse=True):
            if total <= self.limits.max_held:
                break
            logger.warning(
                "%s: holds %d bytes, all clients together too much; connection cut", shell.peer, held
            )
            shell.abort()
            total -= held

    def register(self, shell: _ServerShell) -> bool:
        """Count a new connection; False if there are too many."""
        self._shells[shell] = None
        self._emptied.clear()
        return len(self._shells) <= self.limits.max_connections and not self._closing

    def unregister(self, shell: _ServerShell) -> None:
        """A connection is gone."""
        self._shells.pop(shell, None)
        if not self._shells:
            self._emptied.set()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._shells)

    async def close(self, grace: float = 5.0) -> None:
        """Stop listening, let requests in progress finish for up to ``grace`` seconds, then cut what is
        left."""
        self._closing = True
        for server in self._servers:
            server.close()
        for shell in list(self._shells):
            shell.shutdown()
        if self._shells:
            try:
                await asyncio.wait_for(self._emptied.wait(), grace)
            except TimeoutError:
                pass
        for shell in list(self._shells):
            shell.abort()
        if self._shells:
            await self._emptied.wait()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()


class ClientShell(Shell):
    """A client's connection; `lost` is called once when it is gone."""

    def __init__(
        self, connection: ClientConnection, loop: asyncio.AbstractEventLoop, lost: Callable[[str], None]
    ) -> None:
        super().__init__(connection.limits, loop)
        self._client = connection
        self._lost = lost
        self._ticker: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.attach(self._client)
        self._schedule_tick()

    def _schedule_tick(self) -> None:
        self._ticker = self._loop.call_later(self._limits.tick, self._tick)

    def _tick(self) -> None:
        self._schedule_tick()
        self.tick(self._loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        super().connection_lost(exc)
        self._lost(str(self._client.fault or exc or "connection closed by the peer"))


def _ignore() -> None:
    """Wakes nobody: the transport is gone."""
