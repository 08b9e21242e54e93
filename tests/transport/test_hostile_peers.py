"""Whatever connects and whatever it sends: it is answered or closed, and the members are served meanwhile."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import msgspec
import pytest

from oarlock.raft.messages import Message
from oarlock.testing.transport_suite import GROUP, Inbox, probe
from oarlock.transport import TcpTransport, inbound, outbound, tcp
from oarlock.wire import (
    FrameKind,
    FrameReader,
    Hello,
    Refusal,
    Welcome,
    decode_handshake,
    encode_frame,
    encode_handshake,
    encode_messages,
)

from .test_tcp import closing, member_of, started, status_with, until

HELLO = Hello(1, 1, 1, 5, 2)
"""Member 5 of cluster 1 calls member 2."""


class Victim:
    """Member 2, with member 1 as its honest peer."""

    def __init__(self, transport: TcpTransport, honest: TcpTransport) -> None:
        self.transport = transport
        self.honest = honest
        self.inbox = Inbox()
        transport.register(GROUP, self.inbox)
        self.numbers = iter(range(1_000_000))
        self.writers: list[asyncio.StreamWriter] = []

    async def dial(self, first: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.transport.listening[0])
        writer.write(first)
        self.writers.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)

    async def serves_the_honest_peer(self) -> None:
        number = next(self.numbers)
        self.honest.send(GROUP, [probe(1, 2, number)])
        async with asyncio.timeout(20):
            while probe(1, 2, number) not in self.inbox.messages:
                await self.inbox.wait_for(len(self.inbox.messages) + 1)


@pytest.fixture
async def victim() -> AsyncIterator[Victim]:
    transport, honest = await started(1, 2), await started(1, 1)
    async with closing(honest, transport):
        victim = Victim(transport, honest)
        honest.set_members(GROUP, [member_of(transport)])
        await status_with(honest, 2, connected=True)
        yield victim
        await victim.hang_up()


async def everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What the victim says until it closes the connection."""
    async with asyncio.timeout(20):
        try:
            data = await reader.read()
        except ConnectionError:
            data = b""
    writer.close()
    return data


async def answer(reader: asyncio.StreamReader) -> Any:
    """The first handshake message that the victim sends."""
    frames = FrameReader()
    async with asyncio.timeout(20):
        while data := await reader.read(1000):
            if found := frames.feed(data):
                return decode_handshake(found[0].payload)
    raise AssertionError("closed without an answer")


def messages_frame(*messages: Message, group: int = GROUP) -> bytes:
    return encode_frame(FrameKind.MESSAGES, group, encode_messages(messages))


async def test_random_bytes_close_the_connection(victim: Victim) -> None:
    random = Random(1)
    for size in [1, 19, 20, 21, 100, 5000, 100_000]:
        reader, writer = await victim.dial(random.randbytes(size))
        writer.write_eof()
        assert await everything(reader, writer) == b""
    await victim.serves_the_honest_peer()


async def test_random_bytes_after_the_handshake_close_the_connection(victim: Victim) -> None:
    random = Random(2)
    for size in [21, 100, 100_000]:
        reader, writer = await victim.dial(encode_handshake(HELLO))
        assert await answer(reader) == Welcome(1)
        # A small length, so that the frame is complete: a large one would rightly be waited for.
        writer.write(b"\x05\0\0\0" + random.randbytes(size))
        await everything(reader, writer)
    await victim.serves_the_honest_peer()


async def test_large_frame_before_the_handshake_is_refused_at_its_header(victim: Victim) -> None:
    reader, writer = await victim.dial((5000).to_bytes(4, "little") + bytes(16))
    assert await everything(reader, writer) == b""


