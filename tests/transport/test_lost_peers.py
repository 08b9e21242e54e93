"""Whether a peer's process is gone: told at once when it is, and never when it only may be."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from oarlock.errors import WireError
from oarlock.raft.messages import Propose
from oarlock.raft.types import Member
from oarlock.testing.transport_suite import GROUP, Calls, Inbox, probe
from oarlock.transport import TcpTransport, outbound
from oarlock.transport.outbound import is_refused
from oarlock.wire import Hello, Refusal, Welcome, encode_handshake

from .test_tcp import closing, member_of, started, status_with, until

PROGRAM = Path(__file__).with_name("peer_process.py")
NOBODY_LISTENS = "Connect call failed"
"""asyncio's words for a connection that a machine refuses."""


class PeerProcess:
    """Member 2 in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.member = Member(2, "b", (f"http://127.0.0.1:{port}",))

    async def says(self, word: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while (line := await self.process.stdout.readline()).decode().strip() != word:
                assert line, "it has ended"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def peer_process(of: TcpTransport) -> AsyncIterator[PeerProcess]:
    """It is connected with `of` both ways."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), "2", str(of.node_id), member_of(of).peer_urls[0]),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            peer = PeerProcess(process, int(await process.stdout.readline()))
        of.set_members(GROUP, [peer.member])
        await status_with(of, 2, connected=True)
        await until(lambda: 2 in of._inbound._peers)
        yield peer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def one_with_calls() -> AsyncIterator[tuple[TcpTransport, Calls]]:
    """Member 1, and whom it has lost."""
    one, lost = await started(1, 1), Calls()
    one.register(GROUP, Inbox(), on_lost=lost)
    async with closing(one):
        yield one, lost


async def test_killed_process_is_lost_at_once_and_once() -> None:
    async with one_with_calls() as (one, lost), peer_process(one) as peer:
        begin = time.monotonic()
        peer.signal(signal.SIGKILL)
        assert await lost.wait_for(1) == [2]
        assert time.monotonic() - begin < 1, "far below any election timeout, on a machine that is busy"
        await asyncio.sleep(0.3)
        assert lost.values == [2]
        assert not one.peer_status()[2].connected


async def test_stopped_process_is_not_lost_costs_its_queue_and_gets_the_rest_when_it_goes_on() -> None:
    """SIGSTOP: the connections stand, and nobody reads."""
    one, lost = await started(1, 1, queue_bytes_max=1 << 20), Calls()
    one.register(GROUP, Inbox(), on_lost=lost)
    async with closing(one), peer_process(one) as peer:
        one.send(GROUP, [probe(1, 2, 1)])
        await peer.says("1")
        peer.signal(signal.SIGSTOP)
        block = bytes(100_000)
        while one.peer_status()[2].dropped < 100:
            one.send(GROUP, [Propose(1, 1, 2, 2, (block,))])
            assert one.peer_status()[2].queued_bytes <= 1 << 20
            await asyncio.sleep(0)
        assert one._links[2]._connection is not None
        assert one._links[2]._connection.buffered_bytes < 3 * outbound.SOCKET_BUFFER_BYTES
        peer.signal(signal.SIGCONT)
        await until(lambda: not one.peer_status()[2].queued_bytes)
        one.send(GROUP, [probe(1, 2, 3)])
        await peer.says("3")
        assert lost.values == []


async def test_process_that_comes_back_at_another_address_can_be_lost_again() -> None:
    async with one_with_calls() as (one, lost):
        for count in (1, 2):
            async with peer_process(one) as peer:
                peer.signal(signal.SIGKILL)
                await lost.wait_for(count)
        assert lost.values == [2, 2]


async def test_peer_behind_a_name_with_two_addresses_is_lost_when_it_is_gone() -> None:
    """localhost is ::1 and 127.0.0.1, and the event loops tell of both refusals in one text."""
    async with one_with_calls() as (one, lost):
        two = await started(1, 2)
        port = two.listening[0][1]
        one.set_members(GROUP, [Member(2, "b", (f"http://localhost:{port}",))])
        await status_with(one, 2, connected=True)
        await two.close()
        assert await lost.wait_for(1) == [2]


async def test_peer_with_two_urls_is_lost_only_when_both_are_refused() -> None:
    async with one_with_calls() as (one, lost):
        first, second = await started(1, 2), await started(1, 2)
        one.set_members(GROUP, [Member(2, "b", member_of(first).peer_urls + member_of(second).peer_urls)])
        await status_with(one, 2, connected=True)
        await first.close()
        await status_with(one, 2, connected=True, address=member_of(second).peer_urls[0])
        assert lost.values == []
        await second.close()
        assert await lost.wait_for(1) == [2]


async def test_our_connection_was_away_but_its_own_to_us_ends() -> None:
    """Then, too: that it could reach us says that it was there."""
    async with one_with_calls() as (one, lost):
        two = await started(1, 2)
        stranger = await started(9, 9)  # where we look for member 2, there is another cluster
        async with closing(stranger):
            one.set_members(GROUP, [Member(2, "b", member_of(stranger).peer_urls)])
            two.set_members(GROUP, [member_of(one)])
            await status_with(two, 1, connected=True)
        await until(lambda: NOBODY_LISTENS in one.peer_status()[2].last_error)
        assert lost.values == [], "it is still connected with us"
        await two.close()
        assert await lost.wait_for(1) == [2]


