"""RaftLog: consecutive entries, truncated only above the commit index."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import InvariantViolated, StorageError
from oarlock.raft.log import RaftLog
from oarlock.raft.types import Entry, LogBase


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


# ── behind a base ─────────────────────────────────────────────────────────────────────────────────────


def test_a_log_that_begins_later_knows_the_term_of_its_base_and_nothing_before() -> None:
    log = RaftLog(entries(3, 4, first=8), 0, LogBase(7, 2))
    assert (log.first_index, log.last_index, log.last_term) == (8, 9, 4)
    assert [log.term_at(index) for index in (6, 7, 8, 9, 10)] == [None, 2, 3, 4, None]
    assert log.commit_index == 7, "what was dropped was committed"
    empty = RaftLog((), 0, LogBase(7, 2))
    assert (empty.last_index, empty.last_term, empty.stored_index) == (7, 2, 7)


def test_a_stored_log_that_does_not_follow_its_base_is_refused() -> None:
    for wrong in (entries(3, first=9), entries(1, first=8)):
        with pytest.raises(StorageError, match="does not hold together"):
            RaftLog(wrong, 0, LogBase(7, 2))


def test_what_is_not_committed_or_not_stored_is_not_dropped() -> None:
    log = RaftLog(entries(1, 1, 1), 2)
    with pytest.raises(InvariantViolated, match="still needed"):
        log.compact(3)
    log.append(entries(1, first=4))
    log.commit_index = 4
    with pytest.raises(InvariantViolated, match="still needed"):
        log.compact(4)
    log.compact(3)
    log.compact(1)  # long gone
    assert log.base_index == 3


def test_what_was_dropped_cannot_be_read() -> None:
    log = RaftLog(entries(1, 1, 1), 3)
    log.compact(2)
    for read in (lambda: log.entry(2), lambda: log.slice(2, 3), lambda: log.batch(2, 3, 10)):
        with pytest.raises(InvariantViolated):
            read()


def test_a_snapshot_that_is_not_ahead_does_not_restart_the_log() -> None:
    log = RaftLog(entries(1, 1, 1), 3)
    with pytest.raises(InvariantViolated, match="ahead"):
        log.restart(LogBase(3, 1))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4), st.integers(0, 3)),
        st.tuples(st.just("truncate"), st.integers(1, 30), st.just(0)),
        st.tuples(st.just("store"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("commit"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("compact"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("restart"), st.integers(1, 40), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_a_log_behind_a_base_answers_like_a_list_of_all_that_ever_was(
    steps: list[tuple[str, int, int]],
) -> None:
    """The model drops nothing: it is a list from index 0 on, and remembers where the log begins."""
    log = RaftLog((), 0)
    model = [Entry(0, 0)]
    base = 0
    for verb, number, term_step in steps:
        last = len(model) - 1
        if verb == "append":
            new = entries(*[model[-1].term + term_step] * number, first=last + 1, size=number)
            log.append(new)
            model += new
        elif verb == "truncate" and log.commit_index < number <= last:
            log.truncate(number)
            del model[number:]
        elif verb == "store":
            log.stored_index = max(log.stored_index, min(number, last))
        elif verb == "commit":
            log.commit_index = max(log.commit_index, min(number, last))
        elif verb == "compact" and number <= min(log.commit_index, log.stored_index):
            log.compact(number)
            base = max(base, number)
        elif verb == "restart" and number > log.commit_index:
            log.restart(LogBase(number, model[-1].term + 1))
            model += [Entry(index, 0) for index in range(len(model), number)]
            model[number:] = [Entry(number, model[last].term + 1)]
            base = number
        compare(log, model, base)


def compare(log: RaftLog, model: list[Entry], base: int) -> None:
    last = len(model) - 1
    assert (log.base_index, log.last_index, log.last_term) == (base, last, model[-1].term)
    assert base <= min(log.commit_index, log.stored_index) <= max(log.commit_index, log.stored_index) <= last
    assert log.slice(base + 1, last) == tuple(model[base + 1 :])
    assert log.bytes == sum(len(entry.data) for entry in model[base + 1 :])
    for index in range(last + 3):
        expected = model[index].term if base <= index <= last else None
        assert log.term_at(index) == expected
    for index in range(base + 1, last + 1):
        assert log.entry(index) is model[index]
        assert log.batch(index, last, 5)[0] == log.slice(index, index + len(log.batch(index, last, 5)[0]) - 1)
        assert log.first_conflict(tuple(model[index:])) == (last - index + 1, False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=30), st.integers(0, 30), st.integers(0, 10), st.integers(1, 100))
def test_surplus_leaves_as_much_as_is_kept_and_goes_no_further_than_it_must(
    sizes: list[int], limit: int, entries_kept: int, bytes_kept: int
) -> None:
    log = RaftLog([Entry(index, 1, data=b"x" * size) for index, size in enumerate(sizes, 1)], len(sizes))

    def small(index: int) -> bool:
        left = sizes[index:]
        return len(left) <= entries_kept and sum(left) <= bytes_kept

    index = log.surplus(limit, entries_kept, bytes_kept)
    assert index <= max(limit, 0)
    assert small(index) or index == min(limit, len(sizes))
    assert index == 0 or not small(index - 1)
