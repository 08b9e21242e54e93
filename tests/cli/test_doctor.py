"""`oarlock doctor`: it finds every member, says what is wrong, and its exit code is the short answer.

What each finding is made from is tested in tests/replica/test_doctor.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oarlock.server.processes import ProcessCluster

from .conftest import Oarlock, running

pytestmark = pytest.mark.processes


@pytest.fixture
def three(tmp_path: Path) -> Iterator[ProcessCluster]:
    yield from running(ProcessCluster(tmp_path))


def test_one_endpoint_leads_to_all_and_what_is_missing_is_told(
    three: ProcessCluster, oarlock: Oarlock
) -> None:
    def doctor(*more: str) -> tuple[int, str, str]:
        return oarlock("doctor", "--endpoints", three.endpoints[0], *more)

    code, out, err = doctor()
    assert (code, err) == (0, "")
    for member in three.members:
        assert f"{member.endpoint}: {member.name} (" in out
    assert "Nothing is wrong." in out
    for member in three.members[1:]:
        member.kill()
    deadline = time.monotonic() + 20
    while True:  # the leader goes on believing in its quorum for an election timeout
        code, out, err = doctor()
        assert (code, err) == (1, "")
        assert f"{three.endpoints[2]}: Connection refused" in out
        if "CRITICAL  quorum lost: 1 of 3 voters answer" in out:
            break
        assert time.monotonic() < deadline, out
    code, out, _ = doctor("-w", "json")
    assert code == 1
    assert "critical" in {finding["severity"] for finding in json.loads(out)}
    three.members[0].freeze()
    code, out, _ = doctor("--timeout", "200ms")
    assert code == 1
    assert f"{three.endpoints[0]}: no answer in time" in out


def test_a_server_that_is_not_ours_is_no_riddle(oarlock: Oarlock, etcd_endpoint: str) -> None:
    code, out, err = oarlock("doctor", "--endpoints", etcd_endpoint)
    assert (code, err) == (1, "")
    assert "it answers 404 to /status: not an Oarlock server, or an old one" in out


@pytest.fixture
def etcd_endpoint(tmp_path: Path, etcd_binary: str) -> Iterator[str]:
    program = (etcd_binary, "--log-level", "error")
    for cluster in running(ProcessCluster(tmp_path, size=1, program=program)):
        yield cluster.endpoints[0]


def test_an_endpoint_that_is_none_is_wrong_use(oarlock: Oarlock) -> None:
    code, _, err = oarlock("doctor", "--endpoints", "http://[::1")
    assert code == 2
    assert err.count("\n") == 1
