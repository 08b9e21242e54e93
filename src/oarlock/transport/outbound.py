"""One peer, as seen from the sending side: a connection that is made again and again, and a bounded queue.

State of a link::

    away ──dial──▶ trying ──Welcome──▶ connected
     ▲                │                    │
     └──────fails, after a back-off────────┘

Messages are queued while trying or connected, and dropped while away: a peer that comes back wants to hear
what is true now, and Raft says it again anyway. Only messages to this peer travel on its connection; the
other direction is a connection of its own, made by the other side. So neither side ever has to decide
which of two connections to keep.

**Is its process gone?** A connection that ends says little: the network may have cut it. But the machine of a
process that ended says so to whoever knocks: the port is closed, and a new connection is refused at once.
So when a connection with a peer ends, in either direction, we dial again without any back-off. Refused at
all its addresses: the process is gone, and an election need not wait for a timeout. Anything else, silence
above all, proves nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import cast

from oarlock.errors import WireError
from oarlock.transport.addresses import Address
from oarlock.transport.status import PeerStatus
from oarlock.wire.framing import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_OLDEST,
    FrameKind,
    FrameReader,
)
from oarlock.wire.handshake import (
    HANDSHAKE_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    Handshake,
    Hello,
    Refusal,
    RefusalCode,
    Welcome,
    decode_handshake,
    encode_handshake,
)

_logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS_MAX = 5.0
"""From dialing to the answer, and for the other side from accepting to the Hello."""
BACKOFF_SECONDS_MIN = 0.05
BACKOFF_SECONDS_MAX = 1.0
"""A returning peer is found within this time at the latest; it is at once if it dials us first."""
KNOCKS_MAX = 5
"""How often we dial again at once after a connection ended: a process closes its sockets one by one as it
ends, so a first knock may still be let in and then cut."""
KNOCK_SECONDS_MIN = 0.002
SOCKET_BUFFER_BYTES = 1 << 20
"""What is handed to the event loop's buffer before waiting until it drains."""
CLOSING_SECONDS_MAX = 0.5
"""How long the last messages may take on their way out when we stop."""
UNACKNOWLEDGED_SECONDS_MAX = 10
"""A connection whose data is not acknowledged for so long is given up: the peer lost power or its network."""


