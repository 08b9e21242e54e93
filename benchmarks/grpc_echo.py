"""How much CPU one unary call costs: our server in one process, our channel in another, a trivial handler
between.

Run it as ``python benchmarks/grpc_echo.py [--connections 100] [--concurrency 1000] [--seconds 5]``. It prints
requests per second and CPU microseconds per request for both processes; ``--profile server`` (or ``client``)
adds a profile."""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import pstats
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from oarlock.grpc import Call, Channel, RpcError, Server

METHOD = "/bench.Echo/Echo"


def run_loop(main: Callable[[], Any], stock: bool) -> Any:
    """Run a coroutine function on uvloop, or on the stock loop."""
    if stock:
        return asyncio.run(main())
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def cpu() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def serve(pipe: Connection, options: argparse.Namespace) -> None:
    """The server process. Says its port; at the word of the parent says its CPU time; ends with the pipe."""

    async def main() -> None:
        server = Server()
        if options.later:
            loop = asyncio.get_running_loop()
            waiting: list[tuple[Call, bytes]] = []

            def flush() -> None:
                for call, message in waiting:
                    call.reply(message)
                waiting.clear()

            def collect(call: Call, message: bytes) -> None:
                if not waiting:
                    loop.call_later(0.001, flush)
                waiting.append((call, message))

            server.add_unary(METHOD, collect)
        else:
            server.add_unary(METHOD, lambda call, message: call.reply(message))
        _, port = await server.listen("127.0.0.1", 0)
        pipe.send(port)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, pipe.recv):
            pipe.send(cpu())
        await server.close(0)

    profiled(lambda: run_loop(main, options.stock), options.profile == "server")


def profiled(work: Callable[[], Any], wanted: bool) -> Any:
    """Run ``work``, with a profile on standard error if wanted."""
    if not wanted:
        return work()
    profile = cProfile.Profile()
    try:
        return profile.runcall(work)
    finally:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)


async def load(port: int, options: argparse.Namespace, seconds: float) -> int:
    """Keep ``concurrency`` calls in flight for so long; returns how many were answered."""
    channels = [Channel("127.0.0.1", port) for _ in range(options.connections)]
    for channel in channels:
        await channel.connect()
    message = b"x" * options.size
    finished = asyncio.get_running_loop().create_future()
    count = 0
    flying = 0
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True

    def starter(channel: Channel) -> Callable[[bytes | None, RpcError | None], None]:
        call = channel.call

        def on_done(response: bytes | None, error: RpcError | None) -> None:
            nonlocal count, flying
            if error is not None:
                raise error
            count += 1
            if not stopping:
                call(METHOD, message, on_done)
            else:
                flying -= 1
                if not flying:
                    finished.set_result(None)

        return on_done

    asyncio.get_running_loop().call_later(seconds, stop)
    for number in range(options.concurrency):
        flying += 1
        channel = channels[number % len(channels)]
        channel.call(METHOD, message, starter(channel))
    await finished
    for channel in channels:
        await channel.close()
    return count


def main() -> None:
    """Start the server, load it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=256, help="bytes of request and response")
    parser.add_argument("--stock", action="store_true", help="asyncio's own loop instead of uvloop")
    parser.add_argument(
        "--later", action="store_true", help="answer in batches 1 ms later, as a Raft leader does"
    )
    parser.add_argument("--profile", choices=["server", "client"])
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, options))
    process.start()
    port = ours.recv()

    def measure() -> None:
        run_loop(lambda: load(port, options, 0.5), options.stock)
        ours.send(True)
        server_before, client_before, began = ours.recv(), cpu(), time.monotonic()
        count = run_loop(lambda: load(port, options, options.seconds), options.stock)
        elapsed, client = time.monotonic() - began, cpu() - client_before
        ours.send(True)
        server = ours.recv() - server_before
        print(
            f"{options.connections} connections, {options.concurrency} concurrent, {options.size} B: "
            f"{count / elapsed:,.0f} requests/s; CPU per request: "
            f"server {server / count * 1e6:.1f} us, client {client / count * 1e6:.1f} us"
        )

    profiled(measure, options.profile == "client")
    ours.send(False)
    process.join()


if __name__ == "__main__":
    main()
