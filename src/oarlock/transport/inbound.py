"""Connections that peers made to us: handshake, then their messages.

Whoever connects may be anybody, so until the handshake is done a connection gets 4 KiB and five seconds, and
only so many of them are open at once. A peer whose handshake is right gets one connection: when it dials
again, the older connection is dead even if we have not noticed, and is closed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

from oarlock.errors import WireError
from oarlock.raft.messages import Message
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
    Hello,
    Refusal,
    Welcome,
    decode_handshake,
    encode_handshake,
)
from oarlock.wire.messages import decode_messages

_logger = logging.getLogger(__name__)

STRANGERS_MAX = 64
"""Connections without a finished handshake. Peers need a round trip each; more is an attack or a mistake."""
PEERS_MAX = 256
"""Connections with one. Far more than a Raft group has members."""


class Owner(Protocol):
    """What a connection needs from the transport it belongs to."""

    @property
    def cluster_id(self) -> int: ...

    @property
    def node_id(self) -> int: ...

    def heard_from(self, sender: int) -> None:
        """A peer made a connection."""

    def deliver(self, group: int, messages: list[Message]) -> None: ...


class Inbound:
    """All connections that were made to us."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._strangers: dict[_Accepted, None] = {}
        self._peers: dict[int, _Accepted] = {}
        self._drained = asyncio.Event()
        self._refusals: dict[str, None] = {}
        """Warned about already. Bounded, because the reasons contain what strangers say."""

    def accept(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        return _Accepted(self)

    @property
    def connections(self) -> int:
        return len(self._strangers) + len(self._peers)

    def close(self) -> None:
        for connection in [*self._strangers, *self._peers.values()]:
            connection.abort()

    async def wait_closed(self) -> None:
        """After `close`: until the sockets are really closed, which takes a turn of the event loop."""
        if self.connections:
            self._drained.clear()
            await self._drained.wait()

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

    def closed(self, connection: _Accepted, sender: int) -> None:
        self._strangers.pop(connection, None)
        if self._peers.get(sender) is connection:
            del self._peers[sender]
        if not self.connections:
            self._drained.set()

    def refusal(self, hello: Hello) -> str | None:
        """Why we do not talk to this caller, or None."""
        owner = self.owner
        if hello.cluster_id != owner.cluster_id:
            return f"it belongs to cluster {hello.cluster_id:x}, this is cluster {owner.cluster_id:x}"
        if hello.to != owner.node_id:
            return f"it means to reach member {hello.to:x}, this is member {owner.node_id:x}"
        if hello.sender == owner.node_id or hello.sender < 1:
            return f"it calls itself member {hello.sender:x}, which cannot be"
        if hello.version_oldest > PROTOCOL_VERSION or hello.version_newest < PROTOCOL_VERSION_OLDEST:
            return (
                f"it speaks protocol versions {hello.version_oldest} to {hello.version_newest}, "
                f"this member {PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION}"
            )
        return None

    def warn_once(self, address: str, reason: str) -> None:
        """A misconfigured peer dials for ever: say it once."""
        if reason not in self._refusals and len(self._refusals) < STRANGERS_MAX:
            self._refusals[reason] = None
            _logger.warning("refused a connection from %s: %s", address, reason)


class _Accepted(asyncio.Protocol):
    """One connection that was made to us."""

    def __init__(self, inbound: Inbound) -> None:
        self._inbound = inbound
        self._reader = FrameReader(HANDSHAKE_BYTES_MAX)
        self._sender = 0
        """Who it is; 0 before the handshake."""
        self._closing = False
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def _address(self) -> str:
        name = self._transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "an unknown address"

    def abort(self) -> None:
        self._closing = True
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
                if self._sender:
                    self._receive(frame, by_group)
                elif not self._greet(frame):
                    return
        except WireError as error:
            self._inbound.warn_once(self._address, str(error))
            self.abort()
        # What came in intact before a bad frame is good.
        for group, messages in by_group.items():
            self._inbound.owner.deliver(group, messages)

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._inbound.closed(self, self._sender)

    def _greet(self, frame: Frame) -> bool:
        """Answer the first frame. Returns whether the connection goes on."""
        hello = decode_handshake(frame.payload) if frame.kind == FrameKind.HANDSHAKE else None
        if not isinstance(hello, Hello):
            raise WireError("it does not begin with a Hello")
        reason = self._inbound.refusal(hello)
        if reason is None and not self._inbound.introduced(self, hello.sender):
            reason = "too many members are connected"
        if reason is not None:
            self._inbound.warn_once(self._address, reason)
            self._closing = True
            self._transport.write(encode_handshake(Refusal(reason)))
            self._transport.close()
            return False
        if self._deadline is not None:
            self._deadline.cancel()
        self._sender = hello.sender
        self._reader.payload_bytes_max = FRAME_BYTES_MAX
        self._transport.write(encode_handshake(Welcome(min(PROTOCOL_VERSION, hello.version_newest))))
        self._inbound.owner.heard_from(hello.sender)
        return True

    def _receive(self, frame: Frame, by_group: dict[int, list[Message]]) -> None:
        if frame.kind != FrameKind.MESSAGES:
            raise WireError(f"a frame of kind {frame.kind} where messages have to be")
        messages = decode_messages(frame.payload)
        owner = self._inbound.owner
        for message in messages:
            if message.sender != self._sender or message.to != owner.node_id:
                raise WireError(
                    f"member {self._sender:x} sends a message from {message.sender:x} to {message.to:x}"
                )
        if frame.group in by_group:
            by_group[frame.group] += messages
        else:
            by_group[frame.group] = messages
