"""Where the time of one put goes: CPU microseconds per put and per layer, on the leader and on a follower.

Starts three members, loads them, and samples each process with py-spy meanwhile. A sample counts for the
innermost of our own layers on its stack, so the time that a layer spends in a library (protobuf, LMDB,
MessagePack) or in a system call is its own. Shares of samples times the CPU time of the process, divided by
the puts, gives the table that `docs/internals/performance.md` keeps.

    pip install py-spy && python benchmarks/profile_put.py
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import uvloop

from oarlock.bench import Load, Operation, run_load
from oarlock.bench.failover import leader_endpoint
from oarlock.server.processes import ProcessCluster

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def layer_of(stack: str) -> str:
    """The innermost frame of ours, as a file; what no frame of ours is on belongs to the event loop."""
    for frame in reversed(stack.split(";")):
        _, found, path = frame.partition("(oarlock/")
        if found:
            return path.split(":")[0].rstrip(")")
    return "the event loop, waiting"


def function_of(stack: str) -> str:
    """The innermost frame."""
    return stack.rpartition(";")[2].rpartition(":")[0]


def samples_of(file: Path, name_of: Callable[[str], str]) -> Counter[str]:
    samples: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        samples[name_of(stack)] += int(count)
    return samples


async def sample(py_spy: str, pid: int, seconds: int, file: Path) -> None:
    """Record where a process is, a hundred times a second, without stopping it."""
    spy = await asyncio.create_subprocess_exec(
        *(py_spy, "record", "--pid", str(pid), "--format", "raw", "--output", str(file)),
        *("--rate", "100", "--duration", str(seconds), "--nonblocking"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await spy.wait()


async def profile(directory: Path, seconds: int, py_spy: str, name_of: Callable[[str], str]) -> None:
    async with ProcessCluster(directory) as cluster:
        leader = await leader_endpoint(cluster.endpoints)
        load = Load(
            operation=Operation.PUT,
            endpoints=(leader,),
            clients=1000,
            connections=100,
            seconds=seconds + 3,
            warmup_seconds=1.0,
            value_size=256,
        )
        running = asyncio.create_task(run_load(load))
        await asyncio.sleep(2.0)
        began = {pid: cpu_seconds(pid) for pid in [os.getpid(), *(member.pid for member in cluster.members)]}
        await asyncio.gather(
            asyncio.sleep(seconds),
            *(
                sample(py_spy, member.pid, seconds, directory / f"{member.name}.raw")
                for member in cluster.members
            ),
        )
        used = {pid: cpu_seconds(pid) - before for pid, before in began.items()}
        report = await running
        puts_per_second = report.answered / report.seconds
        per_put = {pid: cpu / seconds / puts_per_second * 1e6 for pid, cpu in used.items()}
        print(f"{puts_per_second:,.0f} puts/s; CPU per put in microseconds")
        print(f"\nload generator: {per_put[os.getpid()]:.1f}")
        for member in cluster.members:
            role = "leader" if member.endpoint == leader else "follower"
            samples = samples_of(directory / f"{member.name}.raw", name_of)
            print(f"\n{member.name}, {role}: {per_put[member.pid]:.1f}")
            for name, count in samples.most_common(30):
                print(f"  {per_put[member.pid] * count / samples.total():6.2f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=6, help="how long to sample")
    parser.add_argument("--functions", action="store_true", help="by function instead of by file")
    arguments = parser.parse_args()
    py_spy = shutil.which("py-spy")
    if py_spy is None:
        sys.exit("profile_put.py needs py-spy on the PATH: pip install py-spy")
    name_of = function_of if arguments.functions else layer_of
    with tempfile.TemporaryDirectory() as directory:
        uvloop.run(profile(Path(directory), arguments.seconds, py_spy, name_of))


if __name__ == "__main__":
    main()
