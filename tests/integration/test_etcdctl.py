"""etcdctl, unmodified, against every member of a real cluster, side by side with real etcd.

Each script runs on one of our members and on etcd; what etcdctl prints must be the same, byte for byte,
but for the ids and the term in JSON headers. Both sides see the same writes in the same order, so revisions
are compared too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from oarlock.server.processes import ProcessCluster

from .conftest import run_program

pytestmark = pytest.mark.processes

Run = Callable[..., str]


@pytest.fixture(params=[0, 1, 2], ids=["m1", "m2", "m3"])
def both(
    request: pytest.FixtureRequest, cluster: ProcessCluster, real_etcd: ProcessCluster, etcdctl: str
) -> Run:
    """Run one etcdctl command on a member of ours and on etcd, compare, and return what was printed."""
    ours, theirs = cluster.endpoints[request.param], real_etcd.endpoints[0]

    def run(*arguments: str) -> str:
        printed = [
            run_program("env", "ETCDCTL_API=3", etcdctl, "--endpoints", endpoint, *arguments).stdout
            for endpoint in (ours, theirs)
        ]
        if "json" in arguments:
            assert comparable(printed[0]) == comparable(printed[1])
        elif "fields" in arguments:
            assert comparable_fields(printed[0]) == comparable_fields(printed[1])
        else:
            assert printed[0] == printed[1]
        return printed[0]

    return run


def comparable(text: str) -> Any:
    """JSON output without what differs between any two clusters."""
    value = json.loads(text)
    header = value["header"]
    assert header.pop("cluster_id")
    assert header.pop("member_id")
    assert header.pop("raft_term")
    return value


def comparable_fields(text: str) -> list[str]:
    """The same for ``-w fields``: one field in each line."""
    return [
        line for line in text.splitlines() if not line.startswith(('"ClusterID"', '"MemberID"', '"RaftTerm"'))
    ]


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Keys of this test alone."""
    return f"/{request.node.name}/"


def test_what_is_put_is_got_back_by_key(both: Run, prefix: str) -> None:
    assert both("put", f"{prefix}a", "1") == "OK\n"
    assert both("get", f"{prefix}a") == f"{prefix}a\n1\n"
    assert both("get", f"{prefix}a", "--print-value-only") == "1\n"
    assert both("get", f"{prefix}nothing") == ""


def test_put_returns_the_previous_value_if_asked(both: Run, prefix: str) -> None:
    both("put", f"{prefix}a", "1")
    assert both("put", f"{prefix}a", "2", "--prev-kv") == f"OK\n{prefix}a\n1\n"


def test_prefixes_ranges_and_everything_from_a_key(both: Run, prefix: str) -> None:
    for name in ("b", "a", "c", "d"):
        both("put", prefix + name, name.upper())
    assert both("get", prefix, "--prefix", "--print-value-only") == "A\nB\nC\nD\n"
    assert both("get", f"{prefix}b", f"{prefix}d", "--print-value-only") == "B\nC\n"
    assert both("get", prefix, "--prefix", "--keys-only").split() == [prefix + name for name in "abcd"]
    assert both("get", prefix, "--prefix", "--limit", "2", "--print-value-only") == "A\nB\n"
    assert f"{prefix}c" in both("get", f"{prefix}c", "--from-key")


def test_order_and_sorting(both: Run, prefix: str) -> None:
    for name, value in (("a", "3"), ("b", "1"), ("c", "2")):
        both("put", prefix + name, value)
    read = ("get", prefix, "--prefix", "--print-value-only")
    assert both(*read, "--order", "DESCEND", "--sort-by", "KEY") == "2\n1\n3\n"
    assert both(*read, "--order", "ASCEND", "--sort-by", "VALUE") == "1\n2\n3\n"


def test_the_past_can_be_read_at_its_revision(both: Run, prefix: str) -> None:
    both("put", f"{prefix}a", "old")
    revision = json.loads(both("get", f"{prefix}a", "-w", "json"))["header"]["revision"]
    both("put", f"{prefix}a", "new")
    assert both("get", f"{prefix}a", "--rev", str(revision), "--print-value-only") == "old\n"
    assert both("get", f"{prefix}a", "--print-value-only") == "new\n"


