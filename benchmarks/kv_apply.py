#!/usr/bin/env python3
"""What one put costs in the store, on a follower and on the leader, and one read; medians, in µs of CPU.

Usage: python benchmarks/kv_apply.py [--keys N] [--batch N] [--rounds N] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from oarlock.etcd.header import Headers, field
from oarlock.etcd_pb import rpc_pb2
from oarlock.kv import PUT, PutResult, Store
from oarlock.kv.commands import decode
from oarlock.machine.ports import Command

VALUE = bytes(range(256))


class FixedReplica:
    """As much of a replica as headers ask for."""

    cluster_id = 0xCDF818194E3A8C32
    node_id = 0x8E9E05C52164694D
    term = 3


def put_bytes(number: int, keys: int) -> bytes:
    # A prime step: neighbours in time are not neighbours in the tree.
    request = rpc_pb2.PutRequest(key=b"key/%010d" % (number * 7919 % keys), value=VALUE)
    return PUT + request.SerializeToString()


def batches(store: Store, rounds: int, size: int, keys: int, *, leader: bool) -> list[float]:
    """µs per put of each batch."""
    costs = []
    index = store.applied_index
    for _ in range(rounds):
        datas = [put_bytes(index + number, keys) for number in range(size)]
        # On the leader decoding has been paid for where the request came in.
        requests: list[Any] = [decode(data) if leader else None for data in datas]
        start = time.thread_time()
        commands = [
            Command(index + 1 + number, 1, data, request)
            for number, (data, request) in enumerate(zip(datas, requests, strict=True))
        ]
        store.apply(commands, index + size)
        costs.append((time.thread_time() - start) / size * 1e6)
        index += size
    return costs


def each(work: Callable[[], object], times: int = 5000) -> float:
    """Median µs of one call, over 20 parts."""
    parts = []
    for _ in range(20):
        start = time.thread_time()
        for _ in range(times // 20):
            work()
        parts.append((time.thread_time() - start) / (times // 20) * 1e6)
    return statistics.median(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--profile", action="store_true", help="show where an apply spends its time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = Store.open(directory)
        batches(store, options.rounds, options.batch, options.keys, leader=False)  # grow and warm up
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(batches, store, options.rounds, options.batch, options.keys, leader=False)
            pstats.Stats(profile).sort_stats("tottime").print_stats(14)
        for name, leader in (("follower", False), ("leader", True)):
            costs = batches(store, options.rounds, options.batch, options.keys, leader=leader)
            print(f"apply, {name:9} {statistics.median(costs):6.2f} µs per put, batches of {options.batch}")
        headers = Headers(FixedReplica())  # type: ignore[arg-type]
        result = PutResult(123_456)
        print(f"put response     {each(lambda: headers.encode(result.revision)):6.2f} µs")
        read = rpc_pb2.RangeRequest(key=b"key/%010d" % 4711)
        print(f"get, one key     {each(lambda: store.range(read)):6.2f} µs")
        many = rpc_pb2.RangeRequest(key=b"key/", range_end=b"key0", limit=100)
        found = store.range(many)
        pairs = lambda: b"".join([field(b"\x12", pair) for pair in found.kvs])  # noqa: E731
        print(f"range, 100 of {found.count} keys {each(lambda: store.range(many), 100):8.1f} µs")
        print(f"  encoding the 100 {each(pairs, 500):4.1f} µs")
        store.close()


if __name__ == "__main__":
    main()
