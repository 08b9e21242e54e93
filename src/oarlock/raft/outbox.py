"""Outbox: what is to be done, collected until the driver takes it as a `Ready`."""

from __future__ import annotations

from oarlock.raft.messages import ChangeMembershipReply, InstallSnapshot, Message, ProposeReply
from oarlock.raft.ready import Ready
from oarlock.raft.types import Entry, HardState, ReadState, Snapshot


class Outbox:
    """Everything of a `Ready` but what follows from the log: see there for what each means."""

    __slots__ = (
        "changes",
        "fetch",
        "install",
        "messages",
        "messages_after_stored",
        "number",
        "reads",
        "rejected_batches",
        "rejected_reads",
        "take_snapshot",
    )

    def __init__(self) -> None:
        self.number = 0
        """Of the latest Ready."""
        self.messages: list[Message] = []
        self.messages_after_stored: list[Message] = []
        self.reads: list[ReadState] = []
        self.rejected_reads: list[int] = []
        self.rejected_batches: list[ProposeReply] = []
        self.changes: list[ChangeMembershipReply] = []
        self.install: Snapshot | None = None
        self.fetch: InstallSnapshot | None = None
        self.take_snapshot = False

    def empty(self) -> bool:
        return not (
            self.messages
            or self.messages_after_stored
            or self.reads
            or self.rejected_reads
            or self.rejected_batches
            or self.take_snapshot
            or self.fetch is not None
            or self.install is not None
            or self.changes
        )

    def take(
        self,
        hard_state: HardState | None,
        entries: tuple[Entry, ...],
        committed: tuple[Entry, ...],
        committed_bytes: int,
    ) -> Ready:
        """All of it, with what follows from the log. The outbox is empty then."""
        self.number += 1
        ready = Ready(
            self.number,
            hard_state,
            entries,
            tuple(self.messages),
            tuple(self.messages_after_stored),
            committed,
            tuple(self.reads),
            tuple(self.rejected_reads),
            tuple(self.rejected_batches),
            tuple(self.changes),
            self.install,
            self.fetch,
            self.take_snapshot,
            committed_bytes,
        )
        for each in (
            self.messages,
            self.messages_after_stored,
            self.reads,
            self.rejected_reads,
            self.rejected_batches,
            self.changes,
        ):
            each.clear()
        self.install = None
        self.fetch = None
        self.take_snapshot = False
        return ready
