"""The state machine of the schedules: a running digest of all that was applied, and real client sessions.

Its state is small and tells everything: two members whose digests at one index differ have applied different
commands, or the same in another order. Commands of sessions (dissertation 6.3) may be in the log twice; they
are executed once.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from oarlock.errors import SessionExpired, UsageError
from oarlock.machine.sessions import VALUE, Outcome, SessionRecord, Sessions
from oarlock.raft.types import Entry, EntryKind, Index

EXPIRED = b"expired"
STALE = b"stale"

Execution = tuple[int, int]
"""A session and a serial number in it."""


@dataclass(frozen=True)
class Dump:
    """A machine's whole state: what a snapshot holds."""

    index: Index
    digest: int
    time: int
    sessions: tuple[SessionRecord, ...]


EMPTY = Dump(0, 0, 0, ())


def open_session(client: int, attempt: int, timeout: int) -> bytes:
    return b"open %d %d %d" % (client, attempt, timeout)


def call(session: int, serial: int, lowest: int) -> bytes:
    return b"call %d %d %d" % (session, serial, lowest)


class Machine:
    """A state machine in memory. `Machine(dump)` is one that goes on from there."""

    __slots__ = ("digest", "index", "sessions")

    def __init__(self, dump: Dump = EMPTY) -> None:
        self.index = dump.index
        self.digest = dump.digest
        self.sessions = Sessions.from_records(dump.time, dump.sessions)

    def dump(self) -> Dump:
        return Dump(self.index, self.digest, self.sessions.now, tuple(self.sessions.records()))

    def apply(self, entry: Entry) -> tuple[bytes, Execution | None]:
        """Apply the next entry. Returns its result, and what was executed if it is a session's command."""
        result, executed = b"", None
        if entry.kind is EntryKind.COMMAND:
            self.sessions.advance(entry.time)
            if not entry.data[:1].isdigit():
                result, executed = self._session_command(entry)
        self.index = entry.index
        self.digest = zlib.crc32(entry.data + result, zlib.crc32(b"%d" % entry.term, self.digest))
        return result, executed

    def _session_command(self, entry: Entry) -> tuple[bytes, Execution | None]:
        words = entry.data.split()
        numbers = [int(word) for word in words[1:]]
        if words[0] == b"open":
            return b"%d" % self.sessions.open(entry.index, numbers[2]), None
        session, serial, lowest = numbers
        try:
            known = self.sessions.enter(session, serial, lowest)
        except SessionExpired:
            return EXPIRED, None
        except UsageError:
            return STALE, None
        if known is not None:
            return known.data, None
        result = b"%d" % entry.index
        self.sessions.leave(session, serial, Outcome(VALUE, result))
        return result, (session, serial)
