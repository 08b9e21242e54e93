"""Snapshots in a whole server: written as the flag says, sent to who joins, and enough to start from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oarlock.client import Client, GetResponse
from oarlock.server.server import Server

from ..polling import eventually
from .test_joining import Place, client_of, until_voter

KEYS = 400
SOON = ("--snapshot-count", "100")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.stop()
    made.close()


async def fill(client: Client) -> GetResponse:
    for number in range(KEYS):
        await client.put(f"{number:04}", f"value {number}")
    return await client.get("", prefix=True)


async def until_snapshot(server: Server) -> None:
    async def there() -> bool:
        return server.replica.status().snapshot.index > 0

    await eventually(there)


async def test_a_store_that_a_power_cut_left_unsure_is_rebuilt_from_snapshot_and_log(place: Place) -> None:
    settings = place.settings("a", *SOON)
    server = await place.start(settings)
    async with client_of(server) as client:
        before = await fill(client)
        await until_snapshot(server)
    await place.stop(server)
    # Another boot, no clean mark, and a store that may hold anything.
    (settings.data_dir / "LAST_USE").write_text('{"boot_id":"another","closed":false}')
    with (settings.data_dir / "kv" / "data.mdb").open("r+b") as file:
        file.seek(8192)
        file.write(b"garbage" * 1000)
    server = await place.start(settings)
    async with client_of(server) as client:
        after = await client.get("", prefix=True)
    assert after.kvs == before.kvs
    assert after.header.revision == before.header.revision


async def test_a_new_member_gets_the_snapshot_and_what_came_after(place: Place) -> None:
    first = await place.start(place.settings("a", *SOON))
    async with client_of(first) as client:
        before = await fill(client)
        await until_snapshot(first)
        assert first.replica.status().first_index > 1, "the log alone is not enough"
        joiner = place.settings("b", "--join", first.settings.advertise_peer_urls[0], *SOON)
        await client.member_add(list(joiner.advertise_peer_urls))
        second = await place.start(joiner)
        await until_voter(client, "b")
        hashes = [(await client.hash_kv(before.header.revision)).hash]
    async with client_of(second) as client:
        hashes.append((await client.hash_kv(before.header.revision)).hash)
        assert (await client.get("", prefix=True)).kvs == before.kvs
    assert hashes[0] == hashes[1]
