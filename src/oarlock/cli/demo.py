"""`oarlock demo`: three members as real processes in a temporary directory.

Without options it prints where they are and what to try, and stays until Ctrl-C. With ``--check`` it kills
them under load, verifies that nothing was lost, and ends by itself; see `oarlock.cli.demo_check`.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path

import click

from oarlock.cli.common import run_async


@click.command("demo")
@click.option("--check", is_flag=True, help="Kill members under load, verify that nothing was lost, and end.")
def demo_command(check: bool) -> int:
    """Run three members on this machine."""
    with tempfile.TemporaryDirectory(prefix="oarlock-demo-", ignore_cleanup_errors=True) as name:
        if check:
            from oarlock.cli.demo_check import check_cluster

            return run_async(check_cluster(Path(name)))
        return run_async(_stay(Path(name)))


async def _stay(directory: Path) -> int:
    from oarlock.server.processes import ProcessCluster

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    async with ProcessCluster(directory) as cluster:
        endpoints = ",".join(cluster.endpoints)
        click.echo(f"Three members run on this machine, with their data in {directory}:\n")
        for member in cluster.members:
            click.echo(f"  {member.name}  {member.endpoint}  process {member.pid}")
        click.echo("\nTry, in another terminal:\n")
        click.echo(f"  export OARLOCK_ENDPOINTS={endpoints} ETCDCTL_ENDPOINTS={endpoints}")
        click.echo("  oarlock put greeting hello")
        click.echo("  oarlock get greeting")
        click.echo("  etcdctl get --prefix ''            # any etcd client works")
        click.echo(f"  kill -9 {cluster.members[0].pid}".ljust(37) + "# two of three go on")
        click.echo("  oarlock endpoint status".ljust(37) + "# who leads?")
        click.echo("  oarlock doctor".ljust(37) + "# what is wrong?")
        click.echo("  oarlock bench put")
        click.echo("\nCtrl-C stops all three and removes their data.")
        await stop.wait()
        click.echo("\nstopping")
        for member in cluster.members:
            if member.running:
                member.signal(signal.SIGTERM)
        for member in cluster.members:
            member.terminate()
    return 0
