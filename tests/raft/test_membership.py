"""Configurations in the log: the last one is in effect, committed or not."""

from __future__ import annotations

import pytest

from oarlock.errors import InvariantViolated, UsageError, WireError
from oarlock.raft.membership import (
    ConfigurationHistory,
    bootstrap,
    decode_configuration,
    encode_configuration,
)
from oarlock.raft.types import Configuration, Entry, EntryKind, Member, Snapshot

THREE = Configuration(
    voters=(1, 2, 3),
    members=tuple(Member(n, f"m{n}", (f"http://h{n}:2380",), (f"http://h{n}:2379",)) for n in (1, 2, 3)),
)


def configuration_entry(index: int, term: int, *voters: int) -> Entry:
    return Entry(index, term, EntryKind.CONFIGURATION, encode_configuration(Configuration(voters=voters)))


def test_all_initial_members_begin_with_the_same_committed_entry() -> None:
    hard_state, entries = bootstrap(THREE)
    assert bootstrap(THREE) == (hard_state, entries)
    assert (hard_state.term, hard_state.voted_for, hard_state.commit_index) == (1, 0, 1)
    assert [(entry.index, entry.term, entry.kind) for entry in entries] == [(1, 1, EntryKind.CONFIGURATION)]
    assert decode_configuration(entries[0].data) == THREE


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(),
        Configuration(voters=(2, 1)),
        Configuration(voters=(0, 1)),
        Configuration(voters=(1,), learners=(1,)),
        Configuration(voters=(1, 2), outgoing=(1,)),
        Configuration(voters=(1, 2), members=(Member(1, "a"),)),
    ],
    ids=["empty", "unsorted", "nobody", "voter and learner", "joint", "member missing"],
)
def test_a_cluster_does_not_start_with_a_configuration_that_is_not_sound(
    configuration: Configuration,
) -> None:
    with pytest.raises(UsageError, match="not a configuration to start with"):
        bootstrap(configuration)


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"\x90\x01", encode_configuration(Configuration())])
def test_bytes_that_are_no_configuration_are_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError, match="configuration entry"):
        decode_configuration(data)


def test_the_last_configuration_in_the_log_is_in_effect() -> None:
    history = ConfigurationHistory()
    assert history.current == Configuration()
    assert not history.appended([Entry(1, 1)])
    assert history.appended([configuration_entry(2, 1, 1), Entry(3, 1), configuration_entry(4, 1, 1, 2)])
    assert (history.index, history.current.voters) == (4, (1, 2))


def test_truncation_falls_back_to_the_configuration_before() -> None:
    history = ConfigurationHistory()
    history.appended([configuration_entry(2, 1, 1), configuration_entry(4, 1, 1, 2)])
    assert not history.truncated(5)
    assert history.truncated(4)
    assert (history.index, history.current.voters) == (2, (1,))
    assert history.truncated(1)
    assert history.index == 0


def test_configurations_come_in_order() -> None:
    history = ConfigurationHistory()
    history.appended([configuration_entry(4, 1, 1)])
    with pytest.raises(InvariantViolated, match="in order"):
        history.appended([configuration_entry(3, 1, 1)])


def voters_at(history: ConfigurationHistory, index: int) -> tuple[int, tuple[int, ...]]:
    where, configuration = history.at(index)
    return where, configuration.voters


def three_in_a_row() -> ConfigurationHistory:
    """In effect from index 1, 5 and 9 on."""
    history = ConfigurationHistory()
    history.appended(
        [configuration_entry(1, 1, 1), configuration_entry(5, 1, 1, 2), configuration_entry(9, 1, 1, 2, 3)]
    )
    return history


def test_each_index_has_the_configuration_that_was_in_effect_there() -> None:
    history = three_in_a_row()
    assert [voters_at(history, index)[0] for index in (1, 4, 5, 8, 9, 99)] == [1, 1, 5, 5, 9, 9]
    assert voters_at(history, 0) == (0, ())


@pytest.mark.parametrize("base", range(1, 12))
def test_compaction_forgets_nothing_that_is_in_effect_at_the_base_or_behind_it(base: int) -> None:
    history, whole = three_in_a_row(), three_in_a_row()
    history.compacted(base)
    for index in range(base, 12):
        assert history.at(index) == whole.at(index)
    assert history.current == whole.current
    if base >= 5:
        assert history.at(1) != whole.at(1), "what was in effect before is forgotten"


def test_a_snapshot_brings_the_configuration_at_its_index_and_takes_all_others() -> None:
    snapshot = Snapshot(20, 3, Configuration(voters=(7, 8)), 17)
    history = three_in_a_row()
    history.restarted(snapshot)
    assert (history.index, history.current.voters) == (17, (7, 8))
    assert voters_at(ConfigurationHistory(snapshot), 20) == (17, (7, 8))
    assert history.truncated(21) is False
    assert history.appended([configuration_entry(21, 3, 7)])
    assert history.truncated(21) is True
    assert history.current.voters == (7, 8)
