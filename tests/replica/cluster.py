"""Members over in-process channels that can be cut, on disks in memory that can fail and crash."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from oarlock.errors import SnapshotUnavailable
from oarlock.machine import Command
from oarlock.raft import Config, Configuration, Member, Message, Role
from oarlock.replica import OwnEntry, Runtime, RuntimeLimits, SnapshotPolicy
from oarlock.storage import DiskSnapshots, DiskStorage, LoopWorker, MemoryFiles
from oarlock.transport import ChannelNetwork, ChannelTransport

CLUSTER = 1
DIRECTORY = Path("/wal")
SNAPSHOTS = Path("/snapshots")
ELECTION_TIMEOUT = 0.1
CHUNK = 64


class Journal:
    """The simplest machine: it remembers what it applied, and answers with its position."""

    applied_index = 0
    can_snapshot = True

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.on_apply: Callable[[bytes], None] = lambda data: None
        self.installed: list[int] = []
        """Indexes of the snapshots that took the place of the state."""
        self.captures = 0
        self.on_capture: Callable[[], None] = lambda: None

    def apply(self, commands: Sequence[Command], applied_index: int) -> list[Any]:
        for command in commands:
            self.on_apply(command.data)
            self.commands.append(command.data)
        return list(range(len(self.commands) - len(commands) + 1, len(self.commands) + 1))

    def capture(self) -> Frozen:
        self.on_capture()
        self.captures += 1
        return Frozen(msgspec.msgpack.encode(self.commands))

    def prepare(self, chunks: Iterable[bytes]) -> list[bytes]:
        return msgspec.msgpack.decode(b"".join(chunks), type=list[bytes])

    def install(self, prepared: list[bytes], applied_index: int) -> None:
        self.commands = prepared
        self.installed.append(applied_index)

    def close(self) -> None: ...


class Frozen:
    """A journal's capture."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def chunks(self) -> Iterator[bytes]:
        for offset in range(0, len(self.data), CHUNK):
            yield self.data[offset : offset + CHUNK]

    def close(self) -> None: ...


async def at_once(function: Callable[..., Any], *args: Any) -> Any:
    """In place of a thread, for which virtual time does not wait."""
    await asyncio.sleep(0.001)
    return function(*args)


class CutTransport(ChannelTransport):
    """Loses what travels over a line that is cut. Snapshots travel slowly, and without a thread."""

    cut: Callable[[int, int], bool] = staticmethod(lambda sender, to: False)
    lose: Callable[[Message], bool] = staticmethod(lambda message: False)

    def receive(self, group: int, message: Message) -> bool:
        if self.cut(message.sender, self.node_id) or self.lose(message):
            return True
        return super().receive(group, message)

    async def fetch_snapshot(
        self, group: int, source: int, index: int, offset: int
    ) -> AsyncGenerator[bytes, None]:
        other = self._network.find(CLUSTER, source)
        if other is None:
            raise ConnectionRefusedError(f"{source} is away")
        reader = other.open_snapshot(group, index)
        if reader is None:
            raise SnapshotUnavailable(f"{source} has no snapshot {index}")
        try:
            while offset < reader.size:
                await asyncio.sleep(0.002)
                if self.cut(source, self.node_id) or self._network.find(CLUSTER, source) is not other:
                    raise ConnectionResetError(f"the way to {source} is cut")
                chunk = reader.read(offset, CHUNK)
                offset += len(chunk)
                yield chunk
        finally:
            reader.close()


class Node:
    """One member, over several runs."""

    def __init__(self, cluster: Cluster, node_id: int) -> None:
        self.cluster = cluster
        self.id = node_id
        self.files = MemoryFiles(self._before)
        self.broken = False
        """The disk fails."""
        self.running = False
        self.make_machine: Callable[[], Journal] = Journal
        self.machine = self.make_machine()
        self.runtime: Runtime
        self.transport: CutTransport
        self.initial: Configuration | None = cluster.configuration
        self.own: OwnEntry | None = None
        self.peers = cluster.configuration.members

    def _before(self, operation: str, path: Path) -> None:
        if self.broken:
            raise OSError(errno.EIO, "broken", str(path))

    async def start(self) -> Runtime:
        self.machine = self.make_machine()
        cluster = self.cluster
        self.transport = CutTransport(cluster.network, CLUSTER, self.id, 1 << 20)
        self.transport.cut = cluster.is_cut
        self.runtime = Runtime(
            self.machine,
            config=Config(
                id=self.id, election_timeout=ELECTION_TIMEOUT, heartbeat_interval=ELECTION_TIMEOUT / 10
            ),
            initial=self.initial,
            snapshots=DiskSnapshots(SNAPSHOTS, files=self.files, block_bytes=CHUNK),
            policy=cluster.policy,
            own=self.own,
            in_thread=at_once,
            peers=self.peers,
            storage=DiskStorage(
                DIRECTORY, files=self.files, worker=LoopWorker(), segment_bytes=1 << 16, random=cluster.random
            ),
            transport=self.transport,
            random=random.Random(cluster.random.random()),
            limits=cluster.limits,
        )
        await self.transport.start()
        await self.runtime.start()
        self.running = True
        return self.runtime

    async def stop(self) -> None:
        self.running = False
        await self.runtime.close()
        await self.transport.close()

    async def crash(self) -> None:
        """The power goes. Nothing that was not synced comes back."""
        self.broken = True
        self.running = False
        await self.transport.close()
        try:
            await self.runtime.close()
        finally:
            self.broken = False
            self.files.crash(self.cluster.random)


class Cluster:
    """Some members, started together."""

    def __init__(
        self,
        size: int = 3,
        seed: int = 0,
        limits: RuntimeLimits | None = None,
        policy: SnapshotPolicy | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.network = ChannelNetwork()
        self.limits = limits
        self.policy = policy
        self.cut_off: set[int] = set()
        ids = tuple(range(1, size + 1))
        self.configuration = Configuration(ids, members=tuple(Member(id_, f"m{id_}") for id_ in ids))
        self.nodes = {id_: Node(self, id_) for id_ in ids}

    def is_cut(self, sender: int, to: int) -> bool:
        return sender in self.cut_off or to in self.cut_off

    async def __aenter__(self) -> Cluster:
        for node in self.nodes.values():
            await node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes.values():
            await node.stop()

    async def leader(self) -> Node:
        """The node that leads those that are not cut off, once its first entry is committed."""
        anyone = next(node for id_, node in self.nodes.items() if id_ not in self.cut_off)
        await anyone.runtime.barrier(10)
        return self.nodes[anyone.runtime.leader_id]

    async def follower(self) -> Node:
        leader = await self.leader()
        return next(
            node for id_, node in self.nodes.items() if node is not leader and id_ not in self.cut_off
        )

    def leaders(self) -> list[int]:
        return [id_ for id_, node in self.nodes.items() if node.running and node.runtime.role is Role.LEADER]
