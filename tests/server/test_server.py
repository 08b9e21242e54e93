"""One member in this process: it starts, serves, stops in good order, and comes back with its data."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from oarlock.client import Client
from oarlock.errors import DataDirError, RequestTimeout, UsageError
from oarlock.raft import Configuration
from oarlock.replica import Status
from oarlock.server.config import Address, Settings, load_settings
from oarlock.server.health import HealthPages
from oarlock.server.joining import initial_configuration
from oarlock.server.processes import HOST, PortReservation, http_get
from oarlock.server.server import Server

from ..polling import eventually


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    ports = PortReservation()
    flags = [
        *("--name", "a", "--data-dir", str(tmp_path / "data")),
        *("--listen-client-urls", f"http://{HOST}:{ports.take()}"),
        *("--listen-peer-urls", f"http://{HOST}:{ports.take()}"),
        *("--heartbeat-interval", "20", "--election-timeout", "100"),
    ]
    yield load_settings(flags, {})
    ports.close()


def endpoint(settings: Settings) -> str:
    return f"{HOST}:{settings.listen_client[0].port}"


async def test_what_was_put_before_a_clean_stop_is_there_after_the_next_start(settings: Settings) -> None:
    for expected in ([], [b"1"], [b"2"]):
        server = Server(settings)
        await server.start()
        try:
            async with Client(endpoint(settings)) as client:
                assert [kv.value for kv in (await client.get("a")).kvs] == expected
                await client.put("a", str(int((expected or [b"0"])[0]) + 1))
        finally:
            await server.close()
        last_use = json.loads((settings.data_dir / "LAST_USE").read_text())
        assert last_use["closed"] is True


async def test_a_name_that_stands_for_an_address_too_many_is_listened_on_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in most containers: localhost is 127.0.0.1 and ::1, and there is no IPv6."""
    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def ambiguous(host: str, port: int, **options: Any) -> list[Any]:
        found = await look_up(HOST, port, **options)
        # An address that is kept for documents is no machine's.
        elsewhere = [(*entry, ("192.0.2.1", port)) for *entry, _ in found]
        return elsewhere + found if host == "localhost" else await look_up(host, port, **options)

    monkeypatch.setattr(loop, "getaddrinfo", ambiguous)
    places = [
        Address(f"http://localhost:{place.port}", "localhost", place.port)
        for place in (*settings.listen_client, *settings.listen_peer)
    ]
    server = Server(replace(settings, listen_client=(places[0],), listen_peer=(places[1],)))
    await server.start()
    try:
        async with Client(endpoint(settings)) as client:
            await client.put("a", "1")
    finally:
        await server.close()


async def test_an_address_that_is_not_ours_is_refused(settings: Settings) -> None:
    foreign = Address("http://192.0.2.1:1", "192.0.2.1", 1)
    with pytest.raises(UsageError, match=r"192\.0\.2\.1:1"):
        await Server(replace(settings, listen_client=(foreign,))).start()


async def test_after_a_power_cut_the_store_is_rebuilt_from_the_log(settings: Settings) -> None:
    server = Server(settings)
    await server.start()
    async with Client(endpoint(settings)) as client:
        for number in range(20):
            await client.put(f"{number:02}", "x")
        before = await client.get("", prefix=True)
    await server.close()
    # What a power cut leaves: another boot id, no clean mark, and a store that may hold anything.
    (settings.data_dir / "LAST_USE").write_text('{"boot_id":"another","closed":false}')
    store = settings.data_dir / "kv" / "data.mdb"
    with store.open("r+b") as file:
        file.seek(8192)
        file.write(b"garbage" * 1000)
    server = Server(settings)
    await server.start()
    try:
        async with Client(endpoint(settings)) as client:
            after = await client.get("", prefix=True)
            assert after.kvs == before.kvs
            assert after.header.revision == before.header.revision
    finally:
        await server.close()


async def test_health_and_version_have_etcds_shape(settings: Settings) -> None:
    server = Server(settings)
    await server.start()
    try:
        port = settings.listen_client[0].port
        async with Client(endpoint(settings)) as client:
            await client.get("a")  # answered by a leader: there is one now
        assert json.loads((await http_get(port, "/health"))[1]) == {"health": "true", "reason": ""}
        version = json.loads((await http_get(port, "/version"))[1])
        assert version == {"etcdserver": "3.5.1", "etcdcluster": "3.5.0"}
        assert (await http_get(port, "/nothing"))[0] == 404
    finally:
        await server.close()


