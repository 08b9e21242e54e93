"""A seat booking service that forgets nothing and sells no seat twice, though any of its members may die.

Start three members, each in a terminal of its own, from the same directory::

    export PEERS=a=http://127.0.0.1:7001,b=http://127.0.0.1:7002,c=http://127.0.0.1:7003
    python examples/seats.py --name a --port 8001 --peers $PEERS
    python examples/seats.py --name b --port 8002 --peers $PEERS
    python examples/seats.py --name c --port 8003 --peers $PEERS

and talk to any of them, with `nc 127.0.0.1 8002` for example. One line asks, one line answers::

    book A1 ann     ->  ok A1 ann             also if ann had it before: a doubtful booking can be repeated
    book A1 bob     ->  taken A1 ann
    free A1 bob     ->  refused A1 is not bob's
    who A1          ->  ok A1 ann
    list            ->  ok A1=ann B3=bob
    status          ->  ok a leader=b

Kill a member with `kill -9` and go on with another; start it again, and it catches up. With two of three
gone, nothing is answered but ``unavailable …`` until one of them is back.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys

import oarlock

SEATS = frozenset(f"{row}{number}" for row in "ABCDEFGH" for number in range(1, 13))


class Hall(oarlock.StateMachine):
    """Who has which seat. This is all that has to be written to make it replicated."""

    def __init__(self) -> None:
        self.holders: dict[str, str] = {}

    @oarlock.command
    def book(self, seat: str, who: str) -> str:
        """Give the seat to `who` if it is free. Returns who has it now."""
        if seat not in SEATS:
            raise LookupError(f"there is no seat {seat}")
        return self.holders.setdefault(seat, who)

    @oarlock.command
    def free(self, seat: str, who: str) -> None:
        if self.holders.get(seat) != who:
            raise PermissionError(f"{seat} is not {who}'s")
        del self.holders[seat]

    @oarlock.query
    def holder(self, seat: str) -> str | None:
        return self.holders.get(seat)

    @oarlock.query
    def plan(self) -> dict[str, str]:
        return self.holders

    # With these two the log need not be kept for ever: the state is stored from time to time.

    def snapshot(self) -> dict[str, str]:
        return self.holders

    def restore(self, holders: dict[str, str]) -> None:
        self.holders = holders


async def answer(replica: oarlock.Replica[Hall], line: str) -> str:
    """One line in, one line out."""
    try:
        match line.split():
            case ["book", seat, who]:
                holder = await replica.submit(Hall.book, seat, who)
                return f"{'ok' if holder == who else 'taken'} {seat} {holder}"
            case ["free", seat, who]:
                await replica.submit(Hall.free, seat, who)
                return f"ok {seat}"
            case ["who", seat]:
                return f"ok {seat} {await replica.query(Hall.holder, seat) or '-'}"
            case ["list"]:
                plan = await replica.query(Hall.plan)
                return " ".join(["ok", *(f"{seat}={plan[seat]}" for seat in sorted(plan))])
            case ["status"]:
                return f"ok {replica.name} leader={replica.leader or '-'}"
            case _:
                return "refused use: book SEAT WHO | free SEAT WHO | who SEAT | list | status"
    except oarlock.CommandFailed as error:
        return f"refused {error.__cause__ or error}"
    except (oarlock.RequestTimeout, oarlock.Stopped) as error:
        # Whoever is told "unknown" may have the seat. To book or free again is safe, and brings certainty.
        return f"{'unknown' if error.outcome_unknown else 'unavailable'} {error}"
    except oarlock.Busy as error:
        return f"unavailable {error}"


async def serve(replica: oarlock.Replica[Hall], port: int) -> int:
    """Serve until a signal asks to stop (0), or until this member cannot go on (1)."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write((await answer(replica, line.decode("utf-8", "replace"))).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # it went away, its line is longer than any that we know, or we are stopping
        finally:
            writer.close()

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with replica:
        replica.failed.add_done_callback(lambda _: stop.set())
        server = await asyncio.start_server(talk, "127.0.0.1", port)
        print(f"seats: {replica.name} answers at 127.0.0.1:{port}", flush=True)
        await stop.wait()
        server.close()
        return 1 if replica.failed.done() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="One member of a replicated seat booking service.")
    parser.add_argument("--name", required=True, help="which of the peers this member is")
    parser.add_argument("--port", required=True, type=int, help="where its clients find it")
    parser.add_argument("--peers", required=True, help="all members: NAME=http://HOST:PORT,…")
    parser.add_argument("--data-dir", help="default: seats-NAME")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        replica = oarlock.Replica(
            Hall(),
            name=options.name,
            data_dir=options.data_dir or f"seats-{options.name}",
            initial_cluster=options.peers,
            token="seats",
        )
        return asyncio.run(serve(replica, options.port))
    except oarlock.OarlockError as error:
        print(f"seats: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"seats: cannot listen at 127.0.0.1:{options.port}: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
