"""What one record of the log holds: a hard state and entries, to bytes and back."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from oarlock.errors import WireError
from oarlock.raft.types import Entry, HardState
from oarlock.wire.messages import DECODE_ERRORS, entries_problem


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Fields are only added at the end, with a default: logs outlive programs."""

    hard_state: HardState | None
    entries: list[Entry]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode


def encode_batch(hard_state: HardState | None, entries: Sequence[Entry]) -> bytes:
    """The payload of one log record."""
    return _encode((hard_state, entries))


def decode_batch(payload: bytes) -> tuple[HardState | None, list[Entry]]:
    """What `encode_batch` was given. Entries are consecutive, from any index of 1 or more.

    Raises:
        WireError: not what `encode_batch` makes.
    """
    try:
        batch = _decode(payload)
    except DECODE_ERRORS as error:
        raise WireError(f"undecodable batch: {error}") from None
    state = batch.hard_state
    if state is not None and min(state.term, state.voted_for, state.commit_index) < 0:
        raise WireError(f"a negative number in {state}")
    if batch.entries:
        first = batch.entries[0].index
        if problem := "entry 0" if first < 1 else entries_problem(batch.entries, first):
            raise WireError(f"malformed batch: {problem}")
    return state, batch.entries
