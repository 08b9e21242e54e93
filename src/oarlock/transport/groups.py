"""The groups of one process: what a transport tells each of them, and whom each of them has removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

from oarlock.raft.messages import Message
from oarlock.raft.types import NodeId
from oarlock.transport.bulk import SnapshotReader

OpenSnapshot = Callable[[int], SnapshotReader | None]


class _Callbacks(NamedTuple):
    on_messages: Callable[[list[Message]], None]
    on_lost: Callable[[NodeId], None] | None
    on_removed: Callable[[NodeId], None] | None


class Groups:
    """The registrations at one transport."""

    def __init__(self) -> None:
        self._callbacks: dict[int, _Callbacks] = {}
        self._removed: dict[int, frozenset[NodeId]] = {}
        self._snapshots: dict[int, OpenSnapshot] = {}

    def register(
        self,
        group: int,
        on_messages: Callable[[list[Message]], None],
        on_lost: Callable[[NodeId], None] | None,
        on_removed: Callable[[NodeId], None] | None,
    ) -> None:
        self._callbacks[group] = _Callbacks(on_messages, on_lost, on_removed)

    def unregister(self, group: int) -> None:
        self._callbacks.pop(group, None)
        self._removed.pop(group, None)
        self._snapshots.pop(group, None)

    def clear(self) -> None:
        """Nobody hears anything more."""
        for group in list(self._callbacks):
            self.unregister(group)

    def set_removed(self, group: int, removed: Iterable[NodeId]) -> None:
        self._removed[group] = frozenset(removed)

    def has_removed(self, group: int, node_id: NodeId) -> bool:
        return node_id in self._removed.get(group, ())

    @property
    def removed_anywhere(self) -> list[NodeId]:
        """Whom any group has removed."""
        return sorted({node_id for removed in self._removed.values() for node_id in removed})

    def serve_snapshots(self, group: int, open_snapshot: OpenSnapshot) -> None:
        self._snapshots[group] = open_snapshot

    def open_snapshot(self, group: int, index: int) -> SnapshotReader | None:
        open_snapshot = self._snapshots.get(group)
        return None if open_snapshot is None else open_snapshot(index)

    def deliver(self, group: int, messages: list[Message]) -> None:
        callbacks = self._callbacks.get(group)
        if callbacks is not None:
            callbacks.on_messages(messages)

    def lost(self, group: int, peer: NodeId) -> None:
        """Tell a group in the next turn of the loop: nobody expects an answer from within his own call."""
        asyncio.get_running_loop().call_soon(self._lost, group, peer)

    def removed(self, group: int, peer: NodeId) -> None:
        """Like `lost`."""
        asyncio.get_running_loop().call_soon(self._was_removed, group, peer)

    def _lost(self, group: int, peer: NodeId) -> None:
        callbacks = self._callbacks.get(group)
        if callbacks is not None and callbacks.on_lost is not None:
            callbacks.on_lost(peer)

    def _was_removed(self, group: int, peer: NodeId) -> None:
        callbacks = self._callbacks.get(group)
        if callbacks is not None and callbacks.on_removed is not None:
            callbacks.on_removed(peer)
