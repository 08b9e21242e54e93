"""The shell: sockets, TLS, both protocols on one port, and a graceful end. On both event loops."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from oarlock.grpc import Call, Channel, RpcError, Server, StatusCode
from oarlock.http2 import frames
from oarlock.http2.limits import Limits

from . import hostile

DATA = Path(__file__).parent / "data"


def tls(server: bool, *protocols: str) -> ssl.SSLContext:
    """A context for one end, with the certificate of the tests."""
    if server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(DATA / "localhost.crt", DATA / "localhost.key")
    else:
        context = ssl.create_default_context(cafile=str(DATA / "localhost.crt"))
    context.set_alpn_protocols(list(protocols))
    return context


async def echo_server(limits: Limits | None = None, *, secure: bool = False) -> tuple[Server, str, int]:
    server = Server(limits=limits)
    server.add_unary("/t.T/Echo", lambda call, message: call.reply(message))
    host, port = await server.listen("127.0.0.1", 0, ssl=tls(True, "h2", "http/1.1") if secure else None)
    return server, host, port


async def raw(host: str, port: int, data: bytes) -> bytes:
    """Send bytes, then read to the end."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_first_bytes_decide_between_the_two_protocols() -> None:
    server, host, port = await echo_server()
    server.http1 = lambda method, target, headers: (200, [], target.encode())
    answer = await raw(host, port, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"/health")
    assert (await raw(host, port, b"PRIVATE / HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n"))[
        9:12
    ] == b"405"
    channel = Channel(host, port)
    await channel.connect()
    assert await channel.unary("/t.T/Echo", b"x") == b"x"
    await channel.close()
    await server.close(0)


async def test_half_closed_client_still_gets_its_answer() -> None:
    server, host, port = await echo_server()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write_eof()
    assert b"404" in await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    await server.close(0)


async def test_failing_http1_handler_answers_500(caplog: pytest.LogCaptureFixture) -> None:
    server, host, port = await echo_server()

    def broken(
        method: str, target: str, headers: list[tuple[str, str]]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        raise ZeroDivisionError("a bug on purpose")

    server.http1 = broken
    assert b"500" in await raw(host, port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "a bug on purpose" in caplog.text
    await server.close(0)


async def test_tls_with_alpn_serves_both_protocols() -> None:
    server, host, port = await echo_server(secure=True)
    channel = Channel(host, port, ssl=tls(False, "h2"))
    await channel.connect()
    assert await channel.unary("/t.T/Echo", b"x" * 1_000_000) == b"x" * 1_000_000
    await channel.close()
    reader, writer = await asyncio.open_connection(host, port, ssl=tls(False, "http/1.1"))
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")
    writer.close()
    await writer.wait_closed()
    await server.close(0)


async def test_untrusted_certificate_is_one_clear_error() -> None:
    server, host, port = await echo_server(secure=True)
    channel = Channel(host, port, ssl=ssl.create_default_context())
    with pytest.raises(RpcError, match=r"cannot connect to 127\.0\.0\.1:\d+: .*certificate") as caught:
        await channel.connect()
    assert caught.value.code is StatusCode.UNAVAILABLE
    await server.close(0)


async def test_port_in_use_passes_through() -> None:
    server, host, port = await echo_server()
    with pytest.raises(OSError, match="address already in use"):
        await Server().listen(host, port)
    await server.close(0)


async def test_several_addresses_are_served() -> None:
    server, host, first = await echo_server()
    _, second = await server.listen(host, 0)
    for port in (first, second):
        channel = Channel(host, port)
        await channel.connect()
        assert await channel.unary("/t.T/Echo", b"x") == b"x"
        await channel.close()
    await server.close(0)


async def test_graceful_close_waits_for_calls_and_takes_no_new_ones() -> None:
    server = Server()
    calls: list[Call] = []
    arrived = asyncio.Event()

    def hold(call: Call, message: bytes) -> None:
        calls.append(call)
        arrived.set()

    server.add_unary("/t.T/Hold", hold)
    host, port = await server.listen("127.0.0.1", 0)
    channel = Channel(host, port)
    await channel.connect()
    call = asyncio.create_task(channel.unary("/t.T/Hold", b""))
    await arrived.wait()
    closing = asyncio.create_task(server.close(10))
    while channel.connected:  # noqa: ASYNC110 - until the announcement has arrived
        await asyncio.sleep(0.001)
    with pytest.raises(RpcError) as refused:
        await channel.unary("/t.T/Hold", b"")
    assert refused.value.not_processed
    calls[0].reply(b"done")
    assert await call == b"done"
    await asyncio.wait_for(closing, 5)
    assert server.connections == 0
    await channel.close()


async def test_close_cuts_what_outlives_the_grace() -> None:
    server = Server()
    server.add_unary("/t.T/Never", lambda call, message: None)
    host, port = await server.listen("127.0.0.1", 0)
    channel = Channel(host, port)
    await channel.connect()
    call = asyncio.create_task(channel.unary("/t.T/Never", b""))
    await asyncio.sleep(0)
    async with hostile.enemy(host, port, frames.PREFACE):
        await server.close(0.1)
    with pytest.raises(RpcError) as cut:
        await call
    assert cut.value.code is StatusCode.UNAVAILABLE
    await channel.close()


async def test_connection_beyond_the_bound_is_closed_at_once() -> None:
    server, host, port = await echo_server(Limits(max_connections=2))
    channels = [Channel(host, port) for _ in range(3)]
    for channel in channels[:2]:
        await channel.connect()
    with pytest.raises(RpcError, match="cannot connect"):
        await channels[2].connect()
    await channels[0].close()
    while server.connections > 1:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await channels[2].connect()
    assert await channels[2].unary("/t.T/Echo", b"x") == b"x"
    for channel in channels:
        await channel.close()
    await server.close(0)
