"""Our server, Google's client (C-core)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from oarlock.grpc import Call, Server

from .services import Service, serving


async def with_client(work: Callable[[grpc.Channel], Any], **options: int) -> tuple[Any, Service]:
    """Run blocking ``work`` with a channel in a thread, while our server serves."""
    async with serving(**options) as (service, _, port):

        def run() -> Any:
            with grpc.insecure_channel(
                f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)]
            ) as channel:
                return work(channel)

        return await asyncio.to_thread(run), service


def error_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


async def test_unary_calls_are_answered_now_or_later() -> None:
    def work(channel: grpc.Channel) -> list[bytes]:
        methods = [channel.unary_unary(f"/t.T/{name}") for name in ("Echo", "Later", "Echo")]
        return [method(b"hello", timeout=10) for method in methods]

    assert (await with_client(work))[0] == [b"hello"] * 3


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 100_000, 1_500_000])
async def test_messages_of_any_size_come_back_whole(size: int) -> None:
    result, _ = await with_client(lambda channel: channel.unary_unary("/t.T/Echo")(b"x" * size, timeout=20))
    assert result == b"x" * size


async def test_answer_of_many_megabytes_arrives() -> None:
    result, _ = await with_client(lambda channel: channel.unary_unary("/t.T/Big")(b"20000000", timeout=20))
    assert len(result) == 20_000_000


async def test_too_large_request_is_refused_with_grpcs_words() -> None:
    result, _ = await with_client(
        lambda channel: error_of(lambda: channel.unary_unary("/t.T/Echo")(b"x" * 3_000_000, timeout=20))
    )
    assert result == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "grpc: received message larger than max (3000000 vs. 2097152)",
    )


async def test_errors_carry_code_and_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="oarlock.grpc")

    def work(channel: grpc.Channel) -> list[Any]:
        names = ("Fail", "RaiseStatus", "Raise", "Unknown")
        return [
            error_of(lambda n=name: channel.unary_unary(f"/t.T/{n}")("grün 100%".encode(), timeout=10))
            for name in names
        ]

    failed, status, bug, unknown = (await with_client(work))[0]
    assert failed == (grpc.StatusCode.FAILED_PRECONDITION, "grün 100%")
    assert status == (grpc.StatusCode.NOT_FOUND, "no such thing")
    assert bug[0] is grpc.StatusCode.UNKNOWN
    assert unknown == (grpc.StatusCode.UNIMPLEMENTED, "unknown method /t.T/Unknown")


async def test_all_streaming_shapes() -> None:
    def work(channel: grpc.Channel) -> Any:
        words = [b"abc", b"", b"x" * 100_000]
        both = list(channel.stream_stream("/t.T/Both")(iter(words), timeout=20))
        total = channel.stream_unary("/t.T/Sum")(iter([b"x" * 1000] * 3000), timeout=20)
        counted = list(channel.unary_stream("/t.T/Count")(b"5000", timeout=20))
        return both, total, len(counted), counted[-1]

    both, total, count, last = (await with_client(work))[0]
    assert both == [b"cba", b"", b"x" * 100_000]
    assert total == b"3000000"
    assert (count, last) == (5000, b"4999")


async def test_bug_in_a_stream_ends_that_call_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="oarlock.grpc")

    def work(channel: grpc.Channel) -> Any:
        responses = channel.unary_stream("/t.T/StreamBug")(b"", timeout=10)
        first = next(responses)
        return (
            first,
            error_of(lambda: next(responses)),
            channel.unary_unary("/t.T/Echo")(b"still here", timeout=10),
        )

    first, error, after = (await with_client(work))[0]
    assert first == b"first"
    assert error[0] is grpc.StatusCode.UNKNOWN
    assert after == b"still here"


async def test_cancelled_stream_cancels_its_handler() -> None:
    async with serving() as (service, _, port):

        def work() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                responses = channel.unary_stream("/t.T/Hang")(b"")
                assert next(responses) == b"started"
                responses.cancel()

        await asyncio.to_thread(work)
        await asyncio.wait_for(service.cancelled.wait(), 10)


async def test_cancelled_unary_call_is_marked() -> None:
    async with serving() as (service, _, port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            future = channel.unary_unary("/t.T/Never").future(b"")
            await asyncio.wait_for(service.started.wait(), 10)
            assert not service.calls[0].cancelled
            future.cancel()
            assert await asyncio.to_thread(channel.unary_unary("/t.T/Echo"), b"after") == b"after"
        assert service.calls[0].cancelled
        service.calls[0].reply(b"too late")


async def test_deadline_reaches_both_sides() -> None:
    def work(channel: grpc.Channel) -> Any:
        return [
            error_of(lambda n=name: channel.unary_unary(f"/t.T/{n}")(b"", timeout=0.2))[0]
            for name in ("Never", "Hang")
        ]

    codes, service = await with_client(work)
    assert codes == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
    (call,) = service.calls
    assert call.deadline is not None
    assert call.cancelled


async def test_metadata_arrives_with_binary_values() -> None:
    sent = [("x-plain", "some text"), ("x-raw-bin", bytes(range(256)))]
    result, service = await with_client(
        lambda channel: channel.unary_unary("/t.T/Metadata")(b"", metadata=sent, timeout=10)
    )
    assert set(sent) <= set(service.metadata)
    assert result.startswith(b"ipv4:127.0.0.1:")


async def test_compressed_request_is_refused_as_unimplemented() -> None:
    def work(channel: grpc.Channel) -> Any:
        method = channel.unary_unary("/t.T/Echo")
        return error_of(lambda: method(b"x" * 10_000, compression=grpc.Compression.Gzip, timeout=10))

    assert (await with_client(work))[0][0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("connections", [1, 100])
async def test_a_thousand_concurrent_calls(connections: int) -> None:
    """All 1,000 are in the server at the same time before the first is answered."""
    everybody = asyncio.Event()
    waiting: list[tuple[Call, bytes]] = []

    def collect(call: Call, message: bytes) -> None:
        waiting.append((call, message))
        if len(waiting) == 1000:
            everybody.set()

    server = Server()
    server.add_unary("/t.T/Collect", collect)
    _, port = await server.listen("127.0.0.1", 0)

    def work() -> set[bytes]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(connections)]
        futures = [
            channels[number % connections].unary_unary("/t.T/Collect").future(b"%d" % number, timeout=30)
            for number in range(1000)
        ]
        results = {future.result() for future in futures}
        for channel in channels:
            channel.close()
        return results

    client = asyncio.create_task(asyncio.to_thread(work))
    await asyncio.wait_for(everybody.wait(), 30)
    assert server.connections == connections
    for call, message in waiting:
        call.reply(message)
    assert await client == {b"%d" % number for number in range(1000)}
    await server.close(1)
