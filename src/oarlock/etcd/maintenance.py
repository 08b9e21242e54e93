"""The Maintenance service: Status, Alarm, MoveLeader and HashKV. The rest is not served yet: UNIMPLEMENTED.

There is one alarm, NOSPACE, and nobody sets or clears it: a member has it as long as it has no room, and
tells of its own only.
"""

from __future__ import annotations

import asyncio
from functools import partial

from google.protobuf.message import DecodeError

from oarlock.errors import NotLeader
from oarlock.etcd.awaited import Awaited, parsed
from oarlock.etcd.errors import MALFORMED, NOT_LEADER, status_of
from oarlock.etcd.header import Headers
from oarlock.etcd.limits import Limits
from oarlock.etcd.ports import Disk, ReplicaPort
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Call, RpcError, Server, StatusCode
from oarlock.kv import Store

ETCD_VERSION = "3.5.1"
"""The version whose API we follow, as clients are told it."""


class MaintenanceService:
    """Serves `etcdserverpb.Maintenance` for one member."""

    def __init__(
        self, store: Store, replica: ReplicaPort, headers: Headers, limits: Limits, log: Disk | None = None
    ) -> None:
        self._store = store
        self._log: Disk = store if log is None else log
        self._replica = replica
        self._headers = headers
        self._limits = limits
        self._awaited = Awaited()

    def register(self, server: Server) -> None:
        server.add_unary("/etcdserverpb.Maintenance/Alarm", self.alarm)
        server.add_unary("/etcdserverpb.Maintenance/MoveLeader", self._awaited.unary(self.move_leader))
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
        if self._no_space:
            response.errors.append(f"memberID:{replica.node_id} alarm:NOSPACE ")
        call.reply(response.SerializeToString())

    @property
    def _no_space(self) -> bool:
        """Whether puts are refused for want of room."""
        return self._store.full or self._log.full or self._store.size > self._limits.quota_bytes

    def alarm(self, call: Call, message: bytes) -> None:
        """`etcdctl alarm list`, and part of `endpoint health`. Setting and clearing is not for clients."""
        try:
            request = rpc_pb2.AlarmRequest.FromString(message)
        except DecodeError:
            return call.fail(*MALFORMED)
        if request.action != rpc_pb2.AlarmRequest.GET:
            return call.fail(StatusCode.UNIMPLEMENTED, "alarms go by themselves, once there is room again")
        response = rpc_pb2.AlarmResponse(header=self._headers.message(self._store.revision))
        if self._no_space and request.alarm in (rpc_pb2.NONE, rpc_pb2.NOSPACE):
            response.alarms.add(memberID=self._replica.node_id, alarm=rpc_pb2.NOSPACE)
        call.reply(response.SerializeToString())

    async def move_leader(self, message: bytes) -> bytes:
        """Only the leader serves it, as in etcd. Target 0 is ours: whom it suits best."""
        replica, target = self._replica, parsed(rpc_pb2.MoveLeaderRequest, message).targetID
        if replica.leader_id != replica.node_id:
            raise RpcError(*NOT_LEADER)
        if target != replica.node_id:
            try:
                await replica.transfer_leadership(target, self._limits.timeout)
            except NotLeader:
                raise RpcError(*NOT_LEADER) from None
        return rpc_pb2.MoveLeaderResponse().SerializeToString()

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
