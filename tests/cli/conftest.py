"""One member as a real process, for the commands to talk to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from oarlock.cli import run
from oarlock.server.processes import ProcessCluster

Oarlock = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    cluster = ProcessCluster(tmp_path_factory.mktemp("cli"), size=1)
    try:
        cluster.start()
        asyncio.run(cluster.wait_ready())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def oarlock(capfd: pytest.CaptureFixture[str]) -> Oarlock:
    """Run one command line in this process: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(list(arguments))
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call