def test_counting_without_reading(both: Run, prefix: str, etcdctl: str) -> None:
    for number in range(5):
        both("put", f"{prefix}{number}", "x")
    if "--count-only" in run_program("env", "ETCDCTL_API=3", etcdctl, "get", "--help").stdout:
        answer = both("get", prefix, "--prefix", "--count-only", "-w", "fields")
        assert '"Count" : 5' in answer
        assert '"Key"' not in answer
    # etcdctl 3.4 has no such flag; the count is also in every answer, whatever its limit.
    assert json.loads(both("get", prefix, "--prefix", "--limit", "1", "-w", "json"))["count"] == 5


def test_json_output_is_the_same_field_by_field(both: Run, prefix: str) -> None:
    both("put", f"{prefix}a", "1", "-w", "json")
    both("put", f"{prefix}a", "2", "--prev-kv", "-w", "json")
    both("put", f"{prefix}b", "", "-w", "json")
    both("get", prefix, "--prefix", "-w", "json")
    both("get", prefix, "--prefix", "--limit", "1", "-w", "json")
    both("get", prefix, "--prefix", "--keys-only", "-w", "json")
    both("del", f"{prefix}b", "--prev-kv", "-w", "json")
    both("get", prefix, "--prefix", "-w", "json")


def test_serializable_reads_are_served(both: Run, prefix: str) -> None:
    both("put", f"{prefix}a", "1")
    assert both("get", f"{prefix}a", "--consistency", "l", "--print-value-only") == "1\n"
    # A follower may lag behind, so only that it answers is compared: the key is of no consequence.
    assert both("get", f"{prefix}nothing", "--consistency", "s") == ""


def test_keys_are_deleted_singly_by_prefix_and_by_range(both: Run, prefix: str) -> None:
    for name in "abcdef":
        both("put", prefix + name, name)
    assert both("del", f"{prefix}a") == "1\n"
    assert both("del", f"{prefix}a") == "0\n"
    assert both("del", f"{prefix}b", f"{prefix}d") == "2\n"
    assert both("del", f"{prefix}d", "--prev-kv") == f"1\n{prefix}d\nd\n"
    assert both("del", prefix, "--prefix") == "2\n"
    assert both("get", prefix, "--prefix") == ""


def test_what_one_member_acknowledged_every_member_reads(
    cluster: ProcessCluster, real_etcd: ProcessCluster, etcdctl: str, prefix: str
) -> None:
    for writer in cluster.endpoints:
        for endpoint in (writer, real_etcd.endpoints[0]):  # both: their revisions stay equal
            run_program("env", "ETCDCTL_API=3", etcdctl, "--endpoints", endpoint, "put", prefix, writer)
        for reader in cluster.endpoints:
            got = run_program(
                "env", "ETCDCTL_API=3", etcdctl, "--endpoints", reader, "get", prefix, "--print-value-only"
            )
            assert got.stdout == f"{writer}\n"


@pytest.mark.parametrize(
    "arguments",
    [("get", "x", "--rev", "999999"), ("put", "", "x"), ("get", ""), ("put", "x", "--lease=1", "y")],
)
def test_errors_have_etcds_texts(
    cluster: ProcessCluster, real_etcd: ProcessCluster, etcdctl: str, arguments: tuple[str, ...]
) -> None:
    messages = []
    for endpoint in (cluster.endpoints[0], real_etcd.endpoints[0]):
        done = run_program("env", "ETCDCTL_API=3", etcdctl, "--endpoints", endpoint, *arguments, check=False)
        assert done.returncode != 0
        lines = done.stderr.splitlines()
        messages.append(lines[-1].removeprefix("Error: "))
    assert messages[0] == messages[1]


def test_endpoint_status_and_member_list_name_every_member(cluster: ProcessCluster, etcdctl: str) -> None:
    endpoints = ",".join(cluster.endpoints)
    base = ("env", "ETCDCTL_API=3", etcdctl, "--endpoints", endpoints)
    status = json.loads(run_program(*base, "endpoint", "status", "-w", "json").stdout)
    assert [entry["Endpoint"] for entry in status] == cluster.endpoints
    assert len({entry["Status"]["leader"] for entry in status}) == 1
    members = json.loads(run_program(*base, "member", "list", "-w", "json").stdout)["members"]
    assert {member["name"] for member in members} == {"m1", "m2", "m3"}
    assert {member["ID"] for member in members} == {
        entry["Status"]["header"]["member_id"] for entry in status
    }
