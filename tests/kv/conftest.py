"""One store in a temporary directory, and a hand to feed it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oarlock.etcd_pb import kv_pb2, rpc_pb2
from oarlock.kv import DELETE_RANGE, PUT, RangeResult, Store
from oarlock.machine.ports import Command


class Feeder:
    """Plays the replica: hands commands to the store with consecutive indexes."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def apply(self, *datas: bytes) -> list[Any]:
        first = self.store.applied_index + 1
        commands = [Command(first + number, 1, data) for number, data in enumerate(datas)]
        return self.store.apply(commands, first + len(datas) - 1)

    def put(self, key: bytes, value: bytes = b"", **options: Any) -> Any:
        return self.apply(put_command(key, value, **options))[0]

    def delete(self, key: bytes, range_end: bytes = b"", **options: Any) -> Any:
        request = rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, **options)
        return self.apply(DELETE_RANGE + request.SerializeToString())[0]

    def range(self, key: bytes, range_end: bytes = b"", **options: Any) -> RangeResult:
        return self.store.range(rpc_pb2.RangeRequest(key=key, range_end=range_end, **options))

    def keys(self, key: bytes, range_end: bytes = b"", **options: Any) -> list[bytes]:
        return [pair.key for pair in pairs(self.range(key, range_end, **options))]


def put_command(key: bytes, value: bytes = b"", **options: Any) -> bytes:
    return PUT + rpc_pb2.PutRequest(key=key, value=value, **options).SerializeToString()


def pairs(result: RangeResult) -> list[kv_pb2.KeyValue]:
    return [kv_pb2.KeyValue.FromString(encoded) for encoded in result.kvs]


@pytest.fixture
def kv(tmp_path: Path) -> Iterator[Feeder]:
    store = Store.open(tmp_path / "kv")
    yield Feeder(store)
    store.close()
