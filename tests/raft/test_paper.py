"""The rules of the paper's Figure 2 and of Ongaro's dissertation, one by one, with the section that states
each.

"F2" is Figure 2 of the extended Raft paper (figure 3.1 of the dissertation); numbers are the dissertation's
sections. Which test holds which rule of the dissertation is a list, `dissertation.py`; whole subjects have
files of their own: `test_planning.py`, `test_reconfiguration.py`, `test_transfer.py`, `test_snapshots.py`,
`test_leases.py`. That the list is complete, and names what exists, is tested at the end.
"""

from __future__ import annotations

import ast
import importlib
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from oarlock.errors import Busy, InvariantViolated, NotLeader, StorageError, WireError
from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    PreVote,
    PreVoteReply,
    Propose,
    ProposeReply,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
)
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Configuration, Entry, EntryKind, HardState

from .alone import core, elected, established, reads, sent
from .dissertation import RULES
from .stage import Stage

TESTS = Path(__file__).resolve().parents[1]

# ── F2: state, 3.8: persistence ───────────────────────────────────────────────────────────────────


def test_f2_term_and_vote_survive_a_restart() -> None:
    raft = core(term=7, vote=3)
    assert (raft.term, raft.voted_for, raft.role) == (7, 3, Role.FOLLOWER)
    raft.step(RequestVote(7, 2, 1, 99, 7), 0.0)
    assert not sent(raft)[0].granted


def test_f2_a_vote_is_told_only_when_it_is_durable() -> None:
    raft = core()
    raft.step(RequestVote(2, 3, 1, 1, 1), 0.0)
    ready = raft.ready()
    assert ready is not None
    assert ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.voted_for) == (2, 3)
    assert not ready.messages
    assert [message.granted for message in ready.messages_after_stored] == [True]


def test_f2_entries_are_acknowledged_only_when_they_are_durable() -> None:
    raft = core(term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (Entry(2, 2),)), 0.0)
    ready = raft.ready()
    assert ready is not None
    assert [entry.index for entry in ready.entries] == [2]
    assert not ready.messages
    assert [message.match_index for message in ready.messages_after_stored] == [2]


def test_f2_entries_that_are_on_their_way_to_the_disk_are_not_acknowledged_early() -> None:
    """The same entries come twice; the second time nothing is new, and still nothing is durable."""
    raft = core(term=2)
    message = AppendEntries(2, 2, 1, 1, 1, 1, (Entry(2, 2),), 1)
    raft.step(message, 0.0)
    first = raft.ready()
    raft.step(message, 0.0)
    second = raft.ready()
    assert first is not None
    assert second is not None
    assert not second.must_store
    assert not second.messages
    assert [reply.match_index for reply in second.messages_after_stored] == [2]


def test_f2_a_candidate_asks_for_votes_only_when_its_own_is_durable() -> None:
    raft = core()
    raft.timeout(raft.deadline)
    sent(raft)
    raft.step(PreVoteReply(2, 2, 1, True), raft.now)
    ready = raft.ready()
    assert ready is not None
    assert ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.voted_for) == (2, 1)
    assert not ready.messages
    assert {type(message) for message in ready.messages_after_stored} == {RequestVote}


def test_a_stored_log_that_ends_before_what_was_applied_is_refused() -> None:
    _, entries = bootstrap(Configuration(voters=(1,)))
    with pytest.raises(StorageError, match="entries were lost"):
        Raft(Config(id=1), HardState(1, 0, 1), entries, random=random.Random(1), now=0.0, applied_index=5)


# ── F2: all servers ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", ["follower", "candidate", "leader"])
def test_f2_a_later_term_makes_a_follower_that_has_not_voted(role: str) -> None:
    raft = elected() if role == "leader" else core()
    if role == "candidate":
        raft.timeout(raft.deadline)
        raft.step(PreVoteReply(2, 2, 1, True), raft.now)
        assert raft.role is Role.CANDIDATE
    raft.step(AppendEntriesReply(9, 2, 1, False, 0), raft.now)
    assert (raft.term, raft.role, raft.voted_for) == (9, Role.FOLLOWER, 0)


