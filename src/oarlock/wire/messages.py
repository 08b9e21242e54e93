"""Messages between members, to bytes and back.

Bytes that decode are not yet a message that the core may see: msgspec checks types, `_problem` checks what
types cannot say (no number is negative, entries follow each other, a configuration is well formed). The
core relies on it and does not check again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from oarlock.errors import WireError
from oarlock.raft.messages import (
    AppendEntries,
    ChangeMembership,
    ChangeMembershipReply,
    InstallSnapshot,
    Message,
    PreVoteReply,
    RequestVoteReply,
)
from oarlock.raft.types import Entry, Snapshot

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode

NUMBER_MAX = 2**64 - 1
"""Terms, indexes and ids are unsigned 64-bit numbers, here as in every other implementation."""

CHECKSUM_MAX = 2**32 - 1
SNAPSHOT_BYTES_MAX = 2**60
"""Larger is nonsense. With checksums, it is still a size that the operating system can be asked for."""
ITEMS_MAX = 1000
"""Of one list in a configuration or a change: many times `oarlock.raft.membership.MEMBERS_MAX`."""
TEXT_CHARACTERS_MAX = 1000
"""Of a text for people in a message. It is kept to be shown, so the rest is cut off."""

PROBLEM_CHARACTERS_MAX = 300
"""What a peer sent may be long; what is logged about it is not."""

DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)
"""What msgspec raises on hostile input: malformed or mistyped data, deep nesting, text that is not UTF-8."""


def encode_messages(messages: Sequence[Message]) -> bytes:
    """The payload of one frame."""
    return _encode(messages)


def decode_messages(payload: bytes) -> list[Message]:
    """Messages of one frame, safe to hand to the core.

    Raises:
        WireError: not what `encode_messages` makes.
    """
    try:
        messages = _decode(payload)
    except DECODE_ERRORS as error:
        raise WireError(f"undecodable messages: {error}") from None
    for position, message in enumerate(messages):
        if problem := _problem(message):
            raise WireError(f"malformed {type(message).__name__}: {problem[:PROBLEM_CHARACTERS_MAX]}")
        if type(message) in _WITH_TEXT:
            messages[position] = _cut(message)
    return messages


_WITH_TEXT = frozenset({PreVoteReply, RequestVoteReply, ChangeMembershipReply})


def _cut(message: Message) -> Message:
    if isinstance(message, ChangeMembershipReply) and len(message.text) > TEXT_CHARACTERS_MAX:
        return msgspec.structs.replace(message, text=message.text[:TEXT_CHARACTERS_MAX])
    if isinstance(message, PreVoteReply | RequestVoteReply) and len(message.reason) > TEXT_CHARACTERS_MAX:
        return msgspec.structs.replace(message, reason=message.reason[:TEXT_CHARACTERS_MAX])
    return message


def _problem(message: Message) -> str | None:
    """What is wrong with a decoded message, or None."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if type(value) is int and not 0 <= value <= NUMBER_MAX:
            return f"{name} is {value}"
    if type(message) is AppendEntries:
        return entries_problem(message.entries, message.previous_index + 1)
    if type(message) is InstallSnapshot:
        if message.checksum > CHECKSUM_MAX:
            return f"checksum is {message.checksum}"
        if message.size > SNAPSHOT_BYTES_MAX:
            return f"size is {message.size}"
        return snapshot_problem(message.snapshot)
    if type(message) is ChangeMembership:
        return number_problem(message.change, "change")
    return None


def entries_problem(entries: Sequence[Entry], first_index: int) -> str | None:
    """What is wrong with entries that claim to follow each other from ``first_index``, or None.

    Indexes rise by one and terms never fall (dissertation 3.5).
    """
    index = first_index
    term = 0
    for entry in entries:
        if entry.index != index:
            return f"entry {entry.index} where {index} has to be"
        if entry.term < term:
            return f"entry {entry.index} of term {entry.term} behind one of term {term}"
        if entry.time < 0:
            return f"entry {entry.index} of time {entry.time}"
        term = entry.term
        index += 1
    return None


def snapshot_problem(snapshot: Snapshot) -> str | None:
    """What is wrong with a snapshot's description that came from outside, or None."""
    if problem := number_problem(snapshot, "snapshot"):
        return problem
    if not snapshot.index or not snapshot.term:
        return f"a snapshot of index {snapshot.index} and term {snapshot.term} covers nothing"
    if snapshot.configuration_index > snapshot.index:
        return f"its configuration is of {snapshot.configuration_index}, behind its index {snapshot.index}"
    return snapshot.configuration.problem()


def number_problem(value: object, name: str) -> str | None:
    """The first number, anywhere inside a decoded value, that is not an unsigned 64-bit one; or None.

    Or the first list that is longer than any has to be.
    """
    if isinstance(value, int):
        return None if 0 <= value <= NUMBER_MAX else f"{name} is {value}"
    if isinstance(value, tuple):
        if len(value) > ITEMS_MAX:
            return f"{name} has {len(value)} items"
        return next((problem for item in value if (problem := number_problem(item, name))), None)
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            if problem := number_problem(getattr(value, field), f"{name}.{field}"):
                return problem
    return None
