"""How a real process starts, stops and fails."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from oarlock.client import Client
from oarlock.errors import OutcomeUnknown
from oarlock.grpc import RpcError
from oarlock.server.processes import ProcessCluster

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_soon_with_code_0_and_a_clean_mark(tmp_path: Path, number: int) -> None:
    async with ProcessCluster(tmp_path, size=1) as cluster:
        member = cluster.members[0]
        async with Client(cluster.endpoints) as client:  # an idle connection must not delay the end
            await client.put("a", "1")
            os.kill(member.pid, number)
            began = time.monotonic()
            assert await asyncio.to_thread(member.terminate) == 0
            assert time.monotonic() - began < 3
        assert json.loads((tmp_path / "m1" / "LAST_USE").read_text())["closed"] is True
        assert member.log_tail(1).endswith("stopped")


async def test_requests_under_way_when_it_is_told_to_stop_are_answered(tmp_path: Path) -> None:
    async with ProcessCluster(tmp_path, size=1) as cluster:
        member = cluster.members[0]
        async with Client(cluster.endpoints, timeout=1) as client:
            puts = [asyncio.create_task(client.put(f"{number}", "x")) for number in range(200)]
            await puts[0]
            member.signal(signal.SIGTERM)
            results = await asyncio.gather(*puts, return_exceptions=True)
        assert await asyncio.to_thread(member.terminate) == 0
        answered = [number for number, result in enumerate(results) if not isinstance(result, BaseException)]
        assert answered
        member.start()
        await member.wait_ready()
        async with Client(cluster.endpoints) as client:
            held = {kv.key for kv in (await client.get("", prefix=True)).kvs}
        assert {b"%d" % number for number in answered} <= held


async def test_asking_again_while_it_stops_does_not_spoil_its_end(tmp_path: Path) -> None:
    async with ProcessCluster(tmp_path, size=1) as cluster:
        member = cluster.members[0]
        while member.running:  # impatient, down to the interpreter's last moments
            member.signal(signal.SIGTERM)
            await asyncio.sleep(0)
        assert member.terminate() == 0
        assert member.log_tail(1).endswith("stopped")


async def test_a_disk_that_fails_ends_the_process_with_one_line_and_loses_nothing(tmp_path: Path) -> None:
    async with ProcessCluster(tmp_path, size=1) as cluster:
        member = cluster.members[0]
        async with Client(cluster.endpoints, timeout=3) as client:
            await client.put("large", "x" * 300_000)
            await client.put("before", "1")
            # From now on the kernel refuses to write where the log's end is.
            resource.prlimit(member.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
            with pytest.raises((RpcError, OutcomeUnknown)):
                await client.put("during", "2")
        assert await asyncio.to_thread(member.wait, 10.0) == 1
        lines = [line for line in member.log_tail(20).splitlines() if "ERROR" in line]
        assert len(lines) == 1
        assert "this member stops" in lines[0]
        assert "the disk failed" in lines[0]
        assert "Traceback" not in member.log_tail(20)
        member.start()
        await member.wait_ready()
        async with Client(cluster.endpoints) as client:
            assert (await client.get("before")).kvs[0].value == b"1"


async def test_members_that_were_started_one_after_the_other_form_one_cluster(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path)
    try:
        for member in cluster.members:
            member.start()
            await asyncio.sleep(0.3)
        await cluster.wait_ready()
        async with Client(cluster.endpoints[2]) as client:
            await client.put("a", "1")
            members = (await client.members()).members
        assert sorted(member.name for member in members) == ["m1", "m2", "m3"]
        for endpoint in cluster.endpoints:
            async with Client(endpoint) as client:
                assert (await client.get("a")).kvs[0].value == b"1"
    finally:
        cluster.close()


async def test_requests_may_be_as_large_as_the_flag_says(tmp_path: Path) -> None:
    """Through a follower too: one command then fills a message between members."""
    flags = ("--max-request-bytes", str(12 << 20))
    async with ProcessCluster(tmp_path, flags=flags) as cluster:
        value = os.urandom(10 << 20)
        for endpoint in cluster.endpoints:
            async with Client(endpoint, timeout=20) as client:
                await client.put("large", value)
                assert (await client.get("large")).kvs[0].value == value
                with pytest.raises(RpcError, match=r"request is too large|larger than max"):
                    await client.put("larger", value + value)
