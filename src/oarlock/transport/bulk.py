"""Snapshots on their way between members: a connection of its own for each, opened by whoever wants it.

Heartbeats never wait behind it. The bytes flow no faster than the slower end works: the receiver stops
reading when its consumer does, TCP tells the sender, and the sender then stops reading its disk. So neither
end ever holds more than a few chunks. Disks are read in a worker thread.

A transfer that breaks loses nothing: the next `Fetch` says from which byte to go on. Every chunk is a frame
with a checksum, and the last frame says how many bytes there were in all.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from oarlock.errors import SnapshotUnavailable, StorageError, WireError
from oarlock.transport.addresses import Address
from oarlock.wire.framing import PROTOCOL_VERSION, Frame, FrameKind, FrameReader, encode_frame
from oarlock.wire.handshake import (
    REASON_CHARACTERS_MAX,
    Fetch,
    Refusal,
    RefusalCode,
    Welcome,
    decode_handshake,
    encode_handshake,
)

_logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 << 10
"""What is read from the disk and sent at once."""
CHUNK_BYTES_MAX = 1 << 20
"""What is accepted at once: a later version may find other chunks better."""
BUFFER_BYTES = 2 * CHUNK_BYTES
"""What may wait in the event loop for the network."""
TRANSFERS_MAX = 4
"""Snapshots on their way out of a member at once. More would only slow each other down, and each may hold a
thread while its disk hangs."""
CONNECT_SECONDS_MAX = 5.0
IDLE_SECONDS_MAX = 30.0
"""Without a byte for so long, a transfer is given up. The other end's disk may be slow, but not so slow."""


class SnapshotReader(Protocol):
    """As `oarlock.replica.ports.SnapshotReader`."""

    size: int

    def read(self, offset: int, size: int) -> bytes: ...

    def close(self) -> None: ...


async def read_chunks(reader: SnapshotReader, offset: int) -> AsyncGenerator[bytes, None]:
    """The bytes from `offset` on, read in a worker thread. When it ends, no read is running any more.

    Raises:
        StorageError: the disk failed, or the file is shorter than it says.
    """
    loop = asyncio.get_running_loop()
    while offset < reader.size:
        reading = loop.run_in_executor(None, reader.read, offset, CHUNK_BYTES)
        try:
            chunk = await asyncio.shield(reading)
        except asyncio.CancelledError:
            await asyncio.wait([reading])
            raise
        if not chunk:
            raise StorageError(f"a snapshot of {reader.size} bytes ends after {offset}")
        offset += len(chunk)
        yield chunk


class Sending:
    """One snapshot on its way out, on a connection that a peer opened and that was welcomed.

    Whoever owns the connection passes on what it hears of it: `pause`, `resume`, and `stop` at its end.

    Attributes:
        sent: bytes handed to the network, with those that the peer had before.
        size: bytes in all.
    """

    def __init__(self, transport: asyncio.Transport, request: Fetch, reader: SnapshotReader) -> None:
        self.peer = request.hello.sender
        self.group = request.group
        self.sent = request.offset
        self.size = reader.size
        self._transport = transport
        self._writable = asyncio.Event()
        self._writable.set()
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        name = f"oarlock-snapshot-to-{self.peer:x}"
        self._task = asyncio.get_running_loop().create_task(self._run(reader), name=name)
        self._task.add_done_callback(lambda task: reader.close())  # also if it never began

    def pause(self) -> None:
        self._writable.clear()

    def resume(self) -> None:
        self._writable.set()

    def stop(self) -> asyncio.Task[None]:
        """The connection is gone. Done with the task that is returned, the reader is closed."""
        self._task.cancel()
        return self._task

    async def _run(self, reader: SnapshotReader) -> None:
        try:
            async with aclosing(read_chunks(reader, self.sent)) as chunks:
                async for chunk in chunks:
                    await self._write(FrameKind.SNAPSHOT_CHUNK, chunk)
                    self.sent += len(chunk)
            await self._write(FrameKind.SNAPSHOT_END, reader.size.to_bytes(8, "little"))
            self._transport.close()  # after what is still buffered; `stop` comes when it is done
            await asyncio.sleep(IDLE_SECONDS_MAX)
            why = "the last bytes are not taken"
        except TimeoutError:
            why = f"nothing was taken for {IDLE_SECONDS_MAX:g} s"
        except (StorageError, OSError) as error:
            why = str(error)
        _logger.warning("sending a snapshot to peer %x stopped at byte %d: %s", self.peer, self.sent, why)
        self._transport.abort()

    async def _write(self, kind: FrameKind, payload: bytes) -> None:
        async with asyncio.timeout(IDLE_SECONDS_MAX):
            await self._writable.wait()
        if not self._transport.is_closing():
            self._transport.write(encode_frame(kind, self.group, payload))


