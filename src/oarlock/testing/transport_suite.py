"""What every `Transport` has to do.

Inherit, and say how to make one::

    class TestMine(TransportSuite):
        async def make(self, cluster_id, node_id):
            return MyTransport(...)             # started

        def member(self, transport): ...        # how the others reach it
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from oarlock.raft.messages import AppendEntries, Message, PreVote
from oarlock.raft.types import Entry, EntryKind, Member

GROUP = 1
_PATIENCE_SECONDS = 20.0


class Transport(Protocol):
    """The port, as far as the suite uses it: `oarlock.replica.ports.Transport`."""

    def register(self, group: int, on_messages: Callable[[list[Message]], None]) -> None: ...

    def unregister(self, group: int) -> None: ...

    def set_members(self, group: int, members: Iterable[Member]) -> None: ...

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

    async def pair(self) -> tuple[Any, Any, Inbox, Inbox]:
        """Members 1 and 2, connected both ways, and what they receive."""
        one, two = await self.make(77, 1), await self.make(77, 2)
        members = [self.member(one, 1), self.member(two, 2)]
        inboxes = Inbox(), Inbox()
        for transport, inbox in zip((one, two), inboxes, strict=True):
            transport.register(GROUP, inbox)
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
        one.send(GROUP, [probe(1, 2, 1)])
        one.set_members(GROUP, [self.member(two, 2)])
        if probe(1, 2, 1) in await self.connected(one, inbox, 1, 2):
            raise AssertionError("a message was sent to a member that had been removed")
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


async def _close(*transports: Transport) -> None:
    for transport in transports:
        await transport.close()


def _equal(found: Sequence[Message], expected: Sequence[Message]) -> None:
    if list(found) != list(expected):
        raise AssertionError(f"got {found}, expected {expected}")