class Link:
    """The way to one peer.

    Args:
        hello: what to say first, on every connection.
        queue_bytes_max: bound of the queue. A single frame may always wait in an empty queue.
        on_lost: the peer was there, and its process is gone now. Once for each time that it was there.
        on_removed: the peer refuses us, because we were removed.
    """

    def __init__(
        self,
        hello: Hello,
        ssl_client: ssl.SSLContext | None,
        random: Random,
        queue_bytes_max: int,
        *,
        on_lost: Callable[[], None],
        on_removed: Callable[[], None],
    ) -> None:
        self._hello = hello
        self._ssl_client = ssl_client
        self._random = random
        self._queue_bytes_max = queue_bytes_max
        self._addresses: tuple[Address, ...] = ()
        self._address: Address | None = None
        self._queue: deque[tuple[bytes, int]] = deque()
        """Frames and how many messages each holds."""
        self._queued_bytes = 0
        self._dropped = 0
        self._last_error = ""
        self._on_lost = on_lost
        self._on_removed = on_removed
        self._present = False
        """We were connected, in one direction or the other, and do not know yet that its process is gone."""
        self._knocks = 0
        """How many more times to dial at once, to find out whether its process is gone."""
        self._short_lived = 0
        """Connections in a row that ended as soon as they were made."""
        self._connection: _Dialed | None = None
        self._connected_at = 0.0
        self._trying = False
        self._flush_scheduled = False
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def accepts(self) -> bool:
        """Whether queueing makes sense now. If not, count a drop and save the encoding."""
        return self._connection is not None or self._trying

    @property
    def status(self) -> PeerStatus:
        return PeerStatus(
            self._connection is not None,
            str(self._address or next(iter(self._addresses), "")),
            self._last_error,
            self._dropped,
            self._queued_bytes,
            self._loop.time() - self._connected_at if self._connection is not None else 0.0,
        )

    def set_addresses(self, addresses: tuple[Address, ...]) -> None:
        """Where the peer is now. A connection to somewhere else is closed and made anew."""
        if addresses == self._addresses:
            return
        self._addresses = addresses
        if self._task is not None and self._address not in addresses:
            self._task.cancel()
            self._task = None
            self._present = False
            self._knocks = 0
            self._disconnected("its address changed")
        if self._task is None and addresses:
            # Queue from the first moment on: the messages of a new member's first election count.
            self._trying = True
            self._task = self._loop.create_task(self._run(), name=f"oarlock-peer-{self._hello.to:x}")

    def dropped(self, messages: int) -> None:
        self._dropped += messages

    def send(self, frame: bytes, messages: int) -> None:
        """Queue a frame; drop it if the queue is full."""
        if self._queued_bytes + len(frame) > self._queue_bytes_max and self._queue:
            self._dropped += messages
            return
        self._queue.append((frame, messages))
        self._queued_bytes += len(frame)
        if not self._flush_scheduled and self._connection is not None:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def set_hello(self, hello: Hello) -> None:
        """What to say first, on connections made from now on."""
        self._hello = hello

    def heard_from(self) -> None:
        """The peer has connected to us: if it is away for us, try again at once."""
        self._present = True
        self._wake.set()

    def inbound_lost(self) -> None:
        """The peer's connection to us ended. If ours stands, the process is there, or ours will end too."""
        if self._connection is None:
            self._knock()

    def _knock(self) -> None:
        if self._present and not self._knocks:
            self._knocks = KNOCKS_MAX
            self._wake.set()

    async def close(self) -> None:
        """Hand over what is queued, as far as the socket takes it, and close."""
        task, self._task = self._task, None
        connection = self._connection
        self._flush()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if connection is not None:
            try:
                async with asyncio.timeout(CLOSING_SECONDS_MAX):
                    await connection.gone.wait()
            except TimeoutError:
                connection.abort()
                await connection.gone.wait()

    def _flush(self) -> None:
        """Write what is queued, in few large writes, as long as the socket keeps up."""
        self._flush_scheduled = False
        connection = self._connection
        if connection is None or connection.closing:
            return
        while self._queue and not connection.paused and connection.buffered_bytes < SOCKET_BUFFER_BYTES:
            frames, size = [], 0
            while self._queue and size < SOCKET_BUFFER_BYTES:
                frame, _ = self._queue.popleft()
                frames.append(frame)
                size += len(frame)
            self._queued_bytes -= size
            connection.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def _disconnected(self, why: str) -> None:
        """From connected or trying to away."""
        self._connection = None
        self._trying = False
        self._last_error = why
        self._dropped += sum(messages for _, messages in self._queue)
        self._queue.clear()
        self._queued_bytes = 0

    async def _run(self) -> None:
        """Keep one connection, for ever."""
        backoff = BACKOFF_SECONDS_MIN
        attempt = 0
        refusals = 0
        """Addresses in a row whose machine refused a connection."""
        while True:
            self._address = self._addresses[attempt % len(self._addresses)]
            connection: _Dialed | None = None
            self._wake.clear()
            try:
                self._trying = True
                connection = await self._dial(self._address)
                self._connected(connection)
                backoff, refusals = BACKOFF_SECONDS_MIN, 0
                why = await connection.lost
                _logger.info("peer %x at %s: connection lost: %s", self._hello.to, self._address, why)
                short = self._loop.time() - self._connected_at < BACKOFF_SECONDS_MIN
                self._short_lived = self._short_lived + 1 if short else 0
                if self._short_lived <= KNOCKS_MAX:
                    self._knock()  # else somebody welcomes us only to cut us off, over and over
            except (_Refused, OSError, WireError) as error:
                why = str(error) or f"no answer within {HANDSHAKE_SECONDS_MAX:g} s"
                attempt += 1
                refusals = refusals + 1 if is_refused(error) else 0
                self._failed(error, why, refusals)
            finally:
                if connection is not None:
                    connection.close()
            self._disconnected(why)
            if self._knocks:
                await asyncio.sleep(KNOCK_SECONDS_MIN * (KNOCKS_MAX - self._knocks))
            else:
                await self._back_off(backoff)
                backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)

    def _failed(self, error: Exception, why: str, refusals: int) -> None:
        """An attempt to connect failed, as the latest of so many that were refused by the machine."""
        if why != self._last_error and isinstance(error, _Refused):
            _logger.warning("peer %x at %s refuses us: %s", self._hello.to, self._address, why)
            if error.code == RefusalCode.REMOVED:
                self._on_removed()
        elif why != self._last_error:
            _logger.info("peer %x at %s cannot be reached: %s", self._hello.to, self._address, why)
        if not self._knocks:
            return
        if refusals >= len(self._addresses):
            self._knocks = 0
            self._present = False
            _logger.info("peer %x: its process is gone", self._hello.to)
            self._on_lost()
        elif refusals:
            pass  # its next address, at once
        elif isinstance(error, (_Refused, TimeoutError)):
            self._knocks = 0  # somebody is there, or nobody answers at all
        else:
            self._knocks -= 1  # let in and cut: look again

    async def _back_off(self, seconds: float) -> None:
        """Wait between half and all of it, so that members do not dial in step; less if woken."""
        try:
            async with asyncio.timeout(seconds * (0.5 + self._random.random() / 2)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _dial(self, address: Address) -> _Dialed:
        """A connection on which the peer has welcomed us."""
        connection: _Dialed | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS_MAX):
                _, protocol = await self._loop.create_connection(
                    lambda: _Dialed(self._hello, self._flush),
                    address.host,
                    address.port,
                    ssl=self._ssl_client if address.tls else None,
                    server_hostname=address.host if address.tls else None,
                )
                connection = protocol
                await connection.welcomed
                return connection
        except BaseException:
            if connection is not None:
                connection.abort()
            raise

    def _connected(self, connection: _Dialed) -> None:
        self._connection = connection
        self._connected_at = self._loop.time()
        self._present = True
        self._knocks = 0
        self._trying = False
        self._last_error = ""
        _logger.info("peer %x at %s: connected", self._hello.to, self._address)
        self._flush()