def test_f2_committed_entries_are_handed_out_in_order_and_once() -> None:
    raft = core(1, 1, 1, commit=1, committed_bytes_max=1)
    raft.step(AppendEntries(1, 2, 1, 4, 1, 4), 0.0)
    handed_out: list[int] = []
    while (ready := raft.ready()) is not None:
        handed_out += [entry.index for entry in ready.committed]
        raft.stored(ready.number)
    assert handed_out == [2, 3, 4]


def test_ready_4_a_state_machine_never_outruns_its_own_disk() -> None:
    """A quorum of others may hold an entry before our disk does: it is committed, and applied here later."""
    raft = core(term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 2, (Entry(2, 2),)), 0.0)
    first = raft.ready()
    assert first is not None
    assert raft.commit_index == 2
    assert not first.committed
    raft.stored(first.number)
    second = raft.ready()
    assert second is not None
    assert [entry.index for entry in second.committed] == [2]


# ── F2: RequestVote; 3.4, 3.6.1: elections ────────────────────────────────────────────────────────


def test_f2_request_vote_1_a_term_that_has_passed_gets_no_vote() -> None:
    raft = core(term=5)
    raft.step(RequestVote(4, 2, 1, 99, 4), 0.0)
    reply = sent(raft)[0]
    assert (reply.granted, reply.term) == (False, 5)


def test_f2_request_vote_2_first_come_first_served_and_once_per_term() -> None:
    raft = core()
    for candidate in (2, 3, 2):
        raft.step(RequestVote(2, candidate, 1, 1, 1), 0.0)
    assert [(reply.to, reply.granted) for reply in sent(raft)] == [(2, True), (3, False), (2, True)]


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(3, 2, True), (4, 2, True), (2, 2, False), (9, 1, False), (1, 3, True)],
)
def test_3_6_1_a_vote_is_for_a_log_at_least_as_up_to_date(
    last_index: int, last_term: int, granted: bool
) -> None:
    """Ours ends at index 3 of term 2: the later last term wins, then the longer log."""
    raft = core(2, 2)
    raft.step(RequestVote(5, 2, 1, last_index, last_term), 0.0)
    assert sent(raft)[0].granted is granted


def test_3_4_timeouts_are_spread_over_one_to_two_election_timeouts() -> None:
    deadlines = [core(seed=seed).deadline for seed in range(200)]
    assert all(1.0 <= deadline < 2.0 for deadline in deadlines)
    assert max(deadlines) - min(deadlines) > 0.9


def test_3_4_each_wait_is_drawn_anew() -> None:
    raft = core()
    waits = []
    for _ in range(5):
        begun = raft.deadline
        raft.timeout(begun)
        waits.append(raft.deadline - begun)
    assert len(set(waits)) == 5


def test_f2_candidates_a_split_vote_ends_with_a_new_election_in_a_new_term() -> None:
    raft = core()
    raft.timeout(raft.deadline)
    raft.step(PreVoteReply(2, 2, 1, True), raft.now)
    sent(raft)
    raft.timeout(raft.deadline)
    raft.step(PreVoteReply(3, 3, 1, True), raft.now)
    assert (raft.role, raft.term, raft.voted_for) == (Role.CANDIDATE, 3, 1)


def test_f2_candidates_lose_when_a_majority_refuses() -> None:
    raft = core()
    raft.timeout(raft.deadline)
    raft.step(PreVoteReply(2, 2, 1, True), raft.now)
    sent(raft)
    for peer in (2, 3):
        raft.step(RequestVoteReply(2, peer, 1, False), raft.now)
    assert raft.role is Role.FOLLOWER


def test_f2_candidates_one_voter_counts_once() -> None:
    raft = core(size=5)
    raft.timeout(raft.deadline)
    for peer in (2, 3):
        raft.step(PreVoteReply(2, peer, 1, True), raft.now)
    sent(raft)
    for _ in range(3):
        raft.step(RequestVoteReply(2, 2, 1, True), raft.now)
    assert raft.role is Role.CANDIDATE


