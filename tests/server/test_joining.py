"""Who a member is: from its data, from its flags, or from the cluster that it joins."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oarlock.client import Client
from oarlock.errors import DataDirError, UsageError
from oarlock.server import joining
from oarlock.server.config import Settings, load_settings
from oarlock.server.processes import HOST, PortReservation, http_get
from oarlock.server.server import Server
from oarlock.storage import DataDir
from oarlock.wire.handshake import Join, Refusal

from ..polling import eventually


class Place:
    """Room for members: ports and directories. `stop` closes what still runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ports = PortReservation()
        self._running: list[Server] = []

    def settings(self, name: str, *flags: str) -> Settings:
        return load_settings(
            [
                *("--name", name, "--data-dir", str(self._path / name)),
                *("--listen-client-urls", f"http://{HOST}:{self._ports.take()}"),
                *("--listen-peer-urls", f"http://{HOST}:{self._ports.take()}"),
                *("--heartbeat-interval", "20", "--election-timeout", "100"),
                *flags,
            ],
            {},
        )

    async def start(self, settings: Settings) -> Server:
        server = Server(settings)
        await server.start()
        self._running.append(server)
        return server

    async def stop(self, *servers: Server) -> None:
        for server in servers or tuple(self._running):
            self._running.remove(server)
            await server.close()

    def close(self) -> None:
        self._ports.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.stop()
    made.close()


def client_of(server: Server) -> Client:
    return Client(f"{HOST}:{server.settings.listen_client[0].port}", timeout=10)


async def until_voter(client: Client, name: str) -> None:
    async def votes() -> bool:
        return any(m.name == name and not m.is_learner for m in (await client.members()).members)

    await eventually(votes)


async def test_a_joiner_that_was_killed_before_it_had_a_log_finds_the_others_again(place: Place) -> None:
    first = await place.start(place.settings("a"))
    joiner = place.settings("b", "--join", first.settings.advertise_peer_urls[0])
    async with client_of(first) as client:
        added = await client.member_add(joiner.advertise_peer_urls)
        data = DataDir.open(joiner.data_dir, cluster_id=first.cluster_id, member_id=added.member.id)
        data.close(clean=False)  # all that it left
        await place.start(joiner)
        await until_voter(client, "b")


async def test_one_address_is_enough_to_join_and_the_data_follows(place: Place) -> None:
    first = await place.start(place.settings("a"))
    joiner = place.settings("b", "--join", first.settings.advertise_peer_urls[0])
    async with client_of(first) as client:
        await client.put("k", "v")
        added = await client.member_add(list(joiner.advertise_peer_urls))
        second = await place.start(joiner)
        assert (second.node_id, second.cluster_id) == (added.member.id, first.cluster_id)
        await until_voter(client, "b")
    async with client_of(second) as client:
        assert (await client.get("k")).kvs[0].value == b"v"
        members = {member.name: member for member in (await client.members()).members}
        assert members["b"].client_urls == list(joiner.advertise_client_urls)

    async def ready() -> bool:
        return (await http_get(joiner.listen_client[0].port, "/readyz"))[0] == 200

    await eventually(ready)


async def test_etcds_way_of_joining_works_too(place: Place) -> None:
    first = await place.start(place.settings("a"))
    joiner = place.settings("b")
    own, other = joiner.advertise_peer_urls[0], first.settings.advertise_peer_urls[0]
    flags = ("--initial-cluster", f"a={other},b={own}", "--initial-cluster-state", "existing")
    joiner = place.settings("b", "--listen-peer-urls", own, *flags)
    async with client_of(first) as client:
        await client.member_add([own])
        await place.start(joiner)
        await until_voter(client, "b")


async def test_a_server_that_nobody_added_is_told_what_to_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "REFUSED_SECONDS", 0.0)
    first = await place.start(place.settings("a"))
    stranger = place.settings("b", "--join", first.settings.advertise_peer_urls[0])
    with pytest.raises(UsageError, match="add it first with `oarlock member add`"):
        await place.start(stranger)
    assert not stranger.data_dir.exists(), "it may try again as anything"


async def test_a_member_that_is_starting_sends_the_asker_elsewhere(place: Place) -> None:
    """It listens to other members before it has read its log."""
    answer = Server(place.settings("a"))._answer_join(Join(1, 1, ("http://127.0.0.1:1",), "b"))
    assert isinstance(answer, Refusal)
    assert "does not know the members yet: ask another one" in answer.reason


async def test_a_cluster_that_cannot_be_reached_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "ASK_SECONDS", 0.0)
    with pytest.raises(UsageError, match=r"cannot join the cluster: http://127\.0\.0\.1:1: "):
        await place.start(place.settings("b", "--join", "http://127.0.0.1:1"))


