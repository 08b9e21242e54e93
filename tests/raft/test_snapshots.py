"""Snapshots as the core knows them: what is dropped, who is offered what, and what an install does (5.1)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oarlock.errors import InvariantViolated
from oarlock.raft import invariants
from oarlock.raft.config import Config
from oarlock.raft.messages import AppendEntries, AppendEntriesReply, InstallSnapshot, InstallSnapshotReply
from oarlock.raft.progress import ProgressState
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Configuration, Entry, HardState, LogBase, Snapshot, StoredSnapshot

from .alone import acknowledge, core, elected, established, sent

THREE = Configuration(voters=(1, 2, 3))


def stored(index: int, term: int = 2, time: int = 0, configuration: Configuration = THREE) -> StoredSnapshot:
    return StoredSnapshot(Snapshot(index, term, configuration, 1, time), 1000, index)


def offer(index: int, term: int = 2, now_term: int = 2, sender: int = 2, round: int = 1) -> InstallSnapshot:
    snapshot = stored(index, term)
    return InstallSnapshot(now_term, sender, 1, snapshot.snapshot, snapshot.size, snapshot.checksum, round)


def grow(raft: Raft, entries: int, *followers: int, size: int = 1) -> None:
    """A leader commits and applies so many commands, one after the other."""
    for _ in range(entries):
        raft.propose([b"x" * size], raft.now)
        sent(raft)
        acknowledge(raft, *followers)


def take(raft: Raft) -> StoredSnapshot:
    """The driver has written a snapshot of what is applied."""
    snapshot = raft.snapshot_at(raft.applied_index)
    kept = StoredSnapshot(snapshot, 1000, snapshot.index)
    raft.snapshot_taken(kept, raft.now)
    return kept


def one(raft: Raft) -> Any:
    ready = raft.ready()
    assert ready is not None
    return ready


# ── 5 intro: what is dropped ──────────────────────────────────────────────────────────────────────────


def test_5_a_log_without_bounds_is_kept() -> None:
    raft = established()
    grow(raft, 50, 2, 3)
    assert raft.log.base_index == 0


def test_5_applied_entries_are_dropped_behind_a_tail() -> None:
    raft = established(log_entries_kept=10)
    grow(raft, 100, 2, 3)
    kept = raft.log.last_index - raft.log.base_index
    assert 10 <= kept <= 21
    assert raft.configuration.voters == (1, 2, 3)
    invariants.check(raft)


def test_5_large_entries_are_dropped_by_their_bytes() -> None:
    raft = established(log_entries_kept=1000, log_bytes_kept=500)
    grow(raft, 100, 2, 3, size=100)
    assert raft.log.bytes <= 1100


def test_5_what_a_follower_that_answers_still_needs_is_kept() -> None:
    raft = established(log_entries_kept=0)
    grow(raft, 20, 2)
    assert raft.log.base_index == 2, "3 was heard a moment ago"
    for _ in range(6):
        raft.timeout(raft.deadline)
        acknowledge(raft, 2)
    grow(raft, 1, 2)
    assert raft.log.base_index > 2, "it has been silent for an election timeout"


def test_a_follower_that_answers_and_never_catches_up_costs_so_many_bytes_and_no_more() -> None:
    raft = established(log_entries_kept=0, log_bytes_kept=1, log_bytes_max=2000)
    grow(raft, 100, 2, size=100)
    assert raft.log.bytes <= 2100


def test_5_the_configuration_survives_the_entry_that_held_it() -> None:
    raft = established(log_entries_kept=0)
    grow(raft, 10, 2, 3)
    assert raft.log.base_index > 1
    assert raft.configuration.voters == (1, 2, 3)
    assert raft.snapshot_at(raft.applied_index).configuration == raft.configuration


# ── 5.1: what a leader does ───────────────────────────────────────────────────────────────────────────


def behind(**settings: Any) -> Raft:
    """A leader of three whose log begins behind what follower 3 needs; 3 answers."""
    raft = established(log_entries_kept=0, **settings)
    raft.timeout(raft.now + 0.5)
    acknowledge(raft, 2)
    for _ in range(4):
        raft.timeout(raft.deadline)
        acknowledge(raft, 2)
    grow(raft, 10, 2)
    raft.timeout(raft.deadline)
    (beat,) = [message for message in sent(raft) if message.to == 3 and not message.entries]
    refused = AppendEntriesReply(2, 3, 1, False, beat.previous_index, beat.round, 2, 2)
    raft.step(refused, raft.now)
    sent(raft)
    assert raft.progress[3].state is ProgressState.SNAPSHOT
    return raft


def test_5_1_a_follower_that_needs_what_is_gone_is_offered_a_snapshot() -> None:
    raft = behind()
    kept = take(raft)
    raft.timeout(raft.deadline)
    (message,) = [message for message in sent(raft) if message.to == 3]
    assert isinstance(message, InstallSnapshot)
    assert (message.snapshot, message.size, message.checksum) == (kept.snapshot, kept.size, kept.checksum)


def test_5_1_without_a_snapshot_that_is_new_enough_one_is_asked_for_and_heartbeats_go_on() -> None:
    raft = behind()
    raft.timeout(raft.deadline)
    ready = one(raft)
    assert ready.take_snapshot
    assert [type(message).__name__ for message in ready.messages if message.to == 3] == ["AppendEntries"]


def test_nothing_is_written_for_a_follower_that_is_silent() -> None:
    """Regression: a member was down, and the leader wrote a snapshot of all for every 10,000 entries."""
    raft = behind()
    take(raft)
    for _ in range(8):
        raft.timeout(raft.deadline)
        acknowledge(raft, 2)
    grow(raft, 10, 2)
    raft.timeout(raft.deadline)
    ready = one(raft)
    assert not ready.take_snapshot
    (beat,) = [message for message in ready.messages if message.to == 3]
    acknowledge(raft, 2)
    raft.step(AppendEntriesReply(2, 3, 1, False, beat.previous_index, beat.round, 2, 2), raft.now)
    raft.timeout(raft.deadline)
    assert one(raft).take_snapshot, "it is back"


def test_the_log_goes_on_from_a_snapshot_that_takes_long_to_write() -> None:
    """Regression: what came meanwhile was trimmed, so the snapshot was useless, and so was the next one."""
    raft = behind()
    raft.timeout(raft.deadline)
    assert one(raft).take_snapshot
    named = raft.snapshot_at(raft.applied_index)
    grow(raft, 30, 2)
    raft.snapshot_taken(StoredSnapshot(named, 1000, 1), raft.now)
    grow(raft, 1, 2)  # before the next heartbeat, which offers it
    raft.timeout(raft.deadline)
    (message,) = [message for message in sent(raft) if message.to == 3]
    assert isinstance(message, InstallSnapshot)
    assert message.snapshot == named


def test_the_log_goes_on_from_a_snapshot_whose_installation_makes_a_follower_silent() -> None:
    """Regression: each time that a follower was at it for an election timeout, it had to begin anew."""
    raft = behind()
    kept = take(raft)
    raft.timeout(raft.deadline)
    (message,) = [message for message in sent(raft) if message.to == 3]
    raft.step(InstallSnapshotReply(2, 3, 1, 0, message.round, 1000), raft.now)
    fetched = raft.now
    while raft.now < fetched + 5:
        raft.timeout(raft.deadline)
        acknowledge(raft, 2)
        grow(raft, 10, 2)
        assert raft.log.base_index <= kept.snapshot.index
    while raft.now < fetched + 11:
        raft.timeout(raft.deadline)
        acknowledge(raft, 2)
        grow(raft, 10, 2)
    assert raft.log.base_index > kept.snapshot.index, "it may be gone for good"


def test_5_1_the_offer_is_repeated_like_heartbeats_and_its_answers_count_like_theirs() -> None:
    raft = behind()
    take(raft)
    for _ in range(8):
        raft.timeout(raft.deadline)
        (message,) = [message for message in sent(raft) if message.to == 3]
        raft.step(InstallSnapshotReply(2, 3, 1, 0, message.round, 500), raft.now)
    assert raft.role is Role.LEADER, "2 is silent; 3, which fetches, makes a quorum with us"
    assert raft.progress[3].received == 500
    raft.read(7, raft.now)
    (message,) = [message for message in sent(raft) if message.to == 3]
    raft.step(InstallSnapshotReply(2, 3, 1, 0, message.round, 600), raft.now)
    assert [state.context for state in one(raft).reads] == [7]


def test_5_1_what_comes_behind_an_offered_snapshot_is_kept_until_it_is_there() -> None:
    raft = behind()
    kept = take(raft)
    raft.timeout(raft.deadline)
    offered = next(message for message in sent(raft) if message.to == 3)
    raft.step(InstallSnapshotReply(2, 3, 1, 0, offered.round, 5), raft.now)
    grow(raft, 30, 2)
    assert raft.log.base_index <= kept.snapshot.index
    raft.step(InstallSnapshotReply(2, 3, 1, kept.snapshot.index, 1), raft.now)
    assert raft.progress[3].state is ProgressState.REPLICATE
    (message,) = [message for message in sent(raft) if message.to == 3]
    assert message.previous_index == kept.snapshot.index
    assert len(message.entries) == 30


def test_a_snapshot_from_which_the_log_does_not_go_on_any_more_is_replaced_by_a_newer_one() -> None:
    raft = behind(log_bytes_kept=1, log_bytes_max=1)
    take(raft)
    raft.timeout(raft.deadline)
    sent(raft)
    grow(raft, 10, 2, size=10)
    raft.timeout(raft.deadline)
    assert one(raft).take_snapshot
    newer = take(raft)
    raft.timeout(raft.deadline)
    (message,) = [message for message in sent(raft) if message.to == 3]
    assert message.snapshot == newer.snapshot


def test_a_stale_answer_does_not_end_the_need_for_a_snapshot() -> None:
    raft = behind()
    raft.step(AppendEntriesReply(2, 3, 1, True, 2, 1), raft.now)
    assert raft.progress[3].state is ProgressState.SNAPSHOT


# ── 5.1: what a follower does ─────────────────────────────────────────────────────────────────────────


def test_5_1_an_offer_is_fetched_once_and_answered_each_time() -> None:
    raft = core(term=2)
    raft.step(offer(9), 0.1)
    ready = one(raft)
    assert ready.fetch == offer(9)
    raft.stored(ready.number)
    raft.snapshot_progress(300)
    raft.step(offer(9, round=2), 0.2)
    ready = one(raft)
    assert ready.fetch is None
    assert ready.messages == (InstallSnapshotReply(2, 1, 2, 0, 2, 300),)


def test_5_1_each_offer_resets_the_election_timer() -> None:
    raft = core(term=2)
    for tenths in range(1, 60):
        raft.step(offer(9, round=tenths), tenths / 10)
        raft.timeout(tenths / 10)
        assert raft.role is Role.FOLLOWER


def test_5_1_a_snapshot_that_is_ahead_replaces_the_whole_log() -> None:
    raft = core(1, 1, 2, term=2)
    raft.step(offer(9), 0.1)
    sent(raft)
    raft.snapshot_received(stored(9, time=777), 0.2)
    ready = one(raft)
    assert ready.install == stored(9, time=777).snapshot
    assert ready.must_store
    assert not ready.messages
    assert [message.match_index for message in ready.messages_after_stored] == [9]
    assert (raft.log.base_index, raft.log.last_index, raft.commit_index) == (9, 9, 9)
    assert raft.applied_index == 1
    invariants.check(raft)
    assert raft.installing == 9
    raft.stored(ready.number)
    raft.applied(9)
    assert raft.installing == 0
    assert raft.clock.read(0.2) == 777
    raft.step(AppendEntries(2, 2, 1, 9, 2, 10, (Entry(10, 2),)), 0.3)
    assert raft.commit_index == 10


def test_5_1_a_snapshot_that_the_log_covers_leaves_it_as_it_is() -> None:
    """Its last entry is in the log, so everything before it is, too: the suffix is kept (3.5)."""
    raft = core(1, 1, 2, term=2)
    raft.step(offer(3, term=1), 0.1)
    ready = one(raft)
    assert (ready.fetch, ready.install) == (None, None)
    assert raft.commit_index == 3
    assert raft.log.last_index == 4
    assert [message.match_index for message in ready.messages] == [3]


def test_5_1_a_log_that_got_as_far_while_the_snapshot_was_fetched_is_kept() -> None:
    raft = core(term=2)
    raft.step(offer(3), 0.1)
    sent(raft)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (Entry(2, 2), Entry(3, 2), Entry(4, 2))), 0.2)
    sent(raft)
    raft.snapshot_received(stored(3), 0.3)
    ready = raft.ready()
    assert ready is None or ready.install is None
    assert (raft.log.last_index, raft.commit_index) == (4, 3)


def test_a_transfer_that_failed_begins_again_with_the_next_offer() -> None:
    raft = core(term=2)
    raft.step(offer(9), 0.1)
    sent(raft)
    raft.snapshot_failed(0.2)
    raft.step(offer(9, round=2), 0.3)
    assert one(raft).fetch == offer(9, round=2)


def test_the_next_leaders_snapshot_replaces_the_one_that_is_being_fetched() -> None:
    raft = core(term=2)
    raft.step(offer(9), 0.1)
    sent(raft)
    raft.step(offer(12, now_term=3, sender=3), 0.2)
    assert one(raft).fetch == offer(12, now_term=3, sender=3)


def test_a_write_of_the_log_that_was_replaced_stores_nothing_of_the_new_one() -> None:
    raft = core(term=2)
    doomed = tuple(Entry(index, 2) for index in range(2, 13))
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, doomed), 0.1)
    slow = one(raft)
    raft.step(offer(9, term=3, now_term=3, sender=3), 0.1)
    raft.snapshot_received(stored(9, term=3), 0.2)
    install = one(raft)
    assert install.install is not None
    raft.stored(slow.number)
    assert (raft.log.last_index, raft.log.stored_index) == (9, 9)
    raft.stored(install.number)
    raft.applied(9)
    invariants.check(raft)


def test_acknowledgements_of_what_was_dropped_say_what_is_committed() -> None:
    raft = core(term=2, log_entries_kept=0)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 4, (Entry(2, 2), Entry(3, 2), Entry(4, 2)), 1), 0.1)
    sent(raft)
    assert raft.log.base_index == 4
    raft.step(AppendEntries(2, 2, 1, 1, 1, 4, (Entry(2, 2),), 2), 0.2)
    assert [message.match_index for message in sent(raft)] == [4]


# ── restarts ──────────────────────────────────────────────────────────────────────────────────────────


def restarted(
    entries: tuple[Entry, ...], base: LogBase, snapshot: StoredSnapshot | None, applied: int
) -> Raft:
    return Raft(
        Config(id=1),
        HardState(3, 0, 0),
        entries,
        random=random.Random(1),
        now=0.0,
        applied_index=applied,
        base=base,
        snapshot=snapshot,
    )


def test_5_a_member_starts_from_a_snapshot_and_the_log_behind_it() -> None:
    learner = Configuration(voters=(1, 2), learners=(3,))
    raft = restarted(
        (Entry(8, 2), Entry(9, 3)), LogBase(7, 2), stored(8, time=50, configuration=learner), applied=8
    )
    assert (raft.commit_index, raft.log.last_index, raft.configuration) == (8, 9, learner)
    assert raft.clock.read(0.0) == 50


def test_5_a_member_starts_from_a_snapshot_alone() -> None:
    raft = restarted((), LogBase(8, 2), stored(8), applied=8)
    assert (raft.log.last_index, raft.log.last_term, raft.commit_index) == (8, 2, 8)
    raft.timeout(raft.deadline)
    assert [message.last_log_index for message in sent(raft)] == [8, 8]


@pytest.mark.parametrize(("snapshot", "applied"), [(None, 8), (stored(6), 8), (stored(8), 5)])
def test_5_a_log_without_its_beginning_needs_a_snapshot_of_it_that_the_machine_has(
    snapshot: StoredSnapshot | None, applied: int
) -> None:
    with pytest.raises(InvariantViolated, match="in a snapshot"):
        restarted((), LogBase(8, 2), snapshot, applied)


def test_a_snapshot_can_be_named_of_what_is_applied_and_not_dropped() -> None:
    raft = established(log_entries_kept=0)
    grow(raft, 10, 2, 3)
    assert raft.snapshot_at(raft.applied_index).index == raft.applied_index
    for index in (raft.applied_index + 1, raft.log.base_index - 1):
        with pytest.raises(InvariantViolated, match="cannot be named"):
            raft.snapshot_at(index)


def test_a_leader_that_has_not_applied_yet_drops_nothing() -> None:
    raft = elected(log_entries_kept=0)
    assert raft.log.base_index <= raft.applied_index
