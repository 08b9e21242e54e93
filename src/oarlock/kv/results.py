"""What the store answers. Key-value pairs are the bytes of `mvccpb.KeyValue`, ready to be sent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class PutResult(msgspec.Struct, frozen=True, gc=False):
    """One put was applied."""

    revision: int
    """Of the store after it; the pair's mod_revision."""
    prev_kv: bytes | None = None
    """The pair before, if it was asked for and there was one."""


class DeleteResult(msgspec.Struct, frozen=True, gc=False):
    """One deletion was applied."""

    revision: int
    """Of the store after it. Not advanced if nothing was there to delete."""
    deleted: int
    prev_kvs: Sequence[bytes] = ()
    """The deleted pairs in key order, if they were asked for."""


class RangeResult(msgspec.Struct, frozen=True, gc=False):
    """What a range found."""

    revision: int
    """Of the store now, whatever revision was asked for."""
    kvs: Sequence[bytes]
    more: bool
    """Whether the limit cut the result."""
    count: int
    """Keys in the range, whatever the limit and the filters."""
