"""Ready: the core's duties, as a value that states their order.

What the driver does with each `Ready`, in this order:

1. Send `messages` at once. A leader's AppendEntries go out while its own disk writes (dissertation 10.2.1).
2. Store `hard_state` and `entries`, together and in the order of the Readys' numbers, each Ready wholly or
   not at all. `entries` replace whatever is stored at their indexes and after them. With `install`, they
   replace the whole log: it begins anew behind the snapshot, which is durable already.
3. When that, and all Readys before it, is durable: send `messages_after_stored` (votes, acknowledgements:
   they are promises), then call `Raft.stored(number)`.
4. With `install`: replace the state machine's state by the snapshot's, and call `Raft.applied` with its
   index. Apply `committed` to the state machine, in order; then call `Raft.applied(index)`. These entries
   are durable here too: the core hands out none that is not, so a state machine never outruns its own log.
5. Answer `reads`: each may be served once its index is applied. `rejected_reads` were not confirmed
   (leadership moved): retry or report.
6. `rejected_batches` are forwarded batches that were certainly not appended; `changes` are answers to
   membership changes that were forwarded.
7. `fetch`: get this snapshot from its sender, check it and make it durable, then call
   `Raft.snapshot_received`, or `Raft.snapshot_failed`. A newer `fetch` replaces an older one.
8. `take_snapshot`: write one, of what is applied now, then call `Raft.snapshot_taken`.

Steps 4 to 8 need not wait for step 3. Several Readys may be in flight. Numbers that tell answers apart (read
contexts, batches, changes) must not repeat over restarts: late answers to an earlier process arrive.
"""

from __future__ import annotations

import msgspec

from oarlock.raft.messages import ChangeMembershipReply, InstallSnapshot, Message, ProposeReply
from oarlock.raft.types import Entry, HardState, ReadState, Snapshot


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

    changes: tuple[ChangeMembershipReply, ...] = ()
    install: Snapshot | None = None
    fetch: InstallSnapshot | None = None
    take_snapshot: bool = False
    committed_bytes: int = 0
    """Data of `committed`."""

    @property
    def must_store(self) -> bool:
        return self.hard_state is not None or bool(self.entries) or self.install is not None
