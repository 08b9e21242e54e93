"""`oarlock put|get|del` print what etcdctl prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from oarlock.server.processes import HOST, PortReservation, ProcessCluster

from .conftest import Oarlock

pytestmark = pytest.mark.processes

KEYS = ("a", "b", "b/1", "b/2", "c")
GETS = [
    ("a",),
    ("nothing",),
    ("b", "--prefix"),
    ("", "--prefix"),
    ("a", "c"),
    ("b", "--from-key"),
    ("", "--from-key"),
    ("b", "--prefix", "--keys-only"),
    ("b", "--prefix", "--print-value-only"),
    ("", "--prefix", "--limit", "2"),
    ("", "--prefix", "--limit=2", "-w", "json"),
    ("", "--prefix", "--order", "DESCEND"),
    ("", "--prefix", "--order", "DESCEND", "--sort-by", "VALUE"),
    ("", "--prefix", "--sort-by", "MODIFY"),
    ("a", "--rev", "3"),
    ("a", "--consistency", "s"),
    ("a", "-w", "json"),
    ("nothing", "-w", "json"),
    ("", "--prefix", "--keys-only", "-w", "json"),
]


@pytest.fixture
def both(member: ProcessCluster, etcdctl_binary: str, oarlock: Oarlock) -> Callable[..., str]:
    """Run the same command line with both programs on the same member, and compare what they print."""
    endpoint = member.endpoints[0]

    def run(*arguments: str) -> str:
        theirs = subprocess.run(
            [etcdctl_binary, "--endpoints", endpoint, *arguments], capture_output=True, text=True, timeout=20
        )
        code, out, err = oarlock(*arguments, "--endpoints", endpoint)
        assert (code, err) == (0, "")
        assert theirs.returncode == 0, theirs.stderr
        assert out == theirs.stdout
        return out

    return run


@pytest.fixture
def filled(member: ProcessCluster, oarlock: Oarlock) -> None:
    endpoint = member.endpoints[0]
    oarlock("del", "", "--prefix", "--endpoints", endpoint)
    for number, key in enumerate(KEYS):
        assert oarlock("put", key, f"value {9 - number}", "--endpoints", endpoint) == (0, "OK\n", "")


@pytest.mark.parametrize("arguments", GETS, ids=" ".join)
@pytest.mark.usefixtures("filled")
def test_get_prints_what_etcdctl_prints(both: Callable[..., str], arguments: tuple[str, ...]) -> None:
    both("get", *arguments)


@pytest.mark.usefixtures("filled")
def test_count_only_prints_the_number(member: ProcessCluster, oarlock: Oarlock) -> None:
    endpoint = member.endpoints[0]
    assert oarlock("get", "b", "--prefix", "--count-only", "--endpoints", endpoint) == (0, "3\n", "")


@pytest.mark.usefixtures("filled")
def test_put_prints_the_previous_pair_if_asked(member: ProcessCluster, oarlock: Oarlock) -> None:
    endpoint = member.endpoints[0]
    assert oarlock("put", "a", "new", "--prev-kv", "--endpoints", endpoint)[1] == "OK\na\nvalue 9\n"
    answer = json.loads(oarlock("put", "a", "newer", "--prev-kv", "-w", "json", "--endpoints", endpoint)[1])
    assert answer["prev_kv"]["value"] == "bmV3"


@pytest.mark.usefixtures("filled")
def test_put_keeps_the_value_if_asked(member: ProcessCluster, oarlock: Oarlock) -> None:
    endpoint = member.endpoints[0]
    assert oarlock("put", "a", "--ignore-value", "--endpoints", endpoint)[1] == "OK\n"
    assert oarlock("get", "a", "--print-value-only", "--endpoints", endpoint)[1] == "value 9\n"


@pytest.mark.usefixtures("filled")
def test_del_prints_how_many_and_what(member: ProcessCluster, oarlock: Oarlock) -> None:
    endpoint = member.endpoints[0]
    assert oarlock("del", "nothing", "--endpoints", endpoint)[1] == "0\n"
    assert oarlock("del", "a", "--prev-kv", "--endpoints", endpoint)[1] == "1\na\nvalue 9\n"
    assert oarlock("del", "b", "c", "--endpoints", endpoint)[1] == "3\n"
    assert oarlock("get", "", "--prefix", "--keys-only", "--endpoints", endpoint)[1] == "c\n\n"


def test_endpoints_come_from_the_environment(
    member: ProcessCluster, oarlock: Oarlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCDCTL_ENDPOINTS", member.endpoints[0])
    assert oarlock("put", "x", "1")[0] == 0
    monkeypatch.setenv("OARLOCK_ENDPOINTS", "http://" + member.endpoints[0])
    assert oarlock("get", "x")[1] == "x\n1\n"


def test_a_server_that_says_no_is_reported_in_one_line(member: ProcessCluster, oarlock: Oarlock) -> None:
    code, out, err = oarlock("get", "x", "--rev", "999999999", "--endpoints", member.endpoints[0])
    assert (code, out) == (1, "")
    assert err == "oarlock: OUT_OF_RANGE: etcdserver: mvcc: required revision is a future revision\n"


def test_a_server_that_is_away_is_reported_in_one_line(oarlock: Oarlock) -> None:
    ports = PortReservation()
    endpoint = f"{HOST}:{ports.take()}"
    code, out, err = oarlock("get", "x", "--command-timeout", "200ms", "--endpoints", endpoint)
    ports.close()
    assert (code, out) == (1, "")
    assert err.startswith("oarlock: no answer within 0.2 s")
    assert endpoint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("get",),
        ("get", "a", "b", "--prefix"),
        ("get", "a", "--prefix", "--from-key"),
        ("get", "a", "--keys-only", "--count-only"),
        ("get", "a", "--bogus"),
        ("get", "a", "--limit", "many"),
        ("get", "a", "--rev", "99999999999999999999"),
        ("get", "a", "--endpoints", "http://[::1"),
        ("get", "a", "--consistency", "x"),
        ("get", "a", "--command-timeout", "soon"),
        ("get", "a", "--endpoints", "http://a:b:c"),
        ("put", "a", "v", "--ignore-value"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_use_gets_one_line_and_exit_code_2(oarlock: Oarlock, arguments: tuple[str, ...]) -> None:
    code, out, err = oarlock(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("oarlock: ")
    assert err.count("\n") == 1


def test_put_reads_the_value_from_standard_input(member: ProcessCluster) -> None:
    def run(*arguments: str, data: bytes = b"") -> bytes:
        command = [sys.executable, "-m", "oarlock.cli", *arguments, "--endpoints", member.endpoints[0]]
        done = subprocess.run(command, input=data, capture_output=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("put", "stdin", data=b"\x00\xff\n") == b"OK\n"
    assert run("get", "stdin", "--print-value-only") == b"\x00\xff\n\n"
