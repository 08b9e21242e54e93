"""The asyncio runtime around one consensus core.

`Runtime` is the whole of it for those who bring their own machine in bytes. Its parts: `ready_loop` (the
order of duties: safety rests there), `proposals` and `reads` (what callers wait for), `ports` (what has to be
plugged in). The everyday face, with typed commands, is `oarlock.Replica`.
"""

from oarlock.replica.ports import LogStorage, Recovered, Transport
from oarlock.replica.runtime import Runtime, RuntimeLimits

__all__ = ["LogStorage", "Recovered", "Runtime", "RuntimeLimits", "Transport"]
