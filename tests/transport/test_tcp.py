"""TCP between members, on the loopback interface: the contract first."""

from __future__ import annotations

from random import Random

from oarlock.raft.types import Member
from oarlock.testing.transport_suite import TransportSuite
from oarlock.transport import TcpTransport


class TestContract(TransportSuite):
    async def make(self, cluster_id: int, node_id: int) -> TcpTransport:
        transport = TcpTransport(cluster_id, node_id, listen=[("127.0.0.1", 0)], random=Random(node_id))
        await transport.start()
        return transport

    def member(self, transport: TcpTransport, node_id: int) -> Member:
        host, port = transport.listening[0]
        return Member(node_id, f"member-{node_id}", (f"http://{host}:{port}",))
