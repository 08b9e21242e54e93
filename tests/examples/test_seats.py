"""The seat booking example, as three real processes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oarlock.machine import Command, MachineAdapter, encode_call
from oarlock.server.processes import PortReservation

pytestmark = pytest.mark.processes

SEATS = Path(__file__).resolve().parent.parent.parent / "examples" / "seats.py"
HOST = "127.0.0.1"


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Hall:
    """Three members of the example and their clients."""

    def __init__(self, directory: Path, ports: PortReservation) -> None:
        self.directory = directory
        self.ports = {name: ports.take() for name in "abc"}
        self.peers = ",".join(f"{name}=http://{HOST}:{ports.take()}" for name in "abc")
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def flags(self, name: str) -> list[str]:
        where = ["--port", str(self.ports[name]), "--data-dir", str(self.directory / name)]
        return ["--name", name, "--peers", self.peers, *where]

    def start(self, name: str) -> None:
        """Returns when the member answers clients."""
        process = self.processes[name] = subprocess.Popen(
            [sys.executable, str(SEATS), *self.flags(name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == f"seats: {name} answers at {HOST}:{self.ports[name]}\n"

    def kill(self, name: str) -> None:
        self.end(name, signal.SIGKILL)

    def end(self, name: str, number: signal.Signals) -> tuple[int, str]:
        process = self.processes.pop(name)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=30)
        return process.returncode, complaints

    async def ask(self, name: str, *lines: str) -> list[str]:
        """Talk to one member over one connection."""
        reader, writer = await asyncio.open_connection(HOST, self.ports[name])
        answers = []
        try:
            for line in lines:
                writer.write(line.encode() + b"\n")
                answers.append((await asyncio.wait_for(reader.readline(), 30)).decode().rstrip("\n"))
        finally:
            await close(writer)
        return answers

    async def insist(self, name: str, line: str) -> str:
        """Repeat what is safe to repeat until there is a clear answer, as the example tells its users to."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            [answer] = await self.ask(name, line)
            if not answer.startswith(("unknown", "unavailable")):
                return answer
        raise AssertionError(f"{name} never gave a clear answer to {line!r}")


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    with contextlib.closing(PortReservation()) as ports:
        hall = Hall(tmp_path, ports)
        try:
            yield hall
        finally:
            for name in list(hall.processes):
                hall.kill(name)


async def test_a_seat_is_sold_once_whoever_is_killed(hall: Hall) -> None:
    for name in "abc":
        hall.start(name)
    assert await hall.insist("a", "book A1 ann") == "ok A1 ann"
    assert await hall.ask("b", "book A1 bob", "book A1 ann", "who A1", "free A1 bob", "free A1 ann") == [
        "taken A1 ann",
        "ok A1 ann",
        "ok A1 ann",
        "refused A1 is not bob's",
        "ok A1",
    ]
    assert await hall.ask("c", "who A1", "book Z99 ann", "sing") == [
        "ok A1 -",
        "refused there is no seat Z99",
        "refused use: book SEAT WHO | free SEAT WHO | who SEAT | list | status",
    ]
    [status] = await hall.ask("c", "status")
    leader = status.rpartition("=")[2]
    survivors = [name for name in "abc" if name != leader]

    # Six people want the same three seats, at two members, while the leader dies.
    buyers = [(f"p{number}", survivors[number % 2]) for number in range(6)]
    storm = [
        asyncio.create_task(hall.insist(member, f"book B{seat} {who}"))
        for who, member in buyers
        for seat in (1, 2, 3)
    ]
    hall.kill(leader)
    answers = await asyncio.gather(*storm)
    sold = {}
    for seat in ("B1", "B2", "B3"):
        told = {answer.split()[2] for answer in answers if answer.split()[1] == seat}
        assert len(told) == 1, f"{seat} was promised to {sorted(told)}"
        sold[seat] = told.pop()
    assert sum(answer.startswith("ok") for answer in answers) == 3

    # The dead one comes back, and knows what happened while it was away; then all die, and all come back.
    plan = "ok " + " ".join(f"{seat}={sold[seat]}" for seat in sorted(sold))
    hall.start(leader)
    assert await hall.insist(leader, "list") == plan
    for name in "abc":
        hall.kill(name)
    for name in "abc":
        hall.start(name)
    for name in "abc":
        assert await hall.insist(name, "list") == plan


def test_its_state_can_be_stored_and_restored() -> None:
    spec = importlib.util.spec_from_file_location("seats", SEATS)
    assert spec is not None
    assert spec.loader is not None
    seats = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seats)
    one, other = MachineAdapter(seats.Hall()), MachineAdapter(seats.Hall())
    one.apply([Command(1, 1, encode_call(seats.Hall.book, ("A1", "ann"), {}))], 1)
    other.install(other.prepare(one.capture().chunks()), 1)
    assert other.machine.plan() == {"A1": "ann"}


async def test_it_stops_in_good_order_on_sigterm(hall: Hall) -> None:
    for name in "abc":
        hall.start(name)
    await hall.insist("a", "book A1 ann")
    reader, writer = await asyncio.open_connection(HOST, hall.ports["a"])
    try:
        writer.write(b"status\n")
        assert (await reader.readline()).startswith(b"ok a")
        assert hall.end("a", signal.SIGTERM) == (0, "")
        assert await reader.read() == b""
    finally:
        await close(writer)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--name", "d"], "seats: name 'd' is not in initial_cluster, which has "),
        (["--peers", "a=7001"], "seats: peer URL '7001': "),
        (["--data-dir", "/proc/seats"], "seats: /proc/seats: cannot use this data directory: "),
    ],
)
def test_wrong_use_gets_one_line(hall: Hall, wrong: list[str], complaint: str) -> None:
    command = [sys.executable, str(SEATS), *hall.flags("a"), *wrong]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1
