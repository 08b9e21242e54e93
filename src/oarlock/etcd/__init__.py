"""The etcd v3 API, server side. We follow etcd 3.5: the same services, numbers, codes and texts.

`register_services` puts them on an `oarlock.grpc.Server`. What is served today: docs/supported.md.
"""

from oarlock.etcd.ids import cluster_id, member_id
from oarlock.etcd.limits import Limits
from oarlock.etcd.maintenance import ETCD_VERSION
from oarlock.etcd.ports import ReplicaPort
from oarlock.etcd.services import register_services

__all__ = ["ETCD_VERSION", "Limits", "ReplicaPort", "cluster_id", "member_id", "register_services"]
