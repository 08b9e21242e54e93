"""The gRPC server: methods, listening sockets, graceful end.

Which method a request means is worked out once per distinct header block (`Server._resolve`) and remembered
in that block; see `oarlock.http2.hpack`. Requests that are not gRPC get the same answer over HTTP/2 as over
HTTP/1.1."""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from typing import Final

from oarlock.errors import invariant
from oarlock.grpc.deadlines import Wheel
from oarlock.grpc.framing import DEFAULT_MAX_MESSAGE
from oarlock.grpc.metadata import parse_timeout
from oarlock.grpc.server_calls import (
    AnyHandler,
    Call,
    Refusal,
    ServerCall,
    ServerStream,
    StreamHandler,
    UnaryHandler,
)
from oarlock.grpc.status import RpcError, StatusCode
from oarlock.http2.aio import Listener
from oarlock.http2.connection import Connection
from oarlock.http2.hpack import HeaderBlock, encode_stateless
from oarlock.http2.http1 import Handler
from oarlock.http2.limits import Limits
from oarlock.http2.server_connection import ServerConnection
from oarlock.http2.stream import Stream

logger = logging.getLogger("oarlock.grpc")

_OWN_HEADERS: Final = frozenset(("connection", "transfer-encoding", "keep-alive"))


class Route:
    """What a header block means to this server: the memo of a `HeaderBlock`."""

    __slots__ = ("handler", "max_message", "method", "opens", "refusal", "server", "timeout")

    def __init__(
        self,
        server: Server,
        method: str,
        opens: type[ServerCall] | type[_Plain],
        handler: AnyHandler,
        timeout: float | None = None,
        refusal: RpcError | None = None,
    ) -> None:
        self.server = server
        self.method = method
        self.opens = opens
        self.handler = handler
        self.timeout = timeout
        self.max_message = server.max_message_bytes
        self.refusal = refusal or RpcError(StatusCode.UNIMPLEMENTED)


class Server:
    """A gRPC server. Register methods, then `listen`, in the end `close`.

    Args:
        limits: bounds of each connection.
        max_message_bytes: largest request accepted; larger ones fail with RESOURCE_EXHAUSTED.

    Attributes:
        http1: answers plain HTTP requests (GET only); may be set at any time.
    """

    def __init__(self, *, limits: Limits | None = None, max_message_bytes: int = DEFAULT_MAX_MESSAGE) -> None:
        self.max_message_bytes = max_message_bytes
        self.wheel = Wheel()
        self.tasks: dict[asyncio.Task[None], None] = {}
        self._methods: dict[str, tuple[type[ServerCall], AnyHandler]] = {}
        self._listener = Listener(limits or Limits(), self._accept)
        self._loop: asyncio.AbstractEventLoop | None = None

    def add_unary(self, method: str, handler: UnaryHandler) -> None:
        """``handler(call, message)`` is called for each request; it answers with `Call.reply` or `Call.fail`,
        then or later.

        ``method`` is the full name, like ``/etcdserverpb.KV/Put``.
        """
        self._add(method, Call, handler)

    def add_stream(self, method: str, handler: StreamHandler) -> None:
        """``await handler(stream)`` serves one call of any shape; see `ServerStream`."""
        self._add(method, ServerStream, handler)

    def _add(self, method: str, kind: type[ServerCall], handler: AnyHandler) -> None:
        invariant(
            method.startswith("/") and method not in self._methods, f"method {method!r} cannot be added"
        )
        invariant(self._loop is None, "methods are added before listening")
        self._methods[method] = (kind, handler)

    @property
    def http1(self) -> Handler:
        """Answers plain HTTP requests: ``(method, target, headers) -> (status, headers, body)``."""
        return self._listener.http1

    @http1.setter
    def http1(self, handler: Handler) -> None:
        self._listener.http1 = handler

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it listens on."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    @property
    def connections(self) -> int:
        """Open connections, of any protocol."""
        return self._listener.connections

    async def listen(self, host: str, port: int, *, ssl: tls.SSLContext | None = None) -> tuple[str, int]:
        """Serve on this address, and on any given before. Port 0 takes a free one.

        Returns:
            Host and port in use.

        Raises:
            OSError: the address is in use or not ours.
        """
        self._loop = asyncio.get_running_loop()
        return await self._listener.listen(host, port, ssl=ssl)

    async def close(self, grace: float = 5.0) -> None:
        """Stop: accept nothing new, tell clients to go elsewhere, let calls finish for ``grace`` seconds,
        then cut."""
        await self._listener.close(grace)
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.wheel.close()

    # Requests

    def _accept(self, connection: ServerConnection, stream_id: int, block: HeaderBlock) -> Stream:
        route: Route | None = block.memo
        if route is None:
            route = block.memo = self._resolve(block)
        stream = route.opens(connection, stream_id, block)
        if route.timeout is not None and isinstance(stream, ServerCall):
            deadline = self.loop.time() + route.timeout
            stream.arm(deadline, self.wheel.add(stream, deadline, self.loop))
        return stream

    def _resolve(self, block: HeaderBlock) -> Route:
        path = (block.get(b":path") or b"").decode("latin-1")
        if not (block.get(b"content-type") or b"").startswith(b"application/grpc"):
            return Route(self, path, _Plain, self._plain)
        try:
            if block.get(b":method") != b"POST":
                raise RpcError(StatusCode.INTERNAL, "gRPC calls are POST requests")
            if path not in self._methods:
                raise RpcError(StatusCode.UNIMPLEMENTED, f"unknown method {path[:200]}")
            given = block.get(b"grpc-timeout")
            timeout = None if given is None else parse_timeout(given)
        except RpcError as error:
            return Route(self, path, Refusal, self._plain, refusal=error)
        kind, handler = self._methods[path]
        return Route(self, path, kind, handler, timeout)

    def _plain(
        self, method: str, target: str, headers: list[tuple[str, str]]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        if method not in ("GET", "HEAD"):
            return 415, [], b"only gRPC requests have a body here\n"
        try:
            return self.http1("GET", target, headers)
        except Exception:
            logger.exception("HTTP handler failed on %s", target)
            return 500, [], b"internal error\n"


class _Plain(Stream):
    """A request that is not gRPC, over HTTP/2. Its body is of no interest."""

    def __init__(self, connection: Connection, stream_id: int, block: HeaderBlock) -> None:
        super().__init__(connection, stream_id)
        self._block = block

    def on_data(self, data: bytes, end: bool) -> None:
        self.consume(len(data))
        if end:
            self._answer()

    def _answer(self) -> None:
        block = self._block
        route: Route = block.memo
        text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in block.fields]
        fields = [(name, value) for name, value in text if not name.startswith(":")]
        method = (block.get(b":method") or b"").decode("latin-1")
        status, extra, body = route.handler(method, route.method, fields)
        headers = [(b":status", b"%d" % status), (b"content-length", b"%d" % len(body))]
        headers += [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in extra
            if name.lower() not in _OWN_HEADERS
        ]
        bodiless = method == "HEAD" or not body
        self.send_headers(encode_stateless(headers), end=bodiless)
        if not bodiless:
            self.send_data(body, end=True)
