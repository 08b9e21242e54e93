"""The cluster's clock: it never falls, and goes on from the last stamp (dissertation 6.3)."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.raft.cluster_clock import ClusterClock

from .alone import acknowledge, established, sent
from .stage import Stage


def test_it_counts_milliseconds_from_the_last_stamp_on() -> None:
    clock = ClusterClock(1000, 50.0)
    assert clock.read(50.0) == 1000
    assert clock.read(50.25) == 1250
    clock.stamped(5000, 51.0)
    assert clock.read(52.0) == 6000


def test_a_stamp_of_the_past_changes_nothing() -> None:
    clock = ClusterClock(1000, 50.0)
    clock.stamped(999, 60.0)
    assert clock.read(51.0) == 2000


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["read", "stamped"]), st.floats(-5, 60), st.integers(0, 10_000))))
def test_whatever_the_members_own_clock_does_no_stamp_is_less_than_one_before(
    steps: list[tuple[str, float, int]],
) -> None:
    clock = ClusterClock(0, 0.0)
    highest = 0
    for verb, now, time in steps:
        if verb == "stamped":
            clock.stamped(time, now)
            highest = max(highest, time)
        assert clock.read(now) >= highest


def test_6_3_a_leader_stamps_each_entry_with_the_time_that_has_passed() -> None:
    raft = established()
    before = raft.log.entry(raft.log.last_index).time
    raft.propose([b"a"], raft.now + 1.5)
    assert raft.log.entry(raft.log.last_index).time == before + 1500
    sent(raft)
    acknowledge(raft, 2)


def test_6_3_many_stamps_a_second_do_not_hold_the_clock() -> None:
    raft = established()
    started, before = raft.now, raft.clock.read(raft.now)
    for step in range(1, 401):
        raft.propose([b"a"], started + step / 1600)
    assert raft.log.entry(raft.log.last_index).time - before == 250


def test_6_3_the_next_leader_goes_on_from_the_last_stamp_of_its_log() -> None:
    stage = Stage()
    for leader in (1, 2, 3, 1):
        stage.elect(leader)
        stage.propose(leader, "a")
        stage.deliver()
        stage.run(random.Random(leader).uniform(0.1, 2.0))
    times = [entry.time for entry in stage[1].log.slice(1, stage[1].log.last_index)]
    assert times == sorted(times)
    assert times[-1] > times[0]
    assert stage[1].log.slice(1, 9) == stage[3].log.slice(1, 9)
