"""`oarlock bench` drives any etcd v3 endpoint: ours, and etcd's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from oarlock.server.processes import ProcessCluster

from .conftest import Oarlock

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def real_etcd(tmp_path_factory: pytest.TempPathFactory, etcd_binary: str) -> Iterator[ProcessCluster]:
    program = (etcd_binary, "--log-level", "error")
    cluster = ProcessCluster(tmp_path_factory.mktemp("etcd"), size=1, program=program)
    try:
        cluster.start()
        asyncio.run(cluster.wait_ready())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(params=["oarlock", "etcd"])
def endpoint(request: pytest.FixtureRequest, member: ProcessCluster, real_etcd: ProcessCluster) -> str:
    return (member if request.param == "oarlock" else real_etcd).endpoints[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "--clients", "20", "--connections", "4"),
        ("range", "--keys", "50"),
        ("range", "--keys", "50", "--consistency", "s"),
    ],
    ids=" ".join,
)
def test_it_answers_every_request_and_reports_percentiles(
    oarlock: Oarlock, endpoint: str, arguments: tuple[str, ...]
) -> None:
    code, out, err = oarlock("bench", *arguments, "--total", "400", "-w", "json", "--endpoints", endpoint)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["answered"], report["failed"]) == (400, 0)
    latency = report["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p999"] <= latency["max"]


def test_the_report_for_people_names_what_was_measured(oarlock: Oarlock, member: ProcessCluster) -> None:
    code, out, _ = oarlock("bench", "put", "--duration", "300ms", "--endpoints", member.endpoints[0])
    assert code == 0
    assert "put: 100 clients on 10 connections" in out
    for word in ("answered", "per second", "p99.9", "load generator"):
        assert word in out


@pytest.mark.parametrize(
    "arguments",
    [("put", "--clients", "0"), ("put", "--key-size", "0"), ("put", "--endpoints", "http://x:y"), ("zap",)],
    ids=" ".join,
)
def test_wrong_use_gets_one_line_and_exit_code_2(oarlock: Oarlock, arguments: tuple[str, ...]) -> None:
    code, out, err = oarlock("bench", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
