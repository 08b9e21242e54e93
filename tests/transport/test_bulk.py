"""Snapshots over TCP: bounds, progress, breaks, and ends that misbehave."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oarlock.errors import SnapshotUnavailable, StorageError, WireError
from oarlock.raft.types import Member
from oarlock.testing.transport_suite import GROUP, Inbox, Shelf, ShelfReader, pattern, probe
from oarlock.transport import TcpTransport, bulk, inbound
from oarlock.wire import (
    Fetch,
    FrameKind,
    FrameReader,
    Hello,
    Refusal,
    RefusalCode,
    Welcome,
    decode_handshake,
    encode_frame,
    encode_handshake,
)

from .test_tcp import closing, make_certificate, member_of, started, until

HELLO = Hello(1, 1, 1, 2, 1)
WELCOME = encode_handshake(Welcome(1))


@asynccontextmanager
async def source(snapshots: dict[int, bytes], **changes: Any) -> AsyncIterator[tuple[TcpTransport, Shelf]]:
    """Member 1, which serves these."""
    transport, shelf = await started(1, 1, **changes), Shelf(snapshots)
    async with closing(transport):
        transport.serve_snapshots(GROUP, shelf)
        yield transport, shelf


async def fetcher(of: Member, node_id: int = 2, **changes: Any) -> TcpTransport:
    transport = await started(1, node_id, **changes)
    transport.set_members(GROUP, [of])
    return transport


async def whole(chunks: AsyncGenerator[bytes, None]) -> bytes:
    async with asyncio.timeout(20), aclosing(chunks):
        return b"".join([chunk async for chunk in chunks])


async def test_transfer_that_is_cut_goes_on_where_it_was() -> None:
    data = pattern(30_000_003)
    async with source({7: data}) as (one, shelf):
        two = await fetcher(member_of(one))
        async with closing(two):
            received = bytearray()
            cuts = 0
            while len(received) < len(data):
                try:
                    async for chunk in two.fetch_snapshot(GROUP, 1, 7, len(received)):
                        received += chunk
                        if cuts < 3 and (transfer := one._inbound._transfers.get((2, GROUP))):
                            cuts += 1
                            transfer.abort()
                except ConnectionError:
                    continue
            assert received == data
            assert cuts == 3
        await shelf.all_closed()


async def test_status_shows_how_far_a_transfer_is() -> None:
    size = 64 << 20
    async with source({7: bytes(size)}) as (one, _):
        two = await fetcher(member_of(one))
        async with closing(two):
            one.set_members(GROUP, [member_of(two)])
            async with aclosing(two.fetch_snapshot(GROUP, 1, 7, 1 << 20)) as chunks:
                await anext(chunks)
                status = one.peer_status()[2]
                assert status.snapshot_size == size
                assert (1 << 20) < status.snapshot_sent < size
            await until(lambda: not one.peer_status()[2].snapshot_size)


async def test_transfers_beyond_the_bound_are_told_to_try_again() -> None:
    size = 32 << 20
    async with source({7: bytes(size)}) as (one, shelf):
        others = [await fetcher(member_of(one), 2 + number) for number in range(bulk.TRANSFERS_MAX + 1)]
        async with closing(*others):
            running = [other.fetch_snapshot(GROUP, 1, 7, 0) for other in others]
            for chunks in running[:-1]:
                await anext(chunks)
            with pytest.raises(ConnectionError, match="on their way already"):
                await anext(running[-1])
            await running[0].aclose()
            inbound = one._inbound  # those that are ending count, too
            await until(lambda: len(inbound._transfers) + len(inbound._ending) < bulk.TRANSFERS_MAX)
            assert len(await whole(others[-1].fetch_snapshot(GROUP, 1, 7, 0))) == size
            for chunks in running:
                await chunks.aclose()
        await shelf.all_closed()


async def test_second_transfer_of_a_peer_replaces_its_first() -> None:
    size = 32 << 20
    async with source({7: bytes(size)}) as (one, shelf):
        two = await fetcher(member_of(one))
        async with closing(two):
            first = two.fetch_snapshot(GROUP, 1, 7, 0)
            await anext(first)
            assert len(await whole(two.fetch_snapshot(GROUP, 1, 7, 0))) == size
            with pytest.raises(ConnectionError):
                await whole(first)
        await shelf.all_closed()


async def test_transfer_does_not_disturb_the_connection_for_messages() -> None:
    async with source({7: bytes(16 << 20)}) as (one, _):
        two = await fetcher(member_of(one))
        async with closing(two):
            inbox = Inbox()
            one.register(GROUP, inbox)
            await until(lambda: two.peer_status()[1].connected)
            assert len(await whole(two.fetch_snapshot(GROUP, 1, 7, 0))) == 16 << 20
            two.send(GROUP, [probe(2, 1, 5)])
            assert await inbox.wait_for(1) == [probe(2, 1, 5)]
            assert two.peer_status()[1].connected


async def test_disk_that_fails_ends_the_transfer_and_nothing_else() -> None:
    class Failing(ShelfReader):
        def read(self, offset: int, size: int) -> bytes:
            if offset:
                raise StorageError("the disk is gone")
            return super().read(offset, size)

    async with source({}) as (one, shelf):
        two = await fetcher(member_of(one))
        async with closing(two):
            shelf.readers.append(Failing(shelf, bytes(1 << 20)))
            one.serve_snapshots(GROUP, lambda index: shelf.readers[0])
            with pytest.raises(ConnectionError, match="in the middle"):
                await whole(two.fetch_snapshot(GROUP, 1, 7, 0))

            def broken(index: int) -> ShelfReader | None:
                raise StorageError("cannot even be opened")

            one.serve_snapshots(GROUP, broken)
            with pytest.raises(SnapshotUnavailable, match="cannot even be opened"):
                await whole(two.fetch_snapshot(GROUP, 1, 7, 0))
        await shelf.all_closed()


async def test_file_that_is_shorter_than_it_says_is_no_whole_snapshot() -> None:
    async with source({7: bytes(1000)}) as (one, shelf):
        two = await fetcher(member_of(one))
        async with closing(two):

            def short(index: int) -> ShelfReader | None:
                reader = shelf(index)
                assert reader is not None
                reader.size += 1
                return reader

            one.serve_snapshots(GROUP, short)
            with pytest.raises(ConnectionError, match="in the middle"):
                await whole(two.fetch_snapshot(GROUP, 1, 7, 0))
        await shelf.all_closed()


async def test_mutual_tls_protects_snapshots_too(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    server.load_cert_chain(certificate, key)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=certificate)
    client.load_cert_chain(certificate, key)
    data = pattern(3_000_000)
    async with source({7: data}, ssl_server=server) as (one, shelf):
        two = await fetcher(member_of(one, "https"), ssl_client=client)
        async with closing(two):
            assert await whole(two.fetch_snapshot(GROUP, 1, 7, 5)) == data[5:]
        await shelf.all_closed()


async def test_removed_member_gets_no_snapshot() -> None:
    async with source({7: b"abc"}) as (one, _):
        two = await fetcher(member_of(one))
        async with closing(two):
            one.set_removed(GROUP, [2])
            with pytest.raises(ConnectionError, match="was removed"):
                await whole(two.fetch_snapshot(GROUP, 1, 7, 0))


async def answered(one: TcpTransport, first: bytes) -> bytes:
    """What member 1 says to these bytes, until it closes."""
    reader, writer = await asyncio.open_connection(*one.listening[0])
    writer.write(first)
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("fetch", "code", "reason"),
    [
        (Fetch(Hello(1, 1, 9, 2, 1), GROUP, 7, 0), RefusalCode.OTHER, "cluster 9"),
        (Fetch(Hello(1, 1, 1, 2, 5), GROUP, 7, 0), RefusalCode.OTHER, "member 5"),
        (Fetch(Hello(7, 9, 1, 2, 1), GROUP, 7, 0), RefusalCode.OTHER, "versions 7 to 9"),
        (Fetch(HELLO, GROUP, 2**64 - 1, 0), RefusalCode.UNAVAILABLE, "no snapshot"),
        (Fetch(HELLO, 2**64 - 1, 7, 0), RefusalCode.UNAVAILABLE, "no snapshot"),
        (Fetch(HELLO, GROUP, 7, 2**64 - 1), RefusalCode.UNAVAILABLE, "has 3 bytes"),
    ],
)
async def test_wrong_fetch_is_refused_with_a_reason(fetch: Fetch, code: int, reason: str) -> None:
    async with source({7: b"abc"}) as (one, shelf):
        (frame,) = FrameReader().feed(await answered(one, encode_handshake(fetch)))
        refusal = decode_handshake(frame.payload)
        assert isinstance(refusal, Refusal)
        assert refusal.code == code
        assert reason in refusal.reason
        await shelf.all_closed()


async def test_whoever_says_more_than_a_fetch_is_cut_off() -> None:
    async with source({7: bytes(32 << 20)}) as (one, shelf):
        reader, writer = await asyncio.open_connection(*one.listening[0])
        writer.write(encode_handshake(Fetch(HELLO, GROUP, 7, 0)))
        await reader.read(1)
        writer.write(encode_handshake(HELLO))
        received = 0
        async with asyncio.timeout(20):
            try:
                while data := await reader.read(1 << 20):
                    received += len(data)
            except ConnectionError:
                pass
        assert received < 32 << 20
        writer.transport.abort()
        await shelf.all_closed()


async def test_whoever_does_not_read_is_given_up_and_costs_a_few_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "IDLE_SECONDS_MAX", 0.2)
    async with source({7: bytes(64 << 20)}) as (one, shelf):
        _, writer = await asyncio.open_connection(*one.listening[0], limit=1 << 12)
        writer.write(encode_handshake(Fetch(HELLO, GROUP, 7, 0)))
        await until(lambda: bool(one._inbound._transfers))
        await until(lambda: not one._inbound._transfers)
        await shelf.all_closed()
        assert shelf.read_bytes < 32 << 20, "the kernel's buffers and ours, not the snapshot"
        writer.transport.abort()


async def test_disk_that_hangs_does_not_hold_up_our_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "ENDING_SECONDS_MAX", 0.05)
    hanging, released = threading.Event(), threading.Event()

    class Hanging(ShelfReader):
        def read(self, offset: int, size: int) -> bytes:
            hanging.set()
            released.wait(20)
            return super().read(offset, size)

    async with source({}) as (one, shelf):
        two = await fetcher(member_of(one))
        async with closing(two):
            shelf.readers.append(Hanging(shelf, b"abc"))
            one.serve_snapshots(GROUP, lambda index: shelf.readers[0])
            fetching = asyncio.create_task(whole(two.fetch_snapshot(GROUP, 1, 7, 0)))
            await until(hanging.is_set)
            async with asyncio.timeout(10):
                await one.close()
            assert not shelf.readers[0].closed, "a read is still running"
            with pytest.raises(ConnectionError):
                await fetching
            released.set()
        await shelf.all_closed()


async def test_whoever_comes_back_while_the_disk_hangs_does_not_use_up_all_threads() -> None:
    released = threading.Event()
    reading: list[int] = []

    class Hanging(ShelfReader):
        def read(self, offset: int, size: int) -> bytes:
            reading.append(offset)
            released.wait(20)
            return super().read(offset, size)

    async with source({}) as (one, shelf):
        two = await fetcher(member_of(one))
        async with closing(two):

            def open_hanging(index: int) -> ShelfReader:
                shelf.readers.append(Hanging(shelf, b"abc"))
                return shelf.readers[-1]

            one.serve_snapshots(GROUP, open_hanging)
            try:
                for count in range(1, bulk.TRANSFERS_MAX + 1):
                    fetching = asyncio.create_task(whole(two.fetch_snapshot(GROUP, 1, 7, 0)))
                    await until(lambda count=count: len(reading) == count)  # type: ignore[misc]
                    fetching.cancel()
                    await asyncio.wait([fetching])
                    await until(lambda: not one._inbound._transfers)
                with pytest.raises(ConnectionError, match="on their way already"):
                    await whole(two.fetch_snapshot(GROUP, 1, 7, 0))
                assert len(reading) == bulk.TRANSFERS_MAX
            finally:
                released.set()
        await shelf.all_closed()


@asynccontextmanager
async def impostor(answer: bytes, *, hang_up: bool = True) -> AsyncIterator[Member]:
    """Answers every connection with these bytes."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(1000)
        writer.write(answer)
        if hang_up:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield Member(1, "a", (f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",))
    server.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def chunk_frame(data: bytes, group: int = GROUP) -> bytes:
    return encode_frame(FrameKind.SNAPSHOT_CHUNK, group, data)


def end_frame(size: int) -> bytes:
    return encode_frame(FrameKind.SNAPSHOT_END, GROUP, size.to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([b""], ConnectionError),
        ([WELCOME], ConnectionError),
        ([WELCOME, chunk_frame(b"abc")], ConnectionError),
        ([WELCOME, chunk_frame(b"abc")[:-1]], ConnectionError),
        ([WELCOME, chunk_frame(b"abc")[:-1] + b"x"], WireError),
        ([WELCOME, chunk_frame(b"abc", group=9)], WireError),
        ([WELCOME, chunk_frame(b"")], WireError),
        ([WELCOME, chunk_frame(b"abc"), end_frame(4)], WireError),
        ([WELCOME, end_frame(0)[:-1] + b"\1"], WireError),
        ([WELCOME, encode_frame(FrameKind.SNAPSHOT_END, GROUP, b"")], WireError),
        ([WELCOME, chunk_frame(b"abc"), end_frame(3), chunk_frame(b"x")], WireError),
        ([WELCOME, WELCOME], WireError),
        ([WELCOME, encode_frame(FrameKind.MESSAGES, GROUP, b"\x90")], WireError),
        ([WELCOME, (2 << 20).to_bytes(4, "little"), bytes(16)], WireError),
        ([chunk_frame(b"abc")], WireError),
        ([encode_handshake(HELLO)], WireError),
        ([encode_handshake(Welcome(99))], WireError),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], WireError),
        ([encode_handshake(Refusal("no", 77))], ConnectionError),
        ([encode_handshake(Refusal("gone", RefusalCode.UNAVAILABLE))], SnapshotUnavailable),
    ],
)
async def test_source_that_misbehaves_is_an_error_and_never_a_whole_snapshot(
    answer: Sequence[bytes], error: type[Exception]
) -> None:
    async with impostor(b"".join(answer)) as member:
        two = await fetcher(member)
        async with closing(two):
            with pytest.raises(error):
                await whole(two.fetch_snapshot(GROUP, 1, 7, 0))


async def test_source_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "IDLE_SECONDS_MAX", 0.1)
    async with impostor(WELCOME + chunk_frame(b"abc"), hang_up=False) as member:
        two = await fetcher(member)
        async with closing(two):
            with pytest.raises(TimeoutError, match=r"127\.0\.0\.1.* sent nothing for 0\.1 s"):
                await whole(two.fetch_snapshot(GROUP, 1, 7, 0))


async def test_second_url_is_asked_when_nobody_listens_at_the_first() -> None:
    async with source({7: b"abc"}) as (one, _), impostor(b"") as gone:
        pass
    async with source({7: b"abc"}) as (one, _):
        two = await fetcher(Member(1, "a", gone.peer_urls + member_of(one).peer_urls))
        async with closing(two):
            assert await whole(two.fetch_snapshot(GROUP, 1, 7, 0)) == b"abc"
