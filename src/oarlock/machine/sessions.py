"""Client sessions: a command is executed once, however often it is sent (dissertation 6.3).

A caller who gets no answer cannot know whether his command was lost or only the answer. Within a session he
may send it again: each command carries the session's id and a serial number, and every member keeps the
outcomes of those that the client may still ask about. A command whose serial has an outcome is answered with
it and not executed; one whose session is not known any more fails with `SessionExpired` and is not executed
either, for nobody knows then whether it was before.

How to use it, for `oarlock.embed` (all bytes go through `Runtime.submit(..., request=True)`):

1. ``encode_open(timeout_ms)`` → the result is the session's id. An open that is repeated, because its outcome
   was unknown, opens a second session; the first is never used and expires.
2. ``encode_call(Machine.method, args, kwargs, session=id, serial=n, lowest=m)`` → the method's result.
   Serials count from 1; several may be on their way at once and arrive in any order. `lowest` is the lowest
   serial without an answer, this one included: outcomes below it are forgotten. A repeated call carries its
   serial again, and may carry a higher `lowest`. Not more than `OUTSTANDING_MAX` at once: beyond, results are
   `Busy`, and a `Busy` stays the outcome of its serial.
3. ``encode_keep_alive(id)`` about three times per timeout, if nothing else is sent. Commands keep alive too.
4. ``encode_close(id)`` at the end.

**Time** is the cluster's clock, which the leader stamps on entries: equal on all members, so that they expire
the same sessions at the same command. It runs only while there is a leader; when there is none, no session
expires. When a command stamped with t is applied, the sessions that were used last before t - timeout are
gone.

**Bounds.** Commands must leave every member in the same state, so refusals depend on the log alone, never on
a member's memory. Too many sessions: opening another gives `Busy`; those that exist are not hurt. Too many
outcomes in one session, or too many bytes of them in one or in all: `Busy` without executing, which is
remembered as the outcome; a client that goes on all the same loses its session. What an error counts for does
not depend on its text: that may differ from one version of Python, or of a library, to the next.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import msgspec

from oarlock.errors import Busy, CommandFailed, OarlockError, SessionExpired, UsageError, invariant
from oarlock.machine.declare import Call

SESSIONS_MAX = 10_000
"""Open at once, in one state machine."""
OUTSTANDING_MAX = 1_000
"""Outcomes that one session keeps: as many commands may be on their way."""
OUTCOME_BYTES_MAX = 1 << 20
"""Of one session's outcomes. The one that goes beyond is still kept, the next command is refused."""
ALL_OUTCOMES_BYTES_MAX = 256 << 20
"""Of those of all sessions. Refusals are kept, too: at twice as much, who asks on loses his session."""
OUTCOME_BYTES = 100
"""What an outcome counts for beside its result: about what it takes to keep it."""
ERROR_CHARACTERS_MAX = 500
"""Of an error's text that is kept; and what an error counts for, however short it is."""
TIMEOUT_MAX_MS = 24 * 60 * 60 * 1000

OPEN = "session/open"
KEEP_ALIVE = "session/keep-alive"
CLOSE = "session/close"
MANAGEMENT = frozenset({OPEN, KEEP_ALIVE, CLOSE})
"""Names that no method can have."""

_LEFTOVERS = 100
_REFUSAL = (
    "too many results are kept for clients that have not acknowledged them: the command was not executed"
)
_encode = msgspec.msgpack.Encoder().encode

# Kinds of outcomes. Stored: values never change.
VALUE = 0
FAILED = 1
UNFIT = 2
REFUSED = 3


def encode_open(timeout_ms: int) -> bytes:
    """A command that opens a session; its result is the id.

    Args:
        timeout_ms: it expires when it was not used for longer, in milliseconds of the cluster's clock.

    Raises: UsageError if that is not from 1 to `TIMEOUT_MAX_MS`.
    """
    check_timeout(timeout_ms)
    return _encode(Call(OPEN, [msgspec.Raw(_encode(timeout_ms))]))


