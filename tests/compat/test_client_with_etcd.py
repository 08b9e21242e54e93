"""Our client against a real etcd: it is a client for any etcd v3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from oarlock.client import Client
from oarlock.grpc import RpcError
from oarlock.server.processes import ProcessCluster


@pytest.mark.processes
async def test_our_client_works_with_a_real_etcd_and_outlives_one_of_its_members(
    tmp_path: Path, etcd_binary: str
) -> None:
    program = (etcd_binary, "--log-level", "error", "--unsafe-no-fsync")
    async with (
        ProcessCluster(tmp_path, size=3, program=program) as cluster,
        Client(cluster.endpoints, timeout=20) as client,
    ):
        for number in range(10):
            await client.put(f"k{number}", str(number))
        cluster.members[0].kill()
        found = await client.get("k", prefix=True, limit=3)
        assert ([pair.value for pair in found.kvs], found.count, found.more) == ([b"0", b"1", b"2"], 10, True)
        assert (await client.put("k0", "x", prev_kv=True)).prev_kv is not None
        assert (await client.delete("k", prefix=True)).deleted == 10
        assert (await client.status()).leader in {member.id for member in (await client.members()).members}
        assert (await client.hash_kv()).hash
        with pytest.raises(RpcError, match="etcdserver: key is not provided"):
            await client.put("", "")
