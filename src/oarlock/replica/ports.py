"""What a `Replica` needs from outside, as contracts. The consumer owns them: implementations live elsewhere.

`LogStorage` is implemented by `oarlock.storage`, `Transport` by `oarlock.transport`, `Machine` (defined in
`oarlock.machine.ports`) by the adapter in `oarlock.machine` and by the key-value store. Each has a suite of
tests that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from oarlock.machine.ports import Command, Machine
from oarlock.raft.messages import Message
from oarlock.raft.types import Entry, HardState, Member, Recovered


class LogStorage(Protocol):
    """Durable hard state and log of one member.

    Contract: `append` calls become durable in the order in which they were made, all or nothing each, and
    `on_durable` is called in that order, on the event loop's thread, never from within `append`. After a
    failure `on_durable` receives it, for this call and every later one, and nothing is retried.
    """

    def load(self) -> Recovered:
        """What is stored. Called once, before the first `append`. Raises `CorruptLog`, `DataDirError`."""

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: Callable[[BaseException | None], None],
    ) -> None:
        """Store and sync, without blocking. `entries` replace what is stored at and after their first."""

    async def close(self) -> None:
        """Finish what was appended, then release everything. Idempotent."""


class Transport(Protocol):
    """Messages to the other members of the groups in this process.

    Contract: each message is delivered at most once, intact, to the member it names and from the member
    that it says, or dropped; order is kept between two members while a connection lasts, and not promised.
    `send` never blocks and never raises for a peer that is away; queues are bounded by bytes.
    """

    def register(self, group: int, on_messages: Callable[[list[Message]], None]) -> None:
        """Deliver messages for `group` in batches. On the event loop's thread."""

    def unregister(self, group: int) -> None: ...

    def set_members(self, group: int, members: Iterable[Member]) -> None:
        """Where the members are now; connections to others are closed."""

    def send(self, group: int, messages: Iterable[Message]) -> None:
        """Queue for `message.to` each; drop if its queue is full or it is unknown."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


__all__ = ["Command", "LogStorage", "Machine", "Recovered", "Transport"]
