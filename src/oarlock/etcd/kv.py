"""The KV service: Range, Put, DeleteRange. Transactions and compaction are not served yet: UNIMPLEMENTED.

Writes go into the log as the bytes that came in. Everything here is callbacks: on this path a task or a
future per request would cost more than the request.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from oarlock.etcd.errors import MALFORMED, NO_SPACE, REQUEST_TOO_LARGE, status_of
from oarlock.etcd.header import Headers, field, varint
from oarlock.etcd.limits import Limits
from oarlock.etcd.ports import Disk, ReplicaPort
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Call, Server, StatusCode
from oarlock.kv import DELETE_RANGE, PUT, DeleteResult, KvError, PutResult, RangeResult, Store, TooManyKeys
from oarlock.kv.writer import check_put

_PutRequest = rpc_pb2.PutRequest.FromString
_RangeRequest = rpc_pb2.RangeRequest.FromString
_DeleteRangeRequest = rpc_pb2.DeleteRangeRequest.FromString

DISK_PAUSE = 1.0
"""Seconds between two attempts to get more room from a full disk."""
INLINE_KEYS = 10_000
"""Keys that a range may visit on the loop: some 5 ms. Larger ones go to a thread, where they only share."""
INLINE_BYTES = 4 << 20
"""And bytes that it may return: some 10 ms."""


class KvService:
    """Serves `etcdserverpb.KV` for one member."""

    def __init__(
        self,
        store: Store,
        replica: ReplicaPort,
        headers: Headers,
        limits: Limits,
        log: Disk | None = None,
    ) -> None:
        self._store = store
        self._log: Disk = store if log is None else log
        self._replica = replica
        self._headers = headers
        self._limits = limits
        self._ask_disk_at = 0.0

    def register(self, server: Server) -> None:
        server.add_unary("/etcdserverpb.KV/Range", self.range)
        server.add_unary("/etcdserverpb.KV/Put", self.put)
        server.add_unary("/etcdserverpb.KV/DeleteRange", self.delete_range)

    # ---- Put

    def put(self, call: Call, message: bytes) -> None:
        try:
            request = _PutRequest(message)
        except DecodeError:
            return call.fail(*MALFORMED)
        if not request.key or request.ignore_value or request.ignore_lease:
            try:
                check_put(request)
            except KvError as error:
                return call.fail(*status_of(error))
        if len(message) > self._limits.request_bytes:
            return call.fail(*REQUEST_TOO_LARGE)
        store = self._store
        full = store.full or self._log.full
        if store.size > self._limits.quota_bytes or (full and not self._found_room()):
            return call.fail(*NO_SPACE)
        self._replica.propose(PUT + message, partial(self._put_done, call), request, self._limits.timeout)

    def _put_done(self, call: Call, result: Any, error: BaseException | None) -> None:
        if type(result) is PutResult:
            head = self._headers.encode(result.revision)
            call.reply(head if result.prev_kv is None else head + field(b"\x12", result.prev_kv))
        else:
            call.fail(*status_of(_failure(result, error)))

    def _found_room(self) -> bool:
        """Whether the full disk has room again; asked of the disk now and then, not at every put."""
        now = asyncio.get_running_loop().time()
        if now < self._ask_disk_at:
            return False
        self._ask_disk_at = now + DISK_PAUSE
        disks = {id(disk): disk for disk in (self._store, self._log) if disk.full}
        return all(disk.try_to_grow() for disk in disks.values())

    # ---- DeleteRange

    def delete_range(self, call: Call, message: bytes) -> None:
        try:
            request = _DeleteRangeRequest(message)
        except DecodeError:
            return call.fail(*MALFORMED)
        if len(message) > self._limits.request_bytes:
            return call.fail(*REQUEST_TOO_LARGE)
        if not request.key:
            return call.fail(StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")
        done = partial(self._delete_done, call)
        self._replica.propose(DELETE_RANGE + message, done, request, self._limits.timeout)

    def _delete_done(self, call: Call, result: Any, error: BaseException | None) -> None:
        if type(result) is not DeleteResult:
            return call.fail(*status_of(_failure(result, error)))
        parts = [self._headers.encode(result.revision)]
        if result.deleted:
            parts.append(b"\x10" + varint(result.deleted))
        parts.extend([field(b"\x1a", pair) for pair in result.prev_kvs])
        call.reply(b"".join(parts))

    # ---- Range

    def range(self, call: Call, message: bytes) -> None:
        try:
            request = _RangeRequest(message)
        except DecodeError:
            return call.fail(*MALFORMED)
        key = request.key
        if not key:
            return call.fail(StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")
        if len(message) == len(key) + 2:
            # Tag, length and key leave no room for any option: the commonest read there is.
            self._replica.read_barrier(partial(self._answer_get, call, key), self._limits.timeout)
        elif request.serializable:
            self._answer_range(call, request, None)
        else:
            done = partial(self._answer_range, call, request)
            self._replica.read_barrier(done, self._limits.timeout)

    def _answer_get(self, call: Call, key: bytes, error: BaseException | None) -> None:
        if error is not None:
            return call.fail(*status_of(error))
        pair = self._store.get(key)
        head = self._headers.encode(self._store.revision)
        call.reply(head if pair is None else b"%b\x12%b%b\x20\x01" % (head, varint(len(pair)), pair))

    def _answer_range(self, call: Call, request: rpc_pb2.RangeRequest, error: BaseException | None) -> None:
        if error is not None:
            return call.fail(*status_of(error))
        try:
            found = self._store.range(request, INLINE_KEYS, INLINE_BYTES)
        except KvError as refusal:
            return call.fail(*status_of(refusal))
        except TooManyKeys:
            return self._range_in_thread(call, request)
        call.reply(encode_range(self._headers, found))

    def _range_in_thread(self, call: Call, request: rpc_pb2.RangeRequest) -> None:
        """A range that would hold up the loop, and with it heartbeats and everybody else."""

        def work() -> bytes:
            # Headers remember the last one between two calls: those of the loop are not for another thread.
            return encode_range(Headers(self._replica), self._store.range_in_thread(request))

        def done(future: asyncio.Future[bytes]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                call.reply(future.result())
            else:
                call.fail(*status_of(error))

        asyncio.get_running_loop().run_in_executor(None, work).add_done_callback(done)


def encode_range(headers: Headers, found: RangeResult) -> bytes:
    """A `RangeResponse`, put together from pairs that are encoded already."""
    parts = [headers.encode(found.revision)]
    parts.extend([field(b"\x12", pair) for pair in found.kvs])
    if found.more:
        parts.append(b"\x18\x01")
    if found.count:
        parts.append(b"\x20" + varint(found.count))
    return b"".join(parts)


def _failure(result: Any, error: BaseException | None) -> BaseException:
    """A command fails either on its way (`error`) or in the store, which answers with the exception."""
    if error is not None:
        return error
    return result if isinstance(result, BaseException) else TypeError(f"unexpected result {result!r}")
