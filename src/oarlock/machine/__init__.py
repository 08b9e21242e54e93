"""State machines: what is replicated.

Most people want `StateMachine` with `command` and `query`. A machine that wants bytes and batches, as the
key-value store does, implements `Machine` instead.
"""

from oarlock.machine.adapter import MachineAdapter
from oarlock.machine.declare import StateMachine, command, encode_call, query, run_query
from oarlock.machine.ports import Capture, CaptureFailed, Command, Machine

__all__ = [
    "Capture",
    "CaptureFailed",
    "Command",
    "Machine",
    "MachineAdapter",
    "StateMachine",
    "command",
    "encode_call",
    "query",
    "run_query",
]
