"""What a member starts from: every way in which log and snapshot can disagree after a crash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from oarlock.errors import StorageError, UsageError
from oarlock.raft import Configuration, Entry, HardState, Member
from oarlock.raft.types import LogBase, Snapshot, StoredSnapshot
from oarlock.replica.recovery import StartingPoint, prepare, recover
from oarlock.storage import MemorySnapshots, MemoryStorage
from tests.replica.cluster import Journal, at_once

CONFIGURATION = Configuration((1, 2, 3), members=tuple(Member(id_, f"m{id_}") for id_ in (1, 2, 3)))
STATE = [b"a", b"b"]


class Durable(Journal):
    """A journal that survives, as far as a test says."""

    def __init__(self, applied_index: int) -> None:
        super().__init__()
        self.applied_index = applied_index

    def install(self, prepared: Any, applied_index: int) -> None:
        super().install(prepared, applied_index)
        self.applied_index = applied_index


class Stored:
    """What is on disk before the start, and the start."""

    def __init__(self, *terms: int, base: LogBase | None = None, hard_state: HardState | None = None) -> None:
        self.log = MemoryStorage()
        self.snapshots = MemorySnapshots()
        self.machine = Durable(0)
        self._base = base or LogBase()
        self._hard_state = hard_state
        self._terms = terms

    def snapshot(self, index: int, term: int) -> StoredSnapshot:
        journal = Journal()
        journal.commands = list(STATE)
        snapshot = Snapshot(index, term, CONFIGURATION, 1)
        return self.snapshots.write(snapshot, journal.capture().chunks())

    async def start(self, initial: Configuration | None = None) -> StartingPoint:
        before = MemoryStorage()
        before.load()
        entries = [Entry(index, term) for index, term in enumerate(self._terms, self._base.index + 1)]
        if entries or self._hard_state or self._base.index:
            last = entries[-1].term if entries else 0
            state = self._hard_state or HardState(last, 2, self._base.index)
            base = self._base if self._base.index else None
            before.append(state, entries, lambda error: None, base)
        await before.close()
        self.log = MemoryStorage(before)
        return await recover(self.log, self.snapshots, self.machine, initial, at_once)

    async def reloaded(self) -> Any:
        await self.log.close()
        return MemoryStorage(self.log).load()


async def test_a_founding_member_stores_the_configuration_and_starts_with_it() -> None:
    stored = Stored()
    start = await stored.start(CONFIGURATION)
    assert [entry.index for entry in start.entries] == [1]
    assert (await stored.reloaded()).entries == list(start.entries)


async def test_a_joining_member_starts_with_nothing_also_when_it_has_heard_of_a_term() -> None:
    for hard_state in (None, HardState(7)):
        start = await Stored(hard_state=hard_state).start(None)
        assert list(start.entries) == []
        assert start.hard_state.term == (7 if hard_state else 0)
    with pytest.raises(UsageError, match="does not belong to a founding member"):
        await Stored(hard_state=HardState(7)).start(CONFIGURATION)


async def test_a_log_that_ends_before_the_snapshot_begins_anew_behind_it() -> None:
    stored = Stored(1, 1, 2)
    snapshot = stored.snapshot(10, 4)
    start = await stored.start()
    assert start.base == LogBase(10, 4)
    assert list(start.entries) == []
    assert start.hard_state == HardState(4, 0, 10), "the vote was of an earlier term"
    assert start.snapshot == snapshot
    assert (start.applied_index, stored.machine.installed, stored.machine.commands) == (10, [10], STATE)
    after = await stored.reloaded()
    assert (after.base, list(after.entries), after.hard_state) == (start.base, [], start.hard_state)


async def test_a_log_of_another_term_at_the_snapshots_index_begins_anew_and_a_newer_vote_is_kept() -> None:
    stored = Stored(1, 1, 2, 2, 2, hard_state=HardState(6, 3, 1))
    stored.snapshot(3, 5)
    start = await stored.start()
    assert (start.base, list(start.entries)) == (LogBase(3, 5), [])
    assert start.hard_state == HardState(6, 3, 3)


async def test_a_log_that_goes_on_behind_the_snapshot_is_kept() -> None:
    stored = Stored(1, 1, 2, 2, 2)
    stored.snapshot(3, 2)
    start = await stored.start()
    assert (start.base, len(start.entries)) == (LogBase(), 5)
    assert start.hard_state.commit_index == 3, "what a snapshot covers is committed"
    assert start.applied_index == 3, "a machine that holds nothing is quicker with the snapshot"


async def test_a_machine_that_the_log_can_bring_forward_is_left_alone() -> None:
    stored = Stored(2, 2, 2, base=LogBase(2, 1))
    stored.snapshot(4, 2)
    stored.machine = Durable(2)
    start = await stored.start()
    assert (start.base, start.applied_index, stored.machine.installed) == (LogBase(2, 1), 2, [])


async def test_a_machine_that_is_behind_the_logs_beginning_gets_the_snapshot() -> None:
    stored = Stored(2, 2, 2, base=LogBase(2, 1))
    stored.snapshot(4, 2)
    stored.machine = Durable(1)
    start = await stored.start()
    assert (start.base, start.applied_index, stored.machine.installed) == (LogBase(2, 1), 4, [4])


async def test_a_machine_that_is_ahead_of_the_snapshot_stays_there() -> None:
    stored = Stored(1, 1, 2, 2, 2)
    stored.snapshot(3, 2)
    stored.machine = Durable(5)
    assert (await stored.start()).applied_index == 5
    assert stored.machine.installed == []


async def test_a_snapshot_at_the_very_beginning_of_the_log_fits_it() -> None:
    stored = Stored(4, base=LogBase(3, 2))
    stored.snapshot(3, 2)
    start = await stored.start()
    assert (start.base, len(start.entries)) == (LogBase(3, 2), 1)


async def test_a_gap_between_snapshot_and_log_is_damage_and_named() -> None:
    stored = Stored(2, base=LogBase(7, 2))
    stored.snapshot(4, 2)
    with pytest.raises(StorageError, match="begins behind index 7, but the newest snapshot ends at 4"):
        await stored.start()
    with pytest.raises(StorageError, match="begins behind index 7, and there is no snapshot"):
        await Stored(2, base=LogBase(7, 2)).start()


async def test_a_machine_that_cannot_be_restored_is_refused_a_log_that_needs_it() -> None:
    class Plain(Durable):
        can_snapshot = False

    stored = Stored(2, base=LogBase(4, 2))
    stored.snapshot(4, 2)
    stored.machine = Plain(0)
    with pytest.raises(StorageError, match="needs both `snapshot` and `restore`"):
        await stored.start()


def test_preparing_ends_between_two_pieces_when_it_is_given_up() -> None:
    """A member that stops, or that is offered a newer one, does not wait until a large one is written out."""
    snapshots, taken = MemorySnapshots(), list[int]()
    snapshots.write(Snapshot(5, 1, CONFIGURATION), [bytes(5 << 20)])

    class Slow(Journal):
        def prepare(self, chunks: Iterable[bytes]) -> list[bytes]:
            for chunk in chunks:
                taken.append(len(chunk))
            return []

    prepare(snapshots, Slow(), 5)
    assert sum(taken) == 5 << 20
    taken.clear()
    with pytest.raises(StorageError, match="not needed"):
        prepare(snapshots, Slow(), 5, lambda: len(taken) == 2)
    assert len(taken) == 2
