"""The Cluster service: who the members are. Changing them is not served yet: UNIMPLEMENTED."""

from __future__ import annotations

from functools import partial

from google.protobuf.message import DecodeError

from oarlock.etcd.errors import status_of
from oarlock.etcd.header import Headers
from oarlock.etcd.kv import MALFORMED
from oarlock.etcd.limits import Limits
from oarlock.etcd.ports import ReplicaPort
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Call, Server


class ClusterService:
    """Serves `etcdserverpb.Cluster` for one member."""

    def __init__(self, replica: ReplicaPort, headers: Headers, limits: Limits) -> None:
        self._replica = replica
        self._headers = headers
        self._limits = limits

    def register(self, server: Server) -> None:
        server.add_unary("/etcdserverpb.Cluster/MemberList", self.member_list)

    def member_list(self, call: Call, message: bytes) -> None:
        try:
            request = rpc_pb2.MemberListRequest.FromString(message)
        except DecodeError:
            return call.fail(*MALFORMED)
        if request.linearizable:
            self._replica.read_barrier(partial(self._answer, call), self._limits.timeout)
        else:
            self._answer(call, None)

    def _answer(self, call: Call, error: BaseException | None) -> None:
        if error is not None:
            return call.fail(*status_of(error))
        configuration = self._replica.configuration
        # etcd leaves the revision out of this header.
        response = rpc_pb2.MemberListResponse(header=self._headers.message(0))
        for member in sorted(configuration.members, key=lambda member: member.id):
            response.members.add(
                ID=member.id,
                name=member.name,
                peerURLs=member.peer_urls,
                clientURLs=member.client_urls,
                isLearner=member.id in configuration.learners,
            )
        call.reply(response.SerializeToString())
