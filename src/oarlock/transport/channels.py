"""`Transport` inside one process: a table instead of a network. For tests, examples and learning."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, closing

from oarlock.errors import SnapshotUnavailable, StorageError
from oarlock.raft.messages import AppendEntries, Message, Propose
from oarlock.raft.types import Member, NodeId
from oarlock.transport.bulk import SnapshotReader, read_chunks
from oarlock.transport.groups import Groups

QUEUE_BYTES_MAX = 64 << 20
_MESSAGE_BYTES = 100
"""What a message counts for, besides its data: about its size on the wire."""


class ChannelNetwork:
    """Connects the `ChannelTransport`s that it makes."""

    def __init__(self) -> None:
        self._transports: dict[tuple[int, NodeId], ChannelTransport] = {}

    def transport(
        self, cluster_id: int, node_id: NodeId, *, queue_bytes_max: int = QUEUE_BYTES_MAX
    ) -> ChannelTransport:
        """A transport for one member; a stopped one of the same ids is replaced."""
        return ChannelTransport(self, cluster_id, node_id, queue_bytes_max)

    def attach(self, transport: ChannelTransport) -> None:
        self._transports[transport.cluster_id, transport.node_id] = transport

    def detach(self, transport: ChannelTransport) -> None:
        key = transport.cluster_id, transport.node_id
        if self._transports.get(key) is transport:
            del self._transports[key]
            for (cluster_id, _), other in self._transports.items():
                if cluster_id == transport.cluster_id:
                    other.peer_stopped(transport.node_id)

    def find(self, cluster_id: int, node_id: NodeId) -> ChannelTransport | None:
        """The member's transport, if it is running. Other clusters cannot be reached at all."""
        return self._transports.get((cluster_id, node_id))


class ChannelTransport:
    """One member's end (implements `oarlock.replica.ports.Transport`). Made by `ChannelNetwork.transport`.

    Messages are handed over as they are: they are immutable values. The receiver gets them in a later turn
    of the event loop, as from a socket, never from within the sender's `send`.
    """

    def __init__(
        self, network: ChannelNetwork, cluster_id: int, node_id: NodeId, queue_bytes_max: int
    ) -> None:
        self.cluster_id = cluster_id
        self.node_id = node_id
        self._network = network
        self._queue_bytes_max = queue_bytes_max
        self._groups = Groups()
        self._members: dict[int, frozenset[NodeId]] = {}
        self._callers: dict[NodeId, None] = {}
        """Those who sent us something. They are answered even if they are not known as members."""
        self._inbox: deque[tuple[int, Message]] = deque()
        self._inbox_bytes: dict[NodeId, int] = {}
        """By sender: each has a queue of its own, in effect."""
        self._running = False

    def register(
        self,
        group: int,
        on_messages: Callable[[list[Message]], None],
        *,
        on_lost: Callable[[NodeId], None] | None = None,
        on_removed: Callable[[NodeId], None] | None = None,
    ) -> None:
        self._groups.register(group, on_messages, on_lost, on_removed)

    def unregister(self, group: int) -> None:
        self._groups.unregister(group)
        self._members.pop(group, None)

    def set_members(self, group: int, members: Iterable[Member]) -> None:
        self._members[group] = frozenset(member.id for member in members if member.id != self.node_id)

    def set_removed(self, group: int, removed: Iterable[NodeId]) -> None:
        removed = sorted(removed)
        self._groups.set_removed(group, removed)
        for node_id in removed:
            self._callers.pop(node_id, None)
            other = self._network.find(self.cluster_id, node_id)
            if other is not None and self._running:
                other.refused(group, self.node_id)

    def serve_snapshots(self, group: int, open_snapshot: Callable[[int], SnapshotReader | None]) -> None:
        self._groups.serve_snapshots(group, open_snapshot)

    async def fetch_snapshot(
        self, group: int, source: NodeId, index: int, offset: int
    ) -> AsyncGenerator[bytes, None]:
        other = self._network.find(self.cluster_id, source)
        known = source in self._members.get(group, ()) or source in self._callers
        if other is None or not known or not self._running:
            raise ConnectionError(f"there is no way to member {source:x}")
        try:
            reader = other.open_snapshot(group, index)
            if reader is None:
                raise SnapshotUnavailable(f"member {source:x} has no snapshot {index}")
            with closing(reader):
                if offset > reader.size:
                    raise SnapshotUnavailable(f"snapshot {index} has only {reader.size} bytes")
                async with aclosing(read_chunks(reader, offset)) as chunks:
                    async for chunk in chunks:
                        if not (other.running and self._running):
                            raise ConnectionError(f"member {source:x} has stopped")
                        yield chunk
        except StorageError as error:
            raise ConnectionError(f"member {source:x} cannot read its snapshot: {error}") from None

    def send(self, group: int, messages: Iterable[Message]) -> None:
        members = self._members.get(group)
        for message in messages:
            known = members is not None and (message.to in members or message.to in self._callers)
            if self._running and known:
                receiver = self._network.find(self.cluster_id, message.to)
                if receiver is not None and not receiver.receive(group, message):
                    self.refused(group, message.to)

    async def start(self) -> None:
        self._running = True
        self._network.attach(self)

    async def close(self) -> None:
        self._running = False
        self._network.detach(self)
        self._groups.clear()
        self._inbox.clear()
        self._inbox_bytes.clear()

    # What follows is for the other members of the network.

    @property
    def running(self) -> bool:
        return self._running

    def peer_stopped(self, peer: NodeId) -> None:
        for group, members in self._members.items():
            if peer in members:
                self._groups.lost(group, peer)

    def refused(self, group: int, peer: NodeId) -> None:
        """A member told us that we were removed."""
        if peer in self._members.get(group, ()):
            self._groups.removed(group, peer)

    def open_snapshot(self, group: int, index: int) -> SnapshotReader | None:
        return self._groups.open_snapshot(group, index)

    def receive(self, group: int, message: Message) -> bool:
        """Keep it for the next turn of the loop, or drop it. False: its sender was removed."""
        if self._groups.has_removed(group, message.sender):
            return False
        self._callers[message.sender] = None
        queued = self._inbox_bytes.get(message.sender, 0)
        size = _size(message)
        if queued and queued + size > self._queue_bytes_max:
            return True
        self._inbox_bytes[message.sender] = queued + size
        if not self._inbox:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._inbox.append((group, message))
        return True

    def _deliver(self) -> None:
        by_group: dict[int, list[Message]] = {}
        while self._inbox:
            group, message = self._inbox.popleft()
            by_group.setdefault(group, []).append(message)
        self._inbox_bytes.clear()
        for group, messages in by_group.items():
            self._groups.deliver(group, messages)


def _size(message: Message) -> int:
    if isinstance(message, AppendEntries):
        return _MESSAGE_BYTES + sum(len(entry.data) for entry in message.entries)
    if isinstance(message, Propose):
        return _MESSAGE_BYTES + sum(map(len, message.commands))
    return _MESSAGE_BYTES