def test_a_voter_alone_elects_itself_at_once_but_not_before_its_vote_is_durable() -> None:
    raft = core(size=1)
    assert raft.deadline == 0.0
    raft.timeout(0.0)
    ready = raft.ready()
    assert ready is not None
    assert raft.role is Role.CANDIDATE
    raft.stored(ready.number)
    assert raft.role is Role.LEADER
    sent(raft)
    assert raft.commit_index == 2


def test_f2_followers_a_live_leader_keeps_them_from_elections() -> None:
    raft = core(term=2)
    for beat in range(1, 30):
        now = beat * 0.2
        raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (), beat), now)
        assert now + 1.0 <= raft.deadline < now + 2.0
        raft.timeout(now)
    assert raft.role is Role.FOLLOWER


# ── F2: AppendEntries; 3.5: replication ───────────────────────────────────────────────────────────


def test_f2_append_entries_1_a_leader_of_the_past_is_told_so() -> None:
    raft = core(term=5)
    raft.step(AppendEntries(4, 2, 1, 1, 1, 1, (Entry(2, 4),)), 0.0)
    reply = sent(raft)[0]
    assert (reply.success, reply.term, raft.log.last_index) == (False, 5, 1)


@pytest.mark.parametrize(("previous_index", "previous_term"), [(9, 2), (2, 1), (3, 1)])
def test_f2_append_entries_2_the_previous_entry_has_to_match(previous_index: int, previous_term: int) -> None:
    raft = core(2, 2, term=3)
    raft.step(AppendEntries(3, 2, 1, previous_index, previous_term, 1, (), 4), 0.0)
    reply = sent(raft)[0]
    assert (reply.success, reply.match_index, reply.round) == (False, previous_index, 4)
    assert raft.log.last_index == 3


def test_f2_append_entries_3_a_conflicting_entry_goes_and_all_after_it() -> None:
    raft = core(2, 2, 2, term=3)
    raft.step(AppendEntries(3, 2, 1, 2, 2, 1, (Entry(3, 3),)), 0.0)
    assert [entry.term for entry in raft.log.slice(1, raft.log.last_index)] == [1, 2, 3]


def test_f2_append_entries_3_a_late_message_erases_nothing() -> None:
    raft = core(2, 2, 2, term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (Entry(2, 2),)), 0.0)
    assert raft.log.last_index == 4
    assert sent(raft)[0].match_index == 2  # it vouches for what the message covered, not for the rest


def test_f2_append_entries_4_what_is_missing_is_appended_after_what_is_there() -> None:
    raft = core(2, term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (Entry(2, 2), Entry(3, 2), Entry(4, 2))), 0.0)
    ready = raft.ready()
    assert ready is not None
    assert [entry.index for entry in ready.entries] == [3, 4]


def test_f2_append_entries_5_commit_goes_to_the_last_new_entry_at_most() -> None:
    """Beyond what the message covers, our log may hold what the leader's does not."""
    raft = core(2, 2, 2, term=3)
    raft.step(AppendEntries(3, 2, 1, 2, 2, 4), 0.0)
    assert raft.commit_index == 2


def test_3_5_an_entry_cut_and_written_again_is_durable_only_when_written_again() -> None:
    raft = core(term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (Entry(2, 2), Entry(3, 2))), 0.0)
    old = raft.ready()
    raft.step(AppendEntries(3, 3, 1, 1, 1, 3, (Entry(2, 3), Entry(3, 3))), 0.0)
    new = raft.ready()
    assert old is not None
    assert new is not None
    raft.stored(old.number)
    assert raft.log.stored_index == 1
    assert raft.ready() is None  # committed, but not on our disk
    raft.stored(new.number)
    assert raft.log.stored_index == 3


