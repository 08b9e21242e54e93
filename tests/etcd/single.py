"""A cluster of one, without consensus: the real store and services on the real gRPC server.

What replicas do is tested where replicas are; here a proposal is applied at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from oarlock.etcd import Limits, cluster_id, member_id, register_services
from oarlock.etcd.ports import Disk
from oarlock.grpc import Server
from oarlock.kv import Store
from oarlock.machine.ports import Command
from oarlock.raft.types import Configuration, Member


class LocalReplica:
    """Fits `oarlock.etcd.ports.ReplicaPort`. Set `failure` to have every request fail with it."""

    def __init__(self, store: Store) -> None:
        urls = ("http://127.0.0.1:2380",)
        self.node_id = member_id(urls, "etcd-cluster")
        self.cluster_id = cluster_id([self.node_id])
        self.configuration = Configuration(
            voters=(self.node_id,),
            members=(Member(self.node_id, "default", urls, ("http://127.0.0.1:2379",)),),
        )
        self.term = 2
        self.leader_id = self.node_id
        self.applied_index = self.commit_index = store.applied_index
        self.failure: BaseException | None = None
        self.proposed: list[tuple[bytes, Any, float | None]] = []
        self._store = store

    def propose(
        self,
        data: bytes,
        on_done: Callable[[Any, BaseException | None], None],
        request: Any = None,
        timeout: float | None = None,
    ) -> None:
        self.proposed.append((data, request, timeout))
        if self.failure is not None:
            return on_done(None, self.failure)
        self.applied_index = self.commit_index = self.applied_index + 1
        command = Command(self.applied_index, self.term, data, request)
        on_done(self._store.apply([command], self.applied_index)[0], None)

    def read_barrier(
        self, on_ready: Callable[[BaseException | None], None], timeout: float | None = None
    ) -> None:
        on_ready(self.failure)


class SingleMember:
    """One member on a real port: `async with SingleMember(path) as member: … member.endpoint`."""

    def __init__(self, path: Path, limits: Limits | None = None, log: Disk | None = None) -> None:
        self.store = Store.open(path)
        self.replica = LocalReplica(self.store)
        self.server = Server()
        self.port = 0
        register_services(self.server, self.store, self.replica, limits, log)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> SingleMember:
        _, self.port = await self.server.listen("127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.server.close(0)
        self.store.close()
