"""`Transport` over TCP, with or without TLS.

Every member listens, and dials every other member: A's messages to B travel on the connection that A made.
`outbound` is one peer's sending side, `inbound` everything that was accepted, `bulk` the snapshots.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from random import Random

from oarlock.errors import UsageError
from oarlock.raft.messages import Message
from oarlock.raft.types import Member, NodeId
from oarlock.transport.addresses import Address, format_host, parse_peer_url
from oarlock.transport.bulk import SnapshotReader, fetch
from oarlock.transport.groups import Groups
from oarlock.transport.inbound import Inbound
from oarlock.transport.outbound import HANDSHAKE_SECONDS_MAX, Link
from oarlock.transport.status import PeerStatus
from oarlock.wire.framing import (
    FRAME_BYTES_MAX,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_OLDEST,
    FrameKind,
    encode_frame,
)
from oarlock.wire.handshake import HELLO_URL_BYTES_MAX, Fetch, Hello, Invitation, Join, Refusal
from oarlock.wire.messages import encode_messages

QUEUE_BYTES_MAX = 64 << 20
"""Per peer: what a slow peer can cost us. One frame of the largest size has to fit."""
CALLER_URLS_MAX = 8
"""At which a peer is called back that is not known as a member: it may be anybody."""


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
        self._groups = Groups()
        self._members: dict[int, dict[NodeId, tuple[Address, ...]]] = {}
        """Per group."""
        self._own_urls: tuple[str, ...] = ()
        """Where the others reach us, to be told to those who do not know."""
        self._callers: dict[NodeId, tuple[Address, ...]] = {}
        """Peers that are connected to us, and where they say that they are. They are answered even if they
        are not known as members, or have moved: so a member that was away meanwhile finds them."""
        self._links: dict[NodeId, Link] = {}
        self._closing: dict[asyncio.Task[None], None] = {}
        """Links that are on their way out."""
        self._fetches: dict[asyncio.StreamWriter, None] = {}
        self._answer_joins: Callable[[Join], Invitation | Refusal] | None = None
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
        return {node_id: self._status(node_id) for node_id in sorted(self._links)}

    def _status(self, node_id: NodeId) -> PeerStatus:
        status = self._links[node_id].status
        sending = self._inbound.sending_to(node_id)
        if sending is None:
            return status
        return status._replace(snapshot_sent=sending.sent, snapshot_size=sending.size)

    def register(
        self,
        group: int,
        on_messages: Callable[[list[Message]], None],
        *,
        on_lost: Callable[[NodeId], None] | None = None,
        on_removed: Callable[[NodeId], None] | None = None,
    ) -> None:
        """See `oarlock.replica.ports.Transport`; each call comes from the event loop, never from within ours.

        How we know that a peer's process is gone: see `oarlock.transport.outbound`.
        """
        self._groups.register(group, on_messages, on_lost, on_removed)

    def unregister(self, group: int) -> None:
        self._groups.unregister(group)
        if self._members.pop(group, None) is not None:
            self._update_links()

    def answer_joins(self, answer: Callable[[Join], Invitation | Refusal]) -> None:
        """Let servers that want to join ask us who they are: see `oarlock.transport.joining`."""
        self._answer_joins = answer

    def set_members(self, group: int, members: Iterable[Member]) -> None:
        """Where the members are now; connections to others are closed, but for those that call us.

        Our own entry, if it is among them, is what we tell those whom we call.

        Raises:
            UsageError: a peer URL that cannot be parsed, or https without certificates. Nothing was changed.
        """
        members = list(members)
        self._members[group] = {
            member.id: tuple(self._parse(url) for url in member.peer_urls)
            for member in members
            if member.id != self._node_id
        }
        own = next((member for member in members if member.id == self._node_id), None)
        if own is not None and len("".join(own.peer_urls).encode()) <= HELLO_URL_BYTES_MAX:
            self._own_urls = own.peer_urls
        self._update_links()
        self._drop_removed()

    def set_removed(self, group: int, removed: Iterable[NodeId]) -> None:
        """These members are refused from now on, unless another group still has them."""
        self._groups.set_removed(group, removed)
        self._drop_removed()

    def serve_snapshots(self, group: int, open_snapshot: Callable[[int], SnapshotReader | None]) -> None:
        """Answer `fetch_snapshot` of others; at most `bulk.TRANSFERS_MAX` at once, the others try again."""
        self._groups.serve_snapshots(group, open_snapshot)

    async def fetch_snapshot(
        self, group: int, source: NodeId, index: int, offset: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a snapshot of another member: see `oarlock.replica.ports.Transport`."""
        hello = self._hello(source)
        addresses = self._addresses(source, self._members.get(group, {}))
        if not addresses or not self._running:
            raise ConnectionError(f"there is no way to member {source:x}")
        begun = False
        for address in addresses:
            bytes_ = fetch(address, self._ssl_client, Fetch(hello, group, index, offset), self._fetching)
            try:
                async with aclosing(bytes_):
                    async for chunk in bytes_:
                        begun = True
                        yield chunk
                return
            except OSError:
                if begun or address == addresses[-1]:
                    raise

    def _fetching(self, writer: asyncio.StreamWriter) -> None:
        """A connection of `fetch_snapshot`: ours to cut when we close."""
        for old in [old for old in self._fetches if old.is_closing()]:
            del self._fetches[old]
        self._fetches[writer] = None
        if self._closed:
            writer.transport.abort()

    def send(self, group: int, messages: Iterable[Message]) -> None:
        """Queue for `message.to` each; drop if its queue is full, it is unknown or away."""
        by_peer: dict[NodeId, list[Message]] = {}
        for message in messages:
            by_peer.setdefault(message.to, []).append(message)
        if (known := self._members.get(group)) is None:
            return
        for node_id, batch in by_peer.items():
            link = self._links.get(node_id)
            if link is None or (node_id not in known and node_id not in self._callers):
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
                    self._inbound.accept,
                    host,
                    port,
                    ssl=self._ssl_server,
                    # `Inbound` hears of a connection only when this is done; asyncio would wait a minute.
                    ssl_handshake_timeout=None if self._ssl_server is None else HANDSHAKE_SECONDS_MAX,
                    backlog=128,
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
        self._groups.clear()
        self._update_links()
        for writer in self._fetches:
            writer.transport.abort()
        while self._closing:
            await asyncio.wait(list(self._closing))
        await asyncio.gather(*(writer.wait_closed() for writer in self._fetches), return_exceptions=True)
        await self._stop_listening()

    # What follows is for our connections: see `oarlock.transport.inbound.Owner`.

    def was_removed(self, sender: NodeId) -> bool:
        """By a group, while no group has it as a member."""
        return sender in self._groups.removed_anywhere and not any(
            sender in members for members in self._members.values()
        )

    def heard_from(self, sender: NodeId, urls: tuple[str, ...]) -> None:
        """A peer connected to us, so it can be dialed."""
        try:
            addresses = tuple(map(self._parse, urls[:CALLER_URLS_MAX]))
        except UsageError:
            addresses = ()  # as good as none to us
        if addresses:
            self._callers[sender] = addresses
            self._update_links()
        link = self._links.get(sender)
        if link is not None:
            link.heard_from()

    def lost(self, sender: NodeId, by_us: bool) -> None:
        """A peer's connection to us ended."""
        if self._callers.pop(sender, None) is not None:
            self._update_links()
        link = self._links.get(sender)
        if link is not None and not by_us:
            link.inbound_lost()

    def open_snapshot(self, group: int, index: int) -> SnapshotReader | None:
        return self._groups.open_snapshot(group, index)

    def answer_join(self, join: Join) -> Invitation | Refusal:
        if self._answer_joins is None:
            return Refusal("this member cannot invite anybody now: ask another one, or try again")
        return self._answer_joins(join)

    def deliver(self, group: int, messages: list[Message]) -> None:
        """Messages from one peer, checked."""
        if messages and not self._groups.has_removed(group, messages[0].sender):
            self._groups.deliver(group, messages)

    def _drop_removed(self) -> None:
        for node_id in self._groups.removed_anywhere:
            if self.was_removed(node_id):
                self._inbound.drop(node_id)
                if self._callers.pop(node_id, None) is not None:
                    self._update_links()

    def _for_groups_of(self, peer: NodeId, tell: Callable[[int, NodeId], None]) -> None:
        for group, members in self._members.items():
            if peer in members:
                tell(group, peer)

    def _hello(self, to: NodeId) -> Hello:
        return Hello(
            PROTOCOL_VERSION_OLDEST, PROTOCOL_VERSION, self._cluster_id, self._node_id, to, self._own_urls
        )

    def _parse(self, url: str) -> Address:
        address = parse_peer_url(url)
        if address.tls and self._ssl_client is None:
            raise UsageError(f"peer URL {url!r}: https needs peer certificates, and none are configured")
        return address

    def _addresses(
        self, node_id: NodeId, members: Mapping[NodeId, tuple[Address, ...]]
    ) -> tuple[Address, ...]:
        """Where to find a peer: where `members` says, else where it says itself, for it may have moved."""
        known = members.get(node_id, ())
        return (*known, *(address for address in self._callers.get(node_id, ()) if address not in known))

    def _update_links(self) -> None:
        """Make the links those that the groups need."""
        wanted: dict[NodeId, tuple[Address, ...]] = {}
        if self._running:
            wanted.update(self._callers)
            for members in self._members.values():
                wanted.update({node_id: self._addresses(node_id, members) for node_id in members})
        for node_id in [node_id for node_id in self._links if node_id not in wanted]:
            task = asyncio.get_running_loop().create_task(self._links.pop(node_id).close())
            self._closing[task] = None
            task.add_done_callback(self._closing.pop)
        for node_id, addresses in wanted.items():
            link = self._links.get(node_id)
            if link is None:
                link = self._links[node_id] = Link(
                    self._hello(node_id),
                    self._ssl_client,
                    self._random,
                    self._queue_bytes_max,
                    on_lost=partial(self._for_groups_of, node_id, self._groups.lost),
                    on_removed=partial(self._for_groups_of, node_id, self._groups.removed),
                )
            link.set_hello(self._hello(node_id))
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