def test_3_5_refusals_skip_whole_terms() -> None:
    """The leader's log is of terms 1 2 5 5 5 5, ours of 1 2 3 3 3 3: one refusal is enough."""
    stage_leader = elected(2, 4, 4, 4, 4, term=4)
    follower = core(2, 3, 3, 3, 3, term=3)
    sent(stage_leader)
    rounds = 0
    stage_leader.step(AppendEntriesReply(5, 3, 1, True, 0), stage_leader.now)
    message: Any = AppendEntries(5, 2, 1, 6, 4, 1, (Entry(7, 5, EntryKind.NOOP),), 1)
    while True:
        follower.step(message, 0.0)
        reply = sent(follower)[-1]
        if reply.success:
            break
        rounds += 1
        stage_leader.step(
            AppendEntriesReply(5, 2, 1, False, reply.match_index, 1, reply.hint_index, reply.hint_term),
            stage_leader.now,
        )
        again = next(m for m in sent(stage_leader) if m.to == 2)
        message = AppendEntries(
            5, 2, 1, again.previous_index, again.previous_term, 1, again.entries, again.round
        )
    assert rounds == 1
    assert [entry.term for entry in follower.log.slice(1, 7)] == [1, 2, 4, 4, 4, 4, 5]


def test_malformed_append_entries_are_refused_and_change_no_log() -> None:
    raft = core(2, term=3)
    for entries in ((Entry(4, 3),), (Entry(3, 1),), (Entry(3, 9),), (Entry(3, 3), Entry(5, 3))):
        with pytest.raises(WireError, match="was due"):
            raft.step(AppendEntries(3, 2, 1, 2, 2, 1, entries), 0.0)
    assert raft.log.last_index == 2


# ── F2: leaders; 3.6.2: commitment ────────────────────────────────────────────────────────────────


def test_6_4_a_leader_begins_its_term_with_a_no_op_that_it_sends_at_once() -> None:
    raft = elected(1)
    ready = raft.ready()
    assert ready is not None
    assert [(entry.index, entry.term, entry.kind) for entry in ready.entries] == [(3, 2, EntryKind.NOOP)]
    # 10.2.1: while its own disk writes.
    assert [
        (message.to, message.entries) for message in ready.messages if isinstance(message, AppendEntries)
    ] == [
        (2, ready.entries),
        (3, ready.entries),
    ]


def test_f2_leaders_commit_what_a_majority_holds() -> None:
    raft = elected(size=5)
    sent(raft)
    raft.step(AppendEntriesReply(2, 2, 1, True, 2), raft.now)
    assert raft.commit_index == 1
    raft.step(AppendEntriesReply(2, 3, 1, True, 2), raft.now)
    assert raft.commit_index == 2


def test_10_2_1_a_majority_of_others_commits_before_the_leaders_own_disk() -> None:
    raft = elected()
    ready = raft.ready()
    assert ready is not None
    raft.step(AppendEntriesReply(2, 2, 1, True, 2), raft.now)
    assert raft.commit_index == 1  # one follower, and not yet our own disk
    raft.step(AppendEntriesReply(2, 3, 1, True, 2), raft.now)
    assert raft.commit_index == 2
    assert raft.log.stored_index == 1


def test_10_2_1_the_leaders_own_disk_counts_as_one() -> None:
    raft = elected()
    ready = raft.ready()
    assert ready is not None
    raft.step(AppendEntriesReply(2, 2, 1, True, 2), raft.now)
    raft.stored(ready.number)
    assert raft.commit_index == 2


def test_3_6_2_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """Figure 8 of the paper: only with an entry of our own term on top are they safe."""
    raft = elected(2, 3)
    sent(raft)
    for peer in (2, 3):
        raft.step(AppendEntriesReply(4, peer, 1, True, 3), raft.now)
    assert raft.commit_index == 1
    raft.step(AppendEntriesReply(4, 2, 1, True, 4), raft.now)
    assert raft.commit_index == 4


def test_f2_leaders_acknowledgements_of_an_earlier_term_mean_nothing() -> None:
    raft = elected(2, 3)
    sent(raft)
    raft.step(AppendEntriesReply(3, 2, 1, True, 4), raft.now)
    assert raft.progress[2].match_index == 0


def test_a_peer_that_claims_more_than_was_sent_is_refused() -> None:
    raft = elected()
    for reply in (AppendEntriesReply(2, 2, 1, True, 99), AppendEntriesReply(2, 2, 1, True, 1, 99)):
        with pytest.raises(WireError, match="at most"):
            raft.step(reply, raft.now)
    assert raft.commit_index == 1


