"""`oarlock member|endpoint|move-leader`: etcdctl's words and shapes, on three real members."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from oarlock.client import Client
from oarlock.server.processes import ProcessCluster

from .conftest import Oarlock, running

pytestmark = pytest.mark.processes

Both = Callable[..., str]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    yield from running(ProcessCluster(tmp_path_factory.mktemp("members")))


@pytest.fixture
def ours(three: ProcessCluster, oarlock: Oarlock) -> Oarlock:
    """Run one of our commands on all three."""

    def run(*arguments: str) -> tuple[int, str, str]:
        return oarlock(*arguments, "--endpoints", ",".join(three.endpoints))

    return run


@pytest.fixture
def both(three: ProcessCluster, etcdctl_binary: str, ours: Oarlock) -> Both:
    """Run the same command line with both programs, and compare what they print."""

    def run(*arguments: str) -> str:
        command = [etcdctl_binary, "--endpoints", ",".join(three.endpoints), *arguments]
        theirs = subprocess.run(command, capture_output=True, text=True, timeout=20)
        code, out, err = ours(*arguments)
        assert (code, err) == (0, ""), theirs
        assert theirs.returncode == 0, theirs.stderr
        assert anyone(out) == anyone(theirs.stdout)
        return out

    return run


def anyone(text: str) -> str:
    """Without what differs from call to call: who answered, and how long it took."""
    text = re.sub(r'"member_id":[0-9]+', "", text)
    return re.sub(r"[0-9.]+ms", "T", text)


def ids(three: ProcessCluster) -> dict[str, str]:
    async def ask() -> dict[str, str]:
        async with Client(three.endpoints) as client:
            return {member.name: f"{member.id:x}" for member in (await client.members()).members}

    return asyncio.run(ask())


@pytest.mark.parametrize("form", ["simple", "table", "json"])
def test_member_list_is_etcdctls(both: Both, form: str) -> None:
    assert "m2" in both("member", "list", "-w", form)


@pytest.mark.parametrize("form", ["simple", "table", "json"])
@pytest.mark.parametrize("cluster", [(), ("--cluster",)])
def test_endpoint_status_is_etcdctls(both: Both, form: str, cluster: tuple[str, ...]) -> None:
    both("endpoint", "status", *cluster, "-w", form)


@pytest.mark.parametrize("form", ["simple", "table", "json"])
def test_endpoint_health_has_etcdctls_form(ours: Oarlock, three: ProcessCluster, form: str) -> None:
    """etcdctl lists them as they answer, so only ours is looked at."""
    code, out, err = ours("endpoint", "health", "-w", form)
    assert (code, err) == (0, "")
    if form == "simple":
        pattern = r"{} is healthy: successfully committed proposal: took = [0-9.]+ms"
        expected = "\n".join(pattern.format(re.escape(endpoint)) for endpoint in three.endpoints)
        assert re.fullmatch(expected + "\n", out)
    elif form == "table":
        assert [line.split("|")[2].strip() for line in out.splitlines() if "|" in line] == [
            "HEALTH",
            *("true",) * 3,
        ]
    else:
        rows = json.loads(out)
        assert [(row["endpoint"], row["health"]) for row in rows] == [
            (endpoint, True) for endpoint in three.endpoints
        ]


@pytest.mark.parametrize("command", ["status", "health"])
def test_an_endpoint_that_does_not_answer_is_named_at_once(
    oarlock: Oarlock, three: ProcessCluster, command: str
) -> None:
    code, out, err = oarlock("endpoint", command, "--endpoints", f"{three.endpoints[0]},127.0.0.1:1")
    assert code == 1
    assert three.endpoints[0] in out
    assert "127.0.0.1:1" not in out
    assert "127.0.0.1:1" in err
    assert "Connection refused" in err


def test_adding_prints_how_to_start_the_new_one_and_removing_takes_it_away(
    ours: Oarlock, three: ProcessCluster
) -> None:
    code, out, err = ours("member", "add", "m9", "--peer-urls", "http://127.0.0.1:9", "--learner")
    assert (code, err) == (0, "")
    match = re.match(r"Member +([0-9a-f]+) added as learner to cluster +[0-9a-f]+\n\n", out)
    assert match
    settings = dict(re.findall(r'^(OARLOCK_\w+)="(.*)"$', out, re.MULTILINE))
    cluster = {f"{member.name}={member.peer_url}" for member in three.members}
    assert set(settings.pop("OARLOCK_INITIAL_CLUSTER").split(",")) == cluster | {"m9=http://127.0.0.1:9"}
    assert settings == {
        "OARLOCK_NAME": "m9",
        "OARLOCK_INITIAL_ADVERTISE_PEER_URLS": "http://127.0.0.1:9",
        "OARLOCK_INITIAL_CLUSTER_STATE": "existing",
    }
    assert "oarlock serve --name m9 --join http://127.0.0.1:" in out
    new = match[1]
    _, out, _ = ours("member", "list")
    assert f"{new}, unstarted, , http://127.0.0.1:9, , true\n" in out
    code, out, err = ours("member", "promote", new)
    assert (code, out) == (1, "")
    assert "can only promote a learner member which is in sync with leader" in err
    code, out, _ = ours("member", "update", new, "--peer-urls", "http://127.0.0.1:10")
    assert (code, re.sub(" +[0-9a-f]{8,16}", " ID", out)) == (0, "Member ID updated in cluster ID\n")
    code, out, _ = ours("member", "remove", new)
    assert (code, re.sub(" +[0-9a-f]{8,16}", " ID", out)) == (0, "Member ID removed from cluster ID\n")
    code, _, err = ours("member", "remove", new)
    assert (code, err) == (1, "oarlock: NOT_FOUND: etcdserver: member not found\n")


def test_json_of_a_change_is_etcdctls(ours: Oarlock) -> None:
    _, out, _ = ours("member", "add", "m9", "--peer-urls", "http://127.0.0.1:9", "-w", "json")
    added = json.loads(out)
    assert added["member"] == {"ID": added["member"]["ID"], "peerURLs": ["http://127.0.0.1:9"]}
    new = f"{added['member']['ID']:x}"
    assert len(added["members"]) == 4
    _, out, _ = ours("member", "remove", new, "-w", "json")
    assert {member["name"] for member in json.loads(out)["members"]} == {"m1", "m2", "m3"}


def test_the_leader_moves_to_whom_is_named_and_the_priority_brings_it_back(
    ours: Oarlock, three: ProcessCluster
) -> None:
    by_name = ids(three)

    def leader() -> str:
        _, out, _ = ours("endpoint", "status")
        leading = [line.split(", ")[1] for line in out.splitlines() if line.split(", ")[4] == "true"]
        return leading[0] if leading else ""  # none while it moves

    before = leader()
    target = next(node_id for node_id in by_name.values() if node_id != before)
    code, out, err = ours("move-leader", target)
    assert (code, err) == (0, "")
    assert out == f"Leadership transferred from {before} to {target}\n"
    assert leader() == target
    code, out, _ = ours("move-leader")
    assert (code, out) == (0, f"Leadership transferred from {target}\n")
    now = leader()
    assert now != target
    code, _, _ = ours("member", "update", target, "--priority", "5")
    assert code == 0
    deadline = time.monotonic() + 20
    while leader() != target:
        assert time.monotonic() < deadline


def test_a_voter_becomes_a_learner_and_a_voter_again(ours: Oarlock, three: ProcessCluster) -> None:
    target = ids(three)["m3"]
    code, out, err = ours("member", "change", "--demote", target)
    assert (code, err) == (0, ""), out
    _, out, _ = ours("member", "list")
    assert re.search(rf"^{target}, started, m3, .*, true$", out, re.MULTILINE)
    code, _, err = ours("member", "promote", target)
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("member", "remove", "xyz"), "bad member ID arg ('xyz'), expecting ID in Hex"),
        (("member", "remove"), "Missing argument 'ID'"),
        (("member", "add", "x"), "Missing option '--peer-urls'"),
        (("member", "update", "1"), "say what to change"),
        (("member", "change"), "say what to change"),
        (("member", "update", "1", "--priority", "-1"), "-1 is not in the range"),
        (("move-leader", "11112222333344445"), "expecting ID in Hex"),
    ],
)
def test_wrong_use_is_told_in_one_line(ours: Oarlock, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = ours(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_moving_the_leader_needs_the_leader(oarlock: Oarlock, three: ProcessCluster) -> None:
    _, out, _ = oarlock("endpoint", "status", "--endpoints", ",".join(three.endpoints))
    follower = next(line.split(", ")[0] for line in out.splitlines() if line.split(", ")[4] == "false")
    code, _, err = oarlock("move-leader", "--endpoints", follower)
    assert code == 2
    assert f"no leader endpoint given at [{follower}]" in err
