"""A member in a process of its own, to be killed: ``python peer_process.py ID OTHER_ID OTHER_URL``.

Says on its standard output where it listens, and then every message that it gets, one word per line.
"""

from __future__ import annotations

import asyncio
import sys
from random import Random

from oarlock.raft.messages import Message
from oarlock.raft.types import Member
from oarlock.testing.transport_suite import GROUP
from oarlock.transport import TcpTransport


def say(*words: object) -> None:
    print(*words, flush=True)


def on_messages(messages: list[Message]) -> None:
    for message in messages:
        say(message.term)


async def main() -> None:
    node_id, other_id, other_url = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    transport = TcpTransport(1, node_id, listen=[("127.0.0.1", 0)], random=Random(node_id))
    await transport.start()
    transport.register(GROUP, on_messages)
    transport.set_members(GROUP, [Member(other_id, "other", (other_url,))])
    say(transport.listening[0][1])
    await asyncio.Event().wait()


asyncio.run(main())
