"""What every `Transport` has to do.

Inherit, and say how to make one::

    class TestMine(TransportSuite):
        async def make(self, cluster_id, node_id):
            return MyTransport(...)             # started

        def member(self, transport): ...        # how the others reach it
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from random import Random
from typing import Any, Protocol

from oarlock.errors import SnapshotUnavailable
from oarlock.raft.messages import AppendEntries, Message, PreVote
from oarlock.raft.types import Entry, EntryKind, Member

GROUP = 1
_PATIENCE_SECONDS = 20.0


class SnapshotReader(Protocol):
    """As `oarlock.replica.ports.SnapshotReader`."""

    size: int

    def read(self, offset: int, size: int) -> bytes: ...

    def close(self) -> None: ...


class Transport(Protocol):
    """The port, as far as the suite uses it: `oarlock.replica.ports.Transport`."""

    def register(
        self,
        group: int,
        on_messages: Callable[[list[Message]], None],
        *,
        on_lost: Callable[[int], None] | None = None,
        on_removed: Callable[[int], None] | None = None,
    ) -> None: ...

    def unregister(self, group: int) -> None: ...

    def set_members(self, group: int, members: Iterable[Member]) -> None: ...

    def set_removed(self, group: int, removed: Iterable[int]) -> None: ...

    def serve_snapshots(self, group: int, open_snapshot: Callable[[int], SnapshotReader | None]) -> None: ...

    def fetch_snapshot(
        self, group: int, source: int, index: int, offset: int
    ) -> AsyncGenerator[bytes, None]: ...

    def send(self, group: int, messages: Iterable[Message]) -> None: ...

    async def close(self) -> None: ...


class Inbox:
    """Collects what a transport delivers for one group."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.batches = 0
        self._changed = asyncio.Event()

    def __call__(self, messages: list[Message]) -> None:
        self.messages += messages
        self.batches += 1
        self._changed.set()

    async def wait_for(self, count: int) -> list[Message]:
        """Until that many messages are there."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(self.messages) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.messages


class Shelf:
    """Snapshots to serve, by index. Counts what is read and notices what is wrong with how."""

    def __init__(self, snapshots: dict[int, bytes]) -> None:
        self.snapshots = snapshots
        self.readers: list[ShelfReader] = []
        self.read_seconds = 0.0
        """How long the disk takes for each read."""

    def __call__(self, index: int) -> ShelfReader | None:
        if index not in self.snapshots:
            return None
        self.readers.append(ShelfReader(self, self.snapshots[index]))
        return self.readers[-1]

    @property
    def read_bytes(self) -> int:
        return sum(reader.read_bytes for reader in self.readers)

    async def all_closed(self) -> None:
        """Until every reader is closed; fails if one was used wrongly."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            for reader in self.readers:
                while not reader.closed:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        problems = [problem for reader in self.readers for problem in reader.problems]
        if problems:
            raise AssertionError(f"a reader was used wrongly: {problems}")


class ShelfReader:
    """One snapshot, opened."""

    def __init__(self, shelf: Shelf, data: bytes) -> None:
        self.size = len(data)
        self.read_bytes = 0
        self.closed = False
        self.problems: list[str] = []
        self._shelf = shelf
        self._data = data
        self._loop_thread = threading.get_ident()
        self._reading = False

    def read(self, offset: int, size: int) -> bytes:
        if threading.get_ident() == self._loop_thread:
            self.problems.append("read on the event loop's thread")
        if self.closed:
            self.problems.append("read when closed")
        self._reading = True
        time.sleep(self._shelf.read_seconds)
        self._reading = False
        self.read_bytes += len(self._data[offset : offset + size])
        return self._data[offset : offset + size]

    def close(self) -> None:
        if self._reading:
            self.problems.append("closed under a read")
        self.closed = True


def pattern(size: int) -> bytes:
    """Bytes of which no two places look alike."""
    return Random(size).randbytes(size)


def probe(sender: int, to: int, number: int) -> PreVote:
    """A small message that can be told from others."""
    return PreVote(number, sender, to, number, 0)


