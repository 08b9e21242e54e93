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


@pytest.mark.parametrize("reason", list(errors.ChangeReason))
def test_every_reason_to_refuse_a_change_is_told(reason: errors.ChangeReason) -> None:
    code, text = status_of(errors.ChangeRefused(reason, "in our own words"))
    assert text.startswith("etcdserver: ")
    if reason in (errors.ChangeReason.OUTDATED, errors.ChangeReason.INVALID):
        assert (code, text) == (StatusCode.FAILED_PRECONDITION, "etcdserver: in our own words")
    else:
        assert "our own words" not in text


def test_a_cluster_that_cannot_afford_the_change_is_unhealthy() -> None:
    refused = errors.ChangeRefused(errors.ChangeReason.NO_QUORUM, "too few are in touch")
    assert status_of(refused) == (StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")
