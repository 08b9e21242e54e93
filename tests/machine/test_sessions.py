"""Sessions: executed exactly once, answered as often as asked, an error where nobody knows any more."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oarlock.errors import Busy, CommandFailed, SessionExpired, UsageError
from oarlock.machine import (
    Command,
    MachineAdapter,
    StateMachine,
    command,
    encode_call,
    encode_close,
    encode_keep_alive,
    encode_open,
    sessions,
)
from oarlock.machine.declare import Call


class Ledger(StateMachine):
    """Notes every execution."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @command
    def note(self, text: str) -> int:
        self.notes.append(text)
        return len(self.notes)

    @command
    def refuse(self, text: str) -> None:
        self.notes.append(text)
        raise ValueError(text)

    @command
    def odd(self) -> Any:
        self.notes.append("odd")
        return object()

    @command
    def big(self, size: int) -> bytes:
        self.notes.append("big")
        return bytes(size)

    @command
    def shown(self) -> list[str]:
        return self.notes

    def snapshot(self) -> list[str]:
        return self.notes

    def restore(self, notes: list[str]) -> None:
        self.notes = notes


class Member:
    """One member, fed by hand: each command has the next index, and a time."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.adapter = MachineAdapter(self.ledger)
        self.time = 0

    def apply(self, data: bytes, request: Any = True) -> Any:
        index = self.adapter.applied_index + 1
        [result] = self.adapter.apply([Command(index, 1, data, request, self.time)], index)
        return result

    def open(self, timeout: int = 1000) -> int:
        id_ = self.apply(encode_open(timeout))
        assert type(id_) is int
        return id_

    def note(self, session: int, serial: int, lowest: int = 1, text: str = "") -> Any:
        return self.apply(
            call(Ledger.note, text or str(serial), session=session, serial=serial, lowest=lowest)
        )

    def restored(self) -> Member:
        """Another member, from this one's snapshot."""
        other = Member()
        capture = self.adapter.capture()
        other.adapter.install(other.adapter.prepare(capture.chunks()), self.adapter.applied_index)
        other.time = self.time
        return other


def call(function: Any, *args: Any, **place: int) -> bytes:
    return encode_call(function, args, {}, **place)


@pytest.fixture
def member() -> Member:
    return Member()


def test_a_command_that_is_sent_twice_is_executed_once_and_answered_twice(member: Member) -> None:
    session = member.open()
    assert [member.note(session, 1), member.note(session, 1), member.note(session, 2)] == [1, 1, 2]
    assert member.ledger.notes == ["1", "2"]


def test_the_id_of_a_session_is_the_index_of_its_opening(member: Member) -> None:
    member.apply(call(Ledger.note, "before"))
    assert member.open() == 2
    assert member.open() == 3


def test_commands_of_one_session_may_arrive_in_any_order(member: Member) -> None:
    session = member.open()
    assert [member.note(session, serial) for serial in (3, 1, 2, 1, 3)] == [1, 2, 3, 2, 1]
    assert member.ledger.notes == ["3", "1", "2"]


def test_commands_outside_of_sessions_are_executed_as_often_as_they_are_there(member: Member) -> None:
    data = call(Ledger.note, "x")
    assert [member.apply(data), member.apply(data)] == [1, 2]


def test_an_error_is_remembered_too(member: Member) -> None:
    session = member.open()
    for _ in range(2):
        failure = member.apply(call(Ledger.refuse, "no", session=session, serial=1, lowest=1))
        assert isinstance(failure, CommandFailed)
        assert str(failure) == "ValueError: no"
    for _ in range(2):
        unfit = member.apply(call(Ledger.odd, session=session, serial=2, lowest=1))
        assert isinstance(unfit, UsageError)
        assert "cannot be handed out" in str(unfit)
    assert member.ledger.notes == ["no", "odd"]


def test_an_answer_is_a_copy_of_what_it_was_then(member: Member) -> None:
    session = member.open()
    data = call(Ledger.shown, session=session, serial=1, lowest=1)
    first = member.apply(data)
    first.append("changed by the caller")
    member.note(session, 2)
    assert member.apply(data) == []
    assert member.ledger.notes == ["2"]


