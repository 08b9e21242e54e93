"""etcdctl, unmodified, changes our members and moves our leader, as it does etcd's.

Both etcdctl programs run every command. Refusals are compared with a real etcd's: exit code and text.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oarlock.client import Client
from oarlock.server.processes import MemberProcess, ProcessCluster, http_get

from ..polling import eventually
from .conftest import run_program

pytestmark = pytest.mark.processes

Etcdctl = Callable[..., subprocess.CompletedProcess[str]]


async def told(cluster: ProcessCluster) -> None:
    """Until every running member's client URLs are in the log."""
    async with Client(cluster.endpoints, timeout=10) as client:

        async def all_told() -> bool:
            members = (await client.members()).members
            return all(member.client_urls for member in members if member.name)

        await eventually(all_told)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[ProcessCluster]:
    """Three members, for this test alone: it changes them."""
    cluster = ProcessCluster(tmp_path)
    try:
        cluster.start()
        asyncio.run(cluster.wait_ready())
        asyncio.run(told(cluster))
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def ctl(three: ProcessCluster, etcdctl: str) -> Etcdctl:
    """Run etcdctl on all members that are there at the time."""

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        endpoints = ",".join(member.endpoint for member in three.members if member.running)
        command = ("env", "ETCDCTL_API=3", etcdctl, "--endpoints", endpoints, *arguments)
        return run_program(*command, check=check)

    return run


def listed(ctl: Etcdctl) -> dict[str, list[str]]:
    """Peer URL → the fields of its line: id, status, name, peer URL, client URL, learner."""
    lines = [line.split(", ") for line in ctl("member", "list").stdout.splitlines()]
    return {fields[3]: fields for fields in lines}


def start_and_wait(member: MemberProcess, ctl: Etcdctl) -> None:
    """Start it, and wait until it is a voter and says that it is ready."""
    member.start()
    asyncio.run(member.wait_ready())

    async def votes() -> bool:
        fields = (await asyncio.to_thread(listed, ctl))[member.peer_url]
        return fields[1] == "started" and fields[5] == "false"

    async def ready() -> bool:
        return (await http_get(member.client_port, "/readyz"))[0] == 200

    asyncio.run(eventually(votes, 20.0))
    asyncio.run(eventually(ready, 20.0))


def test_a_member_is_added_joins_with_one_address_is_moved_to_and_removed(
    three: ProcessCluster, ctl: Etcdctl
) -> None:
    ctl("put", "before", "1")
    new = three.new_member(asks=three.members[1])
    added = ctl("member", "add", new.name, f"--peer-urls={new.peer_url}").stdout
    assert re.match(r"Member +[0-9a-f]+ added to cluster +[0-9a-f]+\n", added)
    assert f'ETCD_NAME="{new.name}"\n' in added
    assert 'ETCD_INITIAL_CLUSTER_STATE="existing"\n' in added
    member_id, status, name, _, client_url, learner = listed(ctl)[new.peer_url]
    assert (status, name, client_url, learner) == ("unstarted", "", "", "true")
    start_and_wait(new, ctl)
    assert listed(ctl)[new.peer_url] == [
        *(member_id, "started", new.name, new.peer_url, f"http://{new.endpoint}", "false")
    ]
    got = run_program("env", "ETCDCTL_API=3", *_on(ctl, new, "get", "before", "--print-value-only"))
    assert got.stdout == "1\n"

    moved = ctl("move-leader", member_id)
    assert re.fullmatch(rf"Leadership transferred from [0-9a-f]+ to {member_id}\n", moved.stdout)
    statuses = json.loads(ctl("endpoint", "status", "--cluster", "-w", "json").stdout)
    assert len(statuses) == 4
    assert {f"{status['Status']['leader']:x}" for status in statuses} == {member_id}
    healthy = ctl("endpoint", "health", "--cluster")
    assert (healthy.stdout + healthy.stderr).count("is healthy: successfully committed proposal") == 4

    removed = ctl("member", "remove", member_id)
    assert re.fullmatch(rf"Member +{member_id} removed from cluster +[0-9a-f]+\n", removed.stdout)
    assert new.wait(10) == 0
    assert "is not in the cluster any more" in new.log_tail(5)
    assert "Traceback" not in new.log_tail(50)
    assert new.peer_url not in listed(ctl)
    ctl("put", "after", "1")
    new.start()
    assert new.wait(20) == 0, "it is told again, and a supervisor that restarts what fails leaves it alone"


def _on(ctl: Etcdctl, member: MemberProcess, *arguments: str) -> tuple[str, ...]:
    program = ctl("version").args[2]
    return (program, "--endpoints", member.endpoint, *arguments)


