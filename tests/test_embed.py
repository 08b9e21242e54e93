"""`oarlock.Replica` over real sockets and real disks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import oarlock
from oarlock.founding import cluster_id, member_id
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
        self.machine: type[Counter] = Counter

    def make(self, name: str, **options: Any) -> oarlock.Replica[Counter]:
        settings = {"data_dir": self.directory / name, "initial_cluster": self.peers, **options}
        return oarlock.Replica(self.machine(), name=name, request_timeout=20.0, **settings)

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
            ({"initial_cluster": None}, "give initial_cluster (to found a cluster) or join (to enter one)"),
            ({"join": "http://h:1"}, "and not both"),
            ({"peer_url": "http://h:1"}, "peer_url goes with join"),
            ({"initial_cluster": None, "join": "http://h:1"}, "join needs peer_url"),
            ({"initial_cluster": None, "join": [], "peer_url": "http://h:1"}, "join is empty"),
            ({"initial_cluster": None, "join": "h:1", "peer_url": "http://h:1"}, "peer URL 'h:1'"),
            (
                {"initial_cluster": None, "join": "http://h:1", "name": "", "peer_url": "http://h:1"},
                "name is",
            ),
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
        with pytest.raises(oarlock.DataDirError, match=r"belongs to cluster .* and holds no log"):
            await team.make("a").start()

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"name": "b"}, "belongs to member 'a', not to 'b'"),
        ],
    )
    async def test_a_directory_of_another_member(
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


# ── members that come and go ───────────────────────────────────────────────────────────────────────────────


class Ledger(Counter):
    """A counter that can be restored, so that the log can be dropped."""

    def snapshot(self) -> int:
        return self.value

    def restore(self, state: int) -> None:
        self.value = state


SOON = oarlock.SnapshotPolicy(entries=20, ratio=0.0, trailing_entries=5)


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


async def enter(
    team: Team, name: str, by: oarlock.Replica[Counter], **options: Any
) -> oarlock.Replica[Counter]:
    """Add a member, start it with one address of the cluster, and wait until it votes."""
    url = team.peers[name] = f"http://127.0.0.1:{team.ports.take()}"
    id_ = await by.add_member(name, url)
    team.members[name] = member = team.make(
        name, initial_cluster=None, join=team.peers[by.name], peer_url=url, **options
    )
    await member.start()
    await eventually(lambda: any(info.id == id_ and info.voter for info in member.members))
    return member


def names(member: oarlock.Replica[Counter]) -> set[str]:
    return {info.name for info in member.members}


async def test_a_cluster_grows_from_one_member_and_knows_who_is_in_it(team: Team) -> None:
    team.peers = {"a": team.peers["a"]}
    first = await team.start("a")
    await first.submit(Counter.add, 1)
    second = await enter(team, "b", first)
    third = await enter(team, "c", second)
    for member in (first, second, third):
        assert await member.query(Counter.read) == 1
        assert names(member) == {"a", "b", "c"}
        assert all(info.voter and not info.joining for info in member.members)
    assert {info.peer_urls for info in first.members} == {(url,) for url in team.peers.values()}


async def test_a_member_that_joined_comes_back_with_what_its_directory_knows(team: Team) -> None:
    team.peers = {"a": team.peers["a"]}
    first = await team.start("a")
    second = await enter(team, "b", first)
    third = await enter(team, "c", second)
    await third.submit(Counter.add, 3)
    await team.stop()
    # The others' arguments are those of their first start, or list everyone by now: it makes no difference.
    everyone = dict(team.peers)
    team.members["a"] = team.make("a", initial_cluster={"a": everyone["a"]})
    team.members["b"] = team.make("b", initial_cluster=everyone)
    team.members["c"] = team.make("c", initial_cluster=None, join=everyone["a"], peer_url=everyone["c"])
    for member in team.members.values():
        await member.start()
    for member in team.members.values():
        assert await member.query(Counter.read) == 3


async def test_a_new_member_gets_a_snapshot_when_the_log_is_gone(team: Team) -> None:
    team.machine = Ledger
    team.peers = {"a": team.peers["a"]}
    first = await team.start("a", snapshots=SOON)
    for _ in range(200):
        await first.submit(Counter.add, 1)
    await eventually(lambda: first.status().first_index > 100)
    second = await enter(team, "b", first, snapshots=SOON)
    assert await second.query(Counter.read) == 200
    assert second.status().snapshot.index > 0
    await team.stop()
    for name in "ab":
        settings: dict[str, Any] = {"initial_cluster": {"a": team.peers["a"]}}
        if name == "b":
            settings = {"initial_cluster": None, "join": team.peers["a"], "peer_url": team.peers["b"]}
        team.members[name] = team.make(name, snapshots=SOON, **settings)
        await team.members[name].start()
    assert await team.members["b"].query(Counter.read) == 200


async def test_a_removed_member_knows_it_and_its_name_may_come_back(team: Team) -> None:
    first = await team.start("a", "b", "c")
    gone = team.members.pop("b")
    await first.remove("b")
    await asyncio.wait_for(gone.removed, 20)
    with pytest.raises(oarlock.Stopped, match="was removed from the cluster"):
        await gone.submit(Counter.add, 1)
    await gone.close()
    assert names(first) == {"a", "c"}
    back = await enter(team, "b", first, data_dir=team.directory / "b2")
    assert await back.submit(Counter.add, 1) == 1
    assert names(back) == {"a", "b", "c"}


async def test_a_learner_is_promoted_when_it_is_asked_for(team: Team) -> None:
    first = await team.start("a", "b", "c")
    url = team.peers["d"] = f"http://127.0.0.1:{team.ports.take()}"
    await first.add_member("d", url, learner=True)
    with pytest.raises(oarlock.ChangeRefused) as refusal:
        await first.promote("d")
    assert refusal.value.reason is oarlock.ChangeReason.NOT_CAUGHT_UP
    learner = team.members["d"] = team.make("d", initial_cluster=None, join=team.peers["a"], peer_url=url)
    await learner.start()
    await learner.submit(Counter.add, 1)

    async def promoted() -> bool:
        with contextlib.suppress(oarlock.ChangeRefused):
            await learner.promote("d")
            return True
        await asyncio.sleep(0.05)
        return False

    async with asyncio.timeout(20):
        while not await promoted():
            pass
    assert all(info.voter for info in learner.members)


async def test_two_are_replaced_by_two_others_in_one_step(team: Team) -> None:
    first = await team.start("c", "b", "a")
    await first.submit(Counter.add, 1)
    new = {name: f"http://127.0.0.1:{team.ports.take()}" for name in "de"}
    lines: list[str] = []
    change = asyncio.ensure_future(
        first.change_members(add=new, remove=["b", "c"], timeout=60, progress=lines.append)
    )
    await eventually(lambda: bool(lines))
    for name, url in new.items():
        team.members[name] = team.make(name, initial_cluster=None, join=team.peers["a"], peer_url=url)
        await team.members[name].start()
    await change
    assert names(first) == {"a", "d", "e"}
    assert lines[0].startswith("added as learners, start them now: d, e")
    assert lines[-1] == "done"
    assert await team.members["d"].query(Counter.read) == 1


async def test_a_member_that_was_away_while_all_others_were_replaced_takes_part_again(team: Team) -> None:
    founders = dict(team.peers)
    first = await team.start("c", "b", "a")
    await team.members.pop("c").close()
    new = await enter(team, "d", first)
    await enter(team, "e", first)
    for name in "ab":
        await new.remove(name)
        await team.members.pop(name).close()
    assert await new.submit(Counter.add, 1) == 1
    back = team.members["c"] = team.make("c", initial_cluster=founders)
    await back.start()
    assert await back.query(Counter.read) == 1
    await team.members.pop("e").close()
    assert await back.submit(Counter.add, 1) == 2, "it votes"


async def test_what_cannot_be_is_refused_with_the_reason(team: Team) -> None:
    first = await team.start("a", "b", "c")
    with pytest.raises(oarlock.UsageError, match="there is no member 'x'; there are a, b, c"):
        await first.remove("x")
    with pytest.raises(oarlock.UsageError, match="TLS is not supported"):
        await first.add_member("x", "https://h:1")
    with pytest.raises(oarlock.UsageError, match="needs a name"):
        await first.add_member("", "http://h:1")
    with pytest.raises(oarlock.ChangeRefused) as refusal:
        await first.add_member("b", "http://127.0.0.1:1")
    assert refusal.value.reason is oarlock.ChangeReason.ALREADY_THERE


async def test_a_member_that_nobody_added_is_told_what_to_do(team: Team) -> None:
    await team.start("a", "b", "c")
    stranger = team.make(
        "x", initial_cluster=None, join=team.peers["a"], peer_url=f"http://127.0.0.1:{team.ports.take()}"
    )
    with pytest.raises(oarlock.UsageError, match=r"no member with the peer URL .*: add it first"):
        await stranger.start()


# ── leadership ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_leadership_is_handed_to_whom_one_names_and_only_by_the_leader(team: Team) -> None:
    await team.start("a", "b", "c")
    leader = next(member for member in team.members.values() if member.is_leader)
    other = next(member for member in team.members.values() if not member.is_leader)
    with pytest.raises(oarlock.NotLeader):
        await other.transfer_leadership()
    assert await leader.transfer_leadership(other.name) == other.name
    assert other.is_leader
    assert await leader.submit(Counter.add, 1) == 1
    assert await other.transfer_leadership() != other.name


async def test_closing_the_leader_leaves_the_others_with_one_at_once(team: Team) -> None:
    await team.start("a", "b", "c", election_timeout=2.0)
    leader = next(member for member in team.members.values() if member.is_leader)
    other = next(member for member in team.members.values() if not member.is_leader)
    del team.members[leader.name]
    began = asyncio.get_running_loop().time()
    await leader.close()
    assert any(member.is_leader for member in team.members.values()), "before it was gone"
    await other.submit(Counter.add, 1)
    assert asyncio.get_running_loop().time() - began < 1.5


async def test_the_preferred_member_leads(team: Team) -> None:
    options = {"election_timeout": 0.2, "heartbeat_interval": 0.02}
    for name in "abc":
        team.members[name] = team.make(name, priority=5 if name == "b" else None, **options)
        await team.members[name].start()
    preferred = team.members["b"]
    await eventually(
        lambda: preferred.is_leader and [info.priority for info in preferred.members].count(5) == 1
    )


async def test_lease_reads_are_answered(team: Team) -> None:
    member = await team.start("a", "b", "c", lease_reads=True)
    for total in range(1, 20):
        assert await member.submit(Counter.add, 1) == total
        for other in team.members.values():
            assert await other.query(Counter.read) == total


# ── reads that may be a little old, and sessions ───────────────────────────────────────────────────────────


async def test_a_stale_query_asks_nobody_while_a_confirmed_one_is_recent_enough(team: Team) -> None:
    member = await team.start("a", "b", "c")
    await member.submit(Counter.add, 3)
    await member.query(Counter.read)
    for name in [name for name in team.members if name != member.name]:
        await team.members.pop(name).close()
    assert await member.stale(600.0).within(0.2).query(Counter.read) == 3
    with pytest.raises(oarlock.RequestTimeout):
        await member.within(0.2).stale(0.001).query(Counter.read)
    with pytest.raises(oarlock.UsageError, match="max_staleness is a positive number"):
        member.stale(0)


async def test_a_session_executes_a_command_once_and_is_taken_up_elsewhere(team: Team) -> None:
    member = await team.start("a", "b", "c")
    other = next(one for one in team.members.values() if one is not member)
    async with await member.session() as session:
        assert await session.submit(Counter.add, 5) == 5
        assert sorted(await asyncio.gather(*(session.submit(Counter.add, 1) for _ in range(5)))) == [
            6,
            7,
            8,
            9,
            10,
        ]
        assert session.next_serial == 7
        again = other.resume_session(session.id, 6)
        assert await again.submit(Counter.add, 1) in range(6, 11), "the answer that it had"
        assert await other.query(Counter.read) == 10
        assert await again.submit(Counter.add, 1) == 11
        with pytest.raises(oarlock.CommandFailed, match="below zero"):
            await again.submit(Counter.add, -100)
        with pytest.raises(oarlock.UsageError, match="is not a method"):
            await again.submit(Other.add, 1)  # type: ignore[arg-type]
        await again.leave()
    with pytest.raises(oarlock.SessionExpired):
        await session.submit(Counter.add, 1)
    with pytest.raises(oarlock.SessionExpired):
        await other.resume_session(session.id, 20).submit(Counter.add, 1)
    assert await other.query(Counter.read) == 11


async def test_a_session_repeats_by_itself_while_the_leader_is_replaced(team: Team) -> None:
    await team.start("a", "b", "c", election_timeout=0.2, heartbeat_interval=0.02)
    leader = next(member for member in team.members.values() if member.is_leader)
    other = next(member for member in team.members.values() if not member.is_leader)
    async with await other.session() as session:
        pending = [asyncio.ensure_future(session.submit(Counter.add, 1)) for _ in range(50)]
        await asyncio.sleep(0)
        await team.members.pop(leader.name).close()
        assert sorted(await asyncio.gather(*pending)) == list(range(1, 51))


async def test_a_session_repeats_a_command_whose_outcome_got_lost(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.peers = {"a": team.peers["a"]}
    member = await team.start("a")
    async with await member.session() as session:
        assert member._runtime is not None
        submit = member._runtime.submit
        lost: list[type[Exception]] = [oarlock.OutcomeUnknown, oarlock.Busy]

        async def lose(*arguments: Any, **named: Any) -> Any:
            result = await submit(*arguments, **named)
            if lost:
                raise lost.pop()
            return result

        monkeypatch.setattr(member._runtime, "submit", lose)
        assert await session.submit(Counter.add, 5) == 5
        assert not lost
        assert member.peek(Counter.read) == 5


async def test_a_session_keeps_itself_alive_and_expires_when_nobody_does(team: Team) -> None:
    team.peers = {"a": team.peers["a"]}
    member = await team.start("a")
    session = await member.session(timeout=0.5)
    left = await member.session(timeout=0.5)
    await left.leave()
    await asyncio.sleep(1.2)
    assert await session.submit(Counter.add, 1) == 1
    with pytest.raises(oarlock.SessionExpired):
        await left.submit(Counter.add, 1)
    with pytest.raises(oarlock.SessionExpired):
        await left.submit(Counter.add, 1)
    with pytest.raises(oarlock.UsageError):
        await member.session(timeout=0)
    with pytest.raises(oarlock.UsageError):
        member.resume_session(0, 1)


async def test_a_session_says_when_its_time_is_out_and_whether_it_is_in_doubt(team: Team) -> None:
    member = await team.start("a", "b", "c")
    session = await member.session()
    for name in [name for name in team.members if name != member.name]:
        await team.members.pop(name).close()
    await eventually(lambda: not member.is_leader and member.leader is None)
    session._patience = 0.3
    with pytest.raises(oarlock.RequestTimeout) as error:
        await session.submit(Counter.add, 1)
    assert not error.value.outcome_unknown
    await member.close()
    with pytest.raises(oarlock.Stopped):
        await session.submit(Counter.add, 1)


async def test_the_status_tells_who_leads_and_how_the_members_are(team: Team) -> None:
    await team.start("a", "b", "c")
    leader = next(member for member in team.members.values() if member.is_leader)
    await leader.submit(Counter.add, 1)
    status = leader.status()
    assert status.role == "leader"
    assert status.name == leader.name
    assert {peer.name for peer in status.peers} == {"a", "b", "c"} - {leader.name}
    await eventually(
        lambda: all(
            peer.connection is not None
            and peer.connection.connected
            and peer.progress is not None
            and peer.progress.state == "replicate"
            for peer in leader.status().peers
        )
    )
    assert status.disk.last_write is not None
    assert msgspec.json.decode(msgspec.json.encode(status), type=oarlock.Status) == status
