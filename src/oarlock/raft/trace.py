"""Trace events: what the core tells the outside about itself, one type per kind of event.

The core's only logging. A callback given to `Raft` receives them in order; what is to be
logged, counted, checked or drawn is made from them. With no callback, an event costs one comparison.
"""

from __future__ import annotations

import msgspec

from oarlock.raft.messages import Message
from oarlock.raft.types import Configuration, Index, NodeId, Term


class Event(msgspec.Struct, frozen=True, tag=True):
    node: NodeId


class RoleChanged(Event, frozen=True, tag=True):
    role: str
    term: Term
    leader_id: NodeId
    reason: str


class VoteCast(Event, frozen=True, tag=True):
    """A vote (or pre-vote) was granted or refused by this member."""

    term: Term
    candidate: NodeId
    granted: bool
    pre: bool
    reason: str


class EntriesAppended(Event, frozen=True, tag=True):
    first: Index
    last: Index
    term: Term


class LogTruncated(Event, frozen=True, tag=True):
    index: Index
    """The first entry that was dropped."""


class Committed(Event, frozen=True, tag=True):
    index: Index


class Stored(Event, frozen=True, tag=True):
    number: int
    index: Index


class ConfigurationChanged(Event, frozen=True, tag=True):
    index: Index
    configuration: Configuration


class SnapshotTaken(Event, frozen=True, tag=True):
    """This member has written a snapshot of its own state."""

    index: Index
    size: int


class SnapshotInstalled(Event, frozen=True, tag=True):
    """A snapshot replaced this member's log and state."""

    index: Index
    term: Term


class TransferBegan(Event, frozen=True, tag=True):
    """This leader hands over."""

    target: NodeId


class TransferGivenUp(Event, frozen=True, tag=True):
    target: NodeId
    reason: str


class ReadConfirmed(Event, frozen=True, tag=True):
    context: int
    index: Index


class MessageReceived(Event, frozen=True, tag=True):
    message: Message


class MessageQueued(Event, frozen=True, tag=True):
    """A message is part of the next Ready; `after_stored` if it has to wait for the disk."""

    message: Message
    after_stored: bool
