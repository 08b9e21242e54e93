"""How members reach each other: TCP between processes, channels within one.

Both pass `oarlock.testing.transport_suite`. Neither promises delivery: Raft does not need it, and a queue
that waits for a peer that is away would only deliver old news.
"""

from __future__ import annotations

from oarlock.transport.addresses import Address, parse_peer_url
from oarlock.transport.channels import ChannelNetwork, ChannelTransport
from oarlock.transport.joining import ask_to_join, invitation_for
from oarlock.transport.status import PeerStatus
from oarlock.transport.tcp import TcpTransport

__all__ = [
    "Address",
    "ChannelNetwork",
    "ChannelTransport",
    "PeerStatus",
    "TcpTransport",
    "ask_to_join",
    "invitation_for",
    "parse_peer_url",
]
