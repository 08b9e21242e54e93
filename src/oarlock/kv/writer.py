"""Applying commands inside one LMDB write transaction.

Each function checks everything before it writes anything, so a refused command leaves no trace and the batch
goes on. Semantics are etcd's: every put, and every deletion that finds something, advances the main revision
by one; the keys of one deletion share it and are told apart by sub revisions, in key order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from oarlock.etcd_pb import kv_pb2, rpc_pb2
from oarlock.kv.errors import (
    KeyNotFound,
    KeyNotProvided,
    KvError,
    LeaseNotFound,
    LeaseProvided,
    MalformedCommand,
    ValueProvided,
)
from oarlock.kv.records import (
    MAIN_TOP,
    SHORT_KEY,
    SUB_TOP,
    pack_entry,
    revision_key,
    stored_key,
    unpack_history,
)
from oarlock.kv.results import DeleteResult, PutResult
from oarlock.kv.scan import Index

if TYPE_CHECKING:
    import lmdb

_KeyValue = kv_pb2.KeyValue
_encode = kv_pb2.KeyValue.SerializeToString
_decode = kv_pb2.KeyValue.FromString


def check_put(request: rpc_pb2.PutRequest) -> None:
    """Raise what is wrong with a put in any state: `KeyNotProvided`, `ValueProvided`, `LeaseProvided`."""
    if not request.key:
        raise KeyNotProvided
    if request.ignore_value and request.value:
        raise ValueProvided
    if request.ignore_lease and request.lease:
        raise LeaseProvided


class Writer:
    """One batch: the transaction, and the revision as far as it has got."""

    __slots__ = ("_append", "_get", "_index", "_put", "_reader", "_revisions", "revision")

    def __init__(
        self, txn: lmdb.Transaction[bytes], index: lmdb._Database, revisions: lmdb._Database, revision: int
    ) -> None:
        self._get = txn.get
        self._put = txn.put
        self._append = txn.cursor(revisions).put
        self._index = index
        self._revisions = revisions
        self._reader = Index(txn, index, revisions)
        self.revision = revision

    def run(self, request: Message | KvError) -> Any:
        """The result of one decoded command, or the `KvError` that it earned (maybe already by its bytes)."""
        try:
            if type(request) is rpc_pb2.PutRequest:
                return self.put(request)
            if type(request) is rpc_pb2.DeleteRangeRequest:
                return self.delete_range(request)
        except KvError as error:
            return error
        if isinstance(request, KvError):
            return request
        return MalformedCommand(f"{type(request).__name__} is no command")

    def put(self, request: rpc_pb2.PutRequest) -> PutResult:
        """Raises `KvError` before anything is written."""
        # Reading a field of a message costs as much as a small call: each is read once.
        key, keep_value, keep_lease = request.key, request.ignore_value, request.ignore_lease
        wants_previous = request.prev_kv
        if not key or keep_value or keep_lease:
            check_put(request)
        if request.lease:
            raise LeaseNotFound(request.lease)
        stored = key if len(key) <= SHORT_KEY else stored_key(key)
        entry = self._get(stored, None, self._index)
        main = self.revision + 1
        created, version = main, 1
        if entry is not None:
            old_created, old_version = unpack_history(entry)
            if old_version:
                created, version = old_created, old_version + 1
        previous = None
        if wants_previous or keep_value or keep_lease:
            if entry is not None and version > 1:
                previous = self._reader.record(entry)
            elif keep_value or keep_lease:
                raise KeyNotFound
        pair = _KeyValue()
        pair.key = key
        pair.create_revision = created
        pair.mod_revision = main
        pair.version = version
        pair.value = _decode(previous).value if keep_value and previous else request.value
        self._append(revision_key(main, 0), _encode(pair), append=True)
        self._put(stored, pack_entry(MAIN_TOP - main, SUB_TOP, created, version), db=self._index)
        self.revision = main
        return PutResult(main, previous if wants_previous else None)

    def delete_range(self, request: rpc_pb2.DeleteRangeRequest) -> DeleteResult:
        """Raises `KeyNotProvided` before anything is written."""
        if not request.key:
            raise KeyNotProvided
        entries = self._reader.find(request.key, request.range_end)
        if not entries:
            return DeleteResult(self.revision, 0)
        main = self.revision + 1
        previous = self._reader.records(entries)
        for sub, encoded in enumerate(previous):
            key = _decode(encoded).key
            grave = _encode(_KeyValue(key=key, mod_revision=main))
            self._append(revision_key(main, sub), grave, append=True)
            self._put(stored_key(key), pack_entry(MAIN_TOP - main, SUB_TOP - sub, 0, 0), db=self._index)
        self.revision = main
        return DeleteResult(main, len(entries), previous if request.prev_kv else ())
