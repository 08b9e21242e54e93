"""Requests put together from bytes decode to what protobuf itself would have encoded."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.bench.requests import key_of, put_requests, range_requests
from oarlock.errors import UsageError
from oarlock.etcd_pb import rpc_pb2


@given(st.integers(5, 256), st.integers(0, 2000), st.integers(1, 99_999))
def test_a_put_request_has_the_asked_sizes(key_size: int, value_size: int, keys: int) -> None:
    request = rpc_pb2.PutRequest.FromString(put_requests(Random(1), keys, key_size, value_size)())
    assert len(request.key) == key_size
    assert int(request.key) < keys
    assert len(request.value) == value_size


@pytest.mark.parametrize("linearizable", [True, False])
def test_a_range_request_asks_for_a_key_that_was_written(linearizable: bool) -> None:
    request = rpc_pb2.RangeRequest.FromString(range_requests(Random(1), 50, 8, linearizable)())
    assert request.key in {key_of(number, 8) for number in range(50)}
    assert request.serializable is not linearizable
    assert request.range_end == b""


def test_equal_seeds_give_equal_requests() -> None:
    first, second = (put_requests(Random(7), 1000, 8, 16) for _ in range(2))
    assert [first() for _ in range(20)] == [second() for _ in range(20)]


@pytest.mark.parametrize(("keys", "key_size"), [(11, 1), (0, 8), (10, 0), (10, 257)])
def test_keys_that_do_not_fit_are_refused(keys: int, key_size: int) -> None:
    with pytest.raises(UsageError):
        put_requests(Random(1), keys, key_size, 8)
