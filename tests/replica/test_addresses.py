"""Whom the transport is told of, as configurations come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest

from oarlock.errors import UsageError
from oarlock.raft import Configuration, Member, Raft
from oarlock.replica.addresses import Addresses
from oarlock.replica.ports import Transport

TIMEOUT = 0.5


def member(id_: int, *urls: str) -> Member:
    return Member(id_, f"m{id_}", urls or (f"http://h{id_}:1",))


def configuration(*ids: int, **fields: Any) -> Configuration:
    return Configuration(ids, **{"members": tuple(map(member, ids)), **fields})


class World:
    """A core with two configurations, and a transport that writes down what it is told."""

    class config:
        election_timeout = TIMEOUT

    id = 1

    def __init__(self, now: Configuration, peers: Iterable[Member] = ()) -> None:
        self.configuration = self.committed_configuration = now
        self.told: dict[int, tuple[str, ...]] = {}
        self.removed: list[int] = []
        self.calls = 0
        self.addresses = Addresses(cast(Raft, self), cast(Transport, self), 7, tuple(peers))

    def set_members(self, group: int, members: Iterable[Member]) -> None:
        members = list(members)
        for member in members:
            if "bad" in member.peer_urls[0]:
                raise UsageError(f"peer URL {member.peer_urls[0]!r}")
        self.calls += 1
        self.told = {member.id: member.peer_urls for member in members if member.id != self.id}

    def set_removed(self, group: int, removed: Iterable[int]) -> None:
        self.removed = list(removed)


async def test_the_others_are_told_where_the_log_says_that_they_are_and_only_once() -> None:
    world = World(configuration(1, 2, 3))
    world.addresses.update()
    world.addresses.update()
    assert world.told == {2: ("http://h2:1",), 3: ("http://h3:1",)}
    assert world.calls == 1


async def test_addresses_given_at_the_start_are_tried_beside_those_in_the_log() -> None:
    given = (member(2, "http://moved:2", "http://h2:1"), member(1, "http://self:1"), member(9))
    world = World(configuration(1, 2, 3), given)
    world.addresses.update()
    assert world.told == {2: ("http://h2:1", "http://moved:2"), 3: ("http://h3:1",)}


async def test_without_a_log_the_given_ones_are_all_there_is() -> None:
    world = World(Configuration(), (member(2), member(9)))
    world.addresses.update()
    assert sorted(world.told) == [2, 9]
    world.configuration = configuration(1, 2, 3)
    world.addresses.update()
    assert sorted(world.told) == [2, 3, 9]
    await asyncio.sleep(3 * TIMEOUT)
    assert sorted(world.told) == [2, 3]


async def test_old_and_new_members_are_talked_to_until_the_change_is_committed_and_a_little_longer() -> None:
    world = World(configuration(1, 2, 3))
    world.addresses.update()
    world.configuration = configuration(1, 2, 4)
    world.addresses.update()
    await asyncio.sleep(10 * TIMEOUT)
    assert sorted(world.told) == [2, 3, 4]
    world.committed_configuration = configuration(1, 2, 4, removed=(3,))
    world.addresses.update()
    assert world.removed == [3]
    assert sorted(world.told) == [2, 3, 4], "it has to be told"
    await asyncio.sleep(3 * TIMEOUT)
    assert sorted(world.told) == [2, 4]


async def test_whoever_comes_back_in_time_stays() -> None:
    world = World(configuration(1, 2, 3))
    world.addresses.update()
    world.configuration = world.committed_configuration = configuration(1, 2)
    world.addresses.update()
    world.configuration = configuration(1, 2, 3)
    world.addresses.update()
    await asyncio.sleep(10 * TIMEOUT)
    assert sorted(world.told) == [2, 3]


async def test_an_address_that_cannot_be_used_costs_no_other_member(caplog: pytest.LogCaptureFixture) -> None:
    world = World(configuration(1, 2, 3, members=(member(1), member(2, "bad"), member(3))))
    world.addresses.update()
    assert sorted(world.told) == [3]
    assert "member 2 (m2) cannot be reached from here: peer URL 'bad'" in caplog.text


async def test_closed_it_tells_nothing_more() -> None:
    world = World(configuration(1, 2, 3))
    world.addresses.update()
    world.configuration = world.committed_configuration = configuration(1, 2)
    world.addresses.update()
    world.addresses.close()
    await asyncio.sleep(10 * TIMEOUT)
    assert sorted(world.told) == [2, 3]
