"""Our client on our server: what foreign peers cannot show."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import weakref

import pytest

from oarlock.errors import OarlockError, UsageError
from oarlock.grpc import Call, Channel, Limits, RpcError, Server, ServerStream, StatusCode

from .services import serving


async def connected(port: int) -> Channel:
    channel = Channel("127.0.0.1", port)
    await channel.connect()
    return channel


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 300_000, 2 * 1024 * 1024])
async def test_messages_of_any_size_come_back_whole(size: int) -> None:
    async with serving() as (_, _, port):
        channel = await connected(port)
        for _ in range(3):
            assert await channel.unary("/t.T/Echo", b"x" * size) == b"x" * size
        assert await channel.unary("/t.T/Echo", b"x" * size, timeout=20) == b"x" * size
        await channel.close()


@pytest.mark.parametrize("connections", [1, 100])
async def test_a_thousand_concurrent_calls(connections: int) -> None:
    waiting: list[tuple[Call, bytes]] = []
    server = Server()
    server.add_unary("/t.T/Collect", lambda call, message: waiting.append((call, message)))
    _, port = await server.listen("127.0.0.1", 0)
    channels = [await connected(port) for _ in range(connections)]
    calls = [
        asyncio.create_task(channels[number % connections].unary("/t.T/Collect", b"%d" % number))
        for number in range(1000)
    ]
    while len(waiting) < 1000:  # noqa: ASYNC110 - all of them are in the server before the first is answered
        await asyncio.sleep(0.001)
    for call, message in waiting:
        call.reply(message)
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(1000)]
    for channel in channels:
        await channel.close()
    await server.close(0)


async def test_calls_beyond_the_servers_limit_wait_for_room() -> None:
    async with serving(Limits(max_concurrent_streams=10)) as (_, _, port):
        channel = await connected(port)
        calls = [channel.unary("/t.T/Later", b"%d" % number) for number in range(500)]
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(500)]
        await channel.close()


async def test_waiting_call_may_be_cancelled_or_expire() -> None:
    async with serving(Limits(max_concurrent_streams=1)) as (service, _, port):
        channel = await connected(port)
        first = asyncio.create_task(channel.unary("/t.T/Never", b""))
        await service.started.wait()
        errors: list[RpcError | None] = []
        channel.call("/t.T/Echo", b"x", lambda response, error: errors.append(error)).cancel()
        with pytest.raises(RpcError) as late:
            await channel.unary("/t.T/Echo", b"x", timeout=0.05)
        assert late.value.code is StatusCode.DEADLINE_EXCEEDED
        assert late.value.not_processed
        assert errors[0] is not None
        assert errors[0].code is StatusCode.CANCELLED
        service.calls[0].reply(b"free")
        assert await first == b"free"
        assert await channel.unary("/t.T/Echo", b"after") == b"after"
        await channel.close()


async def test_callback_is_never_called_from_within_call() -> None:
    channel = Channel("127.0.0.1", 1)
    errors: list[RpcError | None] = []
    channel.call("/t.T/Echo", b"", lambda response, error: errors.append(error))
    assert not errors
    await asyncio.sleep(0)
    (error,) = errors
    assert error is not None
    assert error.not_processed
    assert "127.0.0.1:1: not connected" in error.message


async def test_connecting_to_nobody_is_one_clear_error() -> None:
    channel = Channel("127.0.0.1", 1)
    with pytest.raises(RpcError, match=r"cannot connect to 127\.0\.0\.1:1: .*refused") as caught:
        await channel.connect()
    assert caught.value.code is StatusCode.UNAVAILABLE
    assert isinstance(caught.value, OarlockError)


async def test_connecting_to_something_else_says_so() -> None:
    async def http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http1, "127.0.0.1", 0)
    channel = Channel("127.0.0.1", server.sockets[0].getsockname()[1])
    with pytest.raises(RpcError, match="cannot connect"):
        await channel.connect()
    server.close()
    await server.wait_closed()


async def test_connecting_to_silence_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, nobody accepts
        channel = Channel("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(RpcError, match=r"no HTTP/2 answer within 0\.1 s"):
            await channel.connect(0.1)


async def test_channel_may_connect_again_after_a_loss() -> None:
    async with serving() as (_, _, port):
        channel = await connected(port)
        await channel.close()
        with pytest.raises(RpcError):
            await channel.unary("/t.T/Echo", b"x")
        await channel.connect()
        assert await channel.unary("/t.T/Echo", b"x") == b"x"
        await channel.close()


async def test_lost_connection_fails_every_call() -> None:
    async with serving() as (service, server, port):
        channel = await connected(port)
        calls = [asyncio.create_task(channel.unary("/t.T/Never", b"")) for _ in range(10)]
        stream = channel.stream("/t.T/Hang")
        assert await stream.receive() == b"started"
        while len(service.calls) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await server.close(0)
        for call in calls:
            with pytest.raises(RpcError) as lost:
                await call
            assert lost.value.code is StatusCode.UNAVAILABLE
            assert not lost.value.not_processed  # the server had them: a retry may repeat the effect
        with pytest.raises(RpcError):
            await stream.receive()
        assert service.cancelled.is_set()
        await channel.close()


async def test_cancelling_the_waiting_task_cancels_the_call() -> None:
    async with serving() as (service, _, port):
        channel = await connected(port)
        task = asyncio.create_task(channel.unary("/t.T/Never", b""))
        await service.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await channel.unary("/t.T/Echo", b"x") == b"x"
        assert service.calls[0].cancelled
        await channel.close()


async def test_slow_receiver_holds_the_sender_back() -> None:
    sent = 0
    server = Server()

    async def flood(stream: ServerStream) -> None:
        nonlocal sent
        for _ in range(1000):
            await stream.send(bytes(10_000))
            sent += 1

    server.add_stream("/t.T/Flood", flood)
    _, port = await server.listen("127.0.0.1", 0)
    channel = await connected(port)
    stream = channel.stream("/t.T/Flood")
    assert await stream.receive() is not None
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert sent < 60  # one window of 256 KiB and a queue of 64 KiB
    assert len([message async for message in stream.messages()]) == 999
    await channel.close()
    await server.close(0)


async def test_slow_handler_holds_the_client_back() -> None:
    gate = asyncio.Event()
    server = Server()

    async def slow(stream: ServerStream) -> None:
        await gate.wait()
        count = len([message async for message in stream.messages()])
        await stream.send(b"%d" % count)

    server.add_stream("/t.T/Slow", slow)
    _, port = await server.listen("127.0.0.1", 0)
    channel = await connected(port)
    stream = channel.stream("/t.T/Slow")
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(1000):
            await stream.send(bytes(10_000))
            sent += 1
        await stream.end_sending()

    sender = asyncio.create_task(send())
    await asyncio.sleep(0.1)
    assert sent < 60
    gate.set()
    await sender
    assert await stream.receive() == b"1000"
    await channel.close()
    await server.close(0)


async def test_many_unfinished_messages_are_bounded_per_connection() -> None:
    async with serving(Limits(max_receive_buffer=1_000_000)) as (_, _, port):
        channel = await connected(port)
        streams = [channel.stream("/t.T/Sum") for _ in range(10)]
        for stream in streams:  # a message of 2 MB each, of which 200 KB arrive
            await stream.send(b"")
            stream.send_data(b"\0" + (2_000_000).to_bytes(4, "big") + bytes(200_000))
        tasks = [asyncio.create_task(stream.receive()) for stream in streams]
        errors: list[BaseException | None] = []
        while len(errors) < 5:  # only five of them fit
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            errors += [task.exception() for task in done]
            tasks = [task for task in tasks if task not in done]
        assert all(isinstance(error, RpcError) for error in errors)
        codes = {error.code for error in errors if isinstance(error, RpcError)}
        assert codes == {StatusCode.RESOURCE_EXHAUSTED}
        assert await channel.unary("/t.T/Echo", b"x") == b"x"
        for stream in streams:
            stream.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            assert isinstance(task.exception(), RpcError)
        await channel.close()


async def test_metadata_that_is_not_allowed_is_refused_at_once() -> None:
    async with serving() as (_, _, port):
        channel = await connected(port)
        with pytest.raises(UsageError):
            await channel.unary("/t.T/Echo", b"", metadata=[("Not Allowed", "x")])
        assert await channel.unary("/t.T/Echo", b"x") == b"x"
        await channel.close()


async def test_changing_metadata_never_confuses_the_remembered_headers() -> None:
    async with serving() as (service, _, port):
        channel = await connected(port)
        for number in range(300):
            sent = [("x-number", str(number % 7)), ("x-filler", "y" * (number % 5) * 300)]
            await channel.unary("/t.T/Metadata", b"", metadata=sent, timeout=5 if number % 3 else None)
            assert set(sent) <= set(service.metadata)
            assert await channel.unary("/t.T/Echo", b"%d" % number) == b"%d" % number
        await channel.close()


async def test_handler_bug_is_logged_once_and_hides_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (_, _, port):
        channel = await connected(port)
        with caplog.at_level(logging.ERROR), pytest.raises(RpcError) as failed:
            await channel.unary("/t.T/Raise", b"")
        assert "a bug on purpose" not in failed.value.message
        assert [record.name for record in caplog.records] == ["oarlock.grpc"]
        assert "a bug on purpose" in caplog.text
        await channel.close()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", StatusCode.INTERNAL),
        (b"\0\0\0\0\x05abc", StatusCode.INTERNAL),
        (b"\0\0\0\0\x01a\0\0\0\0\x01b", StatusCode.INTERNAL),
        (b"\x01\0\0\0\x01a", StatusCode.UNIMPLEMENTED),
    ],
)
async def test_malformed_unary_request_fails_that_call_only(body: bytes, code: StatusCode) -> None:
    async with serving() as (_, _, port):
        channel = await connected(port)
        stream = channel.stream("/t.T/Echo")
        stream.send_data(body, end=True)
        with pytest.raises(RpcError) as failed:
            await stream.receive()
        assert failed.value.code is code
        assert await channel.unary("/t.T/Echo", b"x") == b"x"
        await channel.close()


async def test_unary_request_may_come_in_any_pieces() -> None:
    async with serving() as (_, _, port):
        channel = await connected(port)
        body = b"\0\0\0\0\x05hello"
        for cut in range(len(body) + 1):  # at the end: END_STREAM in a frame of its own
            stream = channel.stream("/t.T/Echo")
            stream.send_data(body[:cut])
            stream.send_data(body[cut:], end=True)
            assert await stream.receive() == b"hello"
            assert await stream.receive() is None
        await channel.close()


async def test_failing_callback_does_not_cost_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (_, _, port):
        channel = await connected(port)

        def broken(response: bytes | None, error: RpcError | None) -> None:
            raise ZeroDivisionError("a bug on purpose")

        channel.call("/t.T/Echo", b"x", broken)
        assert await channel.unary("/t.T/Echo", b"x") == b"x"
        assert "a bug on purpose" in caplog.text
        await channel.close()


async def test_finished_calls_leave_nothing_behind() -> None:
    """No reference cycles: memory of a call is free when it ends, without the garbage collector."""
    calls: list[weakref.ref[Call]] = []
    server = Server()

    def echo(call: Call, message: bytes) -> None:
        calls.append(weakref.ref(call))
        call.reply(message)

    server.add_unary("/t.T/Echo", echo)
    _, port = await server.listen("127.0.0.1", 0)
    channel = await connected(port)
    gc.disable()
    try:
        for timeout in (None, 5.0):
            await channel.unary("/t.T/Echo", b"x", timeout=timeout)
        assert [reference() for reference in calls] == [None, None]
    finally:
        gc.enable()
    await channel.close()
    await server.close(0)


async def test_goaway_of_a_draining_server_leaves_running_calls_alone() -> None:
    async with serving() as (service, server, port):
        channel = await connected(port)
        call = asyncio.create_task(channel.unary("/t.T/Never", b""))
        await service.started.wait()
        closing = asyncio.create_task(server.close(5))
        while channel.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        service.calls[0].reply(b"finished")
        assert await call == b"finished"
        await closing
        assert "going away" in await channel.wait_closed()
        await channel.close()
