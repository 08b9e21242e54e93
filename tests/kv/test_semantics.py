"""Revisions, versions, ranges and options, one claim each. tests/compat compares with a real etcd."""

from __future__ import annotations

import pytest

from oarlock.etcd_pb import kv_pb2, rpc_pb2
from oarlock.kv import (
    InvalidSortOption,
    KeyNotFound,
    KeyNotProvided,
    LeaseNotFound,
    LeaseProvided,
    ValueProvided,
)

from .conftest import Feeder, pairs


def pair(key: bytes, value: bytes, created: int, modified: int, version: int) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(
        key=key, value=value, create_revision=created, mod_revision=modified, version=version
    )


def test_a_put_creates_and_the_next_one_modifies(kv: Feeder) -> None:
    assert kv.put(b"k", b"1").revision == 2
    assert kv.put(b"k", b"2").revision == 3
    assert pairs(kv.range(b"k")) == [pair(b"k", b"2", 2, 3, 2)]


def test_a_deleted_key_starts_over(kv: Feeder) -> None:
    kv.put(b"k")
    kv.put(b"k")
    assert kv.delete(b"k").deleted == 1
    assert kv.range(b"k").count == 0
    kv.put(b"k", b"again")
    assert pairs(kv.range(b"k")) == [pair(b"k", b"again", 5, 5, 1)]


def test_deleting_nothing_does_not_advance_the_revision(kv: Feeder) -> None:
    kv.put(b"k")
    result = kv.delete(b"other")
    assert (result.revision, result.deleted, kv.store.revision) == (2, 0, 2)


def test_deleting_many_keys_is_one_revision(kv: Feeder) -> None:
    for key in (b"a", b"b", b"c"):
        kv.put(key, b"v" + key)
    result = kv.delete(b"a", b"c", prev_kv=True)
    assert (result.revision, result.deleted) == (5, 2)
    assert [kv_pb2.KeyValue.FromString(old) for old in result.prev_kvs] == [
        pair(b"a", b"va", 2, 2, 1),
        pair(b"b", b"vb", 3, 3, 1),
    ]
    assert kv.keys(b"a", b"\0") == [b"c"]
    assert kv.keys(b"a", b"\0", revision=4) == [b"a", b"b", b"c"]


def test_prev_kv_is_given_only_when_asked_for_and_there(kv: Feeder) -> None:
    assert kv.put(b"k", b"1", prev_kv=True).prev_kv is None
    assert kv.put(b"k", b"2").prev_kv is None
    assert kv_pb2.KeyValue.FromString(kv.put(b"k", b"3", prev_kv=True).prev_kv) == pair(b"k", b"2", 2, 3, 2)
    kv.delete(b"k")
    assert kv.put(b"k", b"4", prev_kv=True).prev_kv is None


def test_ignore_value_keeps_the_value(kv: Feeder) -> None:
    assert isinstance(kv.put(b"k", ignore_value=True), KeyNotFound)
    kv.put(b"k", b"kept")
    kv.put(b"k", ignore_value=True)
    assert pairs(kv.range(b"k")) == [pair(b"k", b"kept", 2, 3, 2)]
    assert isinstance(kv.put(b"k", b"x", ignore_value=True), ValueProvided)


def test_ignore_lease_and_leases(kv: Feeder) -> None:
    assert isinstance(kv.put(b"k", lease=7), LeaseNotFound)
    assert isinstance(kv.put(b"k", ignore_lease=True), KeyNotFound)
    kv.put(b"k", b"1")
    kv.put(b"k", b"2", ignore_lease=True)
    assert pairs(kv.range(b"k")) == [pair(b"k", b"2", 2, 3, 2)]
    assert isinstance(kv.put(b"k", lease=7, ignore_lease=True), LeaseProvided)


def test_an_empty_key_is_refused_everywhere(kv: Feeder) -> None:
    assert isinstance(kv.put(b""), KeyNotProvided)
    assert isinstance(kv.delete(b""), KeyNotProvided)
    with pytest.raises(KeyNotProvided):
        kv.range(b"")
    assert kv.store.revision == 1


def test_ranges_are_half_open_and_in_key_order(kv: Feeder) -> None:
    for key in (b"b", b"a", b"c", b"ab", b"\0", b"\xff\xff"):
        kv.put(key)
    assert kv.keys(b"a", b"c") == [b"a", b"ab", b"b"]
    assert kv.keys(b"ab", b"\0") == [b"ab", b"b", b"c", b"\xff\xff"]
    assert kv.keys(b"\0", b"\0") == [b"\0", b"a", b"ab", b"b", b"c", b"\xff\xff"]
    assert kv.keys(b"c", b"a") == []
    assert kv.keys(b"a", b"a") == []


