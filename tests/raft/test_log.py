"""RaftLog: consecutive entries, truncated only above the commit index."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import InvariantViolated, StorageError
from oarlock.raft.log import RaftLog
from oarlock.raft.types import Entry


def entries(*terms: int, first: int = 1, size: int = 0) -> list[Entry]:
    """Entries of these terms, from index `first` on."""
    return [Entry(index, term, data=b"x" * size) for index, term in enumerate(terms, first)]


TERMS = st.lists(st.integers(1, 5), max_size=10).map(sorted)


def test_an_empty_log_ends_at_index_and_term_0() -> None:
    log = RaftLog((), 0)
    assert (log.last_index, log.last_term, log.stored_index, log.commit_index) == (0, 0, 0, 0)
    assert log.term_at(0) == 0
    assert log.term_at(1) is None


@pytest.mark.parametrize(
    "broken",
    [
        [Entry(2, 1)],
        [Entry(1, 1), Entry(3, 1)],
        [Entry(1, 2), Entry(2, 1)],
        [Entry(1, 1), Entry(1, 1)],
    ],
    ids=["starts late", "gap", "term falls", "repeats"],
)
def test_a_stored_log_that_does_not_hold_together_is_refused(broken: list[Entry]) -> None:
    with pytest.raises(StorageError, match="does not hold together"):
        RaftLog(broken, 0)


def test_a_stored_log_that_ends_before_its_commit_index_is_refused() -> None:
    with pytest.raises(StorageError, match="entries were lost"):
        RaftLog(entries(1, 1), 3)


def test_what_was_recovered_counts_as_stored_and_what_is_appended_does_not() -> None:
    log = RaftLog(entries(1, 1), 1)
    log.append(entries(2, first=3))
    assert (log.stored_index, log.last_index, log.last_term) == (2, 3, 2)


def test_append_leaves_no_gap_and_lets_no_term_fall() -> None:
    log = RaftLog(entries(1, 2), 0)
    with pytest.raises(InvariantViolated, match="without a gap"):
        log.append(entries(2, first=4))
    with pytest.raises(InvariantViolated, match="never fall"):
        log.append(entries(1, first=3))
    log.append(())
    assert log.last_index == 2


def test_truncation_lowers_the_stored_mark_and_spares_what_is_committed() -> None:
    log = RaftLog(entries(1, 1, 2), 1)
    log.truncate(2)
    assert (log.last_index, log.stored_index) == (1, 1)
    with pytest.raises(InvariantViolated, match="is committed"):
        log.truncate(1)


def test_entry_outside_the_log_is_a_bug() -> None:
    with pytest.raises(InvariantViolated, match="outside"):
        RaftLog(entries(1), 0).entry(2)


@settings(max_examples=200, deadline=None)
@given(TERMS, TERMS, st.integers(0, 10))
def test_first_conflict_finds_where_the_logs_part(ours: list[int], theirs: list[int], agreed: int) -> None:
    agreed = min(agreed, len(ours))
    incoming = entries(*theirs, first=agreed + 1)
    position, conflict = RaftLog(entries(*ours), 0).first_conflict(incoming)
    held = dict(enumerate(ours, 1))
    expected = next(
        (at for at, entry in enumerate(incoming) if held.get(entry.index) != entry.term), len(incoming)
    )
    assert position == expected
    assert conflict == (expected < len(incoming) and incoming[expected].index in held)


@settings(max_examples=200, deadline=None)
@given(TERMS, TERMS, st.integers(0, 12))
def test_agreement_hint_never_skips_an_index_at_which_the_logs_agree(
    ours: list[int], theirs: list[int], asked: int
) -> None:
    """The other log holds `theirs`, and asked about its own entry at `asked`."""
    asked = min(asked, len(theirs))
    term = theirs[asked - 1] if asked else 0
    hint, hint_term = RaftLog(entries(*ours), 0).agreement_hint(asked, term)
    ours_at = dict(enumerate(ours, 1))
    theirs_at = dict(enumerate(theirs, 1))
    agreements = [at for at in range(1, asked + 1) if at in ours_at and ours_at[at] == theirs_at[at]]
    assert hint >= max(agreements, default=0)
    assert hint <= min(asked, len(ours))
    assert hint_term == ours_at.get(hint, 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.data())
def test_batch_is_as_much_as_fits_and_at_least_one(sizes: list[int], data: st.DataObject) -> None:
    log = RaftLog([Entry(index, 1, data=b"x" * size) for index, size in enumerate(sizes, 1)], 0)
    low = data.draw(st.integers(1, len(sizes)))
    high = data.draw(st.integers(low, len(sizes)))
    limit = data.draw(st.integers(1, 30))
    for _ in range(2):  # the second answer comes from memory
        batch, size = log.batch(low, high, limit)
        assert [entry.index for entry in batch] == list(range(low, low + len(batch)))
        assert size == sum(sizes[low - 1 : low - 1 + len(batch)])
        assert len(batch) == 1 or size <= limit
        assert low + len(batch) - 1 <= high
        if low + len(batch) <= high:
            assert size + sizes[low - 1 + len(batch)] > limit


def test_batch_forgets_what_was_truncated() -> None:
    log = RaftLog(entries(1, 1, 1), 0)
    assert [entry.term for entry in log.batch(2, 3, 99)[0]] == [1, 1]
    log.truncate(3)
    log.append(entries(2, first=3))
    assert [entry.term for entry in log.batch(2, 3, 99)[0]] == [1, 2]


@pytest.mark.parametrize(
    ("last_index", "last_term", "up_to_date"),
    [(3, 2, True), (9, 1, False), (1, 3, True), (2, 2, False), (4, 2, True)],
)
def test_up_to_date_compares_the_last_term_and_then_the_length(
    last_index: int, last_term: int, up_to_date: bool
) -> None:
    assert RaftLog(entries(1, 2, 2), 0).up_to_date(last_index, last_term) is up_to_date


def test_bytes_between_counts_both_ends() -> None:
    assert RaftLog(entries(1, 1, 1, size=5), 0).bytes_between(2, 3) == 10
    assert RaftLog(entries(1, 1, 1, size=5), 0).bytes_between(3, 2) == 0
