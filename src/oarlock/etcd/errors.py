"""The one table from our errors to gRPC codes and the texts that etcd's clients compare with.

Whether a client may retry hangs on these texts: "no leader" and "too many requests" are only said when
nothing was done; every "timed out" leaves the outcome open.
"""

from __future__ import annotations

from oarlock import errors, kv
from oarlock.errors import ChangeReason
from oarlock.grpc import StatusCode

Status = tuple[StatusCode, str]

MALFORMED: Status = (StatusCode.INTERNAL, "grpc: error unmarshalling request")
REQUEST_TOO_LARGE: Status = (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
NO_SPACE: Status = (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
NO_LEADER: Status = (StatusCode.UNAVAILABLE, "etcdserver: no leader")
TIMED_OUT: Status = (StatusCode.UNAVAILABLE, "etcdserver: request timed out")
LOST_WITH_LEADER: Status = (
    StatusCode.UNAVAILABLE,
    "etcdserver: request timed out, possibly due to previous leader failure",
)
MEMBER_NOT_FOUND: Status = (StatusCode.NOT_FOUND, "etcdserver: member not found")
PEER_URL_EXISTS: Status = (StatusCode.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
BAD_MEMBER_URLS: Status = (StatusCode.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
NOT_A_LEARNER: Status = (StatusCode.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
LEARNER_NOT_READY: Status = (
    StatusCode.FAILED_PRECONDITION,
    "etcdserver: can only promote a learner member which is in sync with leader",
)
TOO_MANY_LEARNERS: Status = (
    StatusCode.FAILED_PRECONDITION,
    "etcdserver: too many learner members in cluster",
)
UNHEALTHY: Status = (StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")
NOT_ENOUGH_MEMBERS: Status = (
    StatusCode.UNKNOWN,  # etcd has FAILED_PRECONDITION in mind, but this is what it sends
    "etcdserver: re-configuration failed due to not enough started members",
)
NOT_LEADER: Status = (StatusCode.FAILED_PRECONDITION, "etcdserver: not leader")
BAD_TRANSFEREE: Status = (StatusCode.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
TRANSFER_TIMED_OUT: Status = (
    StatusCode.UNKNOWN,
    "etcdserver: request timed out, leader transfer took too long",
)
CHANGE_IN_PROGRESS: Status = (
    StatusCode.UNAVAILABLE,
    "etcdserver: another change of the membership is in progress",
)
"""Ours: etcd lets the second change wait, and times out."""

_CHANGE_REFUSED: dict[ChangeReason, Status] = {
    ChangeReason.IN_PROGRESS: CHANGE_IN_PROGRESS,
    ChangeReason.NOT_FOUND: MEMBER_NOT_FOUND,
    ChangeReason.ALREADY_THERE: PEER_URL_EXISTS,
    ChangeReason.WAS_REMOVED: MEMBER_NOT_FOUND,
    ChangeReason.NOT_A_LEARNER: NOT_A_LEARNER,
    ChangeReason.NOT_CAUGHT_UP: LEARNER_NOT_READY,
    ChangeReason.NO_QUORUM: UNHEALTHY,
    ChangeReason.LAST_VOTER: NOT_ENOUGH_MEMBERS,
    ChangeReason.NO_TARGET: BAD_TRANSFEREE,
    ChangeReason.ABORTED: TRANSFER_TIMED_OUT,
}
"""The other reasons are about what only our own calls can ask for: they are told in their own words."""

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
    if isinstance(error, errors.ChangeRefused):
        own = (StatusCode.FAILED_PRECONDITION, f"etcdserver: {error}")
        return _CHANGE_REFUSED.get(error.reason, own)
    for kind in type(error).__mro__:
        if kind in _TABLE:
            return _TABLE[kind]
    return StatusCode.UNKNOWN, f"etcdserver: {error}"
