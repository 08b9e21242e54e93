"""What a `Replica` needs from outside, as contracts. The consumer owns them: implementations live elsewhere.

`LogStorage` and `SnapshotStorage` are implemented by `oarlock.storage`, `Transport` by `oarlock.transport`,
`Machine` (defined in `oarlock.machine.ports`) by the adapter in `oarlock.machine` and by the key-value store.
Each has a suite of tests that every implementation passes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import Protocol

from oarlock.machine.ports import Capture, Command, Machine
from oarlock.raft.messages import Message
from oarlock.raft.types import (
    Entry,
    HardState,
    Index,
    LogBase,
    Member,
    NodeId,
    Recovered,
    Snapshot,
    StoredSnapshot,
)


class LogStorage(Protocol):
    """Durable hard state and log of one member.

    Contract: `append` calls become durable in the order in which they were made, all or nothing each, and
    `on_durable` is called in that order, on the event loop's thread, never from within `append`. After a
    failure `on_durable` receives it, for this call and every later one, and nothing is retried.
    """

    def load(self) -> Recovered:
        """What is stored. Called once, before the first `append`. Raises `CorruptLog`, `DataDirError`."""

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: Callable[[BaseException | None], None],
        base: LogBase | None = None,
    ) -> None:
        """Store and sync, without blocking. `entries` replace what is stored at and after their first.

        With `base` they replace the whole log, which begins anew behind it: a snapshot was installed.
        """

    def compact(self, index: Index) -> None:
        """Entries up to `index` will never be asked for: a durable snapshot covers them.

        Without blocking, and without a promise of when: what is recovered may begin before `index`, never
        behind it.
        """

    async def close(self) -> None:
        """Finish what was appended, then release everything. Idempotent."""


class SnapshotReader(Protocol):
    """The bytes of one stored snapshot, to be sent. They stay readable even if it is deleted meanwhile."""

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Blocks for the disk. Raises `StorageError`."""

    def close(self) -> None: ...


class SnapshotReceiver(Protocol):
    """A snapshot on its way in. All methods block for the disk: call them in a worker thread."""

    received: int
    """Bytes that are here: go on behind them."""

    def add(self, chunk: bytes) -> None:
        """Raises `StorageError`: a full disk, say."""

    def finish(self) -> StoredSnapshot:
        """Check size and checksum, and make it durable. What came before it is superseded.

        Raises:
            WireError: these are not the bytes that were promised; they are thrown away.
            StorageError: the disk failed.
        """

    def close(self) -> None:
        """Stop for now. What is here stays, for the next try."""


class SnapshotStorage(Protocol):
    """Durable snapshots of one member: made here, or received.

    Contract: a snapshot is there wholly or not at all, whatever is cut; the newest one stays until a newer
    one is durable.
    """

    def load(self) -> StoredSnapshot | None:
        """The newest, checked. Called once, first; blocks. Raises `CorruptSnapshot`, `DataDirError`."""

    def write(self, snapshot: Snapshot, chunks: Iterable[bytes]) -> StoredSnapshot:
        """Write and make durable. Blocks: in a worker thread. Raises `StorageError`."""

    def open(self, index: Index) -> SnapshotReader | None:
        """To send it; None if it is not here (any more)."""

    def receive(self, snapshot: Snapshot, size: int, checksum: int) -> SnapshotReceiver:
        """Begin, or go on after a broken try for the very same snapshot. In a worker thread."""

    def chunks(self, index: Index) -> Iterator[bytes]:
        """The state machine's part, for `Machine.prepare`. In a worker thread. Raises `StorageError`."""

    def keep(self, indexes: Iterable[Index]) -> None:
        """Delete all others, but never the newest. Blocks.

        What broken tries for older ones left goes, too; one for a newer one can still be gone on with.
        """

    def close(self) -> None: ...


class Transport(Protocol):
    """Messages to the other members of the groups in this process.

    Contract: each message is delivered at most once, intact, to the member it names and from the member
    that it says, or dropped; order is kept between two members while a connection lasts, and not promised.
    `send` never blocks and never raises for a peer that is away; queues are bounded by bytes.
    """

    def register(
        self,
        group: int,
        on_messages: Callable[[list[Message]], None],
        *,
        on_lost: Callable[[NodeId], None] | None = None,
        on_removed: Callable[[NodeId], None] | None = None,
    ) -> None:
        """Deliver messages for `group` in batches. On the event loop's thread.

        `on_lost`: the process of a peer that we were connected with is gone: its connection ended, and its
        machine refuses a new one. `on_removed`: this peer refuses us because we were removed (see
        `set_removed`).
        """

    def unregister(self, group: int) -> None: ...

    def set_members(self, group: int, members: Iterable[Member]) -> None:
        """Where the members are now; connections to others are closed. Our own entry may be among them.

        Whoever sends us something is answered even if it is not among them, where that can be done: the log
        of a member that was away for long does not say where the others are now.
        """

    def set_removed(self, group: int, removed: Iterable[NodeId]) -> None:
        """Members that were removed for good: their connections are refused, and they are told why."""

    def serve_snapshots(self, group: int, open_snapshot: Callable[[Index], SnapshotReader | None]) -> None:
        """Answer `fetch_snapshot` of others. `open_snapshot` is called on the loop's thread."""

    def fetch_snapshot(
        self, group: int, source: NodeId, index: Index, offset: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a snapshot of another member, from `offset` to its end, in checked chunks.

        On a connection of its own, so that heartbeats never wait behind it; no faster than they are taken.

        Raises:
            SnapshotUnavailable: the source does not have it (any more).
            OSError: the connection could not be made, or broke. Try again, from where it got to.
            WireError: the source does not speak our protocol.
        """

    def send(self, group: int, messages: Iterable[Message]) -> None:
        """Queue for `message.to` each; drop if its queue is full or it is unknown."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


__all__ = [
    "Capture",
    "Command",
    "LogStorage",
    "Machine",
    "Recovered",
    "SnapshotReader",
    "SnapshotReceiver",
    "SnapshotStorage",
    "StoredSnapshot",
    "Transport",
]
