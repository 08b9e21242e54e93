"""TCP between members, on the loopback interface: the contract, settings, and peers that come and go."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop

from oarlock.errors import UsageError
from oarlock.raft.messages import Message, Propose
from oarlock.raft.types import Member
from oarlock.testing.transport_suite import GROUP, Inbox, Shelf, TransportSuite, probe
from oarlock.transport import PeerStatus, TcpTransport, outbound, tcp


def member_of(transport: TcpTransport, scheme: str = "http") -> Member:
    host, port = transport.listening[0]
    return Member(transport.node_id, f"member-{transport.node_id}", (f"{scheme}://{host}:{port}",))


async def started(cluster_id: int, node_id: int, **changes: Any) -> TcpTransport:
    arguments: dict[str, Any] = {"listen": [("127.0.0.1", 0)], "random": Random(node_id)}
    transport = TcpTransport(cluster_id, node_id, **(arguments | changes))
    await transport.start()
    return transport


@asynccontextmanager
async def closing(*transports: TcpTransport) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for transport in transports:
            await transport.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nothing announces."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def status_with(transport: TcpTransport, node_id: int, **expected: Any) -> PeerStatus:
    """Wait until the status of a peer is as expected."""
    await until(
        lambda: all(
            getattr(transport.peer_status()[node_id], name) == value for name, value in expected.items()
        )
    )
    return transport.peer_status()[node_id]


async def test_a_peer_that_has_moved_is_found_where_it_says_that_it_is() -> None:
    """A member that was away has its old address in its log."""
    one, two = await started(77, 1), await started(77, 2)
    async with closing(one, two):
        received, answers = Inbox(), Inbox()
        one.register(GROUP, received)
        one.set_members(GROUP, [member_of(one), Member(2, "two", ("http://127.0.0.1:1",))])
        two.register(GROUP, answers)
        two.set_members(GROUP, [member_of(one), member_of(two)])
        two.serve_snapshots(GROUP, Shelf({7: b"abc"}))
        await until(lambda: one.peer_status()[2].connected)
        one.send(GROUP, [probe(1, 2, 1)])
        assert await answers.wait_for(1) == [probe(1, 2, 1)]
        assert [chunk async for chunk in one.fetch_snapshot(GROUP, 2, 7, 1)] == [b"bc"]
        await two.close()
        await until(lambda: one.peer_status()[2].address.endswith("127.0.0.1:1"))


class TestContract(TransportSuite):
    async def make(self, cluster_id: int, node_id: int) -> TcpTransport:
        return await started(cluster_id, node_id)

    def member(self, transport: TcpTransport, node_id: int) -> Member:
        return member_of(transport)


SUITE = sorted(name for name in vars(TransportSuite) if name.startswith("test_"))


@pytest.mark.parametrize("name", SUITE)
def test_contract_holds_on_uvloop(name: str) -> None:
    made: list[TcpTransport] = []

    class Contract(TestContract):
        async def make(self, cluster_id: int, node_id: int) -> TcpTransport:
            made.append(await started(cluster_id, node_id))
            return made[-1]

    async def main() -> None:
        try:
            await getattr(Contract(), name)()
        finally:  # uvloop hangs at its end if a test that failed left a server open
            for transport in made:
                await transport.close()

    uvloop.run(main())


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, by the openssl program."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=oarlock-test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def test_mutual_tls_carries_messages_and_refuses_who_has_no_certificate(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    server.load_cert_chain(certificate, key)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=certificate)
    client.load_cert_chain(certificate, key)
    bare = ssl.create_default_context(cafile=certificate)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # TLS alerts of the stranger
    one = await started(1, 1, ssl_client=client)
    two = await started(1, 2, ssl_server=server)
    stranger = await started(1, 3, ssl_client=bare)
    async with closing(one, two, stranger):
        inbox = Inbox()
        two.register(GROUP, inbox)
        for transport in (one, stranger):
            transport.set_members(GROUP, [member_of(two, "https")])
        await status_with(one, 2, connected=True)
        one.send(GROUP, [probe(1, 2, 5)])
        assert await inbox.wait_for(1) == [probe(1, 2, 5)]
        await until(lambda: bool(stranger.peer_status()[2].last_error))
        assert not stranger.peer_status()[2].connected


async def test_whoever_does_not_even_begin_with_tls_is_closed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "HANDSHAKE_SECONDS_MAX", 0.2)
    certificate, key = make_certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    server.load_cert_chain(certificate, key)
    one = await started(1, 1, ssl_server=server)
    async with closing(one):
        reader, writer = await asyncio.open_connection(*one.listening[0])
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_https_without_certificates_is_a_usage_error_and_changes_nothing() -> None:
    one = await started(1, 1)
    async with closing(one):
        with pytest.raises(UsageError, match=r"https://127\.0\.0\.1:1"):
            one.set_members(GROUP, [Member(2, "b", ("https://127.0.0.1:1",))])
        with pytest.raises(UsageError, match="no-url"):
            one.set_members(GROUP, [Member(2, "b", ("no-url",))])
        assert one.peer_status() == {}


async def test_port_in_use_is_one_line_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        transport = TcpTransport(1, 1, listen=[("127.0.0.1", 0), ("127.0.0.1", port)], random=Random(1))
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: the port is in use") as caught:
            await transport.start()
        assert "\n" not in str(caught.value)
        assert transport.listening == [], "what was opened before is closed again"
        await transport.close()


async def test_address_that_is_not_ours_is_one_line() -> None:
    transport = TcpTransport(1, 1, listen=[("192.0.2.1", 2380)], random=Random(1))
    with pytest.raises(UsageError, match=r"192\.0\.2\.1:2380"):
        await transport.start()
    await transport.close()


async def test_peer_that_comes_back_is_found_at_once_when_it_dials_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbound, "BACKOFF_SECONDS_MIN", 1000)
    monkeypatch.setattr(outbound, "BACKOFF_SECONDS_MAX", 1000)
    one, two = await started(1, 1), await started(1, 2)
    address = two.listening[0]
    one.set_members(GROUP, [member_of(two)])
    await status_with(one, 2, connected=True)
    await two.close()
    await status_with(one, 2, connected=False)
    back = await started(1, 2, listen=[address])
    async with closing(one, back):
        back.set_members(GROUP, [member_of(one)])
        await status_with(back, 1, connected=True)
        await status_with(one, 2, connected=True)


async def test_messages_to_a_peer_that_is_away_are_dropped_and_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    one = await started(1, 1)
    async with closing(one):
        one.set_members(GROUP, [Member(2, "b", (f"http://127.0.0.1:{port}",))])
        async with asyncio.timeout(20):
            while one.peer_status()[2].dropped < 10:
                one.send(GROUP, [probe(1, 2, 1)])
                await asyncio.sleep(0.005)
        status = one.peer_status()[2]
        assert not status.connected
        assert status.queued_bytes < 1000
        assert f":{port}" in status.address
        assert status.last_error


async def test_second_url_is_tried_when_the_first_does_not_answer() -> None:
    one, two = await started(1, 1), await started(1, 2)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    async with closing(one, two):
        urls = (f"http://127.0.0.1:{port}", *member_of(two).peer_urls)
        one.set_members(GROUP, [Member(2, "b", urls)])
        status = await status_with(one, 2, connected=True)
        assert status.address == urls[1]


async def test_changed_address_is_followed() -> None:
    one, old, new = await started(1, 1), await started(1, 2), await started(1, 2)
    async with closing(one, old, new):
        inbox = Inbox()
        new.register(GROUP, inbox)
        one.set_members(GROUP, [member_of(old)])
        await status_with(one, 2, connected=True)
        one.set_members(GROUP, [member_of(new)])
        await status_with(one, 2, connected=True, address=member_of(new).peer_urls[0])
        one.send(GROUP, [probe(1, 2, 7)])
        assert await inbox.wait_for(1) == [probe(1, 2, 7)]


@pytest.mark.parametrize(("cluster_id", "node_id", "reason"), [(2, 2, "cluster"), (1, 3, "member 3")])
async def test_wrong_cluster_or_member_behind_an_address_is_refused_and_warned_about_once(
    cluster_id: int, node_id: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, wrong = await started(1, 1), await started(cluster_id, node_id)
    async with closing(one, wrong):
        received: list[Message] = []
        wrong.register(GROUP, received.extend)
        one.set_members(GROUP, [Member(2, "b", member_of(wrong).peer_urls)])
        async with asyncio.timeout(20):
            while reason not in one.peer_status()[2].last_error:
                one.send(GROUP, [probe(1, 2, 1)])
                await asyncio.sleep(0.005)
        dials = one.peer_status()[2].dropped
        async with asyncio.timeout(20):
            while one.peer_status()[2].dropped < dials + 20:  # a few more attempts
                one.send(GROUP, [probe(1, 2, 1)])
                await asyncio.sleep(0.01)
        assert received == []
        warnings = [record.name for record in caplog.records if record.levelno >= logging.WARNING]
        assert sorted(warnings) == ["oarlock.transport.inbound", "oarlock.transport.outbound"]


async def test_peer_that_does_not_read_loses_messages_and_costs_no_more_than_its_queue() -> None:
    one, good = await started(1, 1, queue_bytes_max=1 << 20), await started(1, 3)
    slow = await SlowPeer.start(2)
    async with closing(one, good):
        inbox = Inbox()
        good.register(GROUP, inbox)
        one.set_members(GROUP, [slow.member, member_of(good)])
        await status_with(one, 2, connected=True)
        await status_with(one, 3, connected=True)
        block = bytes(100_000)
        for number in range(300):
            one.send(GROUP, [Propose(1, 1, 2, number, (block,)), probe(1, 3, number)])
            assert one.peer_status()[2].queued_bytes <= 1 << 20
            await asyncio.sleep(0)
        assert one.peer_status()[2].dropped > 100
        assert len(await inbox.wait_for(300)) == 300, "the others are served meanwhile"
        slow.read_on()
        await until(lambda: not one.peer_status()[2].queued_bytes)
        assert one.peer_status()[2].connected
        await slow.stop()


class SlowPeer:
    """Shakes hands, then stops reading."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.writers: list[asyncio.StreamWriter] = []
        self.reading = asyncio.Event()
        self.server: asyncio.Server

    @classmethod
    async def start(cls, node_id: int) -> SlowPeer:
        peer = cls(node_id)
        peer.server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, limit=1 << 12)
        return peer

    @property
    def member(self) -> Member:
        port = self.server.sockets[0].getsockname()[1]
        return Member(self.node_id, "slow", (f"http://127.0.0.1:{port}",))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from oarlock.wire import Welcome, encode_handshake

        self.writers.append(writer)
        await reader.read(100)
        writer.write(encode_handshake(Welcome(1)))
        await self.reading.wait()
        while await reader.read(1 << 16):
            pass
        writer.close()

    def read_on(self) -> None:
        self.reading.set()

    async def stop(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)


def test_messages_for_a_connection_that_broke_a_moment_ago_are_dropped_in_silence() -> None:
    """uvloop raises at a write to a closed connection, and the link's task has not heard of its end yet."""
    problems: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        here, there = [
            TcpTransport(1, number, listen=[("127.0.0.1", 0)], random=Random(number)) for number in (1, 2)
        ]
        await here.start()
        await there.start()
        port = there.listening[0][1]
        here.set_members(1, [Member(2, "b", (f"http://127.0.0.1:{port}",))])
        link = here._links[2]
        while (connection := link._connection) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        message = Propose(1, 1, 2, 1, (b"x",))
        connection.abort()
        here.send(1, [message])
        await asyncio.sleep(0)
        connection.abort()
        here.send(1, [message])
        await here.close()
        await there.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert problems == []
