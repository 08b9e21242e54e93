"""Linearizable reads against a small model of the core: nobody looks at a state older than the read."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import Busy, NotLeader, RequestTimeout, Stopped
from oarlock.raft import Raft
from oarlock.replica.reads import Reads

RETRY_AFTER = 0.5


class World:
    """A cluster that commits, applies, confirms and forgets. Plays the member's core."""

    def __init__(self, count_max: int = 100) -> None:
        self.reads = Reads(700, count_max=count_max, retry_after=RETRY_AFTER)
        self.available = True
        self.busy = False
        self.committed = 0
        self.applied = 0
        self.asked: list[int] = []
        """Contexts that the leader was asked about."""
        self.replies: list[tuple[int, int]] = []
        """Context and index, under way to us. Index 0 is a rejection."""
        self.answers: list[list[BaseException | None]] = []
        self.stale: list[int] = []
        """Reads that were let through to a state older than themselves."""
        self.times_asked = 0

    def read(self, context: int, now: float) -> None:
        if not self.available:
            raise NotLeader
        if self.busy:
            raise Busy("full")
        assert context not in self.asked, "a context is used once"
        self.times_asked += 1
        self.asked.append(context)

    def add(self, timeout: float = 5.0) -> list[BaseException | None]:
        answers: list[BaseException | None] = []
        self.answers.append(answers)
        needed = self.committed

        def on_ready(error: BaseException | None) -> None:
            answers.append(error)
            if error is None and self.applied < needed:  # what a callback raises is only reported
                self.stale.append(needed)

        self.reads.add(on_ready, timeout, asyncio.get_running_loop().time())
        return answers

    def turn(self) -> None:
        """What the ready loop does in a turn."""
        if self.reads.queued:
            self.reads.ask(cast(Raft, self), asyncio.get_running_loop().time())

    def confirm(self, position: int) -> None:
        """The leader confirms a context at its commit index."""
        self.replies.append((self.asked.pop(position), self.committed))

    def reply(self, position: int) -> None:
        """An answer of the leader arrives."""
        context, index = self.replies.pop(position)
        if index:
            self.reads.confirmed(context, index)
            self.reads.applied(self.applied)
        else:
            self.reads.rejected(context)

    def apply(self, count: int) -> None:
        self.applied = min(self.applied + count, self.committed)
        self.reads.applied(self.applied)

    async def settle(self) -> None:
        """A cluster that works, for as long as any read may wait."""
        self.available, self.busy = True, False
        for _ in range(40):
            await asyncio.sleep(0.25)
            self.turn()
            while self.asked:
                self.confirm(0)
            while self.replies:
                self.reply(0)
            self.apply(self.committed)


ACTIONS = (
    "add",
    "add",
    "turn",
    "turn",
    "confirm",
    "reject",
    "lose",
    "reply",
    "commit",
    "apply",
    "wait",
    "outage",
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5)), max_size=80), st.booleans())
async def test_in_any_schedule_each_read_is_answered_once_and_none_is_stale(
    schedule: list[tuple[str, int]], stop_early: bool
) -> None:
    world = World()
    world.committed = 1
    for action, number in schedule:
        match action:
            case "add":
                world.add(timeout=0.3 + number)
            case "turn":
                world.turn()
            case "confirm" if world.asked:
                world.confirm(number % len(world.asked))
            case "reject" if world.asked:
                world.replies.append((world.asked.pop(number % len(world.asked)), 0))
            case "lose" if world.asked:
                world.asked.pop(number % len(world.asked))
            case "reply" if world.replies:
                world.reply(number % len(world.replies))
            case "commit":
                world.committed += number
            case "apply":
                world.apply(number)
            case "wait":
                await asyncio.sleep(number / 5)
            case "outage":
                world.available, world.busy = number % 2 == 0, number == 5
        assert all(len(answers) <= 1 for answers in world.answers)
        assert not world.stale
    if stop_early:
        world.reads.close()
    await world.settle()
    assert not world.stale
    assert all(len(answers) == 1 for answers in world.answers)
    assert world.reads._count == 0
    if not stop_early:
        assert not world.reads.queued
        assert not world.reads._asked
        assert not world.reads._confirmed


async def test_reads_that_arrive_together_share_one_confirmation() -> None:
    world = World()
    several = [world.add() for _ in range(10)]
    world.turn()
    assert world.times_asked == 1
    later = world.add()
    world.committed = 1
    world.confirm(0)
    world.apply(1)
    world.reply(0)
    assert several == [[None]] * 10
    assert later == [], "it came after the question, so the answer says nothing about it"


async def test_a_confirmed_read_waits_until_its_index_is_applied() -> None:
    world = World()
    world.committed = 3
    answers = world.add()
    world.turn()
    world.confirm(0)
    world.reply(0)
    world.apply(2)
    assert answers == []
    world.apply(1)
    assert answers == [None]


async def test_a_lost_question_is_asked_again() -> None:
    world = World()
    answers = world.add()
    world.turn()
    world.asked.clear()
    await asyncio.sleep(RETRY_AFTER * 1.5)
    world.turn()
    world.committed = 1
    world.confirm(0)
    world.reply(0)
    world.apply(1)
    assert answers == [None]


async def test_a_lost_question_is_asked_again_though_another_read_timed_out_meanwhile() -> None:
    world = World()
    world.add(timeout=RETRY_AFTER / 2)
    answers = world.add(timeout=60)
    world.turn()
    world.asked.clear()
    await asyncio.sleep(RETRY_AFTER * 3)
    world.turn()
    world.committed = 1
    world.confirm(0)
    world.reply(0)
    world.apply(1)
    assert answers == [None]


async def test_reads_that_timed_out_are_not_asked_for_any_more() -> None:
    """They once were, for as long as no answer came."""
    world = World()
    answers = world.add(timeout=0.6)
    for _ in range(100):
        world.turn()
        await asyncio.sleep(0.1)
    assert world.times_asked <= 3
    [error] = answers
    assert isinstance(error, RequestTimeout)
    assert error.outcome_unknown is False


@pytest.mark.parametrize("trouble", ["available", "busy"])
async def test_without_a_leader_that_can_answer_reads_wait(trouble: str) -> None:
    world = World()
    world.available, world.busy = trouble != "available", trouble == "busy"
    answers = world.add(timeout=50)
    world.turn()
    assert answers == []
    world.committed = 1
    await world.settle()
    assert answers == [None]


async def test_beyond_the_bound_the_caller_gets_busy() -> None:
    world = World(count_max=3)
    for _ in range(3):
        world.add()
    with pytest.raises(Busy):
        world.add()
    world.committed = 1
    await world.settle()
    world.add()


async def test_whoever_waits_when_the_member_stops_is_told() -> None:
    world = World()
    world.committed = 5
    confirmed = world.add()
    world.turn()
    world.confirm(0)
    world.reply(0)
    asked = world.add()
    world.turn()
    queued = world.add()
    world.reads.close()
    for answers in (confirmed, asked, queued):
        assert [type(error) for error in answers] == [Stopped]


async def test_reads_that_timed_out_are_forgotten_while_nothing_can_be_applied() -> None:
    """The disk hangs, and the leader goes on confirming: it once remembered every read of that time."""
    world = World()
    world.committed = 1
    for _ in range(100):
        world.add(timeout=1)
        world.turn()
        world.confirm(0)
        world.reply(0)
        await asyncio.sleep(0.1)
    assert len(world.reads._confirmed) <= 11
