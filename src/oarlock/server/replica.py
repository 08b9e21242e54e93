"""The replica as the etcd services want it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from msgspec.structs import replace

from oarlock.errors import RequestError
from oarlock.replica import Runtime
from oarlock.replica.status import Status

OnDone = Callable[[Any, BaseException | None], None]


class MemberReplica(Runtime):
    """A `Runtime` that knows its cluster's id, and refuses through the callback."""

    cluster_id: int = 0

    @property
    def configuration_index(self) -> int:
        return self.raft.configuration_index

    def propose(
        self, data: bytes, on_done: OnDone, request: Any = None, timeout: float | None = None
    ) -> None:
        try:
            super().propose(data, on_done, request, timeout)
        except RequestError as error:
            on_done(None, error)

    def read_barrier(
        self,
        on_ready: Callable[[BaseException | None], None],
        timeout: float | None = None,
        max_staleness: float = 0.0,
    ) -> None:
        try:
            super().read_barrier(on_ready, timeout, max_staleness)
        except RequestError as error:
            on_ready(error)

    def status(self) -> Status:
        return replace(super().status(), version=version("oarlock"), cluster_id=f"{self.cluster_id:x}")
