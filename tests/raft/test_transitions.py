"""Every role with every message of a lower, an equal and a higher term: what becomes of it, in one table.

The table is `transitions.txt`, one line per case: the state before, the message, and what came of it (role,
term, vote, leader, then the messages that went out). ``pytest tests/raft/test_transitions.py --rewrite``
writes it anew; the rules that hold whatever the table says are tests of their own below.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from oarlock.errors import OarlockError
from oarlock.raft import invariants
from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Message,
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
from oarlock.raft.roles import TRANSITIONS, Role
from oarlock.raft.types import Configuration, Entry, HardState

TABLE = Path(__file__).parent / "transitions.txt"
TERM = 5
ME, LEADER, OTHER = 1, 2, 3


def settle(raft: Raft) -> list[Message]:
    """Fulfil every duty at once. Returns what was sent."""
    sent: list[Message] = []
    while (ready := raft.ready()) is not None:
        sent += [*ready.messages, *ready.messages_after_stored]
        raft.stored(ready.number)
        if ready.committed:
            raft.applied(ready.committed[-1].index)
        sent_reads = [f"read {state.context} at {state.index}" for state in ready.reads]
        assert not sent_reads, "no case here confirms a read"
    return sent


def new(term: int = TERM) -> Raft:
    """Member 1 of three. Its log is 1:1, 2:3."""
    _, entries = bootstrap(Configuration(voters=(ME, LEADER, OTHER)))
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


def candidate() -> Raft:
    raft = new(TERM - 1)
    raft.timeout(raft.deadline)
    raft.step(PreVoteReply(TERM, LEADER, ME, True), raft.now)
    settle(raft)
    return raft


def leader() -> Raft:
    raft = candidate()
    raft.step(RequestVoteReply(TERM, LEADER, ME, True), raft.now)
    settle(raft)
    return raft


STATES: tuple[Callable[[], Raft], ...] = (follower, leaderless, pre_candidate, candidate, leader)

MESSAGES: dict[str, Callable[[int], Message]] = {
    "PreVote": lambda term: PreVote(term, OTHER, ME, 9, 3),
    "PreVote, log behind": lambda term: PreVote(term, OTHER, ME, 9, 1),
    "PreVoteReply, granted": lambda term: PreVoteReply(term, OTHER, ME, True),
    "PreVoteReply, refused": lambda term: PreVoteReply(term, OTHER, ME, False),
    "RequestVote": lambda term: RequestVote(term, OTHER, ME, 9, TERM),
    "RequestVote, log behind": lambda term: RequestVote(term, OTHER, ME, 9, 1),
    "RequestVoteReply, granted": lambda term: RequestVoteReply(term, OTHER, ME, True),
    "RequestVoteReply, refused": lambda term: RequestVoteReply(term, OTHER, ME, False),
    "AppendEntries": lambda term: AppendEntries(term, OTHER, ME, 2, 3, 1, (Entry(3, term),), 7),
    "AppendEntries, gap": lambda term: AppendEntries(term, OTHER, ME, 6, term, 1, (), 7),
    "AppendEntriesReply, success": lambda term: AppendEntriesReply(term, OTHER, ME, True, 3, 1),
    "AppendEntriesReply, refused": lambda term: AppendEntriesReply(term, OTHER, ME, False, 2, 1, 1, 1),
    "ReadIndex": lambda term: ReadIndex(term, OTHER, ME, 77),
    "ReadIndexReply": lambda term: ReadIndexReply(term, OTHER, ME, 77, 1),
    "Propose": lambda term: Propose(term, OTHER, ME, 8, (b"x",)),
    "ProposeReply": lambda term: ProposeReply(term, OTHER, ME, 8),
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
    replies = "; ".join(map(brief, sent))
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
    return f"{state.__name__:13} {message:27} {relation}".rstrip()


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
        rows = [f"{name(*case):50} => {outcome(*case)}" for case in CASES]
        TABLE.write_text("\n".join([*head, *rows]) + "\n")
    assert list(table()) == [name(*case) for case in CASES]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_a_lower_term_changes_nothing(state: Callable[[], Raft], message: str) -> None:
    raft = state()
    before = repr(invariants.View(raft))
    raft.step(MESSAGES[message](TERM - 1), raft.now)
    assert repr(invariants.View(raft)) == before


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("message", MESSAGES)
def test_a_higher_term_is_adopted_but_for_pre_votes_and_ignored_rivals(
    state: Callable[[], Raft], message: str
) -> None:
    raft = state()
    sticky = message.startswith("RequestVote") and "Reply" not in message and raft.hears_leader()
    raft.step(MESSAGES[message](TERM + 1), raft.now)
    if message in ("PreVote", "PreVote, log behind") or sticky:
        assert raft.term == TERM
    elif message == "PreVoteReply, granted":
        assert raft.term == (TERM + 1 if state is pre_candidate else TERM)  # it has just won the pre-vote
    else:
        assert raft.term == TERM + 1
        assert raft.role is Role.FOLLOWER


def test_only_the_transitions_of_the_table_happen() -> None:
    """Every role change that any case above makes is in `TRANSITIONS`."""
    for state, message, relation in CASES:
        raft = state()
        before = raft.role
        try:
            raft.step(MESSAGES[message](TERMS[relation]), raft.now)
        except OarlockError:
            pass
        assert raft.role is before or raft.role in TRANSITIONS[before]
