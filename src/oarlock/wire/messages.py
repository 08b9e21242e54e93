"""Messages between members, to bytes and back.

Bytes that decode are not yet a message that the core may see: msgspec checks types, `_problem` checks what
types cannot say (no number is negative, entries follow each other). The core relies on it and does not
check again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from oarlock.errors import WireError
from oarlock.raft.messages import AppendEntries, Message
from oarlock.raft.types import Entry

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode

NUMBER_MAX = 2**64 - 1
"""Terms, indexes and ids are unsigned 64-bit numbers, here as in every other implementation."""

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
    for message in messages:
        if problem := _problem(message):
            raise WireError(f"malformed {type(message).__name__}: {problem}")
    return messages


def _problem(message: Message) -> str | None:
    """What is wrong with a decoded message, or None."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if type(value) is int and not 0 <= value <= NUMBER_MAX:
            return f"{name} is {value}"
    if type(message) is AppendEntries:
        return entries_problem(message.entries, message.previous_index + 1)
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
        term = entry.term
        index += 1
    return None