def test_a_refusal_because_of_the_term_does_not_count_as_news_about_the_log() -> None:
    """Regression: seed 1202. A refusal for what we sent in an earlier term comes when we lead the
    refuser's."""
    voter = core(2, 2, 2, term=5)
    voter.step(AppendEntries(4, 2, 1, 4, 2, 1), 0.0)
    refusal = sent(voter)[0]
    raft = elected(term=4)
    sent(raft)
    before = raft.progress[2].next_index
    raft.step(
        AppendEntriesReply(
            5, 2, 1, False, refusal.match_index, refusal.round, refusal.hint_index, refusal.hint_term
        ),
        raft.now,
    )
    assert raft.progress[2].next_index == before


# ── proposals ─────────────────────────────────────────────────────────────────────────────────────


def test_only_a_leader_takes_commands() -> None:
    raft = core()
    with pytest.raises(NotLeader):
        raft.propose([b"x"], 0.0)
    with pytest.raises(NotLeader):
        raft.forward(1, [b"x"], 0.0)


def test_proposals_beyond_the_bound_are_busy_and_an_idle_leader_takes_any_batch() -> None:
    raft = elected(uncommitted_bytes_max=10)
    assert raft.propose([b"x" * 50], raft.now) == 3
    with pytest.raises(Busy):
        raft.propose([b"y"], raft.now)
    assert raft.log.last_index == 3
    sent(raft)
    raft.step(AppendEntriesReply(2, 2, 1, True, 3), raft.now)
    assert raft.propose([b"y"], raft.now) == 4


def test_a_forwarded_batch_of_an_earlier_term_is_refused_by_the_leader_of_the_next() -> None:
    """So its sender may take it for lost once it applies an entry of a later term."""
    raft = elected()
    sent(raft)
    raft.step(Propose(1, 2, 1, 7, (b"x",)), raft.now)
    assert sent(raft) == [ProposeReply(2, 1, 2, 7)]
    assert raft.log.last_index == 2


def test_a_forwarded_batch_that_is_refused_as_busy_is_certainly_not_appended() -> None:
    raft = elected(uncommitted_bytes_max=10)
    raft.propose([b"x" * 50], raft.now)
    sent(raft)
    raft.step(Propose(2, 3, 1, 7, (b"y",)), raft.now)
    assert sent(raft) == [ProposeReply(2, 1, 3, 7, busy=True)]
    assert raft.log.last_index == 3


def test_10_2_2_a_message_carries_as_much_as_fits_and_one_entry_at_least() -> None:
    raft = elected(append_bytes_max=10)
    sent(raft)
    for peer in (2, 3):
        raft.step(AppendEntriesReply(2, peer, 1, True, 2), raft.now)
    sent(raft)
    raft.propose([b"x" * 6, b"y" * 4, b"z" * 50, b"w"], raft.now)
    sizes = [[len(entry.data) for entry in message.entries] for message in sent(raft) if message.to == 2]
    assert sizes == [[6, 4], [50], [1]]


# ── 6.2: CheckQuorum; 4.2.3, 9.6: PreVote and stickiness ──────────────────────────────────────────


def test_6_2_a_leader_that_no_quorum_answers_steps_down() -> None:
    raft = elected()
    begun = raft.now
    while raft.role is Role.LEADER and raft.now < begun + 9.0:
        raft.timeout(raft.deadline)
        sent(raft)
    assert 1.0 <= raft.now - begun <= 1.2 + 1e-9


def test_6_2_one_of_two_followers_is_enough() -> None:
    raft = elected()
    begun = raft.now
    while raft.now < begun + 5.0:
        raft.timeout(raft.deadline)
        heartbeat = next(message for message in sent(raft) if message.to == 2)
        raft.step(AppendEntriesReply(2, 2, 1, True, 1, heartbeat.round), raft.now)
    assert raft.role is Role.LEADER


def test_9_6_a_pre_vote_changes_nothing_at_the_voter_and_is_not_stored() -> None:
    raft = core()
    raft.step(PreVote(2, 2, 1, 1, 1), 0.0)
    ready = raft.ready()
    assert ready is not None
    assert not ready.must_store
    assert (raft.term, raft.voted_for) == (1, 0)
    assert ready.messages == (PreVoteReply(2, 1, 2, True),)


