"""The lower level of a state machine, as a contract: commands in as bytes, results out as objects.

`oarlock.kv` implements it directly; `StateMachine` reaches it through an adapter. It lives here, below
both, so that neither has to import `oarlock.replica`, which drives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from oarlock.errors import OarlockError


class CaptureFailed(OarlockError):
    """The state cannot be captured, or its capture had to be given up. Nothing is wrong with the member, and
    nothing was changed: report it, keep the log, and try again later."""


class Command(msgspec.Struct, frozen=True, gc=False):
    """One committed command on its way into the state machine."""

    index: int
    """Position in the log."""
    term: int
    data: bytes
    """Exactly what was proposed."""
    request: Any = None
    """What the proposer handed in beside the bytes, on the member that proposed it (an already decoded
    form, say); None on all others. Must not change the result."""
    time: int = 0
    """The cluster's clock when the leader appended it, in milliseconds: equal on every member, and never
    falls from one command to the next. The only clock that `apply` may look at."""


class Capture(Protocol):
    """A state machine's state at one index, frozen: what is applied later does not show in it."""

    def chunks(self) -> Iterator[bytes]:
        """The state as bytes, in pieces of about a megabyte. Called once, in a worker thread.

        Raises, from any step of the iteration:
            CaptureFailed: it was given up (the state machine needed the room, say): the pieces are worthless.
            StorageError: the disk failed.
        """

    def close(self) -> None:
        """Release it, read or not. In any thread; idempotent."""


class Machine(Protocol):
    """The lower level of a state machine: bytes in, objects out, in batches.

    Contract: `apply` is deterministic: equal commands in equal order give equal state and results on every
    member. A command that fails gives an exception *as its result*; `apply` itself raises only if the
    member cannot go on (a full disk, a bug).
    """

    @property
    def applied_index(self) -> int:
        """The last index whose effects are in the state; in a new process, of those that are there again. 0:
        none are, and everything has to be applied or installed."""

    def apply(self, commands: Sequence[Command], applied_index: int) -> list[Any]:
        """Apply all, atomically with recording `applied_index`, and return one result per command.

        `applied_index` is at least the last command's index: entries without a command count too.
        `commands` may be empty.
        """

    @property
    def can_snapshot(self) -> bool:
        """Whether the rest works. If not, the log is kept whole: in memory and on disk."""

    def capture(self) -> Capture:
        """Freeze the state as of `applied_index`. Takes no time: applying goes on at once.

        On the loop's thread, between two batches. Raises `CaptureFailed`.
        """

    def prepare(self, chunks: Iterable[bytes]) -> Any:
        """Turn what a `Capture` gave, on whatever member, into something that `install` takes.

        In a worker thread, while `apply` goes on: this is where the time is spent. Raises `StorageError` if
        the bytes make no sense or find no room.
        """

    def install(self, prepared: Any, applied_index: int) -> None:
        """Replace the whole state. On the loop's thread, between two batches; takes no time."""

    def close(self) -> None: ...