class TransportSuite:
    """Inherit and implement `make` and `member`."""

    async def make(self, cluster_id: int, node_id: int) -> Any:
        """A started transport."""
        raise NotImplementedError

    def member(self, transport: Any, node_id: int) -> Member:
        """How the others reach it."""
        raise NotImplementedError

    async def connected(
        self, sender: Transport, inbox: Inbox, source: int, to: int, group: int = GROUP
    ) -> list[Message]:
        """Send until something arrives: messages may be dropped until a connection is there.

        Returns what arrived, and begins the inbox anew.
        """
        before = len(inbox.messages)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(inbox.messages) == before:
                sender.send(group, [probe(source, to, 0)])
                await asyncio.sleep(0.01)
        # Wait for the stragglers, so that what follows starts from a known point.
        marker = probe(source, to, 999_999)
        sender.send(group, [marker])
        while marker not in await inbox.wait_for(len(inbox.messages) + (marker not in inbox.messages)):
            pass
        seen, inbox.messages, inbox.batches = inbox.messages, [], 0
        return seen

    async def pair(self, **callbacks: Callable[[int], None]) -> tuple[Any, Any, Inbox, Inbox]:
        """Members 1 and 2, connected both ways, and what they receive; callbacks are for member 1."""
        one, two = await self.make(77, 1), await self.make(77, 2)
        members = [self.member(one, 1), self.member(two, 2)]
        inboxes = Inbox(), Inbox()
        for transport, inbox in zip((one, two), inboxes, strict=True):
            transport.register(GROUP, inbox, **(callbacks if transport is one else {}))
            transport.set_members(GROUP, members)
        await self.connected(one, inboxes[1], 1, 2)
        await self.connected(two, inboxes[0], 2, 1)
        return one, two, *inboxes

    async def test_messages_arrive_intact_and_in_order(self) -> None:
        one, two, _, inbox = await self.pair()
        sent: list[Message] = []
        for number in range(1, 201):
            entries = tuple(
                Entry(number + i, 3, EntryKind.COMMAND, bytes([i]) * number) for i in range(number % 5)
            )
            sent.append(AppendEntries(3, 1, 2, number - 1, 0, 0, entries, number))
        for begin in range(0, 200, 10):
            one.send(GROUP, sent[begin : begin + 10])
            if begin % 40 == 0:
                await asyncio.sleep(0)
        _equal(await inbox.wait_for(200), sent)
        await _close(one, two)

    async def test_both_directions_work_at_once(self) -> None:
        one, two, inbox_one, inbox_two = await self.pair()
        for number in range(1, 51):
            one.send(GROUP, [probe(1, 2, number)])
            two.send(GROUP, [probe(2, 1, number)])
        _equal(await inbox_two.wait_for(50), [probe(1, 2, number) for number in range(1, 51)])
        _equal(await inbox_one.wait_for(50), [probe(2, 1, number) for number in range(1, 51)])
        await _close(one, two)

    async def test_messages_are_delivered_to_whom_they_name(self) -> None:
        one, two, _, inbox_two = await self.pair()
        three = await self.make(77, 3)
        inbox_three = Inbox()
        three.register(GROUP, inbox_three)
        one.set_members(GROUP, [self.member(two, 2), self.member(three, 3)])
        await self.connected(one, inbox_three, 1, 3)
        one.send(GROUP, [probe(1, 3, 1), probe(1, 2, 2), probe(1, 3, 3)])
        _equal(await inbox_three.wait_for(2), [probe(1, 3, 1), probe(1, 3, 3)])
        _equal(await inbox_two.wait_for(1), [probe(1, 2, 2)])
        await _close(one, two, three)

    async def test_messages_sent_together_arrive_in_few_batches(self) -> None:
        one, two, _, inbox = await self.pair()
        one.send(GROUP, [probe(1, 2, number) for number in range(1, 101)])
        await inbox.wait_for(100)
        if inbox.batches > 10:
            raise AssertionError(f"100 messages came in {inbox.batches} batches")
        await _close(one, two)

    async def test_delivery_never_happens_within_send(self) -> None:
        one, two, _, inbox = await self.pair()
        one.send(GROUP, [probe(1, 2, 1)])
        _equal(inbox.messages, [])
        await inbox.wait_for(1)
        await _close(one, two)

    async def test_groups_are_kept_apart(self) -> None:
        one, two, _, inbox = await self.pair()
        other = Inbox()
        two.register(2**63, other)
        one.set_members(2**63, [self.member(two, 2)])
        one.send(2**63, [probe(1, 2, 5)])
        one.send(GROUP, [probe(1, 2, 6)])
        _equal(await other.wait_for(1), [probe(1, 2, 5)])
        _equal(await inbox.wait_for(1), [probe(1, 2, 6)])
        await _close(one, two)

    async def test_unknown_members_and_groups_are_dropped_without_error(self) -> None:
        one, two, _, inbox = await self.pair()
        other = Inbox()
        two.register(55, other)
        one.send(55, [probe(1, 2, 4)])
        one.send(GROUP, [probe(1, 99, 1), probe(1, 1, 2), probe(1, 2, 3)])
        _equal(await inbox.wait_for(1), [probe(1, 2, 3)])
        _equal(other.messages, [])
        await _close(one, two)

    async def test_unregistered_groups_receive_nothing_more(self) -> None:
        one, two, _, inbox = await self.pair()
        other = Inbox()
        two.register(2, other)
        one.set_members(2, [self.member(two, 2)])
        two.unregister(GROUP)
        one.send(GROUP, [probe(1, 2, 1)])
        one.send(2, [probe(1, 2, 2)])
        await other.wait_for(1)
        _equal(inbox.messages, [])
        await _close(one, two)

    async def test_removed_members_are_not_sent_to(self) -> None:
        one, two, _, inbox = await self.pair()
        one.set_members(GROUP, [])
        one.set_removed(GROUP, [2])
        one.send(GROUP, [probe(1, 2, 1)])
        one.set_removed(GROUP, [])
        one.set_members(GROUP, [self.member(two, 2)])
        if probe(1, 2, 1) in await self.connected(one, inbox, 1, 2):
            raise AssertionError("a message was sent to a member that had been removed")
        await _close(one, two)

    async def test_who_calls_is_answered_even_if_it_is_not_known_as_a_member(self) -> None:
        one, two = await self.make(77, 1), await self.make(77, 2)
        inbox, answers = Inbox(), Inbox()
        one.register(GROUP, inbox)
        one.set_members(GROUP, [self.member(one, 1)])
        two.register(GROUP, answers)
        two.set_members(GROUP, [self.member(one, 1), self.member(two, 2)])
        two.serve_snapshots(GROUP, Shelf({7: b"abc"}))
        await self.connected(two, inbox, 2, 1)
        await self.connected(one, answers, 1, 2)
        _equal(await self.fetched(one, 2, 7, 1), b"bc")
        await _close(one, two)

    async def test_other_clusters_cannot_be_reached(self) -> None:
        one, two, _, inbox = await self.pair()
        stranger = await self.make(78, 3)
        stranger.set_members(GROUP, [self.member(two, 2)])
        for number in range(20):
            stranger.send(GROUP, [probe(3, 2, number)])
            one.send(GROUP, [probe(1, 2, number)])
            await asyncio.sleep(0.002)
        await inbox.wait_for(20)
        if any(message.sender != 1 for message in inbox.messages):
            raise AssertionError("a member of another cluster got through")
        await _close(one, two, stranger)

    async def test_sending_to_a_stopped_member_is_no_error_and_works_again_when_it_is_back(self) -> None:
        one, two, _, _ = await self.pair()
        await two.close()
        for number in range(100):
            one.send(GROUP, [probe(1, 2, number)])
            await asyncio.sleep(0)
        back = await self.make(77, 2)
        inbox = Inbox()
        back.register(GROUP, inbox)
        one.set_members(GROUP, [self.member(back, 2)])
        await self.connected(one, inbox, 1, 2)
        await _close(one, back)

    async def test_close_may_be_called_twice_and_sending_afterwards_is_no_error(self) -> None:
        one, two, _, inbox = await self.pair()
        await one.close()
        await one.close()
        one.send(GROUP, [probe(1, 2, 1)])
        await asyncio.sleep(0)
        _equal(inbox.messages, [])
        await two.close()

    async def test_stopped_member_is_lost_once_for_every_time_that_it_was_there(self) -> None:
        lost = Calls()
        one, two, _, _ = await self.pair(on_lost=lost)
        await two.close()
        await lost.wait_for(1)
        back = await self.make(77, 2)
        inbox = Inbox()
        back.register(GROUP, inbox)
        for transport in (one, back):
            transport.set_members(GROUP, [self.member(one, 1), self.member(back, 2)])
        await self.connected(one, inbox, 1, 2)
        await back.close()
        await lost.wait_for(2)
        await asyncio.sleep(0.2)
        _equal(lost.values, [2, 2])
        await one.close()

    async def test_nobody_is_lost_by_what_we_do_ourselves(self) -> None:
        lost = Calls()
        one, two, _, inbox = await self.pair(on_lost=lost)
        one.set_members(GROUP, [])
        await two.close()
        await asyncio.sleep(0.1)
        two = await self.make(77, 2)
        two.register(GROUP, inbox)
        one.set_members(GROUP, [self.member(two, 2)])
        await self.connected(one, inbox, 1, 2)
        await one.close()
        await asyncio.sleep(0.05)
        _equal(lost.values, [])
        await two.close()

    async def test_removed_member_is_told_and_delivers_nothing_more(self) -> None:
        removed = Calls()
        one, two, inbox_one, inbox_two = await self.pair(on_removed=removed)
        two.set_removed(GROUP, [1])
        two.set_members(GROUP, [])
        one.send(GROUP, [probe(1, 2, 1)])
        await removed.wait_for(1)
        for number in range(20):
            one.send(GROUP, [probe(1, 2, number)])
            await asyncio.sleep(0.002)
        _equal(inbox_two.messages, [])
        if set(removed.values) != {2}:
            raise AssertionError(f"refused by {removed.values}")
        two.set_removed(GROUP, [])
        two.set_members(GROUP, [self.member(one, 1)])
        await self.connected(one, inbox_two, 1, 2)
        await self.connected(two, inbox_one, 2, 1)
        await _close(one, two)

    async def test_snapshot_arrives_whole_and_from_any_offset(self) -> None:
        one, two, _, inbox = await self.pair()
        data = pattern(1_500_001)
        shelf = Shelf({7: data, 8: b""})
        one.serve_snapshots(GROUP, shelf)
        for offset in (0, 1, 262_144, 1_500_000, 1_500_001):
            _equal(await self.fetched(two, 1, 7, offset), data[offset:])
        _equal(await self.fetched(two, 1, 8, 0), b"")
        one.send(GROUP, [probe(1, 2, 1)])
        _equal(await inbox.wait_for(1), [probe(1, 2, 1)])
        await shelf.all_closed()
        await _close(one, two)

    async def test_snapshot_that_is_not_there_is_said_so(self) -> None:
        one, two, _, _ = await self.pair()
        await self.unavailable(two, 7, 0)
        shelf = Shelf({7: b"abc"})
        one.serve_snapshots(GROUP, shelf)
        await self.unavailable(two, 6, 0)
        await self.unavailable(two, 7, 4)
        _equal(await self.fetched(two, 1, 7, 1), b"bc")
        one.unregister(GROUP)
        await self.unavailable(two, 7, 0)
        await shelf.all_closed()
        await _close(one, two)

    async def test_snapshot_of_a_member_that_is_away_or_unknown_is_an_os_error(self) -> None:
        one, two, _, _ = await self.pair()
        await one.close()
        for source in (1, 9):
            try:
                await self.fetched(two, source, 7, 0)
            except OSError:
                continue
            raise AssertionError("something was fetched from nobody")
        await two.close()

    async def test_snapshot_is_read_no_faster_than_it_is_taken(self) -> None:
        one, two, _, inbox = await self.pair()
        size = 64 << 20
        shelf = Shelf({7: bytes(size)})
        one.serve_snapshots(GROUP, shelf)
        async with aclosing(two.fetch_snapshot(GROUP, 1, 7, 0)) as chunks:
            taken = len(await anext(chunks))
            await asyncio.sleep(0.3)
            if shelf.read_bytes > size // 2:
                raise AssertionError(f"{shelf.read_bytes} bytes were read when {taken} had been taken")
            one.send(GROUP, [probe(1, 2, 1)])
            _equal(await inbox.wait_for(1), [probe(1, 2, 1)])
            async for chunk in chunks:
                taken += len(chunk)
        _equal(taken, size)
        await shelf.all_closed()
        await _close(one, two)

    async def test_snapshot_that_nobody_takes_any_more_is_closed(self) -> None:
        one, two, _, _ = await self.pair()
        shelf = Shelf({7: bytes(32 << 20)})
        shelf.read_seconds = 0.02
        one.serve_snapshots(GROUP, shelf)
        async with aclosing(two.fetch_snapshot(GROUP, 1, 7, 0)) as chunks:
            await anext(chunks)
        task = asyncio.create_task(self.fetched(two, 1, 7, 0))
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(shelf.readers) < 2 or not shelf.readers[1].read_bytes:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        await shelf.all_closed()
        if shelf.read_bytes > 32 << 20:
            raise AssertionError("it was read on for nobody")
        await _close(one, two)

    async def test_closing_either_end_ends_a_transfer_with_an_os_error(self) -> None:
        for end in (0, 1):
            one, two, _, _ = await self.pair()
            shelf = Shelf({7: bytes(64 << 20)})
            one.serve_snapshots(GROUP, shelf)
            chunks = two.fetch_snapshot(GROUP, 1, 7, 0)
            await anext(chunks)
            await (one, two)[end].close()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    async for _ in chunks:
                        pass
            except OSError:
                pass
            else:
                raise AssertionError("the transfer went on")
            await shelf.all_closed()
            await _close(one, two)

    async def fetched(self, transport: Transport, source: int, index: int, offset: int) -> bytes:
        chunks = transport.fetch_snapshot(GROUP, source, index, offset)
        async with asyncio.timeout(_PATIENCE_SECONDS), aclosing(chunks):
            return b"".join([chunk async for chunk in chunks])

    async def unavailable(self, transport: Transport, index: int, offset: int) -> None:
        try:
            await self.fetched(transport, 1, index, offset)
        except SnapshotUnavailable:
            return
        raise AssertionError(f"snapshot {index} from {offset} was there")


class Calls:
    """What a callback was called with."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._changed = asyncio.Event()

    def __call__(self, value: int) -> None:
        self.values.append(value)
        self._changed.set()

    async def wait_for(self, count: int) -> list[int]:
        """Until that many calls were made."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(self.values) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.values


async def _close(*transports: Transport) -> None:
    for transport in transports:
        await transport.close()


def _equal(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"got {str(found)[:1000]}, expected {str(expected)[:1000]}")
