"""Hostile clients, for any server that claims to survive them.

`ATTACKS` maps a name to a coroutine function ``attack(host, port)``. Each connects as often as it likes, does
its worst, and returns when it is done or the server has thrown it out; a server that hangs makes it raise
`TimeoutError`. What the server has to show meanwhile - other clients are served, memory stays bounded - is
for the caller to watch, see `siege`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from oarlock.grpc import Channel
from oarlock.http2 import frames
from oarlock.http2.frames import frame
from oarlock.http2.hpack import encode_stateless

PATIENCE = 30.0
"""Seconds within which one step of an attack has to come to an end, one way or the other."""

Attack = Callable[[str, int], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}

HELLO = frames.PREFACE + frames.settings({})


def attack(function: Attack) -> Attack:
    """Enter into `ATTACKS`."""
    ATTACKS[function.__name__] = function
    return function


def request_block(path: bytes = b"/t.T/Echo", *extra: tuple[bytes, bytes]) -> bytes:
    """The headers of a gRPC call."""
    return encode_stateless(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *extra,
        ]
    )


BLOCK = request_block()


class Enemy:
    """One hostile connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes, *, reading: bool = True) -> bool:
        """Push bytes; False if the server has closed on us. Reads and drops answers meanwhile, unless told
        not to."""
        step = 1 << 16
        try:
            for start in range(0, len(data), step):
                self.writer.write(data[start : start + step])
                await asyncio.wait_for(self._drain(reading), PATIENCE)
                if self.reader.at_eof():
                    return False
        except ConnectionError:
            return False
        return True

    async def _drain(self, reading: bool) -> None:
        if not reading:
            await self.writer.drain()
            return
        drain = asyncio.ensure_future(self.writer.drain())
        try:
            while not drain.done():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.reader.read(1 << 16), 0.001)
        finally:
            await drain

    async def thrown_out(self) -> bytes:
        """Read until the server closes; returns what it said last."""
        said = b""

        async def read() -> bytes:
            nonlocal said
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(1 << 16):
                    said = (said + data)[-4096:]
            return said

        return await asyncio.wait_for(read(), PATIENCE)


