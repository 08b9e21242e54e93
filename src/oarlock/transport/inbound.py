"""Connections that peers made to us: handshake, then their messages, or a snapshot for them.

Whoever connects may be anybody, so until the handshake is done a connection gets 4 KiB and five seconds, and
only so many of them are open at once. A peer whose handshake is right gets one connection: when it dials
again, the older connection is dead even if we have not noticed, and is closed. Beside it, it may have one
for a snapshot of each group (`bulk`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

from oarlock.errors import StorageError, WireError
from oarlock.raft.messages import Message
from oarlock.transport.bulk import TRANSFERS_MAX, Sending, SnapshotReader
from oarlock.transport.outbound import HANDSHAKE_SECONDS_MAX, set_socket_options
from oarlock.wire.framing import (
    FRAME_BYTES_MAX,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_OLDEST,
    Frame,
    FrameKind,
    FrameReader,
)
from oarlock.wire.handshake import (
    HANDSHAKE_BYTES_MAX,
    Fetch,
    Hello,
    Invitation,
    Join,
    Refusal,
    RefusalCode,
    Welcome,
    decode_handshake,
    encode_handshake,
)
from oarlock.wire.messages import decode_messages

_logger = logging.getLogger(__name__)

STRANGERS_MAX = 64
"""Connections without a finished handshake. Peers need a round trip each; more is an attack or a mistake."""
ENDING_SECONDS_MAX = 2.0
"""How long closing waits for a disk that is being read: it may hang."""
PEERS_MAX = 256
"""Connections with one. Far more than a Raft group has members."""


class Owner(Protocol):
    """What a connection needs from the transport it belongs to."""

    @property
    def cluster_id(self) -> int: ...

    @property
    def node_id(self) -> int: ...

    def was_removed(self, sender: int) -> bool:
        """Whether this member was removed for good."""

    def heard_from(self, sender: int, urls: tuple[str, ...]) -> None:
        """A peer made a connection, and can be called back at these URLs."""

    def lost(self, sender: int, by_us: bool) -> None:
        """The peer's connection ended; `by_us`: because we closed it."""

    def open_snapshot(self, group: int, index: int) -> SnapshotReader | None:
        """Raises `StorageError`."""

    def answer_join(self, join: Join) -> Invitation | Refusal: ...

    def deliver(self, group: int, messages: list[Message]) -> None: ...