async def test_a_member_that_lost_its_data_does_not_come_back_under_its_id(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has forgotten what it acknowledged: as a learner too, for the leader counts on that."""
    monkeypatch.setattr(joining, "REFUSED_SECONDS", 0.0)
    first = await place.start(place.settings("a"))
    joiner = place.settings("b", "--join", first.settings.advertise_peer_urls[0])
    async with client_of(first) as client:
        await client.member_add(list(joiner.advertise_peer_urls), learner=True)
        second = await place.start(joiner)

        async def told() -> bool:
            return all(member.name for member in (await client.members()).members)

        await eventually(told)
        await place.stop(second)
        shutil.rmtree(joiner.data_dir)
        with pytest.raises(UsageError, match=r"was started before, and its data is gone.*Remove it with"):
            await place.start(joiner)


async def test_a_member_with_data_knows_who_it_is_whatever_its_flags_say(place: Place) -> None:
    """Members come and go: flags that were written at the beginning are no longer true."""
    settings = place.settings("a")
    first = await place.start(settings)
    node_id, cluster_id = first.node_id, first.cluster_id
    async with client_of(first) as client:
        await client.put("k", "v")
    await place.stop(first)
    nobody = ("--initial-cluster-token", "other", "--join", "http://127.0.0.1:1")
    again = await place.start(place.settings("a", *nobody))
    assert (again.node_id, again.cluster_id) == (node_id, cluster_id)
    async with client_of(again) as client:
        assert (await client.get("k")).kvs[0].value == b"v"


async def test_a_founder_that_crashed_before_it_had_a_log_founds_the_cluster_all_the_same(
    place: Place,
) -> None:
    settings = place.settings("a")
    first = await place.start(settings)
    await place.stop(first)
    shutil.rmtree(settings.data_dir / "wal")
    shutil.rmtree(settings.data_dir / "kv")
    again = await place.start(settings)
    async with client_of(again) as client:
        await client.put("k", "v")


async def test_a_joining_member_that_crashed_before_it_had_a_log_asks_again(place: Place) -> None:
    first = await place.start(place.settings("a"))
    joiner = place.settings("b", "--join", first.settings.advertise_peer_urls[0])
    async with client_of(first) as client:
        await client.member_add(list(joiner.advertise_peer_urls))
        # What the crash left: it knows who it is, and nothing else.
        identity = await joining.identify(joiner)
        joining.DataDir.open(
            joiner.data_dir, cluster_id=identity.cluster_id, member_id=identity.node_id
        ).close(clean=False)
        await place.start(joiner)
        await until_voter(client, "b")


async def test_a_damaged_identity_is_reported_and_not_replaced(place: Place) -> None:
    settings = place.settings("a")
    await place.stop(await place.start(settings))
    (settings.data_dir / "IDENTITY").write_text("{")
    with pytest.raises(DataDirError, match="IDENTITY: damaged"):
        await place.start(settings)
    (settings.data_dir / "IDENTITY").write_text('{"format_version":1,"cluster_id":"x","member_id":"y"}')
    with pytest.raises(DataDirError, match="IDENTITY"):
        await place.start(settings)


async def test_a_name_that_is_taken_is_told_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """The member works all the same; but it stays unstarted in the list, and its client URLs unknown."""
    first = await place.start(place.settings("a"))
    joiner = place.settings("b", "--name", "a", "--join", first.settings.advertise_peer_urls[0])
    async with client_of(first) as client:
        added = await client.member_add(list(joiner.advertise_peer_urls))
        await place.start(joiner)

        async def told() -> bool:
            return "cannot be told this member's name and addresses" in caplog.text

        await eventually(told)
        await asyncio.sleep(3 * 2 * joiner.election_timeout)  # it goes on trying
        assert caplog.text.count("there is a member of the name 'a' already") == 1
        left = await client.member_remove(added.member.id)
        assert len(left.members) == 1


async def test_updates_through_different_members_do_not_undo_each_other(place: Place) -> None:
    """Each says all about a member, as it was seen there: what came in between must not be lost."""
    first = await place.start(place.settings("a"))
    joiner = place.settings("b", "--join", first.settings.advertise_peer_urls[0])
    async with client_of(first) as one:
        await one.member_add(list(joiner.advertise_peer_urls))
        second = await place.start(joiner)
        await until_voter(one, "b")
        learner = (await one.member_add(["http://127.0.0.1:1"], learner=True)).member.id

        def described() -> tuple[str, int]:
            member = first.replica.committed_configuration.member(learner)
            assert member is not None
            return member.peer_urls[0], member.priority

        async def move() -> None:
            for number in range(2, 42):
                await one.member_update(learner, [f"http://127.0.0.1:{number}"])
                await asyncio.sleep(0)
                assert described()[0] == f"http://127.0.0.1:{number}"

        async def prefer(other: Client) -> None:
            for number in range(1, 41):
                await other.change_members(priorities={learner: number})
                await asyncio.sleep(0)
                assert described()[1] == number

        async with client_of(second) as other:
            await asyncio.gather(move(), prefer(other))
            assert described() == ("http://127.0.0.1:41", 40)
