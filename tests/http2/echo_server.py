"""A server process to be attacked: ``python -m tests.http2.echo_server`` prints its port and serves until
stdin ends."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from oarlock.grpc import Server


async def main() -> None:
    server = Server()
    server.add_unary("/t.T/Echo", lambda call, message: call.reply(message))
    _, port = await server.listen("127.0.0.1", 0)
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
