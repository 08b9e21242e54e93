"""Walking the index: which revisions of which keys a range names.

A range is etcd's half-open interval [key, range_end): an empty `range_end` means the key alone, a single zero
byte means "no end". All results come in the order of the full keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from oarlock.errors import invariant
from oarlock.etcd_pb import kv_pb2
from oarlock.kv.records import (
    LONG_PREFIX,
    MAX_STORED_KEY,
    NO_VERSION,
    VERSION_AT,
    is_deletion,
    newest_at,
    record_key,
    stored_key,
)

if TYPE_CHECKING:
    import lmdb

NO_END = b"\0"
_PIECE = 16
"""Records that are read between two looks at how many bytes they are."""


class TooManyKeys(Exception):
    """The range has more keys or bytes than the caller wanted to wait for. Never leaves our own code."""


_decode = kv_pb2.KeyValue.FromString


class Index:
    """The index and the records as one transaction sees them."""

    __slots__ = ("_index", "_revisions", "_txn")

    def __init__(
        self, txn: lmdb.Transaction[bytes], index: lmdb._Database, revisions: lmdb._Database
    ) -> None:
        self._txn = txn
        self._index = index
        self._revisions = revisions

    def record(self, entry: bytes) -> bytes:
        """The encoded `KeyValue` that `entry` points to."""
        found = self._txn.get(record_key(entry), None, self._revisions)
        invariant(found is not None, "an index entry without its record")
        return found  # type: ignore[return-value]

    def records(self, entries: Sequence[bytes], bytes_max: int = 0) -> list[bytes]:
        """The encoded pairs that `entries` point to, in their order.

        Raises: TooManyKeys soon after it has read more than `bytes_max` bytes, unless that is 0.
        """
        if bytes_max and len(entries) > _PIECE:
            records: list[bytes] = []
            left = bytes_max
            for start in range(0, len(entries), _PIECE):
                piece = self.records(entries[start : start + _PIECE])
                left -= sum(map(len, piece))
                if left < 0:
                    raise TooManyKeys
                records += piece
            return records
        get, revisions = self._txn.get, self._revisions
        found = [get(record_key(entry), None, revisions) for entry in entries]
        invariant(None not in found, "an index entry without its record")
        return found  # type: ignore[return-value]

    def current(self, key: bytes) -> bytes | None:
        """The entry of the live `key`, or None."""
        entry = self._txn.get(stored_key(key), None, self._index)
        return None if entry is None or is_deletion(entry) else entry

    def at(self, key: bytes, revision: int) -> bytes | None:
        """The entry of `key` as of `revision`, or None if it was not there."""
        with self._txn.cursor(self._index) as cursor:
            return self._live_at(cursor, stored_key(key), newest_at(revision))

    def find(self, key: bytes, range_end: bytes, revision: int = 0, at_most: int = 0) -> list[bytes]:
        """The entries of all live keys in the range, in key order; as of `revision`, or now if 0.

        Raises: TooManyKeys if more than `at_most` keys had to be visited, unless it is 0.
        """
        if not range_end:
            entry = self.at(key, revision) if revision else self.current(key)
            return [] if entry is None else [entry]
        end = b"" if range_end == NO_END else range_end
        if end and end <= key:
            return []
        newest = self._newest(key, end, at_most)
        if not revision:
            return [entry for _, entry in newest if entry[VERSION_AT:] != NO_VERSION]
        found = []
        limit = newest_at(revision)
        with self._txn.cursor(self._index) as probe:
            for stored, last in newest:
                # Most keys have not changed since `revision`: their newest entry is the one.
                entry = last if last >= limit else self._live_at(probe, stored, limit)
                if entry is not None and not is_deletion(entry):
                    found.append(entry)
        return found

    @staticmethod
    def _live_at(cursor: lmdb.Cursor[bytes], stored: bytes, limit: bytes) -> bytes | None:
        if not cursor.set_range_dup(stored, limit):
            return None
        entry = cursor.value()
        return None if is_deletion(entry) else entry

    def _newest(self, start: bytes, end: bytes, at_most: int) -> list[tuple[bytes, bytes]]:
        """(stored key, newest entry) of every key in [start, end) that ever was; an empty `end` is none."""
        last_group = end[:LONG_PREFIX]
        found: list[tuple[bytes, bytes]] = []
        group: list[tuple[bytes, bytes]] = []
        with self._txn.cursor(self._index) as cursor:
            if not cursor.set_range(start[:LONG_PREFIX]):
                return found
            walk = cursor.iternext_nodup(keys=True, values=True)
            for item in islice(walk, at_most + 1) if at_most else walk:
                stored = item[0]
                if group and stored[:LONG_PREFIX] != group[0][0][:LONG_PREFIX]:
                    found += self._ordered(group, start, end)
                    group = []
                if len(stored) == MAX_STORED_KEY:
                    if end and stored[:LONG_PREFIX] > last_group:
                        break
                    group.append(item)
                elif end and stored >= end:
                    break
                else:
                    found.append(item)
        if at_most and len(found) + len(group) > at_most:
            raise TooManyKeys
        return found + self._ordered(group, start, end) if group else found

    def _ordered(
        self, group: list[tuple[bytes, bytes]], start: bytes, end: bytes
    ) -> list[tuple[bytes, bytes]]:
        """Long keys with one prefix: those in the range, in the order of their full keys."""
        full = sorted((_decode(self.record(entry)).key, stored, entry) for stored, entry in group)
        return [(stored, entry) for key, stored, entry in full if key >= start and (not end or key < end)]
