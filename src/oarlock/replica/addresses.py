"""Whom the transport talks to: the members of the configuration, where the log says that they are.

Old and new members until a change is committed, for it may be taken back; and those that left for a little
longer, so that they are told. Addresses given at the start are tried beside those in the log: by them a
member finds the others when all have moved, or when it has no log yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from msgspec.structs import replace

from oarlock.errors import UsageError
from oarlock.raft import Member, NodeId, Raft
from oarlock.replica.ports import Transport

_log = logging.getLogger("oarlock.replica")

_GOODBYE_TIMEOUTS = 2
"""Election timeouts for which a member that left is still talked to."""


class Addresses:
    """Keeps the transport up to date for one group."""

    def __init__(self, raft: Raft, transport: Transport, group: int, peers: Sequence[Member]) -> None:
        self._raft = raft
        self._transport = transport
        self._group = group
        self._peers = {member.id: member for member in peers if member.id != raft.id}
        self._known: dict[NodeId, Member] = {}
        """Those that the transport was told of."""
        self._leaving: dict[NodeId, asyncio.TimerHandle] = {}
        self._removed: tuple[NodeId, ...] = ()

    def update(self) -> None:
        """The configuration in effect, or the committed one, may have changed."""
        raft = self._raft
        members = {member.id: member for member in raft.committed_configuration.members}
        members.update((member.id, member) for member in raft.configuration.members)
        if not members:
            members = dict(self._peers)
        for node_id in [node_id for node_id in self._known if node_id not in members]:
            if node_id not in self._leaving:
                seconds = _GOODBYE_TIMEOUTS * raft.config.election_timeout
                self._leaving[node_id] = asyncio.get_running_loop().call_later(seconds, self._forget, node_id)
        for node_id in [node_id for node_id in self._leaving if node_id in members]:
            self._leaving.pop(node_id).cancel()
        known = {node_id: self._everywhere(member) for node_id, member in members.items()}
        known.update((node_id, self._known[node_id]) for node_id in self._leaving)
        if known != self._known:
            self._known = known
            self._tell(list(known.values()))
        removed = raft.committed_configuration.removed
        if removed != self._removed:
            self._removed = removed
            self._transport.set_removed(self._group, removed)

    def close(self) -> None:
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()

    def _everywhere(self, member: Member) -> Member:
        """With the addresses that were given at the start."""
        given = self._peers.get(member.id)
        if given is None:
            return member
        others = tuple(url for url in given.peer_urls if url not in member.peer_urls)
        return replace(member, peer_urls=member.peer_urls + others)

    def _forget(self, node_id: NodeId) -> None:
        self._leaving.pop(node_id, None)
        self._known.pop(node_id, None)
        self._tell(list(self._known.values()))

    def _tell(self, members: list[Member]) -> None:
        try:
            self._transport.set_members(self._group, members)
        except UsageError:
            self._tell_those_that_can_be_reached(members)

    def _tell_those_that_can_be_reached(self, members: list[Member]) -> None:
        """One member has an address that this one cannot use: no reason to lose the others."""
        good: list[Member] = []
        for member in members:
            try:
                self._transport.set_members(self._group, [*good, member])
                good.append(member)
            except UsageError as error:
                _log.error("member %x (%s) cannot be reached from here: %s", member.id, member.name, error)
        self._transport.set_members(self._group, good)