def test_a_learner_stays_one_until_it_is_promoted(three: ProcessCluster, ctl: Etcdctl) -> None:
    new = three.new_member()
    ctl("member", "add", new.name, f"--peer-urls={new.peer_url}", "--learner")
    member_id = listed(ctl)[new.peer_url][0]
    early = ctl("member", "promote", member_id, check=False)
    assert early.returncode == 1
    assert "can only promote a learner member which is in sync with leader" in early.stderr
    new.start()
    asyncio.run(new.wait_ready())

    async def promoted() -> bool:
        done = await asyncio.to_thread(ctl, "member", "promote", member_id, check=False)
        return done.returncode == 0

    asyncio.run(eventually(promoted, 20.0))
    assert listed(ctl)[new.peer_url][5] == "false"


def test_a_member_moves_to_another_address(three: ProcessCluster, ctl: Etcdctl) -> None:
    """First the others are told, then it is started there: etcd's procedure."""
    member, elsewhere = three.members[2], three.new_member()
    member_id = listed(ctl)[member.peer_url][0]
    assert member.terminate() == 0
    updated = ctl("member", "update", member_id, f"--peer-urls={elsewhere.peer_url}")
    assert re.fullmatch(rf"Member +{member_id} updated in cluster +[0-9a-f]+\n", updated.stdout)
    three.members.remove(elsewhere)
    member.command = [part.replace(member.peer_url, elsewhere.peer_url) for part in member.command]
    member.start()
    asyncio.run(member.wait_ready())
    ctl("put", "k", "v")
    got = run_program("env", "ETCDCTL_API=3", *_on(ctl, member, "get", "k", "--print-value-only"))
    assert got.stdout == "v\n"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    """A cluster of one, which every change but the first is refused by."""
    cluster = ProcessCluster(tmp_path_factory.mktemp("alone"), size=1, flags=("--max-learners", "1"))
    try:
        cluster.start()
        asyncio.run(cluster.wait_ready())
        asyncio.run(told(cluster))
        yield cluster
    finally:
        cluster.close()


def test_refusals_have_etcds_exit_codes_and_texts(
    alone: ProcessCluster, real_etcd: ProcessCluster, etcdctl: str
) -> None:
    """The same commands on one member of each, in the same order."""
    ours, theirs = [
        [told_by(etcdctl, cluster.endpoints[0], *command) for command in refused(etcdctl, cluster)]
        for cluster in (alone, real_etcd)
    ]
    assert ours == theirs
    assert {code for code, _ in ours} == {1, 128}, "128 is for wrong use"


def refused(etcdctl: str, cluster: ProcessCluster) -> Iterator[tuple[str, ...]]:
    """Commands that cannot be; on the way a learner is added, and it is removed in the end."""
    own, peer_url = members(etcdctl, cluster)["m1"]
    elsewhere = "http://127.0.0.1:4"
    yield ("member", "remove", own)
    yield ("member", "remove", "123")
    yield ("member", "promote", "123")
    yield ("member", "promote", own)
    yield ("member", "update", "123", "--peer-urls=http://127.0.0.1:1")
    yield ("member", "add", "x", f"--peer-urls={peer_url}")
    yield ("member", "add", "x")
    yield ("member", "remove", "xyz")
    yield ("move-leader", "123")
    told_by(etcdctl, cluster.endpoints[0], "member", "add", "x", "--learner", f"--peer-urls={elsewhere}")
    learner, _ = members(etcdctl, cluster)[""]
    yield ("member", "add", "y", "--learner", "--peer-urls=http://127.0.0.1:5")
    yield ("member", "update", own, f"--peer-urls={elsewhere}")
    yield ("member", "promote", learner)
    yield ("move-leader", learner)
    told_by(etcdctl, cluster.endpoints[0], "member", "remove", learner)
    yield ("member", "remove", learner)
    yield ("member", "update", learner, "--peer-urls=http://127.0.0.1:6")


def members(etcdctl: str, cluster: ProcessCluster) -> dict[str, tuple[str, str]]:
    """Name → id and peer URL."""
    done = run_program("env", "ETCDCTL_API=3", etcdctl, "--endpoints", cluster.endpoints[0], "member", "list")
    lines = [line.split(", ") for line in done.stdout.splitlines()]
    return {fields[2]: (fields[0], fields[3]) for fields in lines}


def told_by(etcdctl: str, endpoint: str, *arguments: str) -> tuple[int, str]:
    """Exit code, and the last line that is not a log line; ids differ."""
    command = ("env", "ETCDCTL_API=3", etcdctl, "--endpoints", endpoint, *arguments)
    done = run_program(*command, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return done.returncode, re.sub("[0-9a-f]{15,16}", "ID", lines[-1] if lines else "")