def test_what_the_client_has_acknowledged_is_forgotten_and_never_executed_again(member: Member) -> None:
    session = member.open()
    for serial in (1, 2, 3):
        member.note(session, serial)
    assert member.note(session, 4, lowest=3) == 4
    for serial in (1, 2):
        late = member.note(session, serial)
        assert isinstance(late, UsageError)
        assert "late" in str(late)
    assert member.note(session, 3) == 3
    assert member.ledger.notes == ["1", "2", "3", "4"]


@pytest.mark.parametrize(("serial", "lowest"), [(0, 0), (1, 2), (5, 0), (-1, -1), (3, -2)])
def test_numbers_that_contradict_each_other_are_refused(member: Member, serial: int, lowest: int) -> None:
    session = member.open()
    assert isinstance(member.note(session, serial, lowest), UsageError)
    assert member.ledger.notes == []


def test_an_unknown_session_is_an_error_and_nothing_is_executed(member: Member) -> None:
    assert isinstance(member.note(77, 1), SessionExpired)
    assert isinstance(member.apply(encode_keep_alive(77)), SessionExpired)
    assert member.ledger.notes == []


def test_a_closed_session_is_unknown_and_closing_twice_is_harmless(member: Member) -> None:
    session = member.open()
    assert member.apply(encode_close(session)) is None
    assert member.apply(encode_close(session)) is None
    assert isinstance(member.note(session, 1), SessionExpired)


def test_a_session_expires_when_it_was_not_used_for_longer_than_its_timeout(member: Member) -> None:
    session, other = member.open(1000), member.open(5000)
    member.time = 1000
    assert member.note(session, 1) == 1
    member.time = 2000
    assert member.note(session, 2) == 2
    member.time = 3001
    assert isinstance(member.note(session, 2), SessionExpired)
    assert member.note(other, 1, text="other") == 3
    assert member.ledger.notes == ["1", "2", "other"]


def test_keeping_alive_keeps_alive(member: Member) -> None:
    session = member.open(1000)
    for time in range(0, 5000, 900):
        member.time = time
        assert member.apply(encode_keep_alive(session)) is None
    assert member.note(session, 1) == 1


def test_any_command_lets_expired_sessions_go(member: Member) -> None:
    """So that all members have the same ones at every index."""
    member.open(10)
    member.time = 11
    member.apply(call(Ledger.note, "x"))
    assert len(member.adapter._sessions) == 0


def test_a_time_that_falls_does_nothing(member: Member) -> None:
    member.time = 5000
    session = member.open(1000)
    member.time = 0
    assert member.note(session, 1) == 1
    member.time = 6000
    assert member.note(session, 1) == 1


def test_too_many_sessions_hurt_only_new_ones(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 3)
    ids = [member.open(100) for _ in range(3)]
    assert isinstance(member.apply(encode_open(100)), Busy)
    assert [member.note(id_, 1) for id_ in ids] == [1, 2, 3]
    member.apply(encode_close(ids[0]))
    assert type(member.apply(encode_open(100))) is int


def test_a_client_that_never_acknowledges_is_refused_and_the_refusal_is_the_outcome(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "OUTSTANDING_MAX", 3)
    session = member.open()
    assert [member.note(session, serial) for serial in (1, 2, 3)] == [1, 2, 3]
    assert isinstance(member.note(session, 4), Busy)
    assert member.note(session, 2) == 2
    assert member.note(session, 5, lowest=3) == 4
    assert isinstance(member.note(session, 4), Busy), "it was told so, and is not executed later"
    assert [isinstance(member.note(session, n), Busy) for n in (6, 7, 8)] == [True, True, True]
    assert isinstance(member.note(session, 9), SessionExpired)
    assert isinstance(member.note(session, 1), SessionExpired)
    assert member.ledger.notes == ["1", "2", "3", "5"]


def test_results_are_bounded_by_their_bytes(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "OUTCOME_BYTES_MAX", 1000)
    session = member.open()

    def big(serial: int, lowest: int) -> Any:
        return member.apply(call(Ledger.big, 600, session=session, serial=serial, lowest=lowest))

    assert [big(1, 1), big(2, 1)] == [bytes(600), bytes(600)]
    assert isinstance(big(3, 1), Busy)
    assert big(4, 3) == bytes(600)
    assert member.ledger.notes == ["big"] * 3


