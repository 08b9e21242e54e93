"""`oarlock.Replica` over real sockets and real disks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import oarlock
from oarlock.embed import cluster_id, member_id
from oarlock.server.processes import PortReservation
from oarlock.storage import files

PEERS = {"a": "http://127.0.0.1:7001", "b": "http://127.0.0.1:7002", "c": "http://127.0.0.1:7003"}


class Counter(oarlock.StateMachine):
    def __init__(self) -> None:
        self.value = 0

    @oarlock.command
    def add(self, amount: int) -> int:
        if self.value + amount < 0:
            raise ValueError("it would fall below zero")
        self.value += amount
        return self.value

    @oarlock.query
    def read(self) -> int:
        return self.value


class Other(oarlock.StateMachine):
    @oarlock.command
    def add(self, amount: int) -> int:
        return amount


class Team:
    """Members on this machine, by name."""

    def __init__(self, directory: Path, ports: PortReservation, names: str = "abc") -> None:
        self.directory = directory
        self.ports = ports
        self.peers = {name: f"http://127.0.0.1:{ports.take()}" for name in names}
        self.members: dict[str, oarlock.Replica[Counter]] = {}

    def make(self, name: str, **options: Any) -> oarlock.Replica[Counter]:
        settings = {"data_dir": self.directory / name, "initial_cluster": self.peers, **options}
        return oarlock.Replica(Counter(), name=name, request_timeout=20.0, **settings)

    async def start(self, *names: str, **options: Any) -> oarlock.Replica[Counter]:
        """Start members, wait until there is a leader, and return the last of them."""
        for name in names:
            self.members[name] = self.make(name, **options)
            await self.members[name].start()
        await self.members[names[-1]].wait_for_leader()
        return self.members[names[-1]]

    async def stop(self) -> None:
        for member in self.members.values():
            await member.close()
        self.members.clear()


@pytest.fixture
async def team(tmp_path: Path) -> AsyncIterator[Team]:
    with contextlib.closing(PortReservation()) as ports:
        team = Team(tmp_path, ports)
        yield team
        await team.stop()


@pytest.fixture
def port() -> Iterator[int]:
    with contextlib.closing(PortReservation()) as ports:
        yield ports.take()


async def test_the_example_of_the_design(tmp_path: Path, port: int) -> None:
    peers = {"a": f"http://127.0.0.1:{port}"}
    for total in (5, 10):
        async with oarlock.Replica(
            Counter(), name="a", data_dir=tmp_path / "a", initial_cluster=peers
        ) as replica:
            assert await replica.submit(Counter.add, 5) == total
            assert await replica.query(Counter.read) == total


async def test_any_member_takes_commands_and_queries(team: Team) -> None:
    await team.start("a", "b", "c")
    for total, member in enumerate(team.members.values(), start=1):
        assert await member.submit(Counter.add, 1) == total
        for other in team.members.values():
            assert await other.query(Counter.read) == total


async def test_members_agree_on_who_leads(team: Team) -> None:
    await team.start("a", "b", "c")
    members = team.members.values()
    for member in members:
        await member.wait_for_leader()
    assert len({member.leader for member in members}) == 1
    [leader] = [member for member in members if member.is_leader]
    assert leader.name == leader.leader


async def test_a_restart_recovers_everything_and_may_move_to_other_addresses(team: Team) -> None:
    await (await team.start("a", "b", "c")).submit(Counter.add, 7)
    await team.stop()
    team.peers = {name: f"http://127.0.0.1:{team.ports.take()}" for name in "abc"}
    member = await team.start(
        "a", "b", "c", initial_cluster=",".join(f"{k}={v}" for k, v in team.peers.items())
    )
    assert await member.query(Counter.read) == 7


async def test_one_of_three_may_be_away_and_catches_up(team: Team) -> None:
    await team.start("a", "b", "c")
    leader = next(member for member in team.members.values() if member.is_leader)
    away = team.members.pop(leader.name)
    await away.close()
    for member in team.members.values():
        await member.submit(Counter.add, 1)
    assert await (await team.start(away.name)).query(Counter.read) == 2


async def test_without_a_majority_time_runs_out_and_a_peek_still_shows_the_old_state(team: Team) -> None:
    member = await team.start("a", "b", "c")
    await member.submit(Counter.add, 3)
    for name in [name for name in team.members if name != member.name]:
        await team.members.pop(name).close()
    with pytest.raises(oarlock.RequestTimeout) as write:
        await member.within(0.2).submit(Counter.add, 1)
    assert write.value.seconds == 0.2
    with pytest.raises(oarlock.RequestTimeout) as read:
        await member.within(0.2).query(Counter.read)
    assert read.value.outcome_unknown is False
    with pytest.raises(oarlock.RequestTimeout):
        await member.wait_for_leader(0.2)
    assert member.peek(Counter.read) == 3


async def test_a_refused_command_tells_why(team: Team) -> None:
    member = await team.start("a", "b", "c")
    with pytest.raises(oarlock.CommandFailed, match="ValueError: it would fall below zero") as error:
        await member.submit(Counter.add, -1)
    assert isinstance(error.value.__cause__, ValueError)
    assert await member.query(Counter.read) == 0


async def test_in_memory_members_need_no_directory(team: Team) -> None:
    member = await team.start("a", "b", "c", data_dir=None)
    assert await member.submit(Counter.add, 1) == 1
    assert list(team.directory.iterdir()) == []


async def test_a_failing_disk_stops_the_member_and_says_so(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.peers = {"a": team.peers["a"]}
    member = await team.start("a")
    assert not member.failed.done()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for operation in ("pwrite", "write_through", "fdatasync"):
        monkeypatch.setattr(files.RealFile, operation, fail)
    with pytest.raises(oarlock.Stopped) as error:
        await member.submit(Counter.add, 1)
    assert error.value.outcome_unknown is True
    assert isinstance(await member.failed, oarlock.DiskFailure)
    assert not member.is_leader
    assert member.leader is None
    with pytest.raises(oarlock.Stopped, match="the disk failed"):
        await member.query(Counter.read)
    with pytest.raises(oarlock.Stopped, match="the disk failed"):
        member.peek(Counter.read)
    monkeypatch.undo()
    await team.stop()
    assert await (await team.start("a")).query(Counter.read) in (0, 1)


async def test_a_replica_is_one_run(team: Team) -> None:
    team.peers = {"a": team.peers["a"]}
    unstarted = team.make("a")
    with pytest.raises(oarlock.Stopped, match="was not started"):
        await unstarted.submit(Counter.add, 1)
    await unstarted.close()

    member = await team.start("a")
    with pytest.raises(oarlock.UsageError, match="started once"):
        await member.start()
    assert await member.submit(Counter.add, 1) == 1, "the second start left the first alone"
    await member.close()
    await member.close()
    for request in (member.submit(Counter.add, 1), member.query(Counter.read), member.wait_for_leader()):
        with pytest.raises(oarlock.Stopped):
            await request
    with pytest.raises(oarlock.Stopped):
        member.peek(Counter.read)
    assert not member.is_leader


async def test_only_methods_of_this_machine_are_run(team: Team) -> None:
    team.peers = {"a": team.peers["a"]}
    member = await team.start("a")
    mistakes: list[Any] = [Other.add, Counter().add, Counter.read, "add", print, None]
    for mistake in mistakes:
        with pytest.raises(oarlock.UsageError, match=r"is not a method of Counter|is not a command"):
            await member.submit(mistake, 1)
    for mistake in (*mistakes[:2], Counter.add):
        with pytest.raises(oarlock.UsageError, match=r"is not a method of Counter|is not a query"):
            await member.query(mistake)
        with pytest.raises(oarlock.UsageError, match=r"is not a method of Counter|is not a query"):
            member.peek(mistake)
    with pytest.raises(oarlock.UsageError, match="Expected `int`, got `str`"):
        await member.submit(Counter.add, "5")  # type: ignore[arg-type]
    with pytest.raises(oarlock.UsageError, match="positive number of seconds"):
        member.within(0)
    assert member.peek(Counter.read) == 0


class TestWrongUse:
    """One clear line each."""

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"name": "x"}, "name 'x' is not in initial_cluster, which has "),
            ({"initial_cluster": {}}, "initial_cluster is empty: give every member's name and peer URL"),
            ({"initial_cluster": ""}, "initial_cluster is empty"),
            ({"initial_cluster": "a"}, "initial_cluster: 'a': write name=http://host:port"),
            ({"initial_cluster": "a=http://h:1,a=http://h:2"}, "a name is there twice"),
            ({"initial_cluster": "a=http://h:1,b=http://h:1"}, "two members have the same URL"),
            ({"initial_cluster": {"a": "h:1"}}, "peer URL 'h:1': the scheme has to be http"),
            ({"initial_cluster": {"a": "http://h"}}, "peer URL 'http://h': there is no port"),
            ({"initial_cluster": {"a": "https://h:1"}}, "TLS is not supported here yet"),
            ({"listen": "0.0.0.0:1"}, "peer URL '0.0.0.0:1'"),
            ({"election_timeout": 0.05}, "heartbeat_interval (0.05 s) must be above 0 and below election"),
            ({"request_timeout": 0.0}, "request_timeout must be a positive number of seconds, not 0.0"),
        ],
    )
    def test_of_an_argument(self, options: dict[str, Any], complaint: str) -> None:
        arguments = {"name": "a", "data_dir": "unused", "initial_cluster": PEERS, **options}
        with pytest.raises(oarlock.UsageError) as error:
            oarlock.Replica(Counter(), **arguments)
        assert complaint in str(error.value)
        assert "\n" not in str(error.value)

    async def test_a_port_in_use_is_named_and_the_directory_is_released(self, team: Team) -> None:
        taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = taken.sockets[0].getsockname()[1]
        with pytest.raises(oarlock.UsageError, match=f"127.0.0.1:{port}: the port is in use"):
            await team.make("a", listen=f"http://127.0.0.1:{port}").start()
        taken.close()
        await taken.wait_closed()
        team.peers = {"a": team.peers["a"]}
        with pytest.raises(oarlock.DataDirError, match="belongs to cluster"):
            await team.make("a").start()

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"token": "another"}, "belongs to cluster"),
            ({"initial_cluster": {**PEERS, "d": "http://127.0.0.1:7004"}}, "belongs to cluster"),
            ({"name": "b"}, "belongs to member"),
        ],
    )
    async def test_a_directory_of_another_cluster_or_member(
        self, team: Team, options: dict[str, Any], complaint: str
    ) -> None:
        async with team.make("a"):
            pass
        arguments = {"name": "a", "initial_cluster": team.peers, "data_dir": team.directory / "a", **options}
        arguments["listen"] = team.peers["a"]
        with pytest.raises(oarlock.DataDirError, match=complaint) as error:
            await oarlock.Replica(Counter(), **arguments).start()
        assert str(team.directory / "a") in str(error.value)
        assert "\n" not in str(error.value)

    async def test_a_directory_in_use(self, team: Team) -> None:
        async with team.make("a"):
            with pytest.raises(oarlock.DataDirError, match="in use by process"):
                await team.make("a").start()

    async def test_a_directory_that_cannot_be_made(self, team: Team) -> None:
        (team.directory / "file").write_text("")
        with pytest.raises(oarlock.DataDirError, match="cannot use this data directory"):
            await team.make("a", data_dir=team.directory / "file" / "a").start()


def test_ids_follow_from_names_and_token_and_from_nothing_else() -> None:
    """They are stored: if this test has to change, no cluster made before can be started any more."""
    assert member_id("oarlock", "a") == 0xC7612415293AE682
    assert cluster_id("oarlock", "abc") == 0xD94E96C89488E544
    assert cluster_id("oarlock", "cab") == cluster_id("oarlock", "abc")
    assert cluster_id("oarlock", ["ab", "c"]) != cluster_id("oarlock", ["a", "bc"])
    ids = {member_id(token, name) for token in ("t", "u") for name in ("a", "b", "c")}
    assert len(ids) == 6
    assert all(0 < id_ < 1 << 64 for id_ in ids)