async def test_a_member_without_a_quorum_is_alive_but_not_healthy(settings: Settings, tmp_path: Path) -> None:
    ports = PortReservation()
    peer = settings.listen_peer[0].url
    flags = [
        *("--name", "a", "--data-dir", str(tmp_path / "lonely"), "--listen-peer-urls", peer),
        *("--listen-client-urls", settings.listen_client[0].url),
        *("--initial-cluster", f"a={peer},b=http://{HOST}:{ports.take()}"),
    ]
    server = Server(load_settings(flags, {}))
    await server.start()
    try:
        port = settings.listen_client[0].port
        status, body = await http_get(port, "/health")
        assert (status, json.loads(body)) == (503, {"health": "false", "reason": "RAFT NO LEADER"})
        assert (await http_get(port, "/health?serializable=true"))[0] == 200
        assert (await http_get(port, "/livez"))[0] == 200
        assert (await http_get(port, "/readyz"))[0] == 503
    finally:
        await server.close()
        ports.close()


async def test_a_member_is_ready_once_it_has_caught_up() -> None:
    class Replica:
        leader_id = 0
        caught_up = asyncio.Event()

        async def barrier(self, timeout: float | None = None) -> None:
            if not self.caught_up.is_set():
                await asyncio.sleep(0)
                raise RequestTimeout(0, outcome_unknown=False)

        def status(self) -> None: ...

    replica = Replica()
    pages = HealthPages(replica, retry=0.0)
    watching = asyncio.create_task(pages.watch())

    def ask(page: str) -> tuple[int, bytes]:
        status, _, body = pages("GET", page, [])
        return status, body

    assert ask("/livez") == (200, b"ok\n")
    assert ask("/readyz") == (503, b"[-]leader failed: no leader is known\n")
    replica.leader_id = 1
    await asyncio.sleep(0)
    assert ask("/health")[0] == 200
    assert ask("/readyz")[0] == 503
    replica.caught_up.set()
    await watching
    assert ask("/readyz") == (200, b"ok\n")
    replica.leader_id = 0
    assert ask("/readyz")[0] == 503


async def test_the_status_page_tells_what_doctor_reads(settings: Settings) -> None:
    server = Server(settings)
    await server.start()
    try:
        body = (await http_get(settings.listen_client[0].port, "/status"))[1]
        status = msgspec.json.decode(body, type=Status)
        assert (status.id, status.cluster_id) == (f"{server.node_id:x}", f"{server.cluster_id:x}")
        assert status.configuration.voters == (status.id,)
        assert status.version
    finally:
        await server.close()


def test_all_members_begin_with_the_same_configuration_however_it_is_written() -> None:
    """It is the first entry of everybody's log."""

    def made(name: str, cluster: str) -> Configuration:
        client = f"http://127.0.0.1:{4000 + ord(name)}"
        flags = ["--name", name, "--initial-cluster", cluster, "--listen-client-urls", client]
        return initial_configuration(load_settings(flags, {}))

    assert made("a", "a=http://h:1,b=http://h:2,b=http://h:3") == made(
        "b", "b=http://h:3,a=http://h:1,b=http://h:2"
    )


async def test_a_member_tells_the_others_its_client_urls_through_the_log(settings: Settings) -> None:
    server = Server(settings)
    await server.start()
    try:
        async with Client(endpoint(settings)) as client:

            async def told() -> bool:
                urls = [member.client_urls for member in (await client.members()).members]
                return urls == [[f"http://{endpoint(settings)}"]]

            await eventually(told)
    finally:
        await server.close()


async def test_a_failed_start_leaves_nothing_open(settings: Settings) -> None:
    async with await asyncio.start_server(lambda r, w: None, HOST, settings.listen_client[0].port):
        with pytest.raises(UsageError, match="--listen-client-urls: cannot listen on"):
            await Server(settings).start()
    server = Server(settings)
    await server.start()  # neither the data directory nor the peer port is held
    await server.close()


async def test_a_second_server_on_the_same_directory_is_refused(settings: Settings) -> None:
    server = Server(settings)
    await server.start()
    try:
        with pytest.raises(DataDirError, match="in use"):
            await Server(settings).start()
    finally:
        await server.close()


async def test_closing_twice_is_harmless(settings: Settings) -> None:
    server = Server(settings)
    await server.start()
    await server.close()
    await server.close()
