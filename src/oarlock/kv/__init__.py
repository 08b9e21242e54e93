"""The replicated key-value store: multi-version, ordered, deterministic.

`Store` implements the `Machine` port: batches of committed commands in, results out. Semantics follow etcd
3.5. Reading order: `records` (the layout), `scan` (walking it), `writer` (changing it), `ranges` (asking it),
`environment` (the file), `snapshot` (copying it), `store` (all of it together).
"""

from oarlock.kv.commands import DELETE_RANGE, PUT
from oarlock.kv.errors import (
    Compacted,
    FutureRevision,
    InvalidSortOption,
    KeyNotFound,
    KeyNotProvided,
    KvError,
    LeaseNotFound,
    LeaseProvided,
    MalformedCommand,
    ValueProvided,
)
from oarlock.kv.results import DeleteResult, PutResult, RangeResult
from oarlock.kv.scan import TooManyKeys
from oarlock.kv.store import Store

__all__ = [
    "DELETE_RANGE",
    "PUT",
    "Compacted",
    "DeleteResult",
    "FutureRevision",
    "InvalidSortOption",
    "KeyNotFound",
    "KeyNotProvided",
    "KvError",
    "LeaseNotFound",
    "LeaseProvided",
    "MalformedCommand",
    "PutResult",
    "RangeResult",
    "Store",
    "TooManyKeys",
    "ValueProvided",
]