class Inbound:
    """All connections that were made to us."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._strangers: dict[_Accepted, None] = {}
        self._peers: dict[int, _Accepted] = {}
        self._transfers: dict[tuple[int, int], _Accepted] = {}
        """By peer and group."""
        self._ending: dict[asyncio.Task[None], None] = {}
        """Transfers whose connection is gone, while their disk is still at work."""
        self._drained = asyncio.Event()
        self._refusals: dict[str, None] = {}
        """Warned about already. Bounded, because the reasons contain what strangers say."""

    def accept(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        return _Accepted(self)

    @property
    def _connections(self) -> list[_Accepted]:
        return [*self._strangers, *self._peers.values(), *self._transfers.values()]

    def sending_to(self, peer: int) -> Sending | None:
        """The transfer to a peer, if there is one."""
        for (to, _), connection in self._transfers.items():
            if to == peer:
                return connection.sending
        return None

    def close(self) -> None:
        for connection in self._connections:
            connection.abort()

    async def wait_closed(self) -> None:
        """After `close`: until the sockets are really closed, which takes a turn of the event loop."""
        if self._connections:
            self._drained.clear()
            await self._drained.wait()
        if self._ending:
            await asyncio.wait(list(self._ending), timeout=ENDING_SECONDS_MAX)

    def drop(self, sender: int) -> None:
        """Close what this peer has open: its next connection will be refused, and told why."""
        for peer, connection in list(self._peers.items()):
            if peer == sender:
                connection.abort()
        for (peer, _), connection in list(self._transfers.items()):
            if peer == sender:
                connection.abort()

    def opened(self, connection: _Accepted) -> bool:
        """Whether there is room for one more stranger."""
        if len(self._strangers) >= STRANGERS_MAX:
            return False
        self._strangers[connection] = None
        return True

    def introduced(self, connection: _Accepted, sender: int) -> bool:
        """A stranger turned out to be a peer. Whether there is room for it."""
        previous = self._peers.get(sender)
        if previous is None and len(self._peers) >= PEERS_MAX:
            return False
        self._strangers.pop(connection, None)
        self._peers[sender] = connection
        if previous is not None:
            previous.abort()
        return True

    def asked(self, connection: _Accepted, fetch: Fetch) -> SnapshotReader | Refusal:
        """A peer wants a snapshot. Its older transfer, if any, is dead even if we have not noticed."""
        key = fetch.hello.sender, fetch.group
        previous = self._transfers.get(key)
        # Those that are ending count: while the disk hangs, each of them still holds a thread.
        others = len(self._transfers) + len(self._ending) - (previous is not None)
        if others >= TRANSFERS_MAX:
            return Refusal(f"{TRANSFERS_MAX} snapshots are on their way already", RefusalCode.BUSY)
        try:
            reader = self.owner.open_snapshot(fetch.group, fetch.index)
        except StorageError as error:
            return Refusal(f"the snapshot cannot be read: {error}", RefusalCode.UNAVAILABLE)
        if reader is None:
            return Refusal(f"there is no snapshot {fetch.index} here", RefusalCode.UNAVAILABLE)
        if fetch.offset > reader.size:
            reader.close()
            return Refusal(
                f"snapshot {fetch.index} has {reader.size} bytes, and none at {fetch.offset}",
                RefusalCode.UNAVAILABLE,
            )
        self._strangers.pop(connection, None)
        self._transfers[key] = connection
        if previous is not None:
            previous.abort()
        return reader

    def closed(self, connection: _Accepted) -> None:
        """A connection is gone."""
        self._strangers.pop(connection, None)
        sender, sending = connection.sender, connection.sending
        if sending is not None:
            key = sending.peer, sending.group
            if self._transfers.get(key) is connection:
                del self._transfers[key]
            task = sending.stop()
            self._ending[task] = None
            task.add_done_callback(self._ending.pop)
        elif sender and self._peers.get(sender) is connection:
            del self._peers[sender]
            self.owner.lost(sender, connection.aborted)
        if not self._connections:
            self._drained.set()

    def refusal(self, hello: Hello) -> Refusal | None:
        """Why we do not talk to this caller, or None."""
        owner = self.owner
        if hello.cluster_id != owner.cluster_id:
            return Refusal(
                f"it belongs to cluster {hello.cluster_id:x}, this is cluster {owner.cluster_id:x}"
            )
        if hello.to != owner.node_id:
            return Refusal(f"it means to reach member {hello.to:x}, this is member {owner.node_id:x}")
        if hello.sender == owner.node_id or hello.sender < 1:
            return Refusal(f"it calls itself member {hello.sender:x}, which cannot be")
        if owner.was_removed(hello.sender):
            return Refusal(f"member {hello.sender:x} was removed from the cluster", RefusalCode.REMOVED)
        return version_refusal(hello)

    def warn_once(self, address: str, reason: str) -> None:
        """A misconfigured peer dials for ever: say it once."""
        if reason not in self._refusals and len(self._refusals) < STRANGERS_MAX:
            self._refusals[reason] = None
            _logger.warning("refused a connection from %s: %s", address, reason)


def version_refusal(caller: Hello | Join) -> Refusal | None:
    """Whether there is a version of the protocol that both speak."""
    if caller.version_oldest <= PROTOCOL_VERSION and caller.version_newest >= PROTOCOL_VERSION_OLDEST:
        return None
    return Refusal(
        f"it speaks protocol versions {caller.version_oldest} to {caller.version_newest}, "
        f"this member {PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION}"
    )


class _Accepted(asyncio.Protocol):
    """One connection that was made to us."""

    def __init__(self, inbound: Inbound) -> None:
        self.sender = 0
        """The peer whose messages come here; 0 before the handshake."""
        self.sending: Sending | None = None
        """Instead of messages: a snapshot for the peer."""
        self.aborted = False
        """By us."""
        self._inbound = inbound
        self._reader = FrameReader(HANDSHAKE_BYTES_MAX)
        self._closing = False
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def _address(self) -> str:
        name = self._transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "an unknown address"

    def abort(self) -> None:
        self.aborted = self._closing = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._inbound.opened(self):
            self.abort()
            return
        set_socket_options(transport)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS_MAX, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        by_group: dict[int, list[Message]] = {}
        try:
            for frame in self._reader.feed(data):
                if self.sender:
                    self._receive(frame, by_group)
                elif not self._greet(frame):
                    return
        except WireError as error:
            self._inbound.warn_once(self._address, str(error))
            self.abort()
        # What came in intact before a bad frame is good.
        for group, messages in by_group.items():
            self._inbound.owner.deliver(group, messages)

    def pause_writing(self) -> None:
        if self.sending is not None:
            self.sending.pause()

    def resume_writing(self) -> None:
        if self.sending is not None:
            self.sending.resume()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._inbound.closed(self)

    def _greet(self, frame: Frame) -> bool:
        """Answer the first frame. Returns whether messages follow."""
        if self.sending is not None:
            raise WireError("it sends more than a Fetch")
        first = decode_handshake(frame.payload) if frame.kind == FrameKind.HANDSHAKE else None
        if isinstance(first, Hello):
            return self._begin_messages(first)
        if isinstance(first, Fetch):
            self._begin_snapshot(first)
        elif isinstance(first, Join):
            self._answer(version_refusal(first) or self._inbound.owner.answer_join(first))
        else:
            raise WireError("it does not begin with a Hello")
        return False

    def _begin_messages(self, hello: Hello) -> bool:
        refusal = self._inbound.refusal(hello)
        if refusal is None and not self._inbound.introduced(self, hello.sender):
            refusal = Refusal("too many members are connected")
        if refusal is not None:
            self._answer(refusal)
            return False
        self._welcome(hello)
        self.sender = hello.sender
        self._reader.payload_bytes_max = FRAME_BYTES_MAX
        self._inbound.owner.heard_from(hello.sender, hello.urls)
        return True

    def _begin_snapshot(self, fetch: Fetch) -> None:
        reader = self._inbound.refusal(fetch.hello) or self._inbound.asked(self, fetch)
        if isinstance(reader, Refusal):
            self._answer(reader)
            return
        self._welcome(fetch.hello)
        self.sending = Sending(self._transport, fetch, reader)

    def _welcome(self, hello: Hello) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport.write(encode_handshake(Welcome(min(PROTOCOL_VERSION, hello.version_newest))))

    def _answer(self, answer: Refusal | Invitation) -> None:
        """Say it, and close. The deadline stays: it may never be read."""
        if isinstance(answer, Refusal) and answer.code not in (RefusalCode.UNAVAILABLE, RefusalCode.BUSY):
            self._inbound.warn_once(self._address, answer.reason)
        self._closing = True
        self._transport.write(encode_handshake(answer))
        self._transport.close()

    def _receive(self, frame: Frame, by_group: dict[int, list[Message]]) -> None:
        if frame.kind != FrameKind.MESSAGES:
            raise WireError(f"a frame of kind {frame.kind} where messages have to be")
        messages = decode_messages(frame.payload)
        owner = self._inbound.owner
        for message in messages:
            if message.sender != self.sender or message.to != owner.node_id:
                raise WireError(
                    f"member {self.sender:x} sends a message from {message.sender:x} to {message.to:x}"
                )
        if frame.group in by_group:
            by_group[frame.group] += messages
        else:
            by_group[frame.group] = messages
