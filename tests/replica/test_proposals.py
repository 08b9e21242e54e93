"""Proposals against a small model of the rest of the cluster: whatever happens, they know their fate.

The model decides who leads, keeps the log, and may lose, delay and refuse what is sent to it, exactly as far
as Raft allows. It knows what was really appended, so it can judge what the callers are told.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import Busy, NotLeader, RequestTimeout, Stopped, UsageError
from oarlock.raft import Entry, EntryKind, Raft
from oarlock.replica.proposals import Proposals

ORIGIN = 0xABCD
US, OTHER, NOBODY = 1, 2, 0


class World:
    """The cluster as one member's `Proposals` sees it. Plays the member's core, too."""

    def __init__(self, *, count_max: int = 100, bytes_max: int = 10_000, batch_bytes_max: int = 120) -> None:
        self.proposals = Proposals(
            ORIGIN, 500, count_max=count_max, bytes_max=bytes_max, batch_bytes_max=batch_bytes_max
        )
        self.id = US
        self.term = 1
        self.leader_id = OTHER
        self.busy = False
        self.committed: list[Entry] = []
        self.tail: list[tuple[int, bytes | None]] = []
        """Appended and not committed: term and command, or None for the no-op of a new leader."""
        self.sent: dict[int, tuple[int, tuple[bytes, ...]]] = {}
        """Forwarded batches under way: term and commands."""
        self.refusals: list[tuple[int, bool]] = []
        """Under way back to us."""
        self.answers: dict[bytes, list[Any]] = {}
        """What each caller was told; callers are known by their data."""
        self.doubtful: dict[bytes, tuple[int, int]] = {}
        """Commands on their way, as far as we can know: by data, the term and batch that they went out in."""
        self.complaints: list[str] = []
        self.count = 0

    # What `Proposals.send` calls.

    def propose(self, commands: Sequence[bytes], now: float) -> int:
        if self.busy:
            raise Busy("full")
        self._append(commands)
        self._under_way(commands, 0)
        return 0

    def forward(self, batch: int, commands: Sequence[bytes], now: float) -> None:
        if self.leader_id == NOBODY:
            raise NotLeader
        assert batch not in self.sent
        self.sent[batch] = (self.term, tuple(commands))
        self._under_way(commands, batch)

    def _under_way(self, commands: Sequence[bytes], batch: int) -> None:
        assert len(commands) == 1 or sum(map(len, commands)) <= 120, "a batch is larger than allowed"
        self.doubtful.update((command[16:], (self.term, batch)) for command in commands)

    # What may happen.

    def add(self, timeout: float = 5.0, data: bytes = b"") -> bytes:
        self.count += 1
        data = data or b"command %d" % self.count

        def on_done(result: Any, error: BaseException | None) -> None:
            self.answers.setdefault(data, []).append(result if error is None else error)
            misled = isinstance(error, RequestTimeout | Stopped) and (
                error.outcome_unknown != (data in self.doubtful)
            )
            if misled:  # what a callback raises is only reported
                self.complaints.append(f"{data!r} was told {error}")

        self.proposals.add(data, on_done, None, timeout, asyncio.get_running_loop().time())
        return data

    def send(self) -> None:
        self.proposals.send(cast(Raft, self), asyncio.get_running_loop().time())

    def deliver(self, batch: int) -> None:
        """A forwarded batch arrives where its sender thought the leader to be."""
        term, commands = self.sent.pop(batch)
        if term != self.term or self.leader_id != OTHER:
            self.refusals.append((batch, False))
        elif self.busy:
            self.refusals.append((batch, True))
        else:
            self._append(commands)

    def refuse(self, position: int) -> None:
        """A refusal arrives."""
        batch, busy = self.refusals.pop(position)
        for data, (_, sent_in) in list(self.doubtful.items()):
            if sent_in == batch:
                del self.doubtful[data]
        self.proposals.refused(batch, busy)

    def commit(self, count: int) -> None:
        """The oldest of the tail are committed and applied here."""
        entries = [
            Entry(index, term, EntryKind.NOOP if data is None else EntryKind.COMMAND, data or b"")
            for index, (term, data) in enumerate(self.tail[:count], len(self.committed) + 1)
        ]
        del self.tail[:count]
        self._apply(entries)

    def elect(self, leader_id: int, survive: int) -> None:
        """A new term, whose leader had the first `survive` entries of the tail."""
        del self.tail[survive:]
        self.term += 1
        self.leader_id = leader_id
        self.tail.append((self.term, None))

    def _append(self, commands: Sequence[bytes]) -> None:
        self.tail += [(self.term, command) for command in commands]

    def _apply(self, entries: list[Entry]) -> None:
        self.committed += entries
        commands = [self.proposals.command(entry) for entry in entries if entry.kind is EntryKind.COMMAND]
        newest = max((entry.term for entry in entries), default=0)
        applied = {command.data for command in commands}
        for data, (term, _) in list(self.doubtful.items()):
            if data in applied or term < newest:
                del self.doubtful[data]
        self.proposals.applied(entries, [b"did " + command.data for command in commands])

    # What must hold.

    def applied_data(self) -> list[bytes]:
        return [entry.data[16:] for entry in self.committed if entry.kind is EntryKind.COMMAND]

    def check(self) -> None:
        assert not self.complaints
        applied = self.applied_data()
        assert len(applied) == len(set(applied)), "a command was applied twice"
        for data, answers in self.answers.items():
            assert len(answers) == 1, f"{data!r} was answered {len(answers)} times"
            [answer] = answers
            if isinstance(answer, bytes):
                assert answer == b"did " + data
                assert data in applied
            elif isinstance(answer, Busy) or not answer.outcome_unknown:
                assert data not in applied, f"{data!r} was applied, but its caller was told {answer!r}"

    def settle(self) -> None:
        """Everything under way arrives, in a cluster that works."""
        self.busy = False
        while self.sent or self.refusals or self.tail or (self.proposals.queued and self.leader_id):
            self.send()
            for batch in list(self.sent):
                self.deliver(batch)
            while self.refusals:
                self.refuse(0)
            self.commit(len(self.tail))


ACTIONS = (
    "add",
    "add",
    "send",
    "send",
    "deliver",
    "lose",
    "refuse",
    "commit",
    "elect",
    "busy",
    "wait",
    "mute",
)


def act(world: World, action: str, number: int) -> float:
    """Do one thing, if it is possible now. Returns how many seconds to let pass."""
    batches = list(world.sent)
    if action == "add":
        world.add(timeout=1 + number % 4)
    elif action == "send":
        world.send()
    elif action == "deliver" and batches:
        world.deliver(batches[number % len(batches)])
    elif action == "lose" and batches:
        del world.sent[batches[number % len(batches)]]
    elif action == "refuse" and world.refusals:
        world.refuse(number % len(world.refusals))
    elif action == "commit":
        world.commit(number)
    elif action == "elect":
        world.elect((US, OTHER, OTHER)[number % 3], number // 3)
    elif action == "busy":
        world.busy = not world.busy
    elif action == "mute":
        world.leader_id = NOBODY if world.leader_id == OTHER else world.leader_id
    elif action == "wait":
        return number / 3
    return 0


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 8)), max_size=80), st.booleans())
async def test_in_any_schedule_nothing_is_applied_or_answered_twice_and_nobody_is_misled(
    schedule: list[tuple[str, int]], stop_early: bool
) -> None:
    world = World()
    for action, number in schedule:
        seconds = act(world, action, number)
        if seconds:
            await asyncio.sleep(seconds)
        world.check()
    if stop_early:
        world.proposals.close()
    else:
        world.elect(OTHER, 3)
        world.settle()
    await asyncio.sleep(10)
    world.settle()
    world.check()
    assert len(world.answers) == world.count, "somebody was never answered"
    assert len(world.proposals) == 0
    assert world.proposals._bytes == 0


@pytest.mark.parametrize("mishap", ["refused", "lost", "no leader", "refused and lost"])
async def test_commands_keep_their_order(mishap: str) -> None:
    world = World(batch_bytes_max=60)
    expected = [world.add() for _ in range(9)]
    if mishap == "no leader":
        world.leader_id = NOBODY
    world.send()
    if "refused" in mishap:
        world.term += 1
        for batch in reversed(list(world.sent)):
            world.deliver(batch)
            world.refuse(0)
    if "lost" in mishap:
        world.elect(US, 0)
        world.commit(1)
    world.leader_id = world.leader_id or OTHER
    world.settle()
    assert world.applied_data() == expected


async def test_a_late_refusal_is_not_about_a_command_that_is_queued_again() -> None:
    world = World()
    data = world.add()
    world.send()
    world.elect(OTHER, 0)
    world.commit(1)  # lost: queued again
    world.deliver(*world.sent)
    world.refuse(0)
    world.settle()
    assert world.applied_data() == [data]


async def test_what_was_sent_in_a_term_is_not_lost_when_that_term_begins_here() -> None:
    """This member may know the new leader, and send to it, before it applies the leader's no-op."""
    world = World()
    world.elect(OTHER, 0)
    data = world.add()
    world.send()
    world.commit(1)
    assert not world.proposals.queued
    world.settle()
    assert world.applied_data() == [data]


