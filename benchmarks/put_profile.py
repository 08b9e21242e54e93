"""Where the CPU time of one put goes, on the leader and on a follower, in µs per stage.

Three members run as real processes under load: once undisturbed, to measure each process's CPU time per put,
and once with the leader and one follower under Python's profiler, to see how that time is shared among the
packages. Each package's share of the profile is applied to the undisturbed figure, because the profiler
slows small functions more than large ones: take the shares as a guide, the sums as measured.

    .venv/bin/python benchmarks/put_profile.py
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import uvloop

from oarlock.bench import Load, Operation, Report, run_load
from oarlock.server.processes import OARLOCK, MemberProcess, ProcessCluster

PROFILE_VARIABLE = "OARLOCK_BENCHMARK_PROFILE"
STAGES = {
    "http2": "HTTP/2 frames in and out",
    "grpc": "gRPC calls and replies",
    "etcd": "etcd service: protobuf request and response",
    "replica": "replica: proposals, ready loop",
    "raft": "consensus core",
    "wire": "peer messages to bytes and back",
    "transport": "peer connections",
    "storage": "log: encode, checksum, write, sync",
    "kv": "key-value store on LMDB",
    "(loop)": "event loop, sockets, kernel",
}


def profiled_serve(arguments: list[str]) -> None:
    """Run `oarlock serve`, under the profiler from SIGUSR1 on until SIGUSR2.

    It counts the thread's CPU time, not the clock's: waiting for events is not work.
    """
    from oarlock.cli import run

    profiler = cProfile.Profile(time.thread_time)

    def stop(*_: object) -> None:
        profiler.disable()
        profiler.dump_stats(os.environ[PROFILE_VARIABLE])

    signal.signal(signal.SIGUSR1, lambda *_: profiler.enable())
    signal.signal(signal.SIGUSR2, stop)
    sys.exit(run(["serve", *arguments]))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shares(profile: Path) -> dict[str, float]:
    """Package → share of the profiled time."""
    stats = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    seconds: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in stats.items():
        if file == "~":  # a built-in: its time belongs to whoever called it
            for (caller, _, _), (_, _, part, _) in callers.items():
                seconds[_package(caller)] += part
        else:
            seconds[_package(file)] += own
    total = sum(seconds.values())
    return {package: value / total for package, value in seconds.items()}


def _package(file: str) -> str:
    parts = Path(file).parts
    if "oarlock" in parts:
        package = parts[len(parts) - 1 - parts[::-1].index("oarlock") + 1]
        return package if package in STAGES else "(loop)"
    return "(loop)"


async def load(endpoint: str, seconds: float) -> Report:
    return await run_load(
        Load(
            operation=Operation.PUT,
            endpoints=(endpoint,),
            clients=1000,
            connections=100,
            seconds=seconds,
            warmup_seconds=1.0,
        )
    )


def make_cluster(directory: Path, profiled: bool) -> tuple[ProcessCluster, dict[str, Path]]:
    """m1 will lead: the others wait longer before they stand for election."""
    cluster = ProcessCluster(directory)
    profiles = {}
    for member in cluster.members:
        if member.name != "m1":
            member.command += ["--election-timeout", "3000"]
        if profiled and member.name != "m3":
            profiles[member.name] = directory / f"{member.name}.profile"
            member.command[: len(OARLOCK)] = [sys.executable, __file__, "--serve"]
    return cluster, profiles


async def measure(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="oarlock-profile-") as name:
        plain, _ = make_cluster(Path(name) / "plain", profiled=False)
        async with plain as cluster:
            before = [cpu_seconds(member.pid) for member in cluster.members]
            report = await load(cluster.endpoints[0], seconds)
            puts = report.answered * (seconds + 1.0) / seconds  # the warm-up's puts cost CPU too
            figures = [
                (cpu_seconds(member.pid) - began) / puts * 1e6
                for member, began in zip(cluster.members, before, strict=True)
            ]
            client = report.client_cpu_seconds / report.answered * 1e6
        profiled, profiles = make_cluster(Path(name) / "profiled", profiled=True)
        try:
            for member in profiled.members:
                target = profiles.get(member.name)
                member.start({PROFILE_VARIABLE: str(target)} if target else None)
            await profiled.wait_ready()
            for watched in profiles:
                _named(profiled, watched).signal(signal.SIGUSR1)
            await load(profiled.endpoints[0], seconds)
            for watched in profiles:
                _named(profiled, watched).signal(signal.SIGUSR2)
            await profiled.wait_ready()  # it has run its signal handler once it answers
            for member in profiled.members:
                member.terminate(20)
        finally:
            profiled.close()
        leader, follower = (shares(profiles[member]) for member in ("m1", "m2"))
    print(f"{report.per_second:,.0f} puts/s of 256 bytes, 1,000 clients on 100 connections to the leader\n")
    print(f"{'µs of CPU per put':<48}{'leader':>8}{'follower':>10}")
    for package, label in STAGES.items():
        print(
            f"  {label:<46}{leader.get(package, 0) * figures[0]:>8.1f}"
            f"{follower.get(package, 0) * figures[1]:>10.1f}"
        )
    print(f"  {'together (measured)':<46}{figures[0]:>8.1f}{figures[1]:>10.1f}")
    print(f"  {'load generator (measured)':<46}{client:>8.1f}")


def _named(cluster: ProcessCluster, name: str) -> MemberProcess:
    return next(member for member in cluster.members if member.name == name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each of the two runs")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(options.seconds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        profiled_serve(sys.argv[2:])
    main()
