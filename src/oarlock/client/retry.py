"""What may be tried again, and why.

A read may always be repeated. A write may be repeated only if it certainly was not carried out: the
connection says so (`RpcError.not_processed`), or the server does, in one of the texts that etcd keeps for
that. Everything else that cuts a write short leaves its outcome open, and repeating it could undo what
another client did in between; the caller hears `OutcomeUnknown` and decides.
"""

from __future__ import annotations

import enum

from oarlock.grpc import RpcError, StatusCode

_REFUSED = frozenset(
    {
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: not capable",
        "etcdserver: another change of the membership is in progress",
    }
)
"""The server turned the request away before doing anything."""
_NO = frozenset(
    {
        "etcdserver: unhealthy cluster",
        "etcdserver: re-configuration failed due to not enough started members",
        "etcdserver: request timed out, leader transfer took too long",
    }
)
"""Nothing was done, and the same again would be refused again; their codes alone would not say so."""
_OPEN = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
    }
)
"""Codes that say nothing about whether the request was carried out. UNKNOWN is what a server answers whose
handler broke half-way, and what a proxy's HTTP errors are turned into."""
_PASSING = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})
"""Codes of conditions that another endpoint, or a little time, may cure."""


class Verdict(enum.Enum):
    """What to do about a failed attempt."""

    RETRY = enum.auto()
    UNKNOWN = enum.auto()
    """Do not repeat: it may have been carried out."""
    FINAL = enum.auto()
    """The answer is no."""


def judge(error: RpcError, *, write: bool) -> Verdict:
    """Whether the attempt that ended in `error` may be repeated."""
    if error.message in _REFUSED or (error.not_processed and error.code in _PASSING):
        return Verdict.RETRY
    if error.message in _NO:
        return Verdict.FINAL
    if write:
        return Verdict.UNKNOWN if error.code in _OPEN else Verdict.FINAL
    return Verdict.RETRY if error.code in _PASSING else Verdict.FINAL
