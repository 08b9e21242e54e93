"""Snapshots in whole members: written, sent, installed, and started from. On virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oarlock.errors import (
    CorruptSnapshot,
    DiskFailure,
    OarlockError,
    OutcomeUnknown,
    Stopped,
    UsageError,
)
from oarlock.raft import Message
from oarlock.raft.messages import InstallSnapshot
from oarlock.replica import SnapshotPolicy
from oarlock.replica.snapshots import is_due
from tests.replica.cluster import DIRECTORY, ELECTION_TIMEOUT, SNAPSHOTS, Cluster, Journal, Node

SOON = SnapshotPolicy(entries=20, ratio=0.0, trailing_entries=5, retry_after=0.2)


async def write(node: Node, count: int) -> None:
    """So many commands, in order, each unlike any other; and a moment for what follows from them."""
    first = len(node.machine.commands)
    await asyncio.gather(
        *(node.runtime.submit(b"%d of %d" % (number, first), timeout=20) for number in range(count))
    )
    await asyncio.sleep(2.5 * ELECTION_TIMEOUT)


async def settle(cluster: Cluster) -> list[bytes]:
    """Wait until all who run hold the same, and return it."""
    for node in cluster.nodes.values():
        await node.runtime.barrier(30)
    journals = [node.machine.commands for node in cluster.nodes.values()]
    assert all(journal == journals[0] for journal in journals)
    return journals[0]


async def until(condition: Any, seconds: float = 10.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, "it did not come about"
        await asyncio.sleep(0.005)


class TestWhenOneIsDue:
    policy = SnapshotPolicy(entries=100, bytes=1000, ratio=4.0, bytes_max=5000)

    @pytest.mark.parametrize(
        ("entries", "log_bytes", "previous", "expected"),
        [
            (99, 999, 0, False),
            (100, 0, 0, True),
            (1, 1000, 0, True),
            (100, 399, 100, False),
            (100, 400, 100, True),
            (1, 1200, 301, False),
            (1, 5000, 1 << 40, True),
            (1000, 4999, 1 << 40, False),
        ],
    )
    def test_by_entries_or_bytes_and_by_the_size_of_the_last_one(
        self, entries: int, log_bytes: int, previous: int, expected: bool
    ) -> None:
        assert is_due(self.policy, entries, log_bytes, previous) is expected

    @pytest.mark.parametrize(
        "setting",
        [
            {"entries": 0},
            {"bytes": 0},
            {"bytes_max": 0},
            {"ratio": -1.0},
            {"trailing_entries": -1},
            {"retry_after": 0.0},
        ],
    )
    def test_a_policy_that_makes_no_sense_is_refused(self, setting: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match=f"snapshot policy: {next(iter(setting))} must"):
            SnapshotPolicy(**setting)


async def test_every_member_writes_snapshots_and_drops_the_log_before_them() -> None:
    async with Cluster(policy=SOON) as cluster:
        leader = await cluster.leader()
        for _ in range(10):
            await write(leader, 20)
        await settle(cluster)
        nodes = cluster.nodes.values()
        await until(lambda: all(node.runtime.status().snapshot.index > 150 for node in nodes))
        for node in nodes:
            assert node.runtime.raft.log.first_index > 100, "memory is trimmed"
            assert len(node.machine.commands) == 200


async def test_the_disk_is_freed_of_the_log_before_a_snapshot() -> None:
    async with Cluster(size=1, policy=SOON) as cluster:
        node = await cluster.leader()
        for number in range(20):
            await asyncio.gather(*(node.runtime.submit(b"%d" % number * 1000) for _ in range(20)))
            await asyncio.sleep(2.5 * ELECTION_TIMEOUT)
        await until(lambda: not node.runtime.status().snapshot.writing)
        segments = [name for name in node.files.list_dir(DIRECTORY) if name.endswith(".log")]
        assert len(segments) <= 3, f"of ten: {segments}"
        assert len(list(node.files.list_dir(SNAPSHOTS))) == 1, "older snapshots go, too"


async def test_a_member_that_was_away_for_long_gets_a_snapshot_while_writes_go_on() -> None:
    async with Cluster(policy=SOON) as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        await follower.stop()
        for _ in range(10):
            await write(leader, 20)
        await follower.start()
        while not follower.machine.installed:
            await write(leader, 3)
        assert await settle(cluster) == leader.machine.commands
        assert follower.runtime.raft.log.first_index > 100


async def test_a_snapshot_that_was_installed_takes_the_place_of_older_ones_on_disk() -> None:
    async with Cluster(policy=SOON) as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        await write(leader, 30)
        await until(lambda: follower.runtime.status().snapshot.index > 0)
        await follower.stop()
        for _ in range(10):
            await write(leader, 20)
        await follower.start()
        await settle(cluster)
        assert follower.machine.installed
        await until(lambda: len(follower.files.list_dir(SNAPSHOTS)) == 1)


async def test_a_snapshot_that_a_newer_one_overtook_while_it_was_written_counts_for_nothing() -> None:
    async with Cluster(policy=SOON) as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        own = follower.runtime._snapshots
        in_thread, overtaken = own._in_thread, asyncio.Event()

        async def slow(function: Any, *args: Any) -> Any:
            if function.__name__ == "write":
                await overtaken.wait()
            return await in_thread(function, *args)

        own._in_thread = slow
        await write(leader, 30)
        await until(lambda: own.writing)
        cluster.cut_off.add(follower.id)
        for _ in range(10):
            await write(leader, 20)
        cluster.cut_off.clear()
        await until(lambda: bool(follower.machine.installed))
        overtaken.set()
        await until(lambda: not own.writing)
        assert own._entries >= 0, "or the next one would be late"
        leading = leader.runtime.raft.leading
        assert leading is not None
        await until(lambda: follower.id not in leading.turns)


async def test_a_member_starts_from_its_snapshot_and_what_its_log_holds_after_it() -> None:
    async with Cluster(policy=SOON) as cluster:
        leader = await cluster.leader()
        for _ in range(10):
            await write(leader, 20)
        before = list(await settle(cluster))
        for node in cluster.nodes.values():
            await until(lambda node=node: not node.runtime.status().snapshot.writing)
            with contextlib.suppress(DiskFailure):
                await node.crash()
            await node.start()
        assert await settle(cluster) == before
        for node in cluster.nodes.values():
            assert node.machine.installed == [node.runtime.status().snapshot.index]
        assert await leader.runtime.submit(b"more", timeout=20) == len(before) + 1


async def test_a_transfer_that_breaks_goes_on_where_it_got_to(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster(policy=SOON) as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        await follower.stop()
        for _ in range(10):
            await write(leader, 20)
        asked: list[int] = []
        await follower.start()
        fetch = follower.transport.fetch_snapshot

        async def watched(group: int, source: int, index: int, offset: int) -> Any:
            asked.append(offset)
            count = 0
            async for chunk in fetch(group, source, index, offset):
                yield chunk
                count += 1
                if count == 5 and len(asked) < 4:
                    raise ConnectionResetError("cut")

        follower.transport.fetch_snapshot = watched  # type: ignore[method-assign]
        await settle(cluster)
        assert follower.machine.installed
        assert len(asked) == 4
        assert asked == sorted(set(asked)), "each try went on behind the one before"
        assert "no snapshot up to index" not in caplog.text, "the leader was not asked for another"


async def test_a_source_that_dies_in_the_middle_is_replaced_by_the_next_leader() -> None:
    async with Cluster(policy=SOON) as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        await follower.stop()
        for _ in range(10):
            await write(leader, 20)
        await follower.start()
        await until(lambda: follower.runtime.status().snapshot.received > 100)
        await leader.stop()
        await until(lambda: bool(follower.machine.installed), 30)
        await leader.start()
        assert len(await settle(cluster)) == 200


async def test_a_snapshot_that_its_source_deleted_is_asked_for_again_from_the_leader() -> None:
    async with Cluster(policy=SOON) as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        await follower.stop()
        for _ in range(10):
            await write(leader, 20)
        offers: list[int] = []

        def forge(message: Message) -> bool:
            if isinstance(message, InstallSnapshot):
                offers.append(message.snapshot.index)
            return False

        await follower.start()
        follower.transport.lose = forge
        original = leader.runtime._snapshots.open
        refused = [None, None]
        opened = lambda index: refused.pop() if refused else original(index)  # noqa: E731
        leader.transport.serve_snapshots(1, opened)
        assert len(await settle(cluster)) == 200
        assert not refused
        assert follower.machine.installed


class TestTrouble:
    async def test_a_snapshot_that_cannot_be_captured_is_tried_again_and_the_member_goes_on(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise ValueError("the user's own code")

        async with Cluster(size=1, policy=SOON) as cluster:
            node = await cluster.leader()
            node.machine.on_capture = fail
            await write(node, 50)
            await asyncio.sleep(1)
            assert "no snapshot could be written" in caplog.text
            assert len([record for record in caplog.records if "no snapshot" in record.message]) < 5
            node.machine.on_capture = lambda: None
            await until(lambda: node.runtime.status().snapshot.index > 50)
            await write(node, 1)

    async def test_a_full_disk_keeps_the_log_and_the_member_goes_on(self) -> None:
        async with Cluster(size=1, policy=SOON) as cluster:
            node = await cluster.leader()
            full = True

            def before(operation: str, path: Path) -> None:
                if full and path.parent == SNAPSHOTS and operation != "rename":
                    raise OSError(errno.ENOSPC, "full", str(path))

            node._before = before  # type: ignore[method-assign]
            node.files.before = before
            await write(node, 50)
            await asyncio.sleep(0.5)
            assert node.runtime.status().snapshot.index == 0
            full = False
            await until(lambda: node.runtime.status().snapshot.index > 50)

    async def test_a_disk_that_fails_stops_the_member(self) -> None:
        async with Cluster(size=1, policy=SOON) as cluster:
            node = await cluster.leader()

            def before(operation: str, path: Path) -> None:
                if path.parent == SNAPSHOTS and operation == "fdatasync":
                    raise OSError(errno.EIO, "broken", str(path))

            node.files.before = before
            with contextlib.suppress(Stopped):
                await write(node, 50)
            assert isinstance(await node.runtime.failed, DiskFailure)

    async def test_a_member_that_stops_does_not_write_the_rest_of_a_large_snapshot(self) -> None:
        async with Cluster(size=1) as cluster:
            node = await cluster.leader()
            await write(node, 50)
            snapshots = node.runtime._snapshots
            chunks = snapshots._chunks(node.machine.capture())
            assert next(chunks)
            await node.runtime.close()
            with pytest.raises(OarlockError, match="the member stops"):
                next(chunks)

    async def test_a_machine_without_snapshots_keeps_its_log_and_says_so_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Plain(Journal):
            can_snapshot = False

        async with Cluster(size=1, policy=SOON) as cluster:
            node = cluster.nodes[1]
            await node.stop()
            caplog.clear()
            node.make_machine = Plain
            await node.start()
            for _ in range(5):
                await write(node, 50)
            assert node.runtime.raft.log.first_index == 1
            assert node.runtime.status().snapshot.index == 0
            assert caplog.text.count("the log is kept whole") == 1

    async def test_an_offered_snapshot_that_the_machine_cannot_read_is_reported_and_tried_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Picky(Journal):
            tries = 0

            def prepare(self, chunks: Any) -> Any:
                Picky.tries += 1
                if Picky.tries == 1:
                    raise CorruptSnapshot("here", "a reason")
                return super().prepare(chunks)

        async with Cluster(policy=SOON) as cluster:
            follower = await cluster.follower()
            leader = await cluster.leader()
            await follower.stop()
            for _ in range(10):
                await write(leader, 20)
            follower.make_machine = Picky
            await follower.start()
            fetched = 0
            fetch = follower.transport.fetch_snapshot

            def counted(*arguments: int) -> Any:
                nonlocal fetched
                fetched += 1
                return fetch(*arguments)

            follower.transport.fetch_snapshot = counted  # type: ignore[method-assign, assignment]
            await settle(cluster)
            assert fetched == 1, "what is here need not travel again"
            assert "a reason" in caplog.text
            assert Picky.tries == 2


async def test_a_try_that_newer_offers_ended_is_waited_for_by_each_of_them() -> None:
    """Regression: a third offer waited for the second only, and two prepared the state machine's files."""
    async with Cluster(policy=SOON) as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        await follower.stop()
        for _ in range(10):
            await write(leader, 20)
        await follower.start()
        fetching = follower.runtime._fetching
        in_thread = fetching._in_thread
        slow, at_it, most = asyncio.Event(), 0, 0

        async def watched(function: Any, *args: Any) -> Any:
            nonlocal at_it, most
            if function.__name__ != "prepare":
                return await in_thread(function, *args)
            at_it += 1
            most = max(most, at_it)
            await slow.wait()
            try:
                return await in_thread(function, *args)
            finally:
                at_it -= 1

        fetching._in_thread = watched
        await until(lambda: at_it == 1)
        offer = fetching.offer
        assert offer is not None
        for sender in (offer.sender + 10, offer.sender):
            fetching.fetch(msgspec.structs.replace(offer, sender=sender))
            await asyncio.sleep(0.02)
        assert most == 1
        slow.set()
        await settle(cluster)
        assert most == 1


