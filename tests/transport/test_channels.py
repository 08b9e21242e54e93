"""In-process channels: the contract, and their bound."""

from __future__ import annotations

from oarlock.raft.messages import Propose
from oarlock.raft.types import Member
from oarlock.testing.transport_suite import GROUP, Inbox, TransportSuite, probe
from oarlock.transport import ChannelNetwork, ChannelTransport


class TestContract(TransportSuite):
    def setup_method(self) -> None:
        self.network = ChannelNetwork()

    async def make(self, cluster_id: int, node_id: int) -> ChannelTransport:
        transport = self.network.transport(cluster_id, node_id)
        await transport.start()
        return transport

    def member(self, transport: ChannelTransport, node_id: int) -> Member:
        return Member(node_id, f"member-{node_id}")


async def test_full_queue_drops_the_newest_of_that_sender_only() -> None:
    network = ChannelNetwork()
    one, two = network.transport(1, 1), network.transport(1, 2)
    receiver = network.transport(1, 3, queue_bytes_max=5000)
    inbox = Inbox()
    receiver.register(GROUP, inbox)
    for transport in (one, two, receiver):
        transport.set_members(GROUP, [Member(3, "c")])
        await transport.start()
    one.send(GROUP, [Propose(1, 1, 3, number, (bytes(2000),)) for number in range(5)])
    two.send(GROUP, [probe(2, 3, 1)])
    await inbox.wait_for(3)
    assert [message.batch for message in inbox.messages if isinstance(message, Propose)] == [0, 1]
    assert probe(2, 3, 1) in inbox.messages
    one.send(GROUP, [probe(1, 3, 9)])
    assert (await inbox.wait_for(4))[-1] == probe(1, 3, 9), "the bound is for what waits, not for ever"