async def test_a_late_refusal_is_not_about_a_command_that_was_sent_again() -> None:
    world = World()
    data = world.add()
    world.send()
    [first] = world.sent
    world.elect(OTHER, 0)
    world.commit(1)  # lost: queued again
    world.send()
    world.deliver(next(batch for batch in world.sent if batch != first))
    world.deliver(first)
    world.refuse(0)
    assert not world.proposals.queued, "it would be sent a third time"
    world.settle()
    assert world.applied_data() == [data]
    assert world.answers[data] == [b"did " + data]


async def test_a_refusal_meant_for_an_earlier_process_is_ignored() -> None:
    world = World()
    world.add()
    world.send()
    world.proposals.refused(1, busy=False)
    world.proposals.refused(1, busy=True)
    assert not world.proposals.queued
    assert not world.answers


async def test_entries_of_other_processes_answer_nobody_here() -> None:
    """Same number, another origin: another member's, or this member's before its restart."""
    world = World()
    data = world.add()
    world.send()
    foreign = struct.pack(">QQ", ORIGIN + 1, 1) + b"theirs"
    world._apply([Entry(1, 1, EntryKind.COMMAND, foreign)])
    assert not world.answers
    world.settle()
    assert world.answers == {data: [b"did " + data]}


async def test_the_request_object_comes_back_only_with_our_own_command() -> None:
    world = World()
    marker = object()
    world.proposals.add(b"x", lambda result, error: None, marker, 5, asyncio.get_running_loop().time())
    world.send()
    own = Entry(1, 1, EntryKind.COMMAND, world.sent[501][1][0])
    assert world.proposals.command(own).request is marker
    assert world.proposals.command(own).data == b"x"
    foreign = Entry(1, 1, EntryKind.COMMAND, struct.pack(">QQ", ORIGIN + 1, 1) + b"x")
    assert world.proposals.command(foreign).request is None


