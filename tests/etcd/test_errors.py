"""Our errors on the wire: codes and texts that etcd's clients know."""

from __future__ import annotations

import pytest

from oarlock import errors, kv
from oarlock.etcd.errors import status_of
from oarlock.grpc import StatusCode


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (kv.KeyNotProvided(), StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"),
        (kv.LeaseNotFound(7), StatusCode.NOT_FOUND, "etcdserver: requested lease not found"),
        (
            kv.FutureRevision(3, 2),
            StatusCode.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (
            kv.Compacted(3, 4),
            StatusCode.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (errors.NotLeader(7), StatusCode.UNAVAILABLE, "etcdserver: no leader"),
        (errors.Busy("full"), StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
        (errors.RequestTimeout(1, True), StatusCode.UNAVAILABLE, "etcdserver: request timed out"),
        (
            errors.OutcomeUnknown("lost"),
            StatusCode.UNAVAILABLE,
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        (errors.Stopped("bye"), StatusCode.UNAVAILABLE, "etcdserver: server stopped"),
        (
            errors.DiskFull("no room"),
            StatusCode.RESOURCE_EXHAUSTED,
            "etcdserver: mvcc: database space exceeded",
        ),
        (ValueError("odd"), StatusCode.UNKNOWN, "etcdserver: odd"),
    ],
)
def test_every_error_has_its_code_and_text(error: Exception, code: StatusCode, text: str) -> None:
    assert status_of(error) == (code, text)


def test_a_subclass_without_a_row_is_told_like_its_base() -> None:
    class Special(errors.Busy):
        pass

    assert status_of(Special("x")) == status_of(errors.Busy("x"))
