"""Ready: the core's duties, as a value that states their order.

What the driver does with each `Ready`, in this order:

1. Send `messages` at once. A leader's AppendEntries go out while its own disk writes (dissertation 10.2.1).
2. Store `hard_state` and `entries`, together and in the order of the Readys' numbers. `entries` replace
   whatever is stored at their indexes and after them.
3. When that, and all Readys before it, is durable: send `messages_after_stored` (votes, acknowledgements:
   they are promises), then call `Raft.stored(number)`.
4. Apply `committed` to the state machine, in order; then call `Raft.applied(index)`. These entries are
   durable here too: the core hands out none that is not, so a state machine never outruns its own log.
5. Answer `reads`: each may be served once its index is applied. `rejected_reads` were not confirmed
   (leadership moved): retry or report.
6. `rejected_batches` are forwarded batches that were certainly not appended.

Steps 4 to 6 need not wait for step 3. Several Readys may be in flight.
"""

from __future__ import annotations

import msgspec

from oarlock.raft.messages import Message, ProposeReply
from oarlock.raft.types import Entry, HardState, ReadState


class Ready(msgspec.Struct, frozen=True, gc=False):
    number: int
    """Counts up from 1."""
    hard_state: HardState | None
    """Not None only when term or vote changed, or when entries are stored (then with the commit hint)."""
    entries: tuple[Entry, ...]
    messages: tuple[Message, ...]
    messages_after_stored: tuple[Message, ...]
    committed: tuple[Entry, ...]
    reads: tuple[ReadState, ...]
    rejected_reads: tuple[int, ...]
    """Contexts."""
    rejected_batches: tuple[ProposeReply, ...]

    @property
    def must_store(self) -> bool:
        return self.hard_state is not None or bool(self.entries)
