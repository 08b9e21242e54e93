"""A small service of every shape, on our server, for whatever client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from oarlock.grpc import Call, Limits, RpcError, Server, ServerStream, StatusCode


class Service:
    """Keeps what the handlers saw."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.metadata: list[tuple[str, str | bytes]] = []

    def register(self, server: Server) -> None:
        """Add all methods."""
        server.add_unary("/t.T/Echo", lambda call, message: call.reply(message))
        server.add_unary("/t.T/Later", self.later)
        server.add_unary("/t.T/Never", self.never)
        server.add_unary("/t.T/Fail", self.fail)
        server.add_unary("/t.T/Raise", self.bug)
        server.add_unary("/t.T/RaiseStatus", self.status)
        server.add_unary("/t.T/Metadata", self.show_metadata)
        server.add_unary("/t.T/Big", lambda call, message: call.reply(bytes(int(message))))
        server.add_stream("/t.T/Both", self.both)
        server.add_stream("/t.T/Sum", self.sum)
        server.add_stream("/t.T/Count", self.count)
        server.add_stream("/t.T/Hang", self.hang)
        server.add_stream("/t.T/StreamBug", self.stream_bug)

    def later(self, call: Call, message: bytes) -> None:
        asyncio.get_running_loop().call_soon(call.reply, message)

    def never(self, call: Call, message: bytes) -> None:
        self.calls.append(call)
        self.started.set()

    def fail(self, call: Call, message: bytes) -> None:
        call.fail(StatusCode.FAILED_PRECONDITION, message.decode())

    def bug(self, call: Call, message: bytes) -> None:
        raise ZeroDivisionError("a bug on purpose")

    def status(self, call: Call, message: bytes) -> None:
        raise RpcError(StatusCode.NOT_FOUND, "no such thing")

    def show_metadata(self, call: Call, message: bytes) -> None:
        self.metadata = list(call.metadata)
        call.reply(call.peer.encode())

    async def both(self, stream: ServerStream) -> None:
        async for message in stream.messages():
            await stream.send(message[::-1])

    async def sum(self, stream: ServerStream) -> None:
        total = 0
        async for message in stream.messages():
            total += len(message)
        await stream.send(b"%d" % total)

    async def count(self, stream: ServerStream) -> None:
        request = await stream.receive()
        assert request is not None
        for number in range(int(request)):
            await stream.send(b"%d" % number)

    async def hang(self, stream: ServerStream) -> None:
        self.started.set()
        await stream.send(b"started")
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def stream_bug(self, stream: ServerStream) -> None:
        await stream.send(b"first")
        raise ZeroDivisionError("a bug on purpose")


@contextlib.asynccontextmanager
async def serving(limits: Limits | None = None, **options: int) -> AsyncIterator[tuple[Service, Server, int]]:
    """Our server with the service, on a free port."""
    service, server = Service(), Server(limits=limits, **options)
    service.register(server)
    _, port = await server.listen("127.0.0.1", 0)
    try:
        yield service, server, port
    finally:
        await server.close(0)
