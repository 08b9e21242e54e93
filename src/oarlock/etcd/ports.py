"""What the services need from a replica, as a contract. `oarlock.replica.Replica` fits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from oarlock.raft.types import Change, Configuration


class Disk(Protocol):
    """Something that needs more and more room on a disk."""

    @property
    def full(self) -> bool:
        """Whether it found none when it last needed some. What it still has is for what is under way."""

    def try_to_grow(self) -> bool:
        """Look again; returns whether there is room now. The answer may be that of the call before."""


class ReplicaPort(Protocol):
    """One member's replica, as the services see it."""

    def propose(
        self,
        data: bytes,
        on_done: Callable[[Any, BaseException | None], None],
        request: Any = None,
        timeout: float | None = None,
    ) -> None:
        """Replicate `data`; then `on_done(result, None)` with what the store's `apply` returned for it.

        `on_done(None, error)` if that did not come about, with one of `oarlock.errors.RequestError`. Called
        exactly once, on the event loop's thread, possibly before `propose` returns. `request` is the decoded
        form of `data`. `timeout` in seconds.
        """

    def read_barrier(
        self, on_ready: Callable[[BaseException | None], None], timeout: float | None = None
    ) -> None:
        """Call `on_ready(None)` once local state holds everything acknowledged before this call.

        `on_ready(error)` if that did not come about. Exactly once, possibly before this returns.
        """

    async def barrier(self, timeout: float | None = None) -> None:
        """`read_barrier` as an awaitable."""

    async def change_membership(self, change: Change, timeout: float | None = None) -> Configuration:
        """Have the leader make a change; returns once it is committed, and no longer joint.

        Raises:
            ChangeRefused: it cannot be; nothing was done.
            RequestError: another one, as for a command.
        """

    async def transfer_leadership(self, target: int, timeout: float | None = None) -> int:
        """Leader only: hand over to `target`, or with 0 to whom suits best; returns the new leader.

        Raises:
            NotLeader: this member does not lead.
            ChangeRefused: the target cannot take over, or did not in time; this member goes on.
        """

    @property
    def term(self) -> int: ...
    @property
    def leader_id(self) -> int:
        """0 if none is known."""

    @property
    def node_id(self) -> int: ...
    @property
    def cluster_id(self) -> int: ...
    @property
    def applied_index(self) -> int: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def configuration(self) -> Configuration:
        """The latest in the log, committed or not."""

    @property
    def configuration_index(self) -> int:
        """Where it stands in the log."""
