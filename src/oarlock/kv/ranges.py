"""Range requests: filters, order, limit and count, as etcd defines them.

The plain case (key order, no filters) fetches no more records than it returns. Filters and other orders need
all records of the range first; the limit cuts what is left, and `count` counts the range before both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oarlock.etcd_pb import kv_pb2, rpc_pb2
from oarlock.kv.errors import InvalidSortOption, KeyNotProvided
from oarlock.kv.results import RangeResult
from oarlock.kv.scan import Index

_KeyValue = kv_pb2.KeyValue
_decode = kv_pb2.KeyValue.FromString
_Request = rpc_pb2.RangeRequest

_TARGETS: dict[int, Callable[[kv_pb2.KeyValue], Any]] = {
    _Request.KEY: lambda pair: pair.key,
    _Request.VERSION: lambda pair: pair.version,
    _Request.CREATE: lambda pair: pair.create_revision,
    _Request.MOD: lambda pair: pair.mod_revision,
    _Request.VALUE: lambda pair: pair.value,
}
_ORDERS = frozenset(_Request.SortOrder.values())


def read(
    index: Index, request: rpc_pb2.RangeRequest, revision: int, at_most: int = 0, bytes_max: int = 0
) -> RangeResult:
    """Answer `request` from `index`; `revision` is the store's. The revision asked for was checked before.

    Raises: KeyNotProvided, InvalidSortOption; TooManyKeys if there are more than `at_most`, or they have more
        than `bytes_max` bytes (unless 0).
    """
    if not request.key:
        raise KeyNotProvided
    if request.sort_order not in _ORDERS or request.sort_target not in _TARGETS:
        # As etcd's later releases answer; an unknown target ends the process of 3.5.1.
        raise InvalidSortOption
    at = request.revision if 0 < request.revision < revision else 0
    entries = index.find(request.key, request.range_end, at, at_most)
    count = len(entries)
    if request.count_only:
        return RangeResult(revision, (), False, count)
    limit = request.limit
    filtered = bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
    ordered = bool(request.sort_order or request.sort_target)
    if limit > 0 and not filtered and not request.sort_order:
        # One more than the limit: etcd then sorts this slice if only a target was named.
        entries = entries[: limit + 1]
    kvs = index.records(entries, bytes_max)
    if filtered or ordered or request.keys_only:
        pairs = [_decode(encoded) for encoded in kvs]
        if filtered:
            pairs = [pair for pair in pairs if _passes(request, pair)]
        if ordered:
            _sort(request, pairs)
        if request.keys_only:
            for pair in pairs:
                pair.value = b""
        kvs = [pair.SerializeToString() for pair in pairs]
    more = 0 < limit < len(kvs)
    return RangeResult(revision, kvs[:limit] if more else kvs, more, count)


def _passes(request: rpc_pb2.RangeRequest, pair: kv_pb2.KeyValue) -> bool:
    """Each bound counts only if it is not 0."""
    return not (
        (request.max_mod_revision and pair.mod_revision > request.max_mod_revision)
        or (request.min_mod_revision and pair.mod_revision < request.min_mod_revision)
        or (request.max_create_revision and pair.create_revision > request.max_create_revision)
        or (request.min_create_revision and pair.create_revision < request.min_create_revision)
    )


def _sort(request: rpc_pb2.RangeRequest, pairs: list[kv_pb2.KeyValue]) -> None:
    """By the target; ascending if only a target was named. Ties keep key order."""
    pairs.sort(key=_TARGETS[request.sort_target], reverse=request.sort_order == _Request.DESCEND)
