"""Our client, Google's server (C-core)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from oarlock.grpc import Channel, RpcError, StatusCode


class Handler(grpc.GenericRpcHandler):
    """The service that `services.Service` is on our side."""

    def __init__(self) -> None:
        self.hanging = threading.Event()
        self.cancelled = threading.Event()
        self.metadata: list[tuple[str, Any]] = []
        self.barrier = threading.Barrier(8)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        self.metadata = [tuple(pair) for pair in details.invocation_metadata or ()]
        kinds = {
            "Echo": (grpc.unary_unary_rpc_method_handler, lambda request, context: request),
            "Big": (grpc.unary_unary_rpc_method_handler, lambda request, context: bytes(int(request))),
            "Fail": (grpc.unary_unary_rpc_method_handler, self.fail),
            "Hang": (grpc.unary_unary_rpc_method_handler, self.hang),
            "Both": (
                grpc.stream_stream_rpc_method_handler,
                lambda requests, context: (r[::-1] for r in requests),
            ),
            "Sum": (
                grpc.stream_unary_rpc_method_handler,
                lambda requests, context: b"%d" % sum(map(len, requests)),
            ),
            "Count": (grpc.unary_stream_rpc_method_handler, self.count),
        }
        kind, function = kinds.get(details.method.rpartition("/")[2], (None, None))
        return None if kind is None else kind(function)

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
        return b""

    def hang(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.cancelled.set)
        self.hanging.set()
        self.cancelled.wait(10)
        return b""

    def count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number


@pytest.fixture
def foreign() -> Iterator[tuple[Handler, int]]:
    """A running foreign server."""
    handler = Handler()
    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(8), (handler,), options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, port
    server.stop(0).wait()


async def connected(port: int) -> Channel:
    channel = Channel("127.0.0.1", port)
    await channel.connect()
    return channel


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_536, 3_000_000])
async def test_messages_of_any_size_come_back_whole(foreign: tuple[Handler, int], size: int) -> None:
    channel = await connected(foreign[1])
    for _ in range(3):
        assert await channel.unary("/t.T/Echo", b"x" * size, timeout=20) == b"x" * size
    await channel.close()


async def test_large_answer_arrives(foreign: tuple[Handler, int]) -> None:
    channel = await connected(foreign[1])
    assert len(await channel.unary("/t.T/Big", b"20000000")) == 20_000_000
    await channel.close()


async def test_errors_carry_code_and_text(foreign: tuple[Handler, int]) -> None:
    channel = await connected(foreign[1])
    with pytest.raises(RpcError) as failed:
        await channel.unary("/t.T/Fail", "grün 100%".encode())
    assert (failed.value.code, failed.value.message) == (StatusCode.FAILED_PRECONDITION, "grün 100%")
    with pytest.raises(RpcError) as unknown:
        await channel.unary("/t.T/Unknown", b"")
    assert unknown.value.code is StatusCode.UNIMPLEMENTED
    await channel.close()


async def test_all_streaming_shapes(foreign: tuple[Handler, int]) -> None:
    channel = await connected(foreign[1])
    both = channel.stream("/t.T/Both")
    for message in (b"abc", b"", b"x" * 100_000):
        await both.send(message)
        assert await both.receive() == message[::-1]
    await both.end_sending()
    assert await both.receive() is None

    total = channel.stream("/t.T/Sum")
    for _ in range(2000):
        await total.send(b"x" * 1000)
    await total.end_sending()
    assert await total.receive() == b"2000000"
    assert await total.receive() is None

    count = channel.stream("/t.T/Count")
    await count.send(b"5000")
    await count.end_sending()
    assert len([message async for message in count.messages()]) == 5000
    await channel.close()


async def test_cancelling_reaches_the_server(foreign: tuple[Handler, int]) -> None:
    handler, port = foreign
    channel = await connected(port)
    done: asyncio.Future[RpcError | None] = asyncio.get_running_loop().create_future()
    call = channel.call("/t.T/Hang", b"", lambda response, error: done.set_result(error))
    # Not before the method runs: the library there starts it in a thread, and tells it of nothing earlier.
    assert await asyncio.to_thread(handler.hanging.wait, 10)
    call.cancel()
    error = await done
    assert error is not None
    assert error.code is StatusCode.CANCELLED
    assert await asyncio.to_thread(handler.cancelled.wait, 10)
    await channel.close()


async def test_deadline_passes(foreign: tuple[Handler, int]) -> None:
    channel = await connected(foreign[1])
    with pytest.raises(RpcError) as late:
        await channel.unary("/t.T/Hang", b"", timeout=0.1)
    assert late.value.code is StatusCode.DEADLINE_EXCEEDED
    await channel.close()


async def test_metadata_arrives_with_binary_values(foreign: tuple[Handler, int]) -> None:
    handler, port = foreign
    channel = await connected(port)
    sent: list[tuple[str, str | bytes]] = [("x-plain", "some text"), ("x-raw-bin", bytes(range(256)))]
    for _ in range(3):  # the third request comes out of the remembered blocks
        handler.metadata = []
        assert await channel.unary("/t.T/Echo", b"", metadata=sent) == b""
        assert set(sent) <= set(handler.metadata)
    await channel.close()


@pytest.mark.parametrize("connections", [1, 100])
async def test_a_thousand_concurrent_calls(foreign: tuple[Handler, int], connections: int) -> None:
    channels = [await connected(foreign[1]) for _ in range(connections)]
    calls = [channels[number % connections].unary("/t.T/Echo", b"%d" % number) for number in range(1000)]
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(1000)]
    for channel in channels:
        await channel.close()


async def test_server_that_stops_fails_calls_as_unavailable() -> None:
    handler = Handler()
    server = grpc.server(futures.ThreadPoolExecutor(2), (handler,), options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = await connected(port)
    call = asyncio.create_task(channel.unary("/t.T/Hang", b""))
    assert await channel.unary("/t.T/Echo", b"x") == b"x"
    await asyncio.to_thread(server.stop(0).wait)
    with pytest.raises(RpcError):
        await call
    await channel.wait_closed()
    with pytest.raises(RpcError) as gone:
        await channel.unary("/t.T/Echo", b"x")
    assert gone.value.code is StatusCode.UNAVAILABLE
    assert gone.value.not_processed
    await channel.close()