def test_9_6_without_a_quorum_of_pre_votes_the_term_stays() -> None:
    raft = core(size=5)
    for _ in range(4):
        raft.timeout(raft.deadline)
        raft.step(PreVoteReply(2, 2, 1, True), raft.now)
    assert (raft.term, raft.role) == (1, Role.PRE_CANDIDATE)


@pytest.mark.parametrize("kind", [PreVote, RequestVote])
def test_4_2_3_who_hears_a_leader_ignores_rivals_for_an_election_timeout(kind: Any) -> None:
    raft = core(term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 5.0)
    sent(raft)
    raft.step(kind(7, 3, 1, 99, 6), 5.9)
    assert [reply.granted for reply in sent(raft)] == [False]
    assert raft.term == 2
    raft.step(kind(7, 3, 1, 99, 6), 6.1)
    assert [reply.granted for reply in sent(raft)] == [True]


# ── 6.4: ReadIndex ────────────────────────────────────────────────────────────────────────────────


def test_6_4_a_read_is_confirmed_by_a_round_that_began_after_it() -> None:
    raft = established()
    raft.read(7, raft.now)
    assert reads(raft) == []
    raft.step(AppendEntriesReply(2, 2, 1, True, 2, 1), raft.now)  # the echo of an earlier round
    assert reads(raft) == []
    raft.step(AppendEntriesReply(2, 2, 1, True, 2, 2), raft.now)
    assert reads(raft) == [(7, 2)]


def test_6_4_a_read_is_confirmed_by_a_majority_and_not_by_one() -> None:
    raft = elected(size=5)
    sent(raft)
    for peer in (2, 3):
        raft.step(AppendEntriesReply(2, peer, 1, True, 2, 1), raft.now)
    raft.read(7, raft.now)
    sent(raft)
    raft.step(AppendEntriesReply(2, 2, 1, True, 2, 2), raft.now)
    assert reads(raft) == []
    raft.step(AppendEntriesReply(2, 3, 1, True, 2, 2), raft.now)
    assert reads(raft) == [(7, 2)]


def test_6_4_reads_that_come_together_share_a_round() -> None:
    raft = established()
    for context in (7, 8, 9):
        raft.read(context, raft.now)
    assert len([message for message in sent(raft) if message.to == 2]) == 1
    raft.step(AppendEntriesReply(2, 3, 1, True, 2, 2), raft.now)
    assert reads(raft) == [(7, 2), (8, 2), (9, 2)]


def test_6_4_the_read_index_is_the_commit_index_when_the_read_came() -> None:
    raft = established()
    raft.read(7, raft.now)
    raft.propose([b"x"], raft.now)
    sent(raft)
    raft.step(AppendEntriesReply(2, 2, 1, True, 3, 2), raft.now)
    assert reads(raft) == [(7, 2)]


def test_6_4_a_new_leader_lets_reads_wait_until_it_has_committed_in_its_term() -> None:
    raft = elected(1)
    sent(raft)
    raft.read(7, raft.now)
    raft.step(AppendEntriesReply(2, 2, 1, True, 2, 1), raft.now)  # holds all but the no-op
    assert reads(raft) == []
    raft.step(AppendEntriesReply(2, 2, 1, True, 3, 1), raft.now)
    sent(raft)
    raft.step(AppendEntriesReply(2, 2, 1, True, 3, 2), raft.now)
    assert reads(raft) == [(7, 3)]


def test_6_4_a_leader_that_steps_down_tells_whoever_waits_for_a_read() -> None:
    raft = established()
    raft.read(7, raft.now)
    raft.step(ReadIndex(2, 3, 1, 8), raft.now)
    raft.step(AppendEntriesReply(9, 2, 1, False, 0), raft.now)
    ready = raft.ready()
    assert ready is not None
    assert ready.rejected_reads == (7,)
    assert ReadIndexReply(9, 1, 3, 8, 0) in ready.messages_after_stored


