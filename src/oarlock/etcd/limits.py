"""What one request may ask for, with etcd's defaults."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the services."""

    request_bytes: int = 3 << 19
    """The largest write, in bytes: etcd's --max-request-bytes, 1.5 MiB."""
    quota_bytes: int = 2 << 30
    """Size of the store beyond which puts are refused: etcd's --quota-backend-bytes, 2 GiB."""
    timeout: float = 7.0
    """Seconds until a request is given up: etcd's 5 s plus two of its default election timeouts."""
    learners_max: int = 5
    """Learners at one time: etcd's --max-learners. Each gets the whole log from the leader, so that many
    would slow it down. More than etcd's 1, because ours have every new voter learn first."""
