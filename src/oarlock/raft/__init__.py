"""The consensus core: Raft as in Ongaro's dissertation, without clock, disk, network or chance of its own.

How to drive it::

    hard_state, entries = bootstrap(configuration)        # or what storage recovered
    raft = Raft(config, hard_state, entries, random=Random(seed), now=clock())
    while True:
        wait for a message, a command, a finished write, or the clock to reach raft.deadline
        raft.step(message, now) / raft.propose(commands, now) / raft.stored(number) / raft.timeout(now)
        while (ready := raft.ready()) is not None:
            fulfil it, in the order that `oarlock.raft.ready` states

Start reading at `raft.py`: the state, the doors, the transitions and the term rule. One file per role:
`follower.py`, `candidate.py`, `leader.py`; `votes.py` for the votes, which all roles judge alike. Arithmetic
apart: `quorum.py`, `progress.py`, `log.py`, `membership.py`. `messages.py` is the catalogue of messages,
`invariants.py` what must always hold.
"""

from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap, decode_configuration, encode_configuration
from oarlock.raft.messages import Message
from oarlock.raft.raft import Raft
from oarlock.raft.ready import Ready
from oarlock.raft.roles import Role
from oarlock.raft.types import (
    NOBODY,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    Member,
    NodeId,
    ReadState,
    Term,
)

__all__ = [
    "NOBODY",
    "Config",
    "Configuration",
    "Entry",
    "EntryKind",
    "HardState",
    "Index",
    "Member",
    "Message",
    "NodeId",
    "Raft",
    "ReadState",
    "Ready",
    "Role",
    "Term",
    "bootstrap",
    "decode_configuration",
    "encode_configuration",
]
