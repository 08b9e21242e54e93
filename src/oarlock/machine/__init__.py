"""State machines: what is replicated.

Most people want `StateMachine` with `command` and `query`. A machine that wants bytes and batches, as the
key-value store does, implements `Machine` instead.

Reading order: `declare` (what users write), `ports` (what the runtime drives), `adapter` (the one behind the
other), `sessions` (commands that are executed once), `snapshot` (the state as bytes).
"""

from oarlock.machine.adapter import MachineAdapter
from oarlock.machine.declare import StateMachine, command, encode_call, query, run_query
from oarlock.machine.ports import Capture, CaptureFailed, Command, Machine
from oarlock.machine.sessions import (
    OUTSTANDING_MAX,
    encode_close,
    encode_keep_alive,
    encode_open,
)

__all__ = [
    "OUTSTANDING_MAX",
    "Capture",
    "CaptureFailed",
    "Command",
    "Machine",
    "MachineAdapter",
    "StateMachine",
    "command",
    "encode_call",
    "encode_close",
    "encode_keep_alive",
    "encode_open",
    "query",
    "run_query",
]
