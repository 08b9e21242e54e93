"""`Transport` inside one process: a table instead of a network. For tests, examples and learning."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from oarlock.raft.messages import AppendEntries, Message, Propose
from oarlock.raft.types import Member, NodeId

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
        self._receivers: dict[int, Callable[[list[Message]], None]] = {}
        self._members: dict[int, frozenset[NodeId]] = {}
        self._inbox: deque[tuple[int, Message]] = deque()
        self._inbox_bytes: dict[NodeId, int] = {}
        """By sender: each has a queue of its own, in effect."""
        self._running = False

    def register(self, group: int, on_messages: Callable[[list[Message]], None]) -> None:
        self._receivers[group] = on_messages

    def unregister(self, group: int) -> None:
        self._receivers.pop(group, None)
        self._members.pop(group, None)

    def set_members(self, group: int, members: Iterable[Member]) -> None:
        self._members[group] = frozenset(member.id for member in members if member.id != self.node_id)

    def send(self, group: int, messages: Iterable[Message]) -> None:
        members = self._members.get(group, frozenset())
        for message in messages:
            if self._running and message.to in members:
                receiver = self._network.find(self.cluster_id, message.to)
                if receiver is not None:
                    receiver.receive(group, message)

    async def start(self) -> None:
        self._running = True
        self._network.attach(self)

    async def close(self) -> None:
        self._running = False
        self._network.detach(self)
        self._receivers.clear()
        self._inbox.clear()
        self._inbox_bytes.clear()

    def receive(self, group: int, message: Message) -> None:
        """From another member of the network: keep it for the next turn of the loop, or drop it."""
        queued = self._inbox_bytes.get(message.sender, 0)
        size = _size(message)
        if queued and queued + size > self._queue_bytes_max:
            return
        self._inbox_bytes[message.sender] = queued + size
        if not self._inbox:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._inbox.append((group, message))

    def _deliver(self) -> None:
        by_group: dict[int, list[Message]] = {}
        while self._inbox:
            group, message = self._inbox.popleft()
            by_group.setdefault(group, []).append(message)
        self._inbox_bytes.clear()
        for group, messages in by_group.items():
            receiver = self._receivers.get(group)
            if receiver is not None:
                receiver(messages)


def _size(message: Message) -> int:
    if isinstance(message, AppendEntries):
        return _MESSAGE_BYTES + sum(len(entry.data) for entry in message.entries)
    if isinstance(message, Propose):
        return _MESSAGE_BYTES + sum(map(len, message.commands))
    return _MESSAGE_BYTES
