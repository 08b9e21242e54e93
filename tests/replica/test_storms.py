"""Whole members in a storm, on virtual time: a command is applied once or not at all, and nobody is misled.

Three to five runtimes over their real log and snapshots, on disks that lose what was not synced, and a
network that loses, delays, reorders and duplicates. Clients submit commands, each unlike any other, and read,
also with some staleness. An operator adds, promotes and removes members and moves the leadership. Snapshots
are so frequent that every member that was away needs one. A seed decides everything.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from oarlock.errors import (
    Busy,
    ChangeReason,
    ChangeRefused,
    DiskFailure,
    NotLeader,
    OutcomeUnknown,
    RequestTimeout,
    Stopped,
)
from oarlock.raft import Member, Message
from oarlock.raft.messages import Propose
from oarlock.raft.types import Change
from oarlock.replica import SnapshotPolicy
from tests.replica.cluster import ELECTION_TIMEOUT, Cluster, Node

CLIENTS = 6
STORM = 40 * ELECTION_TIMEOUT


class Storm:
    """The network's and the power's moods, and what the clients were told."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        policy = SnapshotPolicy(
            entries=self.random.choice((5, 20, 80)),
            ratio=0.0,
            trailing_entries=self.random.choice((0, 3, 10)),
            retry_after=ELECTION_TIMEOUT,
        )
        self.cluster = Cluster(size=3, seed=seed, policy=policy)
        self.loss = self.random.choice((0.0, 0.02, 0.1))
        self.late = self.random.choice((0.0, 0.05, 0.2))
        self.duplication = self.random.choice((0.0, 0.1))
        self.over = False
        self.down: dict[int, None] = {}
        self.count = 0
        self.acknowledged: dict[bytes, int] = {}
        self.refused: dict[bytes, BaseException] = {}
        self.doubtful = 0
        self.reads = 0
        self.stale_reads = 0
        self.changes = 0
        self.transfers = 0
        self.newest_at: list[tuple[float, int]] = [(0.0, 0)]
        """How many commands had been answered when."""
        self.gone: list[Node] = []
        """Removed, and perhaps still running."""
        self.installed = 0

    # ── the network ───────────────────────────────────────────────────────────────────────────────

    def spoil(self, node: Node) -> None:
        transport, take = node.transport, node.transport.receive

        def receive(group: int, message: Message) -> bool:
            if self.over:
                return take(group, message)
            copies = 1
            if self.random.random() < self.loss:
                copies = 0
            elif not isinstance(message, Propose) and self.random.random() < self.duplication:
                copies = 2
            for _ in range(copies):
                delay = self.random.uniform(0.0, 0.005)
                if self.random.random() < self.late:
                    delay = self.random.uniform(0.0, 3 * ELECTION_TIMEOUT)
                asyncio.get_running_loop().call_later(delay, arrive, group, message)
            return True

        def arrive(group: int, message: Message) -> None:
            if node.transport is transport and node.id not in self.down:
                take(group, message)

        transport.receive = receive  # type: ignore[method-assign]

    async def faults(self) -> None:
        while not self.over:
            await asyncio.sleep(self.random.expovariate(1 / ELECTION_TIMEOUT))
            nodes = list(self.cluster.nodes.values())
            node = self.random.choice(nodes)
            leading = [node for node in nodes if node.id in self.cluster.leaders()]
            if leading and self.random.random() < 0.5:
                node = self.random.choice(leading)
            match self.random.choice(("crash", "cut", "heal", "heal")):
                case "crash" if len(self.down) < 2 and node.id not in self.down:
                    await self.crash(node)
                case "cut":
                    self.cluster.cut_off = {node.id}
                case _:
                    self.cluster.cut_off.clear()
                    for node_id in list(self.down):
                        if node_id in self.cluster.nodes:
                            await self.restart(self.cluster.nodes[node_id])

    async def crash(self, node: Node) -> None:
        self.down[node.id] = None
        try:
            await node.crash()
        except DiskFailure:
            pass  # what the dying member said of it

    async def restart(self, node: Node) -> None:
        await node.start()
        self.spoil(node)
        del self.down[node.id]

    # ── the clients ───────────────────────────────────────────────────────────────────────────────

    async def client(self) -> None:
        while not self.over:
            await asyncio.sleep(self.random.expovariate(4 / ELECTION_TIMEOUT))
            node = self.random.choice(list(self.cluster.nodes.values()))
            chance = self.random.random()
            if chance < 0.7:
                await self.write(node)
            elif chance < 0.9:
                await self.read(node)
            else:
                await self.stale_read(node)

    async def write(self, node: Node) -> None:
        self.count += 1
        data = b"%d" % self.count
        try:
            timeout = self.random.uniform(0.5, 20.0) * ELECTION_TIMEOUT
            self.acknowledged[data] = await node.runtime.submit(data, timeout=timeout)
            newest = max(self.newest_at[-1][1], self.acknowledged[data])
            self.newest_at.append((asyncio.get_running_loop().time(), newest))
        except OutcomeUnknown:
            self.doubtful += 1
        except (RequestTimeout, Stopped) as error:
            if error.outcome_unknown:
                self.doubtful += 1
            else:
                self.refused[data] = error
        except Busy as error:
            self.refused[data] = error

    async def read(self, node: Node) -> None:
        newest = max(self.acknowledged.values(), default=0)
        runtime = node.runtime
        try:
            await runtime.barrier(timeout=self.random.uniform(0.5, 20.0) * ELECTION_TIMEOUT)
        except (RequestTimeout, Stopped, Busy):
            return
        if node.runtime is runtime:
            self.reads += 1
            assert len(node.machine.commands) >= newest, "a read saw a state older than an answered write"

    async def stale_read(self, node: Node) -> None:
        bound = self.random.uniform(0.1, 3.0) * ELECTION_TIMEOUT
        asked = asyncio.get_running_loop().time()
        runtime = node.runtime
        try:
            await runtime.barrier(timeout=5 * ELECTION_TIMEOUT, max_staleness=bound)
        except (RequestTimeout, Stopped, Busy):
            return
        if node.runtime is runtime:
            self.stale_reads += 1
            newest = max(count for at, count in self.newest_at if at <= asked - bound or count == 0)
            assert len(node.machine.commands) >= newest, "a read saw a state older than its bound"

    # ── the operator ──────────────────────────────────────────────────────────────────────────────

    async def operator(self) -> None:
        next_id = 4
        while not self.over:
            await asyncio.sleep(self.random.expovariate(0.5 / ELECTION_TIMEOUT))
            node = self.random.choice(list(self.cluster.nodes.values()))
            match self.random.choice(("add", "remove", "transfer", "replace")):
                case "add" if len(self.cluster.nodes) < 5:
                    if await self.change(node, add=(Member(next_id, f"m{next_id}"),)):
                        await self.enter(next_id)
                    next_id += 1
                case "remove" if len(self.cluster.nodes) > 3:
                    await self.leave(node, self.random.choice(list(self.cluster.nodes.values())))
                case "replace" if len(self.cluster.nodes) < 5:
                    leaving = self.random.choice(list(self.cluster.nodes.values()))
                    if await self.change(node, add=(Member(next_id, f"m{next_id}"),), learners=True):
                        await self.enter(next_id)
                        await self.leave(node, leaving, promote=(next_id,))
                    next_id += 1
                case "transfer":
                    try:
                        await node.runtime.transfer_leadership(0, 5 * ELECTION_TIMEOUT)
                        self.transfers += 1
                    except (NotLeader, ChangeRefused, RequestTimeout, Stopped):
                        pass

    async def enter(self, node_id: int) -> None:
        node = Node(self.cluster, node_id)
        node.initial = None
        known = [n.runtime.configuration for n in self.cluster.nodes.values() if n.running]
        everyone = {member.id: member for configuration in known for member in configuration.members}
        node.peers = tuple(everyone.values())
        await node.start()
        self.spoil(node)
        self.cluster.nodes[node_id] = node

    async def leave(self, by: Node, node: Node, promote: tuple[int, ...] = ()) -> None:
        if await self.change(by, remove=(node.id,), promote=promote):
            self.gone.append(self.cluster.nodes.pop(node.id))

    async def change(self, node: Node, **change: Any) -> bool:
        """Whether it was made. While that is in doubt, nothing else is changed: ask until it is not."""
        wanted = Change(**change)
        while True:
            try:
                await node.runtime.change_membership(wanted, 20 * ELECTION_TIMEOUT)
                self.changes += 1
                return True
            except ChangeRefused as refusal:
                if refusal.reason in (ChangeReason.ALREADY_THERE, ChangeReason.WAS_REMOVED):
                    return True  # by an attempt that was in doubt
                if refusal.reason is ChangeReason.NOT_FOUND and wanted.remove:
                    return True
                if refusal.reason is ChangeReason.NOT_A_LEARNER and wanted.remove:
                    return True
                if wanted.promote and refusal.reason is ChangeReason.NOT_CAUGHT_UP and not self.over:
                    await asyncio.sleep(ELECTION_TIMEOUT)
                    continue
                return False
            except (RequestTimeout, Stopped) as error:
                if not error.outcome_unknown and not isinstance(error, Stopped):
                    return False
                node = self.random.choice(list(self.cluster.nodes.values()))
                await asyncio.sleep(ELECTION_TIMEOUT)

    # ── all of it ─────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        async with self.cluster as cluster:
            for node in cluster.nodes.values():
                self.spoil(node)
            clients = [asyncio.ensure_future(self.client()) for _ in range(CLIENTS)]
            faults = asyncio.ensure_future(self.faults())
            operator = asyncio.ensure_future(self.operator())
            await asyncio.sleep(STORM)
            self.over = True
            await faults
            cluster.cut_off.clear()
            for node_id in list(self.down):
                if node_id in cluster.nodes:
                    await self.restart(cluster.nodes[node_id])
            await operator
            await asyncio.gather(*clients)
            await self.sort_out()
            for node in self.gone:
                if node.id not in self.down:
                    await node.stop()
            first = next(iter(cluster.nodes.values()))
            await first.runtime.submit(b"the end", timeout=30)
            for node in cluster.nodes.values():
                await node.runtime.barrier(30)
            self.judge([node.machine.commands for node in cluster.nodes.values()])
            self.installed = sum(len(node.machine.installed) for node in cluster.nodes.values())

    async def sort_out(self) -> None:
        """An operator who was left in doubt may have removed somebody without knowing it."""
        nodes = self.cluster.nodes
        barriers = {asyncio.ensure_future(node.runtime.barrier(30)): node for node in nodes.values()}
        done, pending = await asyncio.wait(barriers, return_when=asyncio.FIRST_COMPLETED)
        configuration = next(barriers[task] for task in done if not task.exception()).runtime.configuration
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self.gone += [nodes.pop(node_id) for node_id in list(nodes) if node_id not in configuration.ids]

    def judge(self, machines: list[list[bytes]]) -> None:
        commands = machines[0]
        assert all(machine == commands for machine in machines)
        assert len(set(commands)) == len(commands), "a command was applied twice"
        for data, position in self.acknowledged.items():
            assert commands[position - 1] == data, f"{data!r} was answered with another command's result"
        misled = {data: error for data, error in self.refused.items() if data in commands}
        assert not misled, "applied, though their callers were told that they were not"


@pytest.mark.parametrize("seed", range(20))
async def test_in_a_storm_every_command_is_applied_once_or_not_at_all_and_nobody_is_misled(seed: int) -> None:
    storm = Storm(seed)
    await storm.run()
    told: dict[str, Any] = {"acknowledged": len(storm.acknowledged), "reads": storm.reads}
    assert all(number > 10 for number in told.values()), f"a storm in which nothing happens: {told}"
    assert storm.changes > 1
    assert storm.installed > 1
