"""Whatever a client does: the server answers or closes, its memory stays bounded, and others are served
meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest

from oarlock.grpc import Channel, Limits, Server
from oarlock.http2 import frames

from . import hostile

# The attacker needs no second loop. The victims run on uvloop, as `oarlock serve` does, and on asyncio's own.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

MEMORY_BOUND = 200 * 1024 * 1024
"""One connection may hold up to 64 MiB of output and 32 MiB of input; a healthy process has about 40 MiB."""


@pytest.fixture(scope="module")
def victim() -> Iterator[tuple[int, int]]:
    """Process id and port of a server that has to survive all attacks of this module."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.http2.echo_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    yield process.pid, int(process.stdout.readline())
    assert process.poll() is None, "the server has died"
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()


@pytest.mark.parametrize("name", sorted(hostile.ATTACKS))
async def test_server_survives(name: str, victim: tuple[int, int]) -> None:
    pid, port = victim
    report = await hostile.siege(name, "127.0.0.1", port, pid=pid)
    print(f"{name}: {report.served} calls, slowest {report.slowest:.2f} s, peak {report.peak >> 20} MiB")
    assert report.served > 0
    assert report.slowest < 5.0
    assert report.peak < MEMORY_BOUND


async def test_half_open_connections_are_closed_in_time() -> None:
    limits = Limits(
        handshake_timeout=0.2,
        partial_timeout=0.2,
        keepalive_interval=0.2,
        keepalive_timeout=0.2,
        http1_idle_timeout=0.2,
        close_timeout=0.2,
        tick=0.05,
    )
    server = Server(limits=limits)
    host, port = await server.listen("127.0.0.1", 0)
    async with hostile.half_open(host, port) as enemies:
        await asyncio.gather(*(one.thrown_out() for one in enemies))
    assert server.connections == 0
    await server.close(0)


async def test_silent_client_is_dropped_and_answering_client_is_kept() -> None:
    limits = Limits(keepalive_interval=0.1, keepalive_timeout=0.1, tick=0.02)
    server = Server(limits=limits)
    server.add_unary("/t.T/Echo", lambda call, message: call.reply(message))
    host, port = await server.listen("127.0.0.1", 0)
    alive = Channel(host, port)
    await alive.connect()
    async with hostile.enemy(host, port) as silent:
        said = await silent.thrown_out()  # it never answers the PING
    assert b"keepalive" in said
    assert await alive.unary("/t.T/Echo", b"still here") == b"still here"
    await alive.close()
    await server.close(0)


async def test_clients_that_hold_too_much_together_are_cut_largest_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(limits=Limits(max_held=3_000_000, tick=0.05))
    server.add_unary("/t.T/Echo", lambda call, message: call.reply(bytes(1_000_000)))
    host, port = await server.listen("127.0.0.1", 0)
    zero = frames.PREFACE + frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    message = frames.frame(frames.DATA, 1, 1, b"\0\0\0\0\0")
    ask = frames.headers(1, hostile.BLOCK, end_stream=False) + message
    more = frames.headers(3, hostile.BLOCK, end_stream=False) + frames.frame(frames.DATA, 1, 3, b"\0\0\0\0\0")
    async with (
        hostile.enemy(host, port, zero + ask) as modest,
        hostile.enemy(host, port, zero + ask + more) as greedy,
        hostile.enemy(host, port, zero + ask) as other,
    ):
        await greedy.thrown_out()
        assert server.connections == 2
        assert not modest.reader.at_eof()
        assert not other.reader.at_eof()
    assert "too much" in caplog.text
    await server.close(0)