def test_the_limit_cuts_and_count_does_not_care(kv: Feeder) -> None:
    for number in range(5):
        kv.put(b"k%d" % number)
    found = kv.range(b"k", b"l", limit=2)
    assert ([p.key for p in pairs(found)], found.more, found.count) == ([b"k0", b"k1"], True, 5)
    found = kv.range(b"k", b"l", limit=5)
    assert (len(found.kvs), found.more) == (5, False)
    found = kv.range(b"k", b"l", count_only=True, limit=1)
    assert (found.kvs, found.more, found.count) == ((), False, 5)


def test_keys_only_drops_values_alone(kv: Feeder) -> None:
    kv.put(b"k", b"v")
    assert pairs(kv.range(b"k", keys_only=True)) == [pair(b"k", b"", 2, 2, 1)]


def test_every_past_revision_can_be_read(kv: Feeder) -> None:
    kv.put(b"a", b"1")  # 2
    kv.put(b"b", b"1")  # 3
    kv.put(b"a", b"2")  # 4
    kv.delete(b"a", b"\0")  # 5
    kv.put(b"b", b"2")  # 6
    seen = {
        revision: [(p.key, p.value) for p in pairs(kv.range(b"a", b"c", revision=revision))]
        for revision in range(1, 7)
    }
    assert seen == {
        1: [],
        2: [(b"a", b"1")],
        3: [(b"a", b"1"), (b"b", b"1")],
        4: [(b"a", b"2"), (b"b", b"1")],
        5: [],
        6: [(b"b", b"2")],
    }
    assert kv.range(b"a", revision=4).revision == 6
    assert pairs(kv.range(b"a", revision=3)) == [pair(b"a", b"1", 2, 2, 1)]


def test_filters_drop_pairs_but_not_the_count(kv: Feeder) -> None:
    for key in (b"a", b"b", b"c", b"a"):
        kv.put(key)
    assert kv.keys(b"a", b"\0", min_mod_revision=4) == [b"a", b"c"]
    assert kv.keys(b"a", b"\0", max_mod_revision=4) == [b"b", b"c"]
    assert kv.keys(b"a", b"\0", min_create_revision=3) == [b"b", b"c"]
    assert kv.keys(b"a", b"\0", max_create_revision=3) == [b"a", b"b"]
    assert kv.range(b"a", b"\0", max_create_revision=3).count == 3


def test_results_can_be_sorted_by_every_target(kv: Feeder) -> None:
    for key, value in ((b"b", b"1"), (b"a", b"3"), (b"c", b"2"), (b"b", b"0")):
        kv.put(key, value)
    request = rpc_pb2.RangeRequest
    expected = {
        request.KEY: [b"a", b"b", b"c"],
        request.VERSION: [b"a", b"c", b"b"],
        request.CREATE: [b"b", b"a", b"c"],
        request.MOD: [b"a", b"c", b"b"],
        request.VALUE: [b"b", b"c", b"a"],
    }
    for target, keys in expected.items():
        assert kv.keys(b"a", b"\0", sort_target=target, sort_order=request.ASCEND) == keys
        assert kv.keys(b"a", b"\0", sort_target=target, sort_order=request.ASCEND, limit=2) == keys[:2]
    for nonsense in (b"\x28\x07", b"\x30\x09"):
        with pytest.raises(InvalidSortOption):
            kv.store.range(request.FromString(request(key=b"a").SerializeToString() + nonsense))
    assert kv.keys(b"a", b"\0", sort_order=request.DESCEND) == [b"c", b"b", b"a"]


@pytest.mark.parametrize("length", [477, 478, 479, 480, 510, 511, 512, 5000])
def test_keys_around_the_stored_limit_behave_like_any_other(kv: Feeder, length: int) -> None:
    base = b"k" * (length - 1)
    for last in (b"c", b"a", b"b"):
        kv.put(base + last, last)
    assert kv.keys(b"k", b"l") == [base + b"a", base + b"b", base + b"c"]
    assert kv.keys(base + b"b", b"\0") == [base + b"b", base + b"c"]
    assert kv.keys(base + b"a", base + b"c") == [base + b"a", base + b"b"]
    assert kv.keys(base + b"b") == [base + b"b"]
    assert kv.delete(base + b"a", base + b"b\0").deleted == 2
    assert kv.keys(b"k", b"l") == [base + b"c"]
    assert kv.keys(b"k", b"l", revision=4) == [base + b"a", base + b"b", base + b"c"]
