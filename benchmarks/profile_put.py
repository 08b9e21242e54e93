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
import subprocess
import sys
import tempfile
from collections import Counter
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
    """The innermost frame of ours: `package/module.py`."""
    for frame in reversed(stack.split(";")):
        _, found, path = frame.partition("oarlock/")
        if found:
            return path.split(":")[0].rstrip(")")
    return "event loop and threads"


def collapse(raw: Path) -> Counter[str]:
    samples: Counter[str] = Counter()
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        samples[layer_of(stack)] += int(count)
    return samples


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--py-spy", default=shutil.which("py-spy") or "py-spy")
    parser.add_argument("--functions", action="store_true", help="by function instead of by file")
    arguments = parser.parse_args()
    if arguments.functions:
        globals()["layer_of"] = lambda stack: stack.split(";")[-1]
    with tempfile.TemporaryDirectory() as directory:
        async with ProcessCluster(Path(directory)) as cluster:
            leader = await leader_endpoint(cluster.endpoints)
            load = Load(
                operation=Operation.PUT,
                endpoints=(leader,),
                clients=1000,
                connections=100,
                seconds=arguments.seconds + 2,
                warmup_seconds=1.0,
                value_size=256,
            )
            running = asyncio.create_task(run_load(load))
            await asyncio.sleep(2.0)
            before = {member.pid: cpu_seconds(member.pid) for member in cluster.members}
            own = cpu_seconds(os.getpid())
            spies = [
                subprocess.Popen(
                    [
                        *(arguments.py_spy, "record", "--pid", str(member.pid), "--format", "raw"),
                        *("--rate", "100", "--duration", str(int(arguments.seconds))),
                        *("--output", str(Path(directory, f"{member.name}.raw")), "--nonblocking"),
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for member in cluster.members
            ]
            report = await running
            for spy in spies:
                spy.wait()
            puts = report.answered + 1e-9
            print(
                f"{report.answered} puts in {report.seconds:.1f} s: {puts / report.seconds:,.0f}/s",
                flush=True,
            )
            scale = 1e6 / (puts / report.seconds * (arguments.seconds))
            print(f"load generator: {(cpu_seconds(os.getpid()) - own) * scale:.1f} us of CPU per put")
            for member in cluster.members:
                used = (cpu_seconds(member.pid) - before[member.pid]) * scale
                role = "leader" if member.endpoint == leader else "follower"
                samples = collapse(Path(directory, f"{member.name}.raw"))
                total = sum(samples.values()) or 1
                print(f"\n{member.name}, {role}: {used:.1f} us of CPU per put")
                for name, count in samples.most_common(24):
                    print(f"  {used * count / total:6.2f}  {name}")


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
