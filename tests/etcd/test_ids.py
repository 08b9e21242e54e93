"""Ids are etcd's ids: a real etcd with the same flags is the judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from oarlock.client import Client
from oarlock.etcd import cluster_id, member_id
from oarlock.server.processes import ProcessCluster


@pytest.mark.processes
@pytest.mark.parametrize("size", [1, 3])
async def test_ids_are_those_of_a_real_etcd(tmp_path: Path, etcd_binary: str, size: int) -> None:
    program = (etcd_binary, "--log-level", "error", "--initial-cluster-token", "a token, even an odd one")
    async with ProcessCluster(tmp_path, size=size, program=program) as cluster:
        async with Client(cluster.endpoints) as client:
            found = await client.members()
        ours = {
            member.name: member_id(member.peer_urls, "a token, even an odd one") for member in found.members
        }
        assert ours == {member.name: member.id for member in found.members}
        assert len(ours) == size
        assert cluster_id(ours.values()) == found.header.cluster_id


def test_the_order_of_urls_does_not_matter_but_the_token_does() -> None:
    urls = ["http://b:2380", "http://a:2380"]
    assert member_id(urls, "t") == member_id(reversed(urls), "t") != member_id(urls, "u")


def test_a_member_that_joins_later_has_another_id_each_time() -> None:
    assert len({member_id(["http://a:2380"], "t", when) for when in (None, 1, 2)}) == 3


def test_the_order_of_members_does_not_matter() -> None:
    assert cluster_id([3, 1, 2]) == cluster_id([1, 2, 3]) != cluster_id([1, 2])
