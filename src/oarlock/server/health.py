"""`/health` and `/version` over HTTP/1.1, in the shape that etcd gives them.

A member is healthy when it knows a leader: with CheckQuorum a leader that lost its quorum, and a follower
that lost its leader, know none within two election timeouts. `?serializable=true` asks only whether the
process serves reads from its own state, as etcd does for liveness probes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from oarlock.etcd import ETCD_VERSION

Response = tuple[int, list[tuple[str, str]], bytes]
_JSON = [("Content-Type", "application/json")]


class _Replica(Protocol):
    @property
    def leader_id(self) -> int: ...


class HealthPages:
    """The HTTP/1.1 handler of a member."""

    def __init__(self, replica: _Replica) -> None:
        self._replica = replica

    def __call__(self, method: str, target: str, headers: Sequence[tuple[str, str]]) -> Response:
        url = urlsplit(target)
        if url.path == "/health":
            return self._health(parse_qs(url.query))
        if url.path == "/version":
            minor = ".".join(ETCD_VERSION.split(".")[:2])
            return _json(200, {"etcdserver": ETCD_VERSION, "etcdcluster": f"{minor}.0"})
        return 404, [("Content-Type", "text/plain; charset=utf-8")], b"404 page not found\n"

    def _health(self, query: dict[str, list[str]]) -> Response:
        serializable = query.get("serializable", [""])[-1] == "true"
        if self._replica.leader_id or serializable:
            return _json(200, {"health": "true", "reason": ""})
        return _json(503, {"health": "false", "reason": "RAFT NO LEADER"})


def _json(status: int, value: dict[str, str]) -> Response:
    return status, _JSON, json.dumps(value, separators=(",", ":")).encode()
