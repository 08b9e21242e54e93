"""Raft consensus for Python: any state machine replicated, durable and linearizable.

Everyday names are here: `Replica`, `StateMachine`, `command`, `query`, and the errors. Behind them, from the
bottom up: `oarlock.raft` (the consensus core), `oarlock.machine`, `oarlock.storage`, `oarlock.transport`,
`oarlock.replica` (one member, running) and `oarlock.embed` (the assembly of `Replica`).

Names are imported when they are first used, so that a command line, or a program that needs only the
errors, does not pay for all of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oarlock.embed import MemberInfo, Replica
    from oarlock.errors import (
        Busy,
        ChangeReason,
        ChangeRefused,
        CommandFailed,
        CorruptLog,
        CorruptSnapshot,
        DataDirError,
        DiskFailure,
        DiskFull,
        NotLeader,
        OarlockError,
        OutcomeUnknown,
        RequestError,
        RequestTimeout,
        SessionExpired,
        Stopped,
        StorageError,
        UsageError,
    )
    from oarlock.machine import StateMachine, command, query
    from oarlock.replica import RuntimeLimits, SnapshotPolicy, Status
    from oarlock.session import Session

__version__ = "0.1.0"

__all__ = [
    "Busy",
    "ChangeReason",
    "ChangeRefused",
    "CommandFailed",
    "CorruptLog",
    "CorruptSnapshot",
    "DataDirError",
    "DiskFailure",
    "DiskFull",
    "MemberInfo",
    "NotLeader",
    "OarlockError",
    "OutcomeUnknown",
    "Replica",
    "RequestError",
    "RequestTimeout",
    "RuntimeLimits",
    "Session",
    "SessionExpired",
    "SnapshotPolicy",
    "StateMachine",
    "Status",
    "Stopped",
    "StorageError",
    "UsageError",
    "__version__",
    "command",
    "query",
]

_HOMES = {
    "MemberInfo": "oarlock.embed",
    "Replica": "oarlock.embed",
    "RuntimeLimits": "oarlock.replica",
    "Session": "oarlock.session",
    "SnapshotPolicy": "oarlock.replica",
    "StateMachine": "oarlock.machine",
    "Status": "oarlock.replica",
    "command": "oarlock.machine",
    "query": "oarlock.machine",
}
"""Where a name lives, if not in `oarlock.errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'oarlock' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES.get(name, "oarlock.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