async def fetch(
    address: Address,
    ssl_client: ssl.SSLContext | None,
    request: Fetch,
    opened: Callable[[asyncio.StreamWriter], None],
) -> AsyncGenerator[bytes, None]:
    """The bytes of a snapshot from `request.offset` on: `oarlock.replica.ports.Transport.fetch_snapshot`.

    `opened` is told the connection, so that it can be cut from outside: the generator then raises.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            stream, writer = await asyncio.open_connection(
                address.host,
                address.port,
                ssl=ssl_client if address.tls else None,
                server_hostname=address.host if address.tls else None,
                limit=CHUNK_BYTES,
            )
    except TimeoutError:
        raise TimeoutError(f"{address} does not answer within {CONNECT_SECONDS_MAX:g} s") from None
    try:
        opened(writer)
        writer.write(encode_handshake(request))
        receiving = _Receiving(request)
        while not receiving.complete:
            try:
                async with asyncio.timeout(IDLE_SECONDS_MAX):
                    data = await stream.read(CHUNK_BYTES)
            except TimeoutError:
                raise TimeoutError(f"{address} sent nothing for {IDLE_SECONDS_MAX:g} s") from None
            if not data:
                raise ConnectionError(f"{address} closed the connection in the middle of the snapshot")
            for chunk in receiving.feed(data):
                yield chunk
    finally:
        writer.transport.abort()


class _Receiving:
    """The receiving end's view of the stream: an answer, chunks, an end."""

    def __init__(self, request: Fetch) -> None:
        self.complete = False
        self._group = request.group
        self._received = request.offset
        self._frames = FrameReader(CHUNK_BYTES_MAX)
        self._welcomed = False

    def feed(self, data: bytes) -> list[bytes]:
        """Chunks that `data` completes."""
        chunks = []
        for frame in self._frames.feed(data):
            if self.complete:
                raise WireError("it sends more than the snapshot")
            if not self._welcomed:
                self._answer(frame)
            elif chunk := self._chunk(frame):
                chunks.append(chunk)
        return chunks

    def _answer(self, frame: Frame) -> None:
        answer = decode_handshake(frame.payload) if frame.kind == FrameKind.HANDSHAKE else None
        if isinstance(answer, Refusal):
            reason = answer.reason[:REASON_CHARACTERS_MAX]
            if answer.code == RefusalCode.UNAVAILABLE:
                raise SnapshotUnavailable(reason)
            raise ConnectionError(f"it sends no snapshot: {reason}")
        if not isinstance(answer, Welcome) or answer.version > PROTOCOL_VERSION:
            raise WireError("it does not answer like a member that is asked for a snapshot")
        self._welcomed = True

    def _chunk(self, frame: Frame) -> bytes:
        if frame.group != self._group:
            raise WireError(f"a frame for group {frame.group:x} in a snapshot of group {self._group:x}")
        if frame.kind == FrameKind.SNAPSHOT_CHUNK and frame.payload:
            self._received += len(frame.payload)
            return frame.payload
        if frame.kind != FrameKind.SNAPSHOT_END or len(frame.payload) != 8:
            raise WireError(f"a frame of kind {frame.kind} where a snapshot has to be")
        if (size := int.from_bytes(frame.payload, "little")) != self._received:
            raise WireError(f"a snapshot of {size} bytes of which {self._received} arrived")
        self.complete = True
        return b""