async def test_beyond_a_bound_the_caller_gets_busy_and_nothing_is_kept() -> None:
    world = World(count_max=3, bytes_max=1000)
    for _ in range(3):
        world.add()
    with pytest.raises(Busy):
        world.add()
    world.settle()
    assert len(world.applied_data()) == 3
    world.add()

    world = World(count_max=100, bytes_max=150)
    world.add(data=b"x" * 100)
    with pytest.raises(Busy):
        world.add(data=b"y" * 100)
    world.settle()
    world.add(data=b"y" * 100)


async def test_a_command_that_can_never_be_sent_is_refused() -> None:
    world = World(batch_bytes_max=120)
    world.add(data=b"x" * 104)
    with pytest.raises(UsageError, match="105 bytes: the limit is 104"):
        world.add(data=b"x" * 105)


@pytest.mark.parametrize("leader_id", [US, OTHER])
async def test_a_leader_at_its_bound_makes_callers_busy(leader_id: int) -> None:
    world = World()
    world.leader_id = leader_id
    world.busy = True
    data = world.add()
    world.send()
    for batch in list(world.sent):
        world.deliver(batch)
    while world.refusals:
        world.refuse(0)
    assert isinstance(world.answers[data][0], Busy)
    world.settle()
    assert world.applied_data() == []


async def test_a_command_that_timed_out_in_the_queue_is_never_sent() -> None:
    world = World()
    world.leader_id = NOBODY
    data = world.add(timeout=1)
    await asyncio.sleep(2)
    assert world.answers[data][0].outcome_unknown is False
    world.elect(OTHER, 0)
    world.settle()
    assert world.applied_data() == []


async def test_a_caller_that_retries_from_its_time_out_times_out_again() -> None:
    proposals = World().proposals
    errors: list[BaseException | None] = []

    def on_done(result: Any, error: BaseException | None) -> None:
        errors.append(error)
        if len(errors) < 3:
            proposals.add(b"again", on_done, None, 1.0, asyncio.get_running_loop().time())

    proposals.add(b"first", on_done, None, 1.0, asyncio.get_running_loop().time())
    await asyncio.sleep(10)
    assert [type(error) for error in errors] == [RequestTimeout] * 3


async def test_memory_of_forwarded_batches_does_not_grow() -> None:
    world = World()
    for _ in range(1000):
        world.add()
        world.settle()
    assert len(world.proposals._batches) <= 1


async def test_memory_of_forwarded_batches_does_not_grow_behind_one_that_was_lost() -> None:
    world = World()
    world.add(timeout=1e9)
    world.send()
    world.sent.clear()
    for _ in range(3000):
        world.add()
        world.settle()
    assert len(world.proposals._batches) <= 1025


async def test_what_timed_out_leaves_the_queue_though_there_is_no_leader() -> None:
    """It once stayed there behind patient commands that fill a batch: for as long as there was no leader."""
    world = World()
    world.leader_id = NOBODY
    patient = [world.add(timeout=1e9, data=b"%032d" % number) for number in range(10)]
    for _ in range(50):
        world.add(timeout=1)
        world.send()
        await asyncio.sleep(1.5)
    assert len(world.proposals._queue) <= len(patient) + 1
    world.leader_id = OTHER
    world.settle()
    assert world.applied_data() == patient


async def test_a_refused_batch_waits_for_a_later_term() -> None:
    """Nobody leads the term in which it was refused: sent again at once, it would go to and fro."""
    world = World()
    data = world.add()
    world.send()
    [batch] = world.sent
    world.leader_id = NOBODY
    world.deliver(batch)
    world.leader_id = OTHER  # the leader that we heard last, and which has stepped down
    world.refuse(0)
    world.send()
    assert world.sent == {}
    assert world.proposals.queued
    world.elect(OTHER, 0)
    world.settle()
    assert world.applied_data() == [data]
