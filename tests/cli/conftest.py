"""One member as a real process, for the commands to talk to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from oarlock.cli import run
from oarlock.client import Client
from oarlock.server.processes import ProcessCluster

from ..polling import eventually

Oarlock = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    yield from running(ProcessCluster(tmp_path_factory.mktemp("cli"), size=1))


def running(cluster: ProcessCluster) -> Iterator[ProcessCluster]:
    """Started, and every member's client URLs are in the log."""
    try:
        cluster.start()
        asyncio.run(told(cluster))
        yield cluster
    finally:
        cluster.close()


async def told(cluster: ProcessCluster) -> None:
    await cluster.wait_ready()
    async with Client(cluster.endpoints) as client:

        async def all_told() -> bool:
            return all(member.client_urls for member in (await client.members()).members)

        await eventually(all_told)


@pytest.fixture
def oarlock(capfd: pytest.CaptureFixture[str]) -> Oarlock:
    """Run one command line in this process: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(list(arguments))
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call
