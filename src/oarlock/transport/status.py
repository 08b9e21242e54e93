"""What is known about the way to one peer. For `oarlock doctor`, metrics and tests."""

from __future__ import annotations

from typing import NamedTuple


class PeerStatus(NamedTuple):
    connected: bool
    """Messages can be sent to it now."""
    address: str
    """The URL in use or tried last; "" if none is known."""
    last_error: str
    """Why the latest attempt or connection failed; "" if it did not."""
    dropped: int
    """Messages not delivered to the connection: no connection, or its queue was full."""
    queued_bytes: int
    connected_seconds: float = 0.0
    """How long the present connection has lasted."""
    snapshot_sent: int = 0
    """Bytes of a snapshot that it has been sent in the present transfer; 0 without one."""
    snapshot_size: int = 0
    """Bytes of that snapshot in all; 0 without one."""