async def test_oversized_frame_after_the_handshake_is_refused_at_its_header(victim: Victim) -> None:
    reader, writer = await victim.dial(encode_handshake(HELLO))
    assert await answer(reader) == Welcome(1)
    writer.write((65 << 20).to_bytes(4, "little") + bytes(16))
    assert await everything(reader, writer) == b""
    await victim.serves_the_honest_peer()


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(1, 1, 9, 5, 2), "cluster 9"),
        (Hello(1, 1, 1, 5, 3), "member 3"),
        (Hello(1, 1, 1, 2, 2), "member 2"),
        (Hello(1, 1, 1, 0, 2), "member 0"),
        (Hello(1, 1, 1, -7, 2), "cannot be"),
        (Hello(7, 9, 1, 5, 2), "versions 7 to 9"),
    ],
)
async def test_wrong_hello_is_refused_with_a_reason(victim: Victim, hello: Hello, reason: str) -> None:
    reader, writer = await victim.dial(encode_handshake(hello) + messages_frame(probe(5, 2, 1)))
    refusal = await answer(reader)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
    await everything(reader, writer)
    await victim.serves_the_honest_peer()
    assert all(message.sender == 1 for message in victim.inbox.messages)


async def test_newer_member_that_still_speaks_our_version_is_welcome(victim: Victim) -> None:
    reader, writer = await victim.dial(encode_handshake(Hello(1, 99, 1, 5, 2)))
    assert await answer(reader) == Welcome(1)
    writer.close()


@pytest.mark.parametrize(
    "frame",
    [
        encode_handshake(HELLO),
        encode_handshake(Welcome(1)),
        messages_frame(probe(6, 2, 1)),
        messages_frame(probe(5, 3, 1)),
        messages_frame(probe(5, 2, 1), probe(1, 2, 2)),
        messages_frame(probe(5, 2, -1)),
        encode_frame(FrameKind.MESSAGES, GROUP, b"\xc1"),
        encode_frame(FrameKind.MESSAGES, GROUP, msgspec.msgpack.encode([[99, 1, 2, 3]])),
        encode_frame(FrameKind.MESSAGES, GROUP, b"\x91" * 200_000),
    ],
    ids=["hello", "welcome", "sender", "recipient", "one-of-two", "negative", "bytes", "kind", "nesting"],
)
async def test_wrong_frame_closes_the_connection_and_delivers_nothing_of_it(
    victim: Victim, frame: bytes
) -> None:
    reader, writer = await victim.dial(encode_handshake(HELLO))
    assert await answer(reader) == Welcome(1)
    writer.write(messages_frame(probe(5, 2, 77)) + frame + messages_frame(probe(5, 2, 78)))
    await everything(reader, writer)
    await victim.serves_the_honest_peer()
    assert [message for message in victim.inbox.messages if message.sender == 5] == [probe(5, 2, 77)]


async def test_messages_before_the_handshake_are_not_delivered(victim: Victim) -> None:
    reader, writer = await victim.dial(messages_frame(probe(5, 2, 1)))
    await everything(reader, writer)
    await victim.serves_the_honest_peer()
    assert all(message.sender == 1 for message in victim.inbox.messages)


async def test_caller_that_is_cut_off_is_not_called_back_any_more(victim: Victim) -> None:
    """Whoever calls may be anybody, under a new id each time: nothing of it may stay."""
    urls = tuple(f"http://127.0.0.1:{port}" for port in range(1, 100))
    before = set(victim.transport.peer_status())
    for sender in range(10, 15):
        reader, writer = await victim.dial(encode_handshake(Hello(1, 1, 1, sender, 2, urls)))
        assert await answer(reader) == Welcome(1)
        assert len(victim.transport._callers[sender]) == tcp.CALLER_URLS_MAX
        writer.write(b"x" * 100)
        await everything(reader, writer)
    await until(lambda: set(victim.transport.peer_status()) == before)
    assert not set(victim.transport._callers) - {1}
    await victim.serves_the_honest_peer()


