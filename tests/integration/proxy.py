"""A TCP proxy before a member's peer address: it counts what passes, and can break off in the middle.

The members open one connection for messages and another for each snapshot. On the former only the dialer
says much; on the latter nearly all bytes go from the member behind the proxy to the dialer. So what a
connection has answered tells the two apart.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from oarlock.server.processes import HOST, MemberProcess

_TRANSFER_BYTES_MIN = 64 * 1024
_PIECE = 256 * 1024


class Passage:
    """One connection through the proxy."""

    def __init__(self, dialer: asyncio.StreamWriter, member: asyncio.StreamWriter) -> None:
        self.answered = 0
        """Bytes from the member to the dialer."""
        self._ends = (dialer, member)

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()


class Proxy:
    """Listens where the others expect `member`, which is told to listen on `port`. Before it is started."""

    def __init__(self, member: MemberProcess, port: int) -> None:
        self._public = int(member.peer_url.rpartition(":")[2])
        self._port = port
        place = member.command.index("--listen-peer-urls") + 1
        member.command[place] = f"http://{HOST}:{port}"
        self._passages: list[Passage] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut_at = 0
        self._on_cut: Callable[[Passage], None] = Passage.cut
        self._server: asyncio.Server | None = None

    @property
    def transfers(self) -> list[int]:
        """Bytes of each snapshot that went out, or of the part that did, in the order of their beginning."""
        return [passage.answered for passage in self._passages if passage.answered > _TRANSFER_BYTES_MIN]

    def cut_after(self, answered: int, how: Callable[[Passage], None] = Passage.cut) -> asyncio.Event:
        """Do something to the next connection that answers so many bytes, once. Set when it was done."""
        done = asyncio.Event()

        def cut(passage: Passage) -> None:
            self._cut_at = 0
            how(passage)
            done.set()

        self._cut_at, self._on_cut = answered, cut
        return done

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self._public, limit=_PIECE)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for passage in self._passages:
            passage.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, dialed: asyncio.StreamReader, dialer: asyncio.StreamWriter) -> None:
        try:
            answers, member = await asyncio.open_connection(HOST, self._port, limit=_PIECE)
        except OSError:
            dialer.transport.abort()
            return
        passage = Passage(dialer, member)
        self._passages.append(passage)
        for end in (dialer, member):
            end.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pump in (self._asked(dialed, member), self._answered(passage, answers, dialer)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _asked(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(_PIECE):
                target.write(piece)
                await target.drain()
        target.close()

    async def _answered(
        self, passage: Passage, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while piece := await source.read(_PIECE):
                target.write(piece)
                passage.answered += len(piece)
                await target.drain()
                if self._cut_at and passage.answered >= self._cut_at:
                    self._on_cut(passage)
        target.close()