def encode_keep_alive(session: int) -> bytes:
    """A command that counts as a use. Its result is None, or `SessionExpired`."""
    return _encode(Call(KEEP_ALIVE, session=session))


def encode_close(session: int) -> bytes:
    """A command that ends a session. Its result is None, also if it had ended before."""
    return _encode(Call(CLOSE, session=session))


def check_timeout(timeout_ms: int) -> None:
    if type(timeout_ms) is not int or not 0 < timeout_ms <= TIMEOUT_MAX_MS:
        raise UsageError(
            f"a session's timeout is from 1 to {TIMEOUT_MAX_MS} ms, a whole number, not {timeout_ms!r}"
        )


class Outcome(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What came of a command, as it is stored."""

    kind: int
    data: bytes
    """`VALUE`: the result as MessagePack. `REFUSED`: nothing. Otherwise the text of the error."""

    @classmethod
    def of_error(cls, kind: int, error: Exception) -> Outcome:
        return cls(kind, str(error)[:ERROR_CHARACTERS_MAX].encode("utf-8", "replace"))

    @property
    def size(self) -> int:
        """What it counts for: equal on all members, whatever an error says there."""
        if self.kind == VALUE:
            return OUTCOME_BYTES + len(self.data)
        return OUTCOME_BYTES if self.kind == REFUSED else OUTCOME_BYTES + ERROR_CHARACTERS_MAX

    def error(self) -> OarlockError | None:
        """The error anew, or None for a value. What caused it is not stored."""
        text = self.data.decode("utf-8", "replace")
        if self.kind == FAILED:
            return CommandFailed(text)
        if self.kind == UNFIT:
            return UsageError(text)
        return Busy(_REFUSAL) if self.kind == REFUSED else None


class SessionRecord(msgspec.Struct, array_like=True, frozen=True):
    """One session in a snapshot."""

    id: int
    timeout: int
    used: int
    lowest: int
    outcomes: list[tuple[int, Outcome]]


class _Session:
    """One session.

    Invariant: every serial in `outcomes` is at least `lowest`; `size` is the sum of theirs.
    """

    __slots__ = ("id", "lowest", "outcomes", "size", "timeout", "used")

    def __init__(self, id_: int, timeout: int, used: int) -> None:
        self.id = id_
        self.timeout = timeout
        self.used = used
        self.lowest = 1
        self.outcomes: dict[int, Outcome] = {}
        self.size = 0

    @property
    def last(self) -> int:
        """The last millisecond of its life, if it is not used again."""
        return self.used + self.timeout

    def forget_below(self, lowest: int) -> None:
        if lowest > self.lowest:
            self.lowest = lowest
            for serial in [serial for serial in self.outcomes if serial < lowest]:
                self.size -= self.outcomes.pop(serial).size

    def remember(self, serial: int, outcome: Outcome) -> None:
        self.outcomes[serial] = outcome
        self.size += outcome.size


class Sessions:
    """All sessions of one state machine: a part of the replicated state.

    Everything it does follows from the arguments alone, which come from the log.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}
        self.now = 0
        """The cluster's clock as of the last command, in milliseconds. Never falls."""
        self.size = 0
        """Of all outcomes: the sum over the sessions."""
        self._due: list[tuple[int, int]] = []
        """A heap: (a time not after its `last`, id) once for each session, and leftovers of closed ones."""

    def __len__(self) -> int:
        return len(self._sessions)

    def advance(self, now: int) -> None:
        """A command of this time is about to be applied: whoever has expired by then is gone."""
        self.now = max(self.now, now)
        while self._due and self._due[0][0] < self.now:
            _, id_ = heapq.heappop(self._due)
            session = self._sessions.get(id_)
            if session is not None and session.last < self.now:
                self._end(id_)
            elif session is not None:
                heapq.heappush(self._due, (session.last, id_))

    def open(self, index: int, timeout: int) -> int:
        """A new session, whose id is its command's index.

        Raises:
            UsageError: the timeout makes no sense.
            Busy: there are `SESSIONS_MAX`.
        """
        check_timeout(timeout)
        if len(self._sessions) >= SESSIONS_MAX:
            raise Busy(f"there are {SESSIONS_MAX} sessions: close some, or wait until some expire")
        invariant(index not in self._sessions, "two sessions of one index")
        self._add(_Session(index, timeout, self.now))
        return index

    def _add(self, session: _Session) -> None:
        self._sessions[session.id] = session
        heapq.heappush(self._due, (session.last, session.id))

    def _end(self, id_: int) -> None:
        session = self._sessions.pop(id_, None)
        if session is not None:
            self.size -= session.size

    def use(self, id_: int) -> None:
        """Keep it alive. Raises `SessionExpired`."""
        self._find(id_).used = self.now

    def close(self, id_: int) -> None:
        """End it, if it is there."""
        self._end(id_)
        if len(self._due) > 2 * len(self._sessions) + _LEFTOVERS:
            self._due = [(session.last, session.id) for session in self._sessions.values()]
            heapq.heapify(self._due)

    def enter(self, id_: int, serial: int, lowest: int) -> Outcome | None:
        """A command of a session: its outcome, if it has one; None if it has to be executed now.

        In that case, `leave` has to follow at once.

        Raises:
            SessionExpired: no such session (any more).
            UsageError: the numbers contradict each other, or the client has had this answer.
        """
        session = self._find(id_)
        session.used = self.now
        if not 0 < lowest <= serial:
            raise UsageError(f"session {id_}: serial {serial} with a lowest outstanding one of {lowest}")
        self.size -= session.size
        session.forget_below(lowest)
        self.size += session.size
        known = session.outcomes.get(serial)
        if known is not None:
            return known
        if serial < session.lowest:
            raise UsageError(
                f"session {id_}: command {serial} is late: its client had all answers below {session.lowest}"
            )
        if (
            len(session.outcomes) < OUTSTANDING_MAX
            and session.size < OUTCOME_BYTES_MAX
            and self.size < ALL_OUTCOMES_BYTES_MAX
        ):
            return None
        if len(session.outcomes) >= 2 * OUTSTANDING_MAX or self.size >= 2 * ALL_OUTCOMES_BYTES_MAX:
            self.close(id_)
            raise SessionExpired(f"session {id_} was ended: it went on although it was refused")
        refusal = Outcome(REFUSED, b"")
        self._remember(session, serial, refusal)
        return refusal

    def leave(self, id_: int, serial: int, outcome: Outcome) -> None:
        """The command that was let in by `enter` was executed."""
        session = self._sessions[id_]
        invariant(serial not in session.outcomes, "a command was executed twice")
        self._remember(session, serial, outcome)

    def _remember(self, session: _Session, serial: int, outcome: Outcome) -> None:
        session.remember(serial, outcome)
        self.size += outcome.size

    def _find(self, id_: int) -> _Session:
        session = self._sessions.get(id_)
        if session is None:
            raise SessionExpired(
                f"session {id_} has expired or was closed: nothing was done, but an earlier try may have been"
            )
        return session

    # ---- Snapshots

    def records(self) -> list[SessionRecord]:
        """A copy of everything, in an order that is the same on every member."""
        return [
            SessionRecord(one.id, one.timeout, one.used, one.lowest, sorted(one.outcomes.items()))
            for _, one in sorted(self._sessions.items())
        ]

    @classmethod
    def from_records(cls, now: int, records: Iterable[SessionRecord]) -> Sessions:
        sessions = cls()
        sessions.now = now
        for record in records:
            session = _Session(record.id, record.timeout, record.used)
            session.lowest = record.lowest
            for serial, outcome in record.outcomes:
                sessions._remember(session, serial, outcome)
            sessions._add(session)
        return sessions