async def test_frame_without_a_message_is_nothing(victim: Victim) -> None:
    reader, writer = await victim.dial(encode_handshake(HELLO))
    assert await answer(reader) == Welcome(1)
    writer.write(messages_frame())
    await writer.drain()
    await victim.serves_the_honest_peer()
    writer.write(messages_frame(probe(5, 2, 1)))
    assert probe(5, 2, 1) in await victim.inbox.wait_for(2)
    writer.close()


async def test_unknown_group_is_ignored(victim: Victim) -> None:
    reader, writer = await victim.dial(encode_handshake(HELLO))
    assert await answer(reader) == Welcome(1)
    writer.write(messages_frame(probe(5, 2, 1), group=2**64 - 1) + messages_frame(probe(5, 2, 2)))
    assert probe(5, 2, 2) in await victim.inbox.wait_for(1)
    writer.close()


async def test_silent_connection_is_closed(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "HANDSHAKE_SECONDS_MAX", 0.05)
    for first in (b"", encode_handshake(HELLO)[:10]):
        assert await everything(*await victim.dial(first)) == b""
    await victim.serves_the_honest_peer()


async def test_strangers_beyond_the_bound_are_closed_at_once(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "HANDSHAKE_SECONDS_MAX", 1000)
    silent = [await victim.dial() for _ in range(inbound.STRANGERS_MAX + 20)]
    closed = 0
    async with asyncio.timeout(20):
        for reader, _ in silent[inbound.STRANGERS_MAX :]:
            try:
                closed += await reader.read() == b""
            except ConnectionError:
                closed += 1
    assert closed == 20
    await victim.serves_the_honest_peer()
    for _, writer in silent:
        writer.close()
    # There is room again.
    async with asyncio.timeout(20):
        while True:
            reader, writer = await victim.dial(encode_handshake(HELLO))
            try:
                assert await answer(reader) == Welcome(1)
                break
            except (AssertionError, ConnectionError):
                await asyncio.sleep(0.01)
    writer.close()


async def test_second_connection_of_a_peer_replaces_the_first(victim: Victim) -> None:
    first_reader, first = await victim.dial(encode_handshake(HELLO))
    assert await answer(first_reader) == Welcome(1)
    reader, second = await victim.dial(encode_handshake(HELLO))
    assert await answer(reader) == Welcome(1)
    await everything(first_reader, first)
    second.write(messages_frame(probe(5, 2, 3)))
    assert probe(5, 2, 3) in await victim.inbox.wait_for(1)
    second.close()


async def test_many_unfinished_frames_cost_little_memory(victim: Victim) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):
        # 4,096 bytes are announced, and nearly all of them sent.
        await victim.dial((4096).to_bytes(4, "little") + bytes(4000))
    await victim.serves_the_honest_peer()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "kilobytes"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(50),
        encode_handshake(HELLO),
        encode_handshake(Welcome(99)),
        encode_handshake(Welcome(1)) * 2,
        encode_handshake(Welcome(1)) + messages_frame(probe(2, 1, 1)),
        messages_frame(probe(2, 1, 1)),
        (1 << 30).to_bytes(4, "little") + bytes(16),
        encode_handshake(Refusal("x" * 4000)),
    ],
    ids=["nothing", "http", "hello", "version", "twice", "messages", "early", "oversized", "long-refusal"],
)
async def test_listener_that_is_no_member_is_left_and_tried_again(
    reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "HANDSHAKE_SECONDS_MAX", 0.2)
    dialed = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialed.release()
        writer.write(reply)
        try:
            await reader.read()
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    one = await started(1, 1)
    async with closing(one):
        host, port = server.sockets[0].getsockname()
        one.set_members(
            GROUP, [msgspec.structs.replace(member_of(one), id=2, peer_urls=(f"http://{host}:{port}",))]
        )
        async with asyncio.timeout(20):
            for _ in range(2):
                await dialed.acquire()
        await until(lambda: bool(one.peer_status()[2].last_error))
        assert len(one.peer_status()[2].last_error) < 600
    server.close()
    await server.wait_closed()