@contextlib.asynccontextmanager
async def enemy(host: str, port: int, hello: bytes = HELLO) -> AsyncIterator[Enemy]:
    """A connection that has said ``hello``; cut off in the end."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), PATIENCE)
    writer.write(hello)
    try:
        yield Enemy(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(Exception):
            await writer.wait_closed()


# Nonsense


@attack
async def random_bytes(host: str, port: int) -> None:
    """Bytes of no protocol at all."""
    source = random.Random(1)
    for size in (1, 10, 24, 1000, 100_000) * 6:
        async with enemy(host, port, b"") as one:
            if await one.send(source.randbytes(size)):
                one.writer.write_eof()
                await one.thrown_out()


@attack
async def random_frames(host: str, port: int) -> None:
    """Well-framed nonsense: random types, flags, streams and payloads, each connection until it is thrown
    out."""
    source = random.Random(2)
    for _ in range(40):
        async with enemy(host, port) as one:
            for _ in range(50):
                payload = source.randbytes(source.choice((0, 4, 5, 8, 100)))
                nonsense = frame(source.randrange(12), source.randrange(256), source.randrange(8), payload)
                if not await one.send(nonsense):
                    break


@attack
async def oversized_frame(host: str, port: int) -> None:
    """A frame of 16 MiB, announced and delivered."""
    async with enemy(host, port) as one:
        await one.send(struct.pack(">HBBBI", 0xFFFF, 0xFF, 0, 0, 1) + bytes(1 << 24))
        await one.thrown_out()


# Headers


@attack
async def oversized_headers(host: str, port: int) -> None:
    """A megabyte of header fields in one request."""
    fields = encode_stateless([(b"x-%d" % number, b"v" * 8000) for number in range(130)])
    async with enemy(host, port) as one:
        await one.send(frames.headers(1, request_block() + fields, end_stream=False))
        await one.thrown_out()


@attack
async def continuation_flood(host: str, port: int) -> None:
    """A header block that never ends: by size, and by number of empty frames."""
    for piece in (b"\0\x01a\x01b" * 2000, b""):
        async with enemy(host, port) as one:
            await one.send(
                frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1, piece) * 20_000
            )
            await one.thrown_out()


@attack
async def header_bomb(host: str, port: int) -> None:
    """One large entry in the dynamic table, then thousands of one-byte references to it."""
    entry = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"v" * 4000
    async with enemy(host, port) as one:
        await one.send(frames.headers(1, request_block() + entry, end_stream=False))
        for number in range(200):
            bomb = frames.headers(3 + 2 * number, request_block() + b"\xbe" * 16_000, end_stream=False)
            if not await one.send(bomb):
                break


# Streams


def streams(count: int, *, reset: bool = False, end: bool = False) -> bytes:
    """``count`` requests, each perhaps cancelled at once."""
    out = []
    for stream_id in range(1, 2 * count, 2):
        out.append(frames.headers(stream_id, BLOCK, end_stream=end))
        if reset:
            out.append(frames.reset(stream_id, 8))
    return b"".join(out)


@attack
async def million_streams(host: str, port: int) -> None:
    """A million streams opened and left open, over as many connections as the server makes it take."""
    flood = streams(20_000)
    for _ in range(50):
        async with enemy(host, port) as one:
            await one.send(flood)


@attack
async def rapid_reset(host: str, port: int) -> None:
    """CVE-2023-44487: requests cancelled as soon as they are made."""
    flood = streams(20_000, reset=True)
    for _ in range(5):
        async with enemy(host, port) as one:
            await one.send(flood)
            await one.thrown_out()


# Frames that carry nothing


def floods() -> Iterator[tuple[str, bytes]]:
    """Name and one frame of each kind of flood."""
    yield "ping_flood", frames.ping(b"12345678")
    yield "settings_flood", frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 65_535})
    yield "settings_ack_flood", frames.SETTINGS_ACK
    yield "priority_flood", frame(frames.PRIORITY, 0, 1, b"\0\0\0\x03\x10")
    yield "empty_data_flood", frame(frames.DATA, 0, 1)
    yield "padding_flood", frame(frames.DATA, frames.PADDED, 1, b"\x10" + bytes(16))
    yield "window_update_flood", frames.window_update(1, 1)
    yield "reset_of_closed_flood", frames.reset(3, 8)
    yield "unknown_type_flood", frame(0x7B, 0, 1, b"?")


def _flood(one_frame: bytes, *, reading: bool) -> Attack:
    async def run(host: str, port: int) -> None:
        opening = frames.headers(1, BLOCK, end_stream=False) + frames.headers(3, BLOCK, end_stream=False)
        opening += frames.reset(3, 8)
        async with enemy(host, port) as one:
            await one.send(opening)
            if await one.send(one_frame * 100_000, reading=reading):
                await one.thrown_out()

    return run


for _name, _frame in floods():
    ATTACKS[_name] = _flood(_frame, reading=True)
ATTACKS["ping_flood_unread"] = _flood(frames.ping(b"12345678"), reading=False)


# Flow control


@attack
async def window_overflow(host: str, port: int) -> None:
    """Windows beyond 2^31-1, on a stream and on the connection."""
    async with enemy(host, port) as one:
        await one.send(frames.headers(1, BLOCK, end_stream=False) + frames.window_update(1, 0x7FFFFFFF))
        await one.send(frames.window_update(0, 0x7FFFFFFF))
        await one.thrown_out()


@attack
async def window_ignored(host: str, port: int) -> None:
    """Bodies that do not care about our windows."""
    async with enemy(host, port) as one:
        body = b"".join(frame(frames.DATA, 0, 1, bytes(16_000)) for _ in range(4000))
        await one.send(frames.headers(1, BLOCK, end_stream=False) + body)


@attack
async def unfinished_messages(host: str, port: int) -> None:
    """Two thousand requests of two megabytes, none of them completed."""
    prefix = b"\0" + (2_000_000).to_bytes(4, "big")
    async with enemy(host, port) as one:
        for stream_id in range(1, 4000, 2):
            opening = frames.headers(stream_id, BLOCK, end_stream=False)
            piece = frame(frames.DATA, 0, stream_id, prefix + bytes(16_000))
            if not await one.send(opening + piece + frame(frames.DATA, 0, stream_id, bytes(16_000)) * 4):
                return


@attack
async def closed_windows(host: str, port: int) -> None:
    """Thousands of answers asked for, with a window of zero to send them in."""
    zero = frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    body = b"\0" + (16_000).to_bytes(4, "big") + bytes(16_000)
    async with enemy(host, port, frames.PREFACE + zero) as one:
        for stream_id in range(1, 12_000, 2):
            ask = frames.headers(stream_id, BLOCK, end_stream=False) + frame(frames.DATA, 1, stream_id, body)
            if not await one.send(ask):
                return


@attack
async def window_by_the_byte(host: str, port: int) -> None:
    """Large answers, taken one byte at a time."""
    zero = frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    body = b"\0" + (16_000).to_bytes(4, "big") + bytes(16_000)
    async with enemy(host, port, frames.PREFACE + zero) as one:
        for stream_id in range(1, 200, 2):
            await one.send(
                frames.headers(stream_id, BLOCK, end_stream=False) + frame(frames.DATA, 1, stream_id, body)
            )
        if await one.send(b"".join(frames.window_update(1 + 2 * (n % 100), 1) for n in range(100_000))):
            await one.thrown_out()


@attack
async def window_see_saw(host: str, port: int) -> None:
    """SETTINGS that swing the window of two thousand waiting streams up and down."""
    body = b"\0" + (100).to_bytes(4, "big") + bytes(100)
    up, down = (frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: size}) for size in (1, 0))
    async with enemy(host, port, frames.PREFACE + down) as one:
        asks = [
            frames.headers(stream_id, BLOCK, end_stream=False) + frame(frames.DATA, 1, stream_id, body)
            for stream_id in range(1, 4000, 2)
        ]
        await one.send(b"".join(asks))
        if await one.send((up + down) * 10_000):
            await one.thrown_out()


@attack
async def never_reads(host: str, port: int) -> None:
    """All windows open, everything asked for, nothing ever read from the socket."""
    hello = frames.PREFACE + frames.settings({4: 0x7FFFFFFF}) + frames.window_update(0, 0x7FFF0000 - 65_535)
    body = b"\0" + (16_000).to_bytes(4, "big") + bytes(16_000)
    reader, writer = await asyncio.open_connection(host, port, limit=1)
    writer.write(hello)
    one = Enemy(reader, writer)
    try:
        for stream_id in range(1, 20_000, 2):
            ask = frames.headers(stream_id, BLOCK, end_stream=False) + frame(frames.DATA, 1, stream_id, body)
            if not await one.send(ask, reading=False):
                return
    except TimeoutError:
        pass  # the server no longer reads from us: fair enough
    finally:
        writer.transport.abort()


# Half-open and slow


@contextlib.asynccontextmanager
async def half_open(host: str, port: int, count: int = 50) -> AsyncIterator[list[Enemy]]:
    """Connections that stop in the middle of everything a connection can be in the middle of."""
    beginnings = [
        b"",
        frames.PREFACE[:10],
        frames.PREFACE,
        HELLO + frames.headers(1, BLOCK, end_stream=False)[:20],
        HELLO + frame(frames.HEADERS, 0, 1, BLOCK),
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: x\r\nx: ",
    ]
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(enemy(host, port, beginnings[number % len(beginnings)]))
            for number in range(count)
        ]


@attack
async def many_half_open(host: str, port: int) -> None:
    """Hundreds of connections that say half of something and then nothing."""
    async with half_open(host, port, 300):
        await asyncio.sleep(0.2)


@attack
async def byte_by_byte(host: str, port: int) -> None:
    """A valid request in pieces of one byte: slow, but no crime."""
    whole = HELLO + frames.headers(1, BLOCK, end_stream=False) + frame(frames.DATA, 1, 1, b"\0\0\0\0\x01x")
    async with enemy(host, port, b"") as one:
        for byte in whole:
            if not await one.send(bytes([byte])):
                raise AssertionError("thrown out for being slow")


# Watching the server


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


class Report:
    """What a siege looked like from inside."""

    served = 0
    """Calls of the healthy client that were answered during the attack."""
    slowest = 0.0
    """Seconds the slowest of them took."""
    peak = 0
    """Largest memory of the server seen, in bytes."""


async def siege(
    name: str,
    host: str,
    port: int,
    *,
    pid: int | None = None,
    method: str = "/t.T/Echo",
    message: bytes = b"hello",
) -> Report:
    """Run one attack while a healthy client keeps calling ``method``.

    Raises:
        RpcError: the healthy client was not served.
        TimeoutError: the server neither answers nor closes.
    """
    report = Report()
    loop = asyncio.get_running_loop()
    channel = Channel(host, port)
    await channel.connect(PATIENCE)
    running = asyncio.ensure_future(ATTACKS[name](host, port))
    while True:
        last = running.done()  # at least one call after the attack, too
        began = loop.time()
        await channel.unary(method, message, timeout=PATIENCE)
        report.slowest = max(report.slowest, loop.time() - began)
        report.served += 1
        if pid is not None:
            report.peak = max(report.peak, resident_bytes(pid))
        if last:
            break
        await asyncio.wait([running], timeout=0.01)
    await channel.close()
    await running
    return report
