"""The one table from our errors to gRPC codes and the texts that etcd's clients compare with.

Whether a client may retry hangs on these texts: "no leader" and "too many requests" are only said when
nothing was done; every "timed out" leaves the outcome open.
"""

from __future__ import annotations

from oarlock import errors, kv
from oarlock.grpc import StatusCode

Status = tuple[StatusCode, str]

REQUEST_TOO_LARGE: Status = (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
NO_SPACE: Status = (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
NO_LEADER: Status = (StatusCode.UNAVAILABLE, "etcdserver: no leader")
TIMED_OUT: Status = (StatusCode.UNAVAILABLE, "etcdserver: request timed out")
LOST_WITH_LEADER: Status = (
    StatusCode.UNAVAILABLE,
    "etcdserver: request timed out, possibly due to previous leader failure",
)

_TABLE: dict[type[BaseException], Status] = {
    kv.KeyNotProvided: (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"),
    kv.KeyNotFound: (StatusCode.INVALID_ARGUMENT, "etcdserver: key not found"),
    kv.ValueProvided: (StatusCode.INVALID_ARGUMENT, "etcdserver: value is provided"),
    kv.LeaseProvided: (StatusCode.INVALID_ARGUMENT, "etcdserver: lease is provided"),
    kv.InvalidSortOption: (StatusCode.INVALID_ARGUMENT, "etcdserver: invalid sort option"),
    kv.LeaseNotFound: (StatusCode.NOT_FOUND, "etcdserver: requested lease not found"),
    kv.FutureRevision: (
        StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    ),
    kv.Compacted: (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"),
    errors.NotLeader: NO_LEADER,
    errors.Busy: (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    errors.RequestTimeout: TIMED_OUT,
    errors.OutcomeUnknown: LOST_WITH_LEADER,
    errors.Stopped: (StatusCode.UNAVAILABLE, "etcdserver: server stopped"),
    errors.DiskFull: NO_SPACE,
}


def status_of(error: BaseException) -> Status:
    """The code and text for `error`: its own row, else that of the nearest base class, else UNKNOWN."""
    for kind in type(error).__mro__:
        if kind in _TABLE:
            return _TABLE[kind]
    return StatusCode.UNKNOWN, f"etcdserver: {error}"
