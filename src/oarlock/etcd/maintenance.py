"""The Maintenance service: Status and HashKV. The rest is not served yet: UNIMPLEMENTED."""

from __future__ import annotations

import asyncio
from functools import partial

from google.protobuf.message import DecodeError

from oarlock.etcd.errors import status_of
from oarlock.etcd.header import Headers
from oarlock.etcd.kv import MALFORMED
from oarlock.etcd.ports import ReplicaPort
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Call, Server
from oarlock.kv import Store

ETCD_VERSION = "3.5.1"
"""The version whose API we follow, as clients are told it."""


class MaintenanceService:
    """Serves `etcdserverpb.Maintenance` for one member."""

    def __init__(self, store: Store, replica: ReplicaPort, headers: Headers) -> None:
        self._store = store
        self._replica = replica
        self._headers = headers

    def register(self, server: Server) -> None:
        server.add_unary("/etcdserverpb.Maintenance/Status", self.status)
        server.add_unary("/etcdserverpb.Maintenance/HashKV", self.hash_kv)

    def status(self, call: Call, message: bytes) -> None:
        """This member's own view; answered without asking the others, even without a leader."""
        replica, store = self._replica, self._store
        response = rpc_pb2.StatusResponse(
            header=self._headers.message(store.revision),
            version=ETCD_VERSION,
            dbSize=store.size,
            dbSizeInUse=store.size,
            leader=replica.leader_id,
            raftIndex=replica.commit_index,
            raftAppliedIndex=replica.applied_index,
            raftTerm=replica.term,
            isLearner=replica.node_id in replica.configuration.learners,
        )
        if not replica.leader_id:
            response.errors.append("etcdserver: no leader")
        call.reply(response.SerializeToString())

    def hash_kv(self, call: Call, message: bytes) -> None:
        """The hash of this member's history, to compare members that are at one revision.

        It reads the whole store, so it runs in a worker thread.
        """
        try:
            request = rpc_pb2.HashKVRequest.FromString(message)
        except DecodeError:
            return call.fail(*MALFORMED)
        revision = request.revision if request.revision > 0 else self._store.revision
        work = asyncio.get_running_loop().run_in_executor(None, self._store.hash, revision)
        work.add_done_callback(partial(self._hashed, call, self._store.revision))

    def _hashed(self, call: Call, revision: int, work: asyncio.Future[int]) -> None:
        if work.cancelled():
            return
        error = work.exception()
        if error is not None:
            return call.fail(*status_of(error))
        response = rpc_pb2.HashKVResponse(
            header=self._headers.message(revision),
            hash=work.result(),
            compact_revision=self._store.compact_revision,
        )
        call.reply(response.SerializeToString())
