"""`Transport` over TCP, with or without TLS.

Every member listens, and dials every other member: A's messages to B travel on the connection that A made.
`outbound` is one peer's sending side, `inbound` everything that was accepted.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable, Iterable, Sequence
from random import Random

from oarlock.errors import UsageError
from oarlock.raft.messages import Message
from oarlock.raft.types import Member, NodeId
from oarlock.transport.addresses import Address, format_host, parse_peer_url
from oarlock.transport.inbound import Inbound
from oarlock.transport.outbound import Link
from oarlock.transport.status import PeerStatus
from oarlock.wire.framing import (
    FRAME_BYTES_MAX,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_OLDEST,
    FrameKind,
    encode_frame,
)
from oarlock.wire.handshake import Hello
from oarlock.wire.messages import encode_messages

QUEUE_BYTES_MAX = 64 << 20
"""Per peer: what a slow peer can cost us. One frame of the largest size has to fit."""


class TcpTransport:
    """Messages to the members of this process's groups (implements `oarlock.replica.ports.Transport`).

    Args:
        cluster_id: only members of the same cluster are talked to.
        node_id: our own id.
        listen: hosts and ports to listen at. What peers are told is in `Member.peer_urls` and may differ.
        ssl_server: for connections from peers; None is plain TCP.
        ssl_client: for connections to peers with https URLs.
        random: for back-off times.
        queue_bytes_max: bound of each peer's queue.
    """

    def __init__(
        self,
        cluster_id: int,
        node_id: NodeId,
        *,
        listen: Sequence[tuple[str, int]],
        random: Random,
        ssl_server: ssl.SSLContext | None = None,
        ssl_client: ssl.SSLContext | None = None,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
    ) -> None:
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._listen = tuple(listen)
        self._ssl_server = ssl_server
        self._ssl_client = ssl_client
        self._random = random
        self._queue_bytes_max = queue_bytes_max
        self._receivers: dict[int, Callable[[list[Message]], None]] = {}
        self._members: dict[int, dict[NodeId, tuple[Address, ...]]] = {}
        """Per group."""
        self._links: dict[NodeId, Link] = {}
        self._closing: dict[asyncio.Task[None], None] = {}
        """Links that are on their way out."""
        self._inbound = Inbound(self)
        self._servers: list[asyncio.Server] = []
        self._running = False
        self._closed = False

    @property
    def cluster_id(self) -> int:
        return self._cluster_id

    @property
    def node_id(self) -> NodeId:
        return self._node_id

    @property
    def listening(self) -> list[tuple[str, int]]:
        """Where it really listens: the ports that were chosen for port 0."""
        return [
            (name[0], name[1])
            for server in self._servers
            for socket in server.sockets
            if isinstance(name := socket.getsockname(), tuple)
        ]

    def peer_status(self) -> dict[NodeId, PeerStatus]:
        """How the way to each peer is, by id."""
        return {node_id: self._links[node_id].status for node_id in sorted(self._links)}

    def register(self, group: int, on_messages: Callable[[list[Message]], None]) -> None:
        self._receivers[group] = on_messages

    def unregister(self, group: int) -> None:
        self._receivers.pop(group, None)
        if self._members.pop(group, None) is not None:
            self._update_links()

    def set_members(self, group: int, members: Iterable[Member]) -> None:
        """Where the members are now; connections to others are closed.

        Raises:
            UsageError: a peer URL that cannot be parsed, or https without certificates. Nothing was changed.
        """
        self._members[group] = {
            member.id: tuple(self._parse(url) for url in member.peer_urls)
            for member in members
            if member.id != self._node_id
        }
        self._update_links()

    def send(self, group: int, messages: Iterable[Message]) -> None:
        """Queue for `message.to` each; drop if its queue is full, it is unknown or away."""
        by_peer: dict[NodeId, list[Message]] = {}
        for message in messages:
            by_peer.setdefault(message.to, []).append(message)
        known = self._members.get(group, {})
        for node_id, batch in by_peer.items():
            link = self._links.get(node_id)
            if link is None or node_id not in known:
                continue
            if link.accepts:
                self._send(link, group, batch)
            else:
                link.dropped(len(batch))

    def _send(self, link: Link, group: int, batch: list[Message]) -> None:
        payload = encode_messages(batch)
        if len(payload) <= FRAME_BYTES_MAX:
            link.send(encode_frame(FrameKind.MESSAGES, group, payload), len(batch))
        elif len(batch) > 1:
            for message in batch:
                self._send(link, group, [message])
        else:
            link.dropped(1)

    async def start(self) -> None:
        """Listen, and begin to dial.

        Raises:
            UsageError: an address cannot be listened at: in use, not ours, or not allowed.
        """
        loop = asyncio.get_running_loop()
        for host, port in self._listen:
            try:
                server = await loop.create_server(
                    self._inbound.accept, host, port, ssl=self._ssl_server, backlog=128
                )
            except OSError as error:
                await self._stop_listening()
                raise UsageError(
                    f"cannot listen for peers at {format_host(host)}:{port}: {listen_problem(error)}"
                ) from None
            self._servers.append(server)
        self._running = True
        self._update_links()

    async def close(self) -> None:
        """Close every connection and stop listening. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._running = False
        self._receivers.clear()
        self._update_links()
        while self._closing:
            await asyncio.wait(list(self._closing))
        await self._stop_listening()

    def heard_from(self, sender: NodeId) -> None:
        """A peer connected to us, so it can be dialed: see `oarlock.transport.inbound.Owner`."""
        link = self._links.get(sender)
        if link is not None:
            link.wake()

    def deliver(self, group: int, messages: list[Message]) -> None:
        """Messages from a peer, checked: see `oarlock.transport.inbound.Owner`."""
        receiver = self._receivers.get(group)
        if receiver is not None:
            receiver(messages)

    def _parse(self, url: str) -> Address:
        address = parse_peer_url(url)
        if address.tls and self._ssl_client is None:
            raise UsageError(f"peer URL {url!r}: https needs peer certificates, and none are configured")
        return address

    def _update_links(self) -> None:
        """Make the links those that the groups need."""
        wanted: dict[NodeId, tuple[Address, ...]] = {}
        if self._running:
            for members in self._members.values():
                wanted.update(members)
        for node_id in [node_id for node_id in self._links if node_id not in wanted]:
            task = asyncio.get_running_loop().create_task(self._links.pop(node_id).close())
            self._closing[task] = None
            task.add_done_callback(self._closing.pop)
        for node_id, addresses in wanted.items():
            link = self._links.get(node_id)
            if link is None:
                hello = Hello(
                    PROTOCOL_VERSION_OLDEST, PROTOCOL_VERSION, self._cluster_id, self._node_id, node_id
                )
                link = self._links[node_id] = Link(
                    hello, self._ssl_client, self._random, self._queue_bytes_max
                )
            link.set_addresses(addresses)

    async def _stop_listening(self) -> None:
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        self._inbound.close()
        await self._inbound.wait_closed()
        for server in servers:
            await server.wait_closed()


def listen_problem(error: OSError) -> str:
    """The reason alone: asyncio's own text repeats the address."""
    if error.errno == errno.EADDRINUSE:
        return "the port is in use by another process"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
