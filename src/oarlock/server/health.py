"""What a member tells over HTTP/1.1: `/health` and its kin in etcd's shape, and `/status`.

=========================  ===================================================================================
page                       200 means
=========================  ===================================================================================
/livez                     the process serves
/health                    it knows a leader: with CheckQuorum a leader that lost its quorum, and a follower
                           that lost its leader, know none within two election timeouts
/health?serializable=true  the same as /livez, as etcd has it for liveness probes
/readyz                    it knows a leader, and has caught up with the cluster since it was started: a
                           linearizable read was confirmed and applied here. A new learner is not ready before
/status                    (always) what this member knows about itself and the others, as JSON: this is what
                           `oarlock doctor` reads
/version                   (always) the version of the API
=========================  ===================================================================================
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import msgspec

from oarlock.errors import RequestError, Stopped
from oarlock.etcd import ETCD_VERSION

Response = tuple[int, list[tuple[str, str]], bytes]
_JSON = [("Content-Type", "application/json")]
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class _Replica(Protocol):
    @property
    def leader_id(self) -> int: ...

    async def barrier(self, timeout: float | None = None) -> None: ...

    def status(self) -> Any: ...


class HealthPages:
    """The HTTP/1.1 handler of a member.

    Args:
        retry: seconds between two attempts to find out whether it has caught up.
    """

    def __init__(self, replica: _Replica, retry: float) -> None:
        self._replica = replica
        self._retry = retry
        self._caught_up = False

    async def watch(self) -> None:
        """Find out when this member has caught up. To be run beside the member, and cancelled with it."""
        while not self._caught_up:
            try:
                await self._replica.barrier()
                self._caught_up = True
            except Stopped:
                return
            except RequestError:
                await asyncio.sleep(self._retry)

    def __call__(self, method: str, target: str, headers: Sequence[tuple[str, str]]) -> Response:
        url = urlsplit(target)
        if url.path == "/health":
            return self._health(parse_qs(url.query))
        if url.path == "/livez":
            return 200, _TEXT, b"ok\n"
        if url.path == "/readyz":
            return self._ready()
        if url.path == "/status":
            return 200, _JSON, msgspec.json.encode(self._replica.status())
        if url.path == "/version":
            minor = ".".join(ETCD_VERSION.split(".")[:2])
            return _json(200, {"etcdserver": ETCD_VERSION, "etcdcluster": f"{minor}.0"})
        return 404, _TEXT, b"404 page not found\n"

    def _health(self, query: dict[str, list[str]]) -> Response:
        serializable = query.get("serializable", [""])[-1] == "true"
        if self._replica.leader_id or serializable:
            return _json(200, {"health": "true", "reason": ""})
        return _json(503, {"health": "false", "reason": "RAFT NO LEADER"})

    def _ready(self) -> Response:
        if not self._replica.leader_id:
            return 503, _TEXT, b"[-]leader failed: no leader is known\n"
        if not self._caught_up:
            return 503, _TEXT, b"[-]read_index failed: this member has not caught up since it was started\n"
        return 200, _TEXT, b"ok\n"


def _json(status: int, value: dict[str, str]) -> Response:
    return status, _JSON, json.dumps(value, separators=(",", ":")).encode()
