"""A new server asks one member who it is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oarlock.errors import UsageError
from oarlock.raft.types import Configuration, Member
from oarlock.transport import TcpTransport, ask_to_join, invitation_for
from oarlock.wire import (
    FrameKind,
    Hello,
    Invitation,
    Join,
    Refusal,
    Welcome,
    encode_frame,
    encode_handshake,
)

from .test_tcp import closing, member_of, started

NEW = "http://127.0.0.1:23999"
ONE = Member(1, "a", ("http://127.0.0.1:2380",))
MEMBERS = (
    ONE,
    Member(2, "b", ("http://Host-B:2380", "http://10.0.0.2:2380")),
    Member(5, "", ("http://127.0.0.1:23999/",)),
    Member(6, "twin", ("http://host-6:2380",)),
    Member(7, "twin", ("http://host-7:2380",)),
)
CONFIGURATION = Configuration((1,), learners=(2, 5, 6, 7), members=MEMBERS)


def join(*urls: str, name: str = "") -> Join:
    return Join(1, 1, urls, name)


@pytest.mark.parametrize(
    ("question", "member_id"),
    [
        (join(NEW), 5),
        (join("http://127.0.0.1:23999/"), 5),
        (join("http://host-b:2380"), 2),
        (join("http://elsewhere:1", "http://10.0.0.2:2380"), 2),
        (join(NEW, name="twin"), 5),
        (join(name="b"), 2),
    ],
)
def test_server_is_known_by_one_of_its_urls_or_without_any_by_its_name(
    question: Join, member_id: int
) -> None:
    assert invitation_for(CONFIGURATION, 77, question) == Invitation(77, member_id, MEMBERS)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (join("http://10.9.9.9:2380"), "no member with the peer URL http://10.9.9.9:2380: add it first"),
        (join("http://10.9.9.9:2380", name="b"), "no member with the peer URL"),
        (join(name="nobody"), "no member with the name 'nobody'"),
        (join(name="twin"), "several members with the name 'twin': 6, 7"),
        (join("http://host-6:2380", "http://host-7:2380"), "several members"),
        (join("http://127.0.0.1:2380"), "member 1 is a voter already"),
        (join("http://" + "x" * 50 + "/path"), "there is no port"),
        (join("not a url"), "not a url"),
        (join(), "neither a peer URL nor a name"),
        (join(name="x" * 3000), "no member with the name"),
    ],
)
def test_whoever_cannot_be_invited_is_told_why(question: Join, reason: str) -> None:
    answer = invitation_for(CONFIGURATION, 77, question)
    assert isinstance(answer, Refusal)
    assert reason in answer.reason
    assert len(answer.reason) <= 500


@asynccontextmanager
async def cluster(configuration: Configuration = CONFIGURATION) -> AsyncIterator[TcpTransport]:
    """Member 1 of cluster 77, which answers joins."""
    transport = await started(77, 1)
    async with closing(transport):
        transport.answer_joins(lambda question: invitation_for(configuration, 77, question))
        yield transport


def url_of(transport: TcpTransport) -> str:
    return member_of(transport).peer_urls[0]


def nobody_listens() -> str:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return f"http://127.0.0.1:{holder.getsockname()[1]}"


async def test_server_learns_who_it_is_from_one_address() -> None:
    async with cluster() as one:
        assert await ask_to_join([url_of(one)], [NEW], "") == Invitation(77, 5, MEMBERS)


async def test_invitation_to_a_large_cluster_fits() -> None:
    many = tuple(Member(n, f"member-{n}", (f"http://host-{n}:2380",)) for n in range(2, 1000))
    members = (ONE, *many)
    configuration = Configuration((1,), learners=tuple(range(2, 1000)), members=members)
    async with cluster(configuration) as one:
        assert await ask_to_join([url_of(one)], ["http://host-500:2380"], "") == Invitation(77, 500, members)


async def test_next_address_is_asked_when_one_does_not_answer_or_refuses() -> None:
    async with cluster() as one, cluster(Configuration((1,), members=(ONE,))) as behind:
        addresses = [nobody_listens(), url_of(behind), url_of(one)]
        assert (await ask_to_join(addresses, [NEW], "")).member_id == 5


async def test_refusal_says_what_every_address_said() -> None:
    gone = nobody_listens()
    async with cluster() as one:
        here = url_of(one)
        with pytest.raises(UsageError) as caught:
            await ask_to_join([gone, here], ["http://10.9.9.9:2380"], "d")
    text = str(caught.value)
    assert "\n" not in text
    assert f"{gone}: [Errno 111]" in text
    assert f"{here}: no member with the peer URL http://10.9.9.9:2380: add it first" in text


async def test_nobody_there_is_no_mistake_of_the_callers() -> None:
    gone = nobody_listens()
    with pytest.raises(ConnectionError, match=gone):
        await ask_to_join([gone], [NEW], "")


async def test_member_that_is_not_ready_to_invite_says_so() -> None:
    one = await started(77, 1)
    async with closing(one):
        with pytest.raises(UsageError, match="cannot invite anybody now"):
            await ask_to_join([url_of(one)], [NEW], "")


@pytest.mark.parametrize(
    ("addresses", "peer_urls", "name", "reason"),
    [
        ([], [NEW], "", "no member's address"),
        (["nonsense"], [NEW], "", "nonsense"),
        (["https://127.0.0.1:1"], [NEW], "", "certificates"),
        (["http://127.0.0.1:1"], ["nonsense"], "", "nonsense"),
        (["http://127.0.0.1:1"], [NEW], "x" * 5000, "too long"),
    ],
)
async def test_arguments_that_make_no_sense_are_usage_errors(
    addresses: list[str], peer_urls: list[str], name: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        await ask_to_join(addresses, peer_urls, name)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(50),
        encode_handshake(Welcome(1)),
        encode_handshake(Hello(1, 1, 1, 1, 2)),
        encode_handshake(Invitation(77, 9, MEMBERS)),
        encode_frame(FrameKind.HANDSHAKE, 0, b"\x91" * 1000),
        (2 << 20).to_bytes(4, "little") + bytes(16),
    ],
    ids=["nothing", "http", "welcome", "hello", "without-us", "nesting", "oversized"],
)
async def test_listener_that_is_no_member_is_named(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(ConnectionError, match=url):
        await ask_to_join([url], [NEW], "", timeout=5)
    server.close()
    await server.wait_closed()


async def test_listener_that_keeps_silent_is_left_in_time() -> None:
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(ConnectionError, match=r"no answer within 0\.05 s"):
        await ask_to_join([url], [NEW], "", timeout=0.05)
    server.close()
    for writer in held:
        writer.transport.abort()
    await server.wait_closed()


async def test_join_of_another_version_is_refused() -> None:
    async with cluster() as one:
        reader, writer = await asyncio.open_connection(*one.listening[0])
        writer.write(encode_handshake(Join(7, 9, (NEW,), "")))
        assert b"versions 7 to 9" in await reader.read()
        writer.close()
        await writer.wait_closed()
