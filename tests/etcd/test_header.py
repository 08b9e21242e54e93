"""Hand-encoded headers are what protobuf would have made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from oarlock.etcd.header import Headers, varint
from oarlock.etcd_pb import rpc_pb2
from oarlock.kv import Store

from .single import LocalReplica


@pytest.mark.parametrize(
    "number", [0, 1, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**32, 2**63 - 1, 2**64 - 1]
)
def test_varints_are_protobufs(number: int) -> None:
    expected = rpc_pb2.ResponseHeader(cluster_id=number).SerializeToString()
    assert (b"\x08" + varint(number) if number else b"") == expected


@pytest.mark.parametrize("revision", [1, 2, 126, 127, 128, 129, 255, 256, 300, 70_000, 2**40, 2**63 - 1])
@pytest.mark.parametrize("term", [0, 1, 2**40])
def test_an_encoded_header_decodes_to_its_parts(tmp_path: Path, revision: int, term: int) -> None:
    store = Store.open(tmp_path)
    replica = LocalReplica(store)
    store.close()
    headers = Headers(replica)
    headers.encode(5)
    replica.term = term  # a new term is noticed
    response = rpc_pb2.PutResponse.FromString(headers.encode(revision))
    assert response == rpc_pb2.PutResponse(header=headers.message(revision))
    assert response.SerializeToString() == headers.encode(revision), "not the shortest form"
    assert response.header.raft_term == term