class Listener:
    """Something that listens at member 2's address, and does as it is told with each connection."""

    def __init__(self) -> None:
        self.accepted = 0
        self.answers: Callable[[int], bytes | None] = lambda number: encode_handshake(Welcome(1))
        """What to say to connection number n; None: nothing, and it is closed."""
        self.hangs_up = False
        """After the answer."""
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def member(self) -> Member:
        return Member(2, "b", (f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}",))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        answer = self.answers(self.accepted)
        if answer is None:
            writer.transport.abort()
        else:
            await reader.read(1)
            writer.write(answer)
            if self.hangs_up:
                writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def deafen(self) -> None:
        """No new connections."""
        self._server.close()

    async def stop(self) -> None:
        self.deafen()
        self.cut()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)


@asynccontextmanager
async def listener() -> AsyncIterator[Listener]:
    here = Listener()
    await here.start()
    try:
        yield here
    finally:
        await here.stop()


async def test_connection_that_is_cut_and_made_again_is_no_loss() -> None:
    async with one_with_calls() as (one, lost), listener() as there:
        one.set_members(GROUP, [there.member])
        for count in (1, 2, 3):
            await status_with(one, 2, connected=True)
            there.cut()
            await until(lambda count=count: there.accepted > count)  # type: ignore[misc]
        assert lost.values == []


async def test_process_that_ends_slowly_lets_us_in_and_cuts_us_before_it_is_gone() -> None:
    async with one_with_calls() as (one, lost), listener() as there:
        one.set_members(GROUP, [there.member])
        await status_with(one, 2, connected=True)

        def answer(number: int) -> None:
            if number == 3:
                there.deafen()

        there.answers = answer
        there.cut()
        assert await lost.wait_for(1) == [2]
        assert there.accepted == 3


async def test_second_connection_that_ends_later_is_no_second_loss() -> None:
    """A process that ends closes its connection to us, and ours to it, in either order."""
    async with one_with_calls() as (one, lost), listener() as there:
        one.set_members(GROUP, [there.member])
        await status_with(one, 2, connected=True)
        reader, writer = await asyncio.open_connection(*one.listening[0])
        writer.write(encode_handshake(Hello(1, 1, 1, 2, 1)))
        await reader.read(1)
        there.deafen()
        there.cut()
        assert await lost.wait_for(1) == [2]
        writer.transport.abort()
        await until(lambda: not one._inbound._peers)
        await asyncio.sleep(0.05)
        assert lost.values == [2]


@pytest.mark.parametrize("answer", [encode_handshake(Refusal("no")), b""], ids=["refusal", "silence"])
async def test_whoever_answers_or_keeps_silent_is_not_gone(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nobody listens there a moment later: the knock has been answered."""
    async with one_with_calls() as (one, lost), listener() as there:
        one.set_members(GROUP, [there.member])
        await status_with(one, 2, connected=True)
        monkeypatch.setattr(outbound, "HANDSHAKE_SECONDS_MAX", 0.05)
        there.answers = lambda number: answer
        there.cut()
        await until(lambda: there.accepted >= 2)
        await until(lambda: not one._links[2]._knocks)
        there.deafen()
        await until(lambda: NOBODY_LISTENS in one.peer_status()[2].last_error)
        assert lost.values == []


async def test_peer_that_lets_us_in_and_cuts_us_for_ever_is_not_knocked_at_for_ever() -> None:
    async with one_with_calls() as (one, lost), listener() as there:
        one.set_members(GROUP, [there.member])
        await status_with(one, 2, connected=True)
        there.answers = lambda number: None
        there.cut()
        await until(lambda: there.accepted > outbound.KNOCKS_MAX)
        await asyncio.sleep(0.2)
        assert there.accepted < 20, "then the usual back-off"
        assert lost.values == []


async def test_peer_that_welcomes_us_and_hangs_up_for_ever_is_not_dialed_without_a_pause() -> None:
    """As two servers with one id do to each other: each new connection of the one ends that of the other."""
    async with one_with_calls() as (one, lost), listener() as there:
        there.hangs_up = True
        one.set_members(GROUP, [there.member])
        await until(lambda: there.accepted > outbound.KNOCKS_MAX)
        await asyncio.sleep(0.3)
        assert there.accepted < 30, "then the usual back-off"
        assert lost.values == []


async def test_peer_that_was_never_there_is_not_lost() -> None:
    async with one_with_calls() as (one, lost), listener() as there:
        there.deafen()
        one.set_members(GROUP, [Member(2, "b", ("http://127.0.0.1:1",))])
        await until(lambda: bool(one.peer_status()[2].last_error))
        await asyncio.sleep(0.1)
        assert lost.values == []


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), True),
        (
            OSError("Multiple exceptions: [Errno 111] Connect ('::1'), [Errno 111] Connect ('127.0.0.1')"),
            True,
        ),
        (OSError("Multiple exceptions: [Errno 99] Cannot assign ('::1'), [Errno 111] Connect (…)"), True),
        (OSError("Multiple exceptions: [Errno 110] Timed out ('::1'), [Errno 111] Connect (…)"), False),
        (OSError("Multiple exceptions: [Errno 99] Cannot assign ('::1'), [Errno 101] no route"), False),
        (OSError(errno.EHOSTUNREACH, "No route to host"), False),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), False),
        (TimeoutError(), False),
        (WireError("[Errno 111]"), False),
    ],
)
def test_only_a_refusal_by_the_machine_is_one(error: Exception, refused: bool) -> None:
    assert is_refused(error) == refused
