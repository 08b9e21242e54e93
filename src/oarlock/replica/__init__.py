"""The asyncio runtime around one consensus core.

`Runtime` is the whole of it for those who bring their own machine in bytes. Its parts: `recovery` (what it
starts from), `ready_loop` (the order of duties: safety rests there), `proposals` and `reads` (what callers
wait for), `snapshots` and `fetching`, `changes` (membership and leadership) and `addresses`, `status` and
`doctor`, `ports` (what has to be plugged in). The everyday face, with typed commands, is `oarlock.Replica`.
"""

from oarlock.replica.changes import OwnEntry
from oarlock.replica.ports import LogStorage, Recovered, SnapshotStorage, Transport
from oarlock.replica.runtime import Runtime, RuntimeLimits
from oarlock.replica.snapshots import SnapshotPolicy
from oarlock.replica.status import Status

__all__ = [
    "LogStorage",
    "OwnEntry",
    "Recovered",
    "Runtime",
    "RuntimeLimits",
    "SnapshotPolicy",
    "SnapshotStorage",
    "Status",
    "Transport",
]
