"""Every exception that Oarlock raises, in one tree, and the guard for our own bugs.

::

    OarlockError
    ├── InvariantViolated          a bug of ours: please report it
    ├── UsageError                 wrong argument, flag, file or address: the message says what to do
    ├── StorageError               the data directory
    │   ├── CorruptLog             damage that is not a torn write; has .path and .offset
    │   ├── CorruptSnapshot        a snapshot's bytes are not those that were written
    │   ├── DataDirError           locked, foreign, unwritable or of an unknown version
    │   └── DiskFailure            a write or sync failed: the process has to end; DiskFull is its mild case
    │       └── DiskFull
    ├── WireError                  bytes from a peer that are not what we speak
    ├── SnapshotUnavailable        the member asked for a snapshot does not have it any more
    ├── RequestError               a submitted command or query did not succeed
    │   ├── NotLeader              this member may not serve it; .leader_id hints who may
    │   ├── Busy                   a bound was reached: nothing was done, try again later
    │   ├── RequestTimeout         no answer in time; .outcome_unknown says whether it may still happen
    │   ├── OutcomeUnknown         it may or may not have been applied (lost on a leader change)
    │   ├── CommandFailed          the state machine refused; nothing else went wrong
    │   ├── SessionExpired         the client session is unknown by now: nothing was done
    │   ├── ChangeRefused          the membership or leadership cannot be changed so; .reason says why
    │   └── Stopped                the replica is stopping; .outcome_unknown as above
    └── RpcError                   a gRPC call failed; .code and .message (in oarlock.grpc)

Catch at the level you care about. Data is in attributes: no message needs parsing.
"""

from __future__ import annotations

import enum
from pathlib import Path


class OarlockError(Exception):
    """Base class of everything raised on purpose."""


class InvariantViolated(OarlockError):
    """A property that safety rests on does not hold: a bug in Oarlock, never in the caller.

    The process must not go on with the state at hand.
    """


def invariant(condition: object, message: str) -> None:
    """Raise `InvariantViolated` unless ``condition`` holds. Unlike ``assert`` it survives ``python -O``."""
    if not condition:
        raise InvariantViolated(message)


class UsageError(OarlockError):
    """The caller asked for something that cannot be: the message is one line that says what to do."""


class StorageError(OarlockError):
    """Something about the data on disk."""


class CorruptLog(StorageError):
    """Stored bytes are damaged in a way that no torn write explains. Nothing was changed.

    Attributes:
        path: the damaged file.
        offset: where in it the damage begins, in bytes.
    """

    def __init__(self, path: Path | str, offset: int, reason: str) -> None:
        self.path = Path(path)
        self.offset = offset
        self.reason = reason
        super().__init__(
            f"{path}: corrupt at offset {offset}: {reason}; "
            "this is not a torn write, so nothing was cut. Restore this member from the other members"
        )


class CorruptSnapshot(StorageError):
    """A stored snapshot is damaged, or means nothing to the state machine. Nothing was changed.

    Attributes:
        path: the damaged file.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{path}: a damaged snapshot: {reason}. Restore this member from the other members")


class DataDirError(StorageError):
    """The data directory cannot be used: locked, of another cluster or version, or not writable."""


class DiskFailure(StorageError):
    """A write or sync failed. Never retried: what the disk now holds is unknown, so the process must end."""


class DiskFull(DiskFailure):
    """No space is left. Raised before anything was acknowledged."""


class WireError(OarlockError):
    """Bytes from a peer that break the protocol: the connection is closed, nothing else happens."""


class SnapshotUnavailable(OarlockError):
    """The member that was asked for a snapshot does not have it, or not any more."""


class RequestError(OarlockError):
    """A submitted command or query did not succeed."""


class NotLeader(RequestError):
    """This member cannot serve the request now. Nothing was done.

    Attributes:
        leader_id: the leader as far as known, or 0.
    """

    def __init__(self, leader_id: int = 0) -> None:
        self.leader_id = leader_id
        super().__init__(f"not the leader (leader: {leader_id:x})" if leader_id else "no leader is known")


class Busy(RequestError):
    """A bound (queued proposals, uncommitted bytes, apply lag) is reached. Nothing was done: retry later."""


class RequestTimeout(RequestError):
    """No answer came in time.

    Attributes:
        outcome_unknown: True if the command may still be applied, False if it certainly was not.
    """

    def __init__(self, seconds: float, outcome_unknown: bool) -> None:
        self.seconds = seconds
        self.outcome_unknown = outcome_unknown
        tail = "it may still be applied" if outcome_unknown else "it was not applied"
        super().__init__(f"no answer within {seconds:g} s; {tail}")


class OutcomeUnknown(RequestError):
    """The command was sent on, and its fate is not known: it may be applied now, later or never."""


class CommandFailed(RequestError):
    """The state machine raised while applying the command. Every member saw the same failure."""


class SessionExpired(RequestError):
    """The client session has expired, or was never opened. The command was not executed by this call.

    Whether an earlier try of it was, the cluster no longer knows (dissertation 6.3): so it is an error, and
    never a silent second execution.
    """


class ChangeReason(enum.IntEnum):
    """Why a change was refused. On the wire: values never change."""

    IN_PROGRESS = 1
    """Another change is not committed yet, or the leader has not committed in its term yet: try again."""
    NOT_FOUND = 2
    """There is no such member."""
    ALREADY_THERE = 3
    """A member with this id, name or one of these peer URLs exists."""
    WAS_REMOVED = 4
    """The member was removed for good: an id never comes back."""
    NOT_A_LEARNER = 5
    """Only a learner can be promoted."""
    NOT_CAUGHT_UP = 6
    """The learner's log is still behind the leader's (dissertation 4.2.1)."""
    NO_QUORUM = 7
    """Of the voters that would remain, too few are in touch with the leader now."""
    LAST_VOTER = 8
    """The last voter cannot leave."""
    OUTDATED = 9
    """The membership is not the one that the caller expected: look again."""
    INVALID = 10
    """The change contradicts itself."""
    NO_TARGET = 11
    """Nobody can take over the leadership: the target is no voter, is not in touch, or is alone."""
    ABORTED = 12
    """The target did not take over in time; the old leader goes on."""


class ChangeRefused(RequestError):
    """A membership change or leadership transfer was refused. Nothing was changed.

    Attributes:
        reason: which rule it would break.
    """

    def __init__(self, reason: ChangeReason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Stopped(RequestError):
    """The replica is stopping or has stopped.

    Attributes:
        outcome_unknown: True if the command may still be applied, False if it certainly was not.
    """

    def __init__(self, message: str = "the replica has stopped", outcome_unknown: bool = False) -> None:
        self.outcome_unknown = outcome_unknown
        super().__init__(f"{message}; the command may still be applied" if outcome_unknown else message)