class _Refused(Exception):
    """The peer answered, and does not want us."""

    def __init__(self, refusal: Refusal) -> None:
        self.code = refusal.code
        super().__init__(refusal.reason[:REASON_CHARACTERS_MAX])


class _Dialed(asyncio.Protocol):
    """A connection that we made. After the handshake it only carries our frames."""

    def __init__(self, hello: Hello, resume: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.paused = False
        """The socket's buffer is full."""
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        """Why the connection ended."""
        self.gone = asyncio.Event()
        """The socket is closed."""
        self._hello = hello
        self._resume = resume
        self._reader = FrameReader(HANDSHAKE_BYTES_MAX)
        self._transport: asyncio.Transport

    @property
    def buffered_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def closing(self) -> bool:
        """It is gone, or about to be, though whoever waits for `lost` may not have heard yet."""
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Not when `closing`: uvloop takes it for a mistake."""
        self._transport.write(data)

    def close(self) -> None:
        """After what was written is out."""
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=SOCKET_BUFFER_BYTES)
        set_socket_options(transport)
        self._transport.write(encode_handshake(self._hello))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                if self.welcomed.done() or frame.kind != FrameKind.HANDSHAKE:
                    raise WireError("it sends more than a handshake answer on our connection")
                self._answer(decode_handshake(frame.payload))
        except WireError as error:
            self._fail(error)

    def _answer(self, answer: Handshake) -> None:
        if isinstance(answer, Refusal):
            self._fail(_Refused(answer))
        elif not isinstance(answer, Welcome):
            raise WireError(f"it answers with a {type(answer).__name__}")
        elif not PROTOCOL_VERSION_OLDEST <= answer.version <= PROTOCOL_VERSION:
            raise WireError(f"it wants protocol version {answer.version}, which we did not offer")
        else:
            self.welcomed.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(error)
            self.welcomed.exception()  # seen: whoever dialed may have given up already
        elif not self.lost.done():
            self.lost.set_result(str(error))
        self._transport.abort()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._resume()

    def connection_lost(self, error: Exception | None) -> None:
        why = str(error) if error is not None else "the peer closed the connection"
        self._fail(WireError(why))
        if not self.lost.done():
            self.lost.set_result(why)
        self.gone.set()


_OUR_OWN_FAULT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH}
"""A name has addresses of two families, and this machine has no way to one of them: says nothing."""


def is_refused(error: BaseException) -> bool:
    """Whether the machine at the other end answered that nobody listens there.

    For a name with several addresses the event loops put one text together out of all errors, and keep the
    numbers nowhere else.
    """
    if isinstance(error, ConnectionRefusedError):
        return True
    numbers = {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
    return isinstance(error, OSError) and numbers - _OUR_OWN_FAULT == {errno.ECONNREFUSED}


def set_socket_options(transport: asyncio.BaseTransport) -> None:
    """Send at once, and notice a peer that vanished without a word."""
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is None:
        return
    options: Sequence[tuple[int, str, int]] = (
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 5),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 2),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", UNACKNOWLEDGED_SECONDS_MAX * 1000),
    )
    for level, name, value in options:
        if hasattr(socket, name):  # not every system has all of them
            raw.setsockopt(level, getattr(socket, name), value)