async def test_a_command_whose_entry_a_snapshot_replaced_is_in_doubt_and_not_sent_again() -> None:
    async with Cluster(policy=SOON) as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        # The follower's command reaches the leader, but nothing comes back any more.
        follower.transport.lose = lambda message: True
        pending = asyncio.ensure_future(follower.runtime.submit(b"mine", timeout=60))
        await until(lambda: b"mine" in leader.machine.commands)
        for _ in range(10):
            await write(leader, 20)
        follower.transport.lose = lambda message: False
        with pytest.raises(OutcomeUnknown):
            await pending
        assert (await settle(cluster)).count(b"mine") == 1


async def test_writing_takes_turns_so_that_a_majority_is_never_at_it() -> None:
    slow = asyncio.Event()
    async with Cluster(policy=SOON) as cluster:
        leader = await cluster.leader()
        at_it: dict[int, None] = {}

        def hold(node: Node) -> None:
            original = node.runtime._snapshots._in_thread

            async def in_thread(function: Any, *args: Any) -> Any:
                if function.__name__ == "write":
                    at_it[node.id] = None
                    await slow.wait()
                return await original(function, *args)

            node.runtime._snapshots._in_thread = in_thread

        for node in cluster.nodes.values():
            hold(node)
        for _ in range(5):
            await write(leader, 20)
        await asyncio.sleep(5 * ELECTION_TIMEOUT)
        await write(leader, 20)
        assert len(at_it) == 1
        slow.set()
        for _ in range(5):
            await write(leader, 20)
            await asyncio.sleep(5 * ELECTION_TIMEOUT)
        assert len(at_it) == 3