def test_6_4_a_follower_asks_the_leader_and_forgets_when_the_leader_changes() -> None:
    raft = core(term=2)
    with pytest.raises(NotLeader):
        raft.read(1, 0.0)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 0.0)
    raft.read(7, 0.0)
    assert ReadIndex(2, 1, 2, 7) in sent(raft)
    raft.step(AppendEntries(3, 3, 1, 1, 1, 1), 0.1)
    ready = raft.ready()
    assert ready is not None
    assert ready.rejected_reads == (7,)
    raft.stored(ready.number)
    raft.step(ReadIndexReply(3, 2, 1, 7, 1), 0.1)
    assert reads(raft) == []


def test_a_forwarded_read_whose_answer_was_lost_is_given_up() -> None:
    """Regression: seeds 251 and 515. Lost reads filled the bound, and from then on every read was Busy."""
    raft = core(term=2, pending_reads_max=1)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (), 1), 0.0)
    raft.read(7, 0.0)
    with pytest.raises(Busy):
        raft.read(8, 0.5)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (), 2), 1.1)
    ready = raft.ready()
    assert ready is not None
    assert ready.rejected_reads == (7,)
    raft.read(8, 1.1)


def test_a_leader_elected_again_is_answered_though_its_rounds_start_anew() -> None:
    """The follower missed the election: to it, the leader of the next term is the one it knew."""
    raft = core(term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (), 500), 0.0)
    sent(raft)
    raft.step(AppendEntries(3, 2, 1, 1, 1, 1, (), 1), 0.1)
    assert [reply.round for reply in sent(raft)] == [1]


# ── whole stories that need more than one member ──────────────────────────────────────────────────


def test_3_6_figure_8_an_entry_on_a_majority_can_still_be_lost_until_the_term_commits_on_top() -> None:
    """The paper's Figure 8, with the rule in place: nobody applies the entry that is later overwritten."""
    stage = Stage(5)
    stage.elect(1)
    stage.isolate(1)
    stage.propose(1, "doomed")
    stage.elect(5)
    stage.heal()
    for node_id in (2, 3, 4):
        stage.isolate(node_id)
    stage.propose(5, "kept-by-5-alone")
    stage.crash(5)
    stage.heal()
    stage.timeout(2)
    stage.deliver()
    stage.propose(2, "of-the-quorum")
    stage.deliver()
    stage.restart(5)
    stage.run(3.0)
    logs = [actor.core.log.slice(1, actor.core.log.last_index) for actor in stage.actors.values()]
    assert all(log == logs[0] for log in logs)
    commands = [entry.data for entry in logs[0] if entry.kind is EntryKind.COMMAND]
    assert commands == [b"of-the-quorum"]


# ── what a list of the dissertation's rules still lacked ──────────────────────────────────────────────


def test_3_3_a_leader_asks_all_at_once_and_goes_on_asking_who_never_answers() -> None:
    raft = established()
    asked = []
    for _ in range(4):
        raft.timeout(raft.deadline)
        asked.append(sorted(message.to for message in sent(raft)))
        raft.step(AppendEntriesReply(2, 2, 1, True, 2, 1), raft.now)
    assert asked == [[2, 3]] * 4


def test_3_3_what_was_lost_is_sent_again() -> None:
    """3.7: forever; here the follower answers the next heartbeat that it lacks something."""
    stage = Stage()
    stage.elect(1)
    stage.propose(1, "a")
    stage.drop()
    stage.run(0.5)
    assert [actor.core.commit_index for actor in stage.actors.values()] == [3, 3, 3]


def test_3_4_heartbeats_go_out_at_their_interval() -> None:
    raft = established()
    times = []
    for _ in range(4):
        raft.timeout(raft.deadline)
        times.append(raft.now)
        sent(raft)
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert gaps == pytest.approx([0.2, 0.2, 0.2])


def test_3_4_a_candidate_gives_way_to_the_leader_of_its_term() -> None:
    raft = core()
    raft.timeout(raft.deadline)
    raft.step(PreVoteReply(2, 2, 1, True), raft.now)
    sent(raft)
    assert raft.role is Role.CANDIDATE
    raft.step(AppendEntries(2, 3, 1, 1, 1, 1), raft.now)
    assert (raft.role, raft.term, raft.leader_id) == (Role.FOLLOWER, 2, 3)


