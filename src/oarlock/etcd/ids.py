"""Member and cluster ids, derived exactly as etcd derives them.

So a cluster started with given flags has the ids that etcd would have had with the same flags, and the
members of a new cluster agree on them without talking to each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def member_id(peer_urls: Iterable[str], cluster_token: str, added_at: int | None = None) -> int:
    """The id of a member.

    Args:
        peer_urls: its advertised peer URLs, in any order, as written in the flags.
        cluster_token: the value of `--initial-cluster-token`.
        added_at: seconds since the epoch, for a member that joins later; None for one that was there first.
    """
    text = "".join(sorted(peer_urls)) + cluster_token
    if added_at is not None:
        text += str(added_at)
    return _first_eight_bytes(text.encode())


def cluster_id(member_ids: Iterable[int]) -> int:
    """The id of the cluster that these members found."""
    return _first_eight_bytes(b"".join(member.to_bytes(8, "big") for member in sorted(member_ids)))


def _first_eight_bytes(data: bytes) -> int:
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "big")
