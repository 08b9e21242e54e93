"""All services of one member, on one gRPC server."""

from __future__ import annotations

from oarlock.etcd.cluster import ClusterService
from oarlock.etcd.header import Headers
from oarlock.etcd.kv import KvService
from oarlock.etcd.limits import Limits
from oarlock.etcd.maintenance import MaintenanceService
from oarlock.etcd.ports import Disk, ReplicaPort
from oarlock.grpc import Server
from oarlock.kv import Store


def register_services(
    server: Server,
    store: Store,
    replica: ReplicaPort,
    limits: Limits | None = None,
    log: Disk | None = None,
) -> None:
    """Serve the etcd v3 API of this member on `server`.

    Args:
        log: where the replica's log is stored: without room there, puts are refused.
    """
    limits = limits or Limits()
    headers = Headers(replica)
    KvService(store, replica, headers, limits, log).register(server)
    ClusterService(replica, headers, limits).register(server)
    MaintenanceService(store, replica, headers, limits, log).register(server)
