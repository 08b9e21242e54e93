"""`oarlock demo --check`: what the promise is worth, in under a minute.

Writers put numbered keys through real connections all the time. Meanwhile the leader is killed with SIGKILL,
restarted, then all three members are killed and restarted. Afterwards every write that was ever
acknowledged is looked up on every member, in its own state, and the members' whole contents are compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from oarlock.bench import parse_endpoint
from oarlock.bench.failover import leader_endpoint
from oarlock.bench.requests import PUT, RANGE
from oarlock.errors import OarlockError
from oarlock.etcd_pb import rpc_pb2
from oarlock.grpc import Channel, RpcError
from oarlock.server.processes import ProcessCluster

WRITERS = 24
WRITES_BEFORE, WRITES_WITHOUT_LEADER, WRITES_RESTARTED, WRITES_AFTER = 2000, 1000, 500, 500
WRITE_TIMEOUT = 2.0
RETRY_PAUSE = 0.02
PHASE_TIMEOUT = 25.0
PAGE = 1000
PREFIX = b"check/"


class Writers:
    """Clients that write numbered keys until told to stop, and remember what was acknowledged.

    A write whose fate is unknown is repeated with the same value, elsewhere, until it is acknowledged:
    putting the same value twice does no harm.
    """

    def __init__(self, endpoints: Sequence[str]) -> None:
        self.acknowledged: dict[bytes, bytes] = {}
        self._endpoints = list(endpoints)
        self._stopping = False
        self._newest_send = 0.0
        """When the latest-sent of the acknowledged writes was sent."""
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]

    async def stop(self) -> None:
        """Let every writer finish the write that it is at, then end it."""
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PHASE_TIMEOUT)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def wait_for(self, more: int, show: Callable[[str], None]) -> None:
        """Until so many more writes are acknowledged.

        Raises:
            OarlockError: not in time.
        """
        goal = len(self.acknowledged) + more
        await self._until(lambda: len(self.acknowledged) >= goal, show)

    async def wait_for_write_after(self, moment: float, show: Callable[[str], None]) -> float:
        """Until a write that was sent after `moment` is acknowledged; returns the seconds since then."""
        await self._until(lambda: self._newest_send > moment, show)
        return time.monotonic() - moment

    async def _until(self, done: Callable[[], bool], show: Callable[[str], None]) -> None:
        deadline = time.monotonic() + PHASE_TIMEOUT
        while not done():
            if time.monotonic() > deadline:
                raise OarlockError(f"writing stalled: no progress within {PHASE_TIMEOUT:g} s")
            show(f"{len(self.acknowledged):,} writes acknowledged")
            await asyncio.sleep(0.01)

    async def _write(self, writer: int) -> None:
        turn, number = writer, 0
        while not self._stopping:
            channel = Channel(*parse_endpoint(self._endpoints[turn % len(self._endpoints)]))
            turn += 1
            try:
                await channel.connect(WRITE_TIMEOUT)
                while not self._stopping:
                    key = PREFIX + b"%02d/%06d" % (writer, number)
                    value = hashlib.sha256(key).hexdigest().encode()
                    request = rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
                    sent = time.monotonic()
                    await channel.unary(PUT, request, timeout=WRITE_TIMEOUT)
                    self.acknowledged[key] = value
                    self._newest_send = max(self._newest_send, sent)
                    number += 1
            except RpcError:
                await asyncio.sleep(RETRY_PAUSE)
            finally:
                await channel.close()


async def contents(endpoint: str) -> tuple[int, dict[bytes, tuple[bytes, int, int]]]:
    """What one member holds in its own state: revision, and key → value, mod revision, version.

    Raises:
        RpcError: it does not answer.
    """
    channel = Channel(*parse_endpoint(endpoint))
    await channel.connect()
    try:
        found: dict[bytes, tuple[bytes, int, int]] = {}
        start, revision = PREFIX, 0
        while True:
            request = rpc_pb2.RangeRequest(
                key=start, range_end=PREFIX[:-1] + b"0", limit=PAGE, revision=revision, serializable=True
            )
            answer = await channel.unary(RANGE, request.SerializeToString(), timeout=10.0)
            response = rpc_pb2.RangeResponse.FromString(answer)
            revision = revision or response.header.revision
            for pair in response.kvs:
                found[pair.key] = (pair.value, pair.mod_revision, pair.version)
            if not response.more:
                return revision, found
            start = response.kvs[-1].key + b"\0"
    finally:
        await channel.close()


async def agreed_contents(endpoints: Sequence[str]) -> list[dict[bytes, tuple[bytes, int, int]]]:
    """Every member's contents, once all have caught up with each other.

    Raises:
        OarlockError: they do not, in time.
    """
    deadline = time.monotonic() + PHASE_TIMEOUT
    while True:
        try:
            held = [await contents(endpoint) for endpoint in endpoints]
        except RpcError as error:
            held, problem = [], str(error)
        else:
            problem = f"revisions {', '.join(str(revision) for revision, _ in held)}"
        if len({revision for revision, _ in held}) == 1:
            return [found for _, found in held]
        if time.monotonic() > deadline:
            raise OarlockError(f"the members did not catch up with each other: {problem}")
        await asyncio.sleep(0.05)


class Figures:
    """What the summary shows."""

    acknowledged = 0
    failover_seconds = 0.0
    recovery_seconds = 0.0
    lost = 0
    members_differ = False


async def check_cluster(directory: Path) -> int:
    """Run the whole check.

    Returns:
        the exit code: 0 if nothing was lost and all members agree, 1 otherwise.
    """
    began = time.monotonic()
    figures = Figures()
    try:
        with _Progress() as progress:
            await _storm(directory, figures, progress)
    except OarlockError as error:
        click.echo(f"demo: {error}", err=True)
        return 1
    click.echo()
    click.echo(f"  writes acknowledged   {figures.acknowledged:>8,}")
    click.echo(f"  lost                  {figures.lost:>8,}")
    click.echo(f"  members agree         {'no' if figures.members_differ else 'yes':>8}")
    click.echo(f"  failover              {figures.failover_seconds:>7.2f}s  (leader killed → next write)")
    click.echo(f"  full restart          {figures.recovery_seconds:>7.2f}s  (all killed → next write)")
    click.echo(f"  took                  {time.monotonic() - began:>7.1f}s")
    return 1 if figures.lost or figures.members_differ else 0


async def _storm(directory: Path, figures: Figures, progress: _Progress) -> None:
    progress.begin("start three members")
    async with ProcessCluster(directory) as cluster:
        progress.done(", ".join(f"{member.name} {member.endpoint}" for member in cluster.members))
        writers = Writers(cluster.endpoints)
        try:
            progress.begin(f"write with {WRITERS} clients")
            await writers.wait_for(WRITES_BEFORE, progress.show)
            progress.done(f"{len(writers.acknowledged):,} acknowledged")

            endpoint = await leader_endpoint(cluster.endpoints)
            leader = next(member for member in cluster.members if member.endpoint == endpoint)
            progress.begin(f"kill the leader, {leader.name}, with SIGKILL")
            killed = time.monotonic()
            leader.kill()
            figures.failover_seconds = await writers.wait_for_write_after(killed, progress.show)
            await writers.wait_for(WRITES_WITHOUT_LEADER, progress.show)
            progress.done(f"the next write was acknowledged after {figures.failover_seconds:.2f} s")

            progress.begin(f"restart {leader.name}")
            leader.start()
            await leader.wait_ready()
            await writers.wait_for(WRITES_RESTARTED, progress.show)
            progress.done(f"{len(writers.acknowledged):,} acknowledged")

            progress.begin("kill all three, and restart them")
            killed = time.monotonic()
            cluster.kill()
            cluster.start()
            figures.recovery_seconds = await writers.wait_for_write_after(killed, progress.show)
            await cluster.wait_ready()
            await writers.wait_for(WRITES_AFTER, progress.show)
            await writers.stop()
            progress.done(f"{len(writers.acknowledged):,} acknowledged")
        finally:
            writers.cancel()

        progress.begin("look up every acknowledged write on every member")
        figures.acknowledged = len(writers.acknowledged)
        held = await agreed_contents(cluster.endpoints)
        missing = {
            key
            for found in held
            for key, value in writers.acknowledged.items()
            if key not in found or found[key][0] != value
        }
        figures.lost = len(missing)
        figures.members_differ = any(found != held[0] for found in held)
        progress.done(f"{len(held)} × {figures.acknowledged:,} compared, {figures.lost} lost")


class _Progress:
    """One line per step; on a terminal the current one is alive."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._step = ""

    def __enter__(self) -> _Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def begin(self, step: str) -> None:
        self._step = step
        self.show("")

    def show(self, detail: str) -> None:
        if self._status:
            self._status.update(f"{self._step}  [dim]{detail}[/dim]")

    def done(self, detail: str) -> None:
        self._console.print(f"[green]✓[/green] {self._step}: {detail}", soft_wrap=True)