def test_3_5_a_leader_never_overwrites_its_own_log() -> None:
    raft = established()
    with pytest.raises(InvariantViolated, match="never overwrites"):
        raft.truncate(2)
    with pytest.raises(WireError, match="which we lead"):
        raft.step(AppendEntries(2, 2, 1, 1, 1, 1, (Entry(2, 1),)), raft.now)


def test_3_8_the_commit_index_need_not_be_stored_for_the_next_leader_finds_it() -> None:
    """What is stored of it is a hint that may lag."""
    stage = Stage()
    stage.elect(1)
    stage.propose(1, "a")
    stage.deliver()
    for node_id in (1, 2, 3):
        stage.crash(node_id)
        stage.actors[node_id].state = HardState(2, stage.actors[node_id].state.voted_for, 1)
        stage.restart(node_id)
    assert stage[2].commit_index == 1
    stage.elect(2)
    assert stage[2].commit_index == 4
    assert b"a" in [entry.data for entry in stage.actors[3].applied]


def test_6_2_a_leader_that_is_deposed_or_a_new_election_is_forgotten_as_a_hint() -> None:
    raft = core(term=2)
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), 0.0)
    assert raft.leader_id == 2
    raft.timeout(raft.deadline)
    assert raft.leader_id == 0
    raft.step(AppendEntries(2, 2, 1, 1, 1, 1), raft.now)
    raft.step(RequestVote(3, 3, 1, 0, 0), raft.now + 9)
    assert raft.leader_id == 0


def test_10_2_2_a_leader_sends_ahead_without_waiting_for_answers() -> None:
    raft = established()
    for command in (b"a", b"b", b"c"):
        raft.propose([command], raft.now)
        (message,) = [message for message in sent(raft) if message.to == 2]
        assert [entry.data for entry in message.entries] == [command]
    assert raft.progress[2].inflight_messages == 3


def test_10_2_2_what_was_sent_ahead_and_lost_is_taken_back() -> None:
    raft = established()
    for command in (b"a", b"b"):
        raft.propose([command], raft.now)
        sent(raft)
    raft.step(AppendEntriesReply(2, 2, 1, False, 3, 1, 2, 2), raft.now)  # "b" came, "a" did not
    (message,) = [message for message in sent(raft) if message.to == 2]
    assert (message.previous_index, len(message.entries)) == (2, 2)


def test_9_6_a_pre_vote_is_refused_for_a_log_that_is_behind_or_while_a_leader_is_heard() -> None:
    raft = core(2, 2)
    raft.step(PreVote(3, 2, 1, 1, 1), 0.0)
    raft.step(AppendEntries(2, 3, 1, 3, 2, 1), 0.1)
    raft.step(PreVote(3, 2, 1, 9, 2), 0.5)
    answers = [message for message in sent(raft) if isinstance(message, PreVoteReply)]
    assert [(answer.granted, answer.term) for answer in answers] == [(False, 2), (False, 2)]


# ── the list ──────────────────────────────────────────────────────────────────────────────────────────


def test_every_rule_of_the_list_is_tested_or_has_a_reason() -> None:
    for rule in RULES:
        assert rule.tests or rule.not_done, f"{rule.section}: {rule.text}"
    assert len({(rule.section, rule.text) for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("test", sorted({test for rule in RULES for test in rule.tests}))
def test_a_test_that_the_list_names_exists(test: str) -> None:
    file, name = test.split("::")
    path = TESTS / file
    name, _, case = name.partition("[")
    functions = {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions
    if case and path.name == "test_scenarios.py":
        assert (path.parent / "scenarios" / f"{case[:-1]}.txt").exists()


@pytest.mark.parametrize("code", sorted({code for rule in RULES for code in rule.code.split()}))
def test_code_that_the_list_names_exists(code: str) -> None:
    """``module.name`` of `oarlock.raft`, or ``package.module.name`` of `oarlock`; ``name`` may be dotted."""
    parts = code.split(".")
    for take in (3, 2, 1):
        for root in ("oarlock.raft.", "oarlock."):
            try:
                owner: object = importlib.import_module(root + ".".join(parts[:take]))
            except ModuleNotFoundError:
                continue
            for part in parts[take:]:
                owner = getattr(owner, part)
            return
    pytest.fail(f"no such code: {code}")