def test_results_of_all_sessions_together_are_bounded(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand sessions, each within its own bound, would be too much for any member."""
    monkeypatch.setattr(sessions, "ALL_OUTCOMES_BYTES_MAX", 10_000)
    ids = [member.open() for _ in range(20)]
    answers = [member.apply(call(Ledger.big, 900, session=id_, serial=1, lowest=1)) for id_ in ids]
    assert answers[:10] == [bytes(900)] * 10
    assert all(isinstance(answer, Busy) for answer in answers[10:])
    assert isinstance(member.note(ids[10], 1), Busy), "it was told so, and is not executed later"
    member.note(ids[0], 2, lowest=2)
    assert member.apply(encode_close(ids[1])) is None
    assert type(member.note(ids[11], 2)) is int, "there is room again"
    for serial in range(3, 300):
        for id_ in ids:
            member.note(id_, serial)
    assert member.adapter._sessions.size < 2 * 10_000 + 2000
    assert any(isinstance(member.note(id_, 300), SessionExpired) for id_ in ids)
    kept = [one.size for one in member.adapter._sessions._sessions.values()]
    assert member.adapter._sessions.size == sum(kept) == member.restored().adapter._sessions.size
    member.time += 10_000
    member.open()
    assert member.adapter._sessions.size == 0


def test_what_an_error_says_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text may differ between members: another version of Python, or the address of an object in it."""
    monkeypatch.setattr(sessions, "OUTCOME_BYTES_MAX", 3000)
    members = [Member(), Member()]
    results = []
    for member, text in zip(members, ("short", "long" * 1000), strict=True):
        session = member.open()
        results.append(
            [
                type(member.apply(call(Ledger.refuse, text, session=session, serial=serial, lowest=1)))
                for serial in range(1, 9)
            ]
        )
    assert results[0] == results[1] == [CommandFailed] * 5 + [Busy] * 3
    assert members[0].adapter._sessions.size == members[1].adapter._sessions.size
    assert len(str(members[1].apply(call(Ledger.refuse, "", session=1, serial=1, lowest=1)))) == 500


def test_opening_and_closing_for_ever_leaves_nothing_behind(member: Member) -> None:
    for _ in range(2000):
        member.apply(encode_close(member.open(100_000)))
    assert len(member.adapter._sessions._due) <= 101


@pytest.mark.parametrize("timeout", [0, -1, sessions.TIMEOUT_MAX_MS + 1, 1.5, "1", None, True])
def test_a_timeout_that_makes_no_sense_is_refused_before_and_after_the_log(timeout: Any) -> None:
    with pytest.raises(UsageError):
        encode_open(timeout)
    raw = msgspec.Raw(msgspec.msgpack.encode(timeout))
    result = Member().apply(msgspec.msgpack.encode(Call("session/open", [raw])))
    assert isinstance(result, UsageError)
    assert isinstance(Member().apply(msgspec.msgpack.encode(["session/open", []])), UsageError)


def test_nobody_waits_nobody_gets_a_copy_and_the_state_is_the_same(member: Member) -> None:
    session = member.open()
    data = call(Ledger.note, "x", session=session, serial=1, lowest=1)
    assert member.apply(data, None) is None
    assert member.apply(data, None) is None
    assert member.apply(data) == 1


def test_a_command_that_is_gone_from_the_class_is_not_answered_with_a_guess(member: Member) -> None:
    session = member.open()
    member.note(session, 1)
    del member.adapter._commands["note"]
    assert isinstance(member.note(session, 1), UsageError)
    assert isinstance(member.note(session, 2), CommandFailed)


def test_the_stored_form_of_commands_in_sessions() -> None:
    """If this test has to change, logs written before can no longer be read."""
    decode = msgspec.msgpack.decode
    assert decode(call(Ledger.note, "x")) == ["note", ["x"]]
    assert decode(call(Ledger.note, "x", session=7, serial=5, lowest=3)) == ["note", ["x"], 7, 5, 3]
    assert decode(encode_open(30)) == ["session/open", [30], 0, 0, 0]
    assert decode(encode_keep_alive(7)) == ["session/keep-alive", [], 7, 0, 0]
    assert decode(encode_close(7)) == ["session/close", [], 7, 0, 0]


# ---- Against a model that remembers everything


class Model:
    """Sessions as one would explain them, without any cleverness: all outcomes, for ever."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.sessions: dict[int, dict[str, Any]] = {}

    def advance(self, now: int) -> None:
        for id_, one in list(self.sessions.items()):
            if one["used"] + one["timeout"] < now:
                del self.sessions[id_]

    def note(self, id_: int, serial: int, lowest: int, now: int) -> Any:
        one = self.sessions.get(id_)
        if one is None:
            return SessionExpired
        one["used"] = now
        if not 0 < lowest <= serial:
            return UsageError
        one["lowest"] = max(one["lowest"], lowest)
        if serial < one["lowest"]:
            return UsageError
        if serial not in one["outcomes"]:
            self.executed.append(f"{id_}/{serial}")
            one["outcomes"][serial] = len(self.executed)
        return one["outcomes"][serial]


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "note", "note", "note", "note", "alive", "close", "wait", "restore"]),
        st.integers(0, 3),
        st.integers(0, 6),
        st.integers(0, 6),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_two_members_do_as_the_model_does_whatever_is_sent_in_whatever_order(
    plan: list[tuple[str, int, int, int]],
) -> None:
    members, model = [Member(), Member()], Model()
    ids: list[int] = [999]
    for what, which, first, second in plan:
        now = members[0].time
        id_ = ids[-1 - which % len(ids)]
        if what == "wait":
            for member in members:
                member.time += first * 5
            continue
        if what == "restore":
            members[1] = members[0].restored()
            continue
        model.advance(now)
        if what == "open":
            data, expected = encode_open(20 + first), members[0].adapter.applied_index + 1
            model.sessions[expected] = {"used": now, "timeout": 20 + first, "lowest": 1, "outcomes": {}}
            ids.append(expected)
        elif what == "note":
            data = call(Ledger.note, f"{id_}/{first}", session=id_, serial=first, lowest=second)
            expected = model.note(id_, first, second, now)
        elif what == "alive":
            data, expected = encode_keep_alive(id_), None
            if id_ in model.sessions:
                model.sessions[id_]["used"] = now
            else:
                expected = SessionExpired
        else:
            data, expected = encode_close(id_), None
            model.sessions.pop(id_, None)
        for member in members:
            result = member.apply(data)
            assert (type(result) if isinstance(expected, type) else result) == expected
    one, other = members
    assert one.ledger.notes == other.ledger.notes == model.executed
    assert len(set(model.executed)) == len(model.executed)
    assert one.adapter._sessions.records() == other.adapter._sessions.records()
    assert one.adapter._sessions.now == other.adapter._sessions.now
    assert [record.id for record in one.adapter._sessions.records()] == sorted(model.sessions)


def test_a_client_that_retries_over_a_network_that_repeats_and_reorders_gets_each_done_once() -> None:
    """As real clients do it: a window of commands, each sent some times, acknowledged when answered."""
    for seed in range(20):
        dice = random.Random(seed)
        member = Member()
        session = member.open(10**6)
        waiting: list[bytes] = []
        answers: dict[int, Any] = {}
        sent = 0
        while len(answers) < 100:
            outstanding = [serial for serial in range(1, sent + 1) if serial not in answers]
            if sent < 100 and len(outstanding) < 8:
                sent += 1
                outstanding.append(sent)
            serial = dice.choice(outstanding)
            place = {"session": session, "serial": serial, "lowest": outstanding[0]}
            waiting.append(call(Ledger.note, str(serial), **place))
            dice.shuffle(waiting)
            data = waiting.pop() if dice.random() < 0.5 else dice.choice(waiting)
            result = member.apply(data)
            serial = msgspec.msgpack.decode(data)[3]
            if not isinstance(result, UsageError) and dice.random() < 0.5:
                assert answers.setdefault(serial, result) == result
        assert sorted(map(int, member.ledger.notes)) == list(range(1, 101))
        assert {int(text): place for place, text in enumerate(member.ledger.notes, 1)} == answers
