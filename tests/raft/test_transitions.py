"""Every role with every message of a lower, an equal and a higher term: what becomes of it, in one table.

The table is `transitions.txt`, one line per case: the state before, the message, and what came of it (role,
term, vote, leader, log, then the messages that went out and what else a Ready asked for).
``pytest tests/raft/test_transitions.py --rewrite`` writes it anew; the rules that hold whatever the table
says are tests of their own below.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from oarlock.errors import OarlockError
from oarlock.raft import invariants
from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    ChangeMembership,
    ChangeMembershipReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    PreVote,
    PreVoteReply,
    Propose,
    ProposeReply,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    SnapshotTurn,
    SnapshotTurnReply,
    TimeoutNow,
)
from oarlock.raft.raft import Raft
from oarlock.raft.ready import Ready
from oarlock.raft.roles import TRANSITIONS, Role
from oarlock.raft.types import Change, Configuration, Entry, HardState, Member, Snapshot

TABLE = Path(__file__).parent / "transitions.txt"
TERM = 5
ME, LEADER, OTHER = 1, 2, 3


def settle(raft: Raft) -> list[str]:
    """Fulfil every duty at once. Returns what was sent, and what else was asked for."""
    happened: list[str] = []
    while (ready := raft.ready()) is not None:
        happened += map(brief, (*ready.messages, *ready.messages_after_stored))
        happened += others(ready)
        raft.stored(ready.number)
        if ready.install is not None:
            raft.applied(ready.install.index)
        if ready.committed:
            raft.applied(ready.committed[-1].index)
    return happened


def others(ready: Ready) -> list[str]:
    """What a Ready asks for beside messages, storage and applying."""
    happened = [f"read {state.context} at {state.index}" for state in ready.reads]
    happened += [f"read {context} rejected" for context in ready.rejected_reads]
    happened += [f"batch {refusal.batch} rejected" for refusal in ready.rejected_batches]
    happened += [f"change {answer.number} answered: {answer.index}" for answer in ready.changes]
    if ready.fetch is not None:
        happened.append(f"fetch {ready.fetch.snapshot.index}")
    if ready.install is not None:
        happened.append(f"install {ready.install.index}")
    if ready.take_snapshot:
        happened.append("take a snapshot")
    return happened


THREE = Configuration(voters=(ME, LEADER, OTHER))


def new(term: int = TERM, configuration: Configuration = THREE) -> Raft:
    """Member 1 of three. Its log is 1:1, 2:3."""
    _, entries = bootstrap(configuration)
    raft = Raft(
        Config(id=ME, election_timeout=1.0, heartbeat_interval=0.2),
        HardState(term, 0, 1),
        (*entries, Entry(2, 3)),
        random=random.Random(1),
        now=0.0,
    )
    settle(raft)
    return raft


def follower() -> Raft:
    """Of leader 2, whom it heard a moment ago."""
    raft = new()
    raft.step(AppendEntries(TERM, LEADER, ME, 2, 3, 1), 0.1)
    settle(raft)
    return raft


def leaderless() -> Raft:
    """A follower that knows no leader and has not voted."""
    return new()


def pre_candidate() -> Raft:
    raft = new()
    raft.timeout(raft.deadline)
    settle(raft)
    return raft


def candidate(configuration: Configuration = THREE) -> Raft:
    raft = new(TERM - 1, configuration)
    raft.timeout(raft.deadline)
    for voter in configuration.voters[1:]:
        if raft.role is Role.PRE_CANDIDATE:
            raft.step(PreVoteReply(TERM, voter, ME, True), raft.now)
    settle(raft)
    return raft


def leader(configuration: Configuration = THREE) -> Raft:
    """Just elected: its no-op, 3:5, is on its way."""
    raft = candidate(configuration)
    for voter in configuration.voters[1:]:
        raft.step(RequestVoteReply(TERM, voter, ME, True), raft.now)
    settle(raft)
    return raft


def settled_leader(configuration: Configuration = THREE) -> Raft:
    """Its no-op is committed: all but 3 have it."""
    raft = leader(configuration)
    for voter in configuration.voters[1:]:
        if voter != OTHER:
            raft.step(AppendEntriesReply(TERM, voter, ME, True, 3, 1), raft.now)
    settle(raft)
    return raft


def transferring() -> Raft:
    """A leader that hands over to 3, which has not got all entries yet."""
    raft = settled_leader()
    raft.transfer_leadership(OTHER, raft.now)
    settle(raft)
    return raft


def joint_leader() -> Raft:
    """A leader of five that demotes two; the joint configuration, 4:5, is not committed."""
    raft = settled_leader(Configuration(voters=(1, 2, 3, 4, 5)))
    raft.change_membership(Change(demote=(4, 5)), raft.now)
    settle(raft)
    return raft


def learner() -> Raft:
    """It follows leader 2, and nobody counts it."""
    raft = new(configuration=Configuration(voters=(LEADER, OTHER), learners=(ME,)))
    raft.step(AppendEntries(TERM, LEADER, ME, 2, 3, 1), 0.1)
    settle(raft)
    return raft


def fetching() -> Raft:
    """A follower that fetches a snapshot of index 20 from leader 2."""
    raft = new()
    raft.step(InstallSnapshot(TERM, LEADER, ME, Snapshot(20, 4, THREE, 1), 100, 7), 0.1)
    raft.snapshot_progress(30)
    settle(raft)
    return raft


STATES: tuple[Callable[[], Raft], ...] = (
    follower,
    leaderless,
    pre_candidate,
    candidate,
    leader,
    settled_leader,
    transferring,
    joint_leader,
    learner,
    fetching,
)
NEWCOMER = Member(9, "nine")

MESSAGES: dict[str, Callable[[int], Message]] = {
    "PreVote": lambda term: PreVote(term, OTHER, ME, 9, 3),
    "PreVote, log behind": lambda term: PreVote(term, OTHER, ME, 9, 1),
    "PreVoteReply, granted": lambda term: PreVoteReply(term, OTHER, ME, True),
    "PreVoteReply, refused": lambda term: PreVoteReply(term, OTHER, ME, False),
    "RequestVote": lambda term: RequestVote(term, OTHER, ME, 9, TERM),
    "RequestVote, handed over": lambda term: RequestVote(term, OTHER, ME, 9, TERM, transfer=True),
    "RequestVote, log behind": lambda term: RequestVote(term, OTHER, ME, 9, 1),
    "RequestVoteReply, granted": lambda term: RequestVoteReply(term, OTHER, ME, True),
    "RequestVoteReply, refused": lambda term: RequestVoteReply(term, OTHER, ME, False),
    "AppendEntries": lambda term: AppendEntries(term, OTHER, ME, 2, 3, 1, (Entry(3, min(term, TERM)),), 7),
    "AppendEntries, gap": lambda term: AppendEntries(term, OTHER, ME, 6, term, 1, (), 7),
    "AppendEntries, of leader 2": lambda term: AppendEntries(
        term, LEADER, ME, 2, 3, 1, (Entry(3, min(term, TERM)),), 7
    ),
    "AppendEntriesReply, success": lambda term: AppendEntriesReply(term, OTHER, ME, True, 3, 1),
    "AppendEntriesReply, refused": lambda term: AppendEntriesReply(term, OTHER, ME, False, 2, 1, 1, 1),
    "ReadIndex": lambda term: ReadIndex(term, OTHER, ME, 77),
    "ReadIndexReply": lambda term: ReadIndexReply(term, OTHER, ME, 77, 1),
    "Propose": lambda term: Propose(term, OTHER, ME, 8, (b"x",)),
    "ProposeReply": lambda term: ProposeReply(term, OTHER, ME, 8),
    "InstallSnapshot": lambda term: InstallSnapshot(term, OTHER, ME, Snapshot(9, 3, THREE, 1), 50, 3, 7),
    "InstallSnapshot, of leader 2": lambda term: InstallSnapshot(
        term, LEADER, ME, Snapshot(20, 4, THREE, 1), 100, 7, 7
    ),
    "InstallSnapshot, not needed": lambda term: InstallSnapshot(
        term, LEADER, ME, Snapshot(2, 3, THREE, 1), 50, 3, 7
    ),
    "InstallSnapshotReply, done": lambda term: InstallSnapshotReply(term, OTHER, ME, 3, 1),
    "InstallSnapshotReply, on its way": lambda term: InstallSnapshotReply(term, OTHER, ME, 0, 1, 50),
    "TimeoutNow": lambda term: TimeoutNow(term, OTHER, ME),
    "TimeoutNow, of leader 2": lambda term: TimeoutNow(term, LEADER, ME),
    "ChangeMembership": lambda term: ChangeMembership(term, OTHER, ME, 6, Change(add=(NEWCOMER,))),
    "ChangeMembership, foolish": lambda term: ChangeMembership(term, OTHER, ME, 6, Change(remove=(77,))),
    "ChangeMembershipReply": lambda term: ChangeMembershipReply(term, OTHER, ME, 6, 12),
    "SnapshotTurn": lambda term: SnapshotTurn(term, OTHER, ME),
    "SnapshotTurn, done": lambda term: SnapshotTurn(term, OTHER, ME, done=True),
    "SnapshotTurnReply, granted": lambda term: SnapshotTurnReply(term, OTHER, ME, True),
    "SnapshotTurnReply, not now": lambda term: SnapshotTurnReply(term, OTHER, ME, False),
}
TERMS = {"lower": TERM - 1, "equal": TERM, "higher": TERM + 1}
CASES = [(state, message, relation) for state in STATES for message in MESSAGES for relation in TERMS]


def brief(message: Message) -> str:
    text = f"{type(message).__name__}→{message.to} t{message.term}"
    match message:
        case PreVoteReply() | RequestVoteReply():
            text += " yes" if message.granted else f" no: {message.reason}"
        case AppendEntriesReply():
            text += f" holds {message.match_index}" if message.success else f" lacks {message.match_index}"
        case ReadIndexReply():
            text += f" {message.index or 'refused'}"
        case InstallSnapshotReply():
            text += f" holds {message.match_index}" if message.match_index else f" has {message.received}"
        case ChangeMembershipReply():
            text += f" at {message.index}" if message.index else f" refused: {message.text or 'not leading'}"
        case ProposeReply():
            text += " busy" if message.busy else " refused"
        case SnapshotTurnReply():
            text += " granted" if message.granted else " not now"
        case AppendEntries():
            text += f" {len(message.entries)} entries, commit {message.commit_index}, round {message.round}"
        case _:
            pass
    return text


def outcome(state: Callable[[], Raft], message: str, relation: str) -> str:
    raft = state()
    before = invariants.View(raft)
    error = ""
    try:
        raft.step(MESSAGES[message](TERMS[relation]), raft.now + 0.01)
    except OarlockError as raised:
        error = f" {type(raised).__name__}"
    invariants.check(raft)
    invariants.check_step(before, invariants.View(raft))
    sent = settle(raft)
    invariants.check(raft)
    replies = "; ".join(sent)
    return (
        f"{raft.role.value} t{raft.term} vote {raft.voted_for} leader {raft.leader_id} "
        f"log {raft.log.last_index}:{raft.log.last_term}{error}{' | ' + replies if replies else ''}"
    )


def table() -> dict[str, str]:
    lines: dict[str, str] = {}
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            case, result = line.split(" => ")
            lines[case.rstrip()] = result
    return lines


def name(state: Callable[[], Raft], message: str, relation: str) -> str:
    return f"{state.__name__:14} {message:32} {relation}".rstrip()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("message", MESSAGES)
def test_each_message_in_each_role_does_what_the_table_says(
    state: Callable[[], Raft], message: str, rewrite: bool
) -> None:
    if rewrite:
        pytest.skip("the table is being rewritten")
    expected = table()
    for relation in TERMS:
        assert outcome(state, message, relation) == expected[name(state, message, relation)]


def test_the_table_has_each_case_and_no_other(rewrite: bool) -> None:
    if rewrite:
        head = [line for line in TABLE.read_text().splitlines() if line.startswith("#")]
        rows = [f"{name(*case):55} => {outcome(*case)}" for case in CASES]
        TABLE.write_text("\n".join([*head, *rows]) + "\n")
    assert list(table()) == [name(*case) for case in CASES]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_a_lower_term_changes_nothing(state: Callable[[], Raft], message: str) -> None:
    """But for a change of the membership: whoever leads judges it, whatever term its sender was in."""
    raft = state()
    before = repr(invariants.View(raft))
    raft.step(MESSAGES[message](TERM - 1), raft.now)
    if state is settled_leader and message == "ChangeMembership":
        assert raft.configuration.learners == (NEWCOMER.id,)
    else:
        assert repr(invariants.View(raft)) == before


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("message", MESSAGES)
def test_a_higher_term_is_adopted_but_for_pre_votes_and_ignored_rivals(
    state: Callable[[], Raft], message: str
) -> None:
    raft = state()
    rival = message in ("RequestVote", "RequestVote, log behind")
    sticky = rival and raft.hears_leader()
    stands = raft.may_stand()
    raft.step(MESSAGES[message](TERM + 1), raft.now)
    if message in ("PreVote", "PreVote, log behind") or sticky:
        assert raft.term == TERM
    elif message == "PreVoteReply, granted":
        assert raft.term == (TERM + 1 if state is pre_candidate else TERM)  # it has just won the pre-vote
    elif message.startswith("TimeoutNow") and stands:
        assert (raft.term, raft.role) == (TERM + 2, Role.CANDIDATE)  # the leader of that term hands over
    else:
        assert raft.term == TERM + 1
        assert raft.role is Role.FOLLOWER


def test_every_kind_of_message_is_tried() -> None:
    tried = {type(make(TERM)) for make in MESSAGES.values()}
    assert tried == set(get_args(Message))


@pytest.mark.parametrize("message", MESSAGES)
def test_who_leads_stays_the_only_leader_of_its_term(message: str) -> None:
    """No message of its own term makes a leader step down."""
    for state in (leader, settled_leader, transferring, joint_leader):
        raft = state()
        try:
            raft.step(MESSAGES[message](TERM), raft.now)
        except OarlockError:
            pass
        assert (raft.role, raft.term) == (Role.LEADER, TERM)


def test_only_the_transitions_of_the_table_happen() -> None:
    """Every role change that any case above makes is in `TRANSITIONS`, by way of follower at most."""
    for state, message, relation in CASES:
        raft = state()
        before = raft.role
        try:
            raft.step(MESSAGES[message](TERMS[relation]), raft.now)
        except OarlockError:
            pass
        reachable = {before, *TRANSITIONS[before]}
        if relation == "higher":
            reachable |= {*TRANSITIONS[Role.FOLLOWER]}  # the term rule makes a follower first
        assert raft.role in reachable
