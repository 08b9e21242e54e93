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
