"""The store against a dumb model: a dictionary of histories, searched from front to back."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from oarlock.etcd_pb import kv_pb2
from oarlock.kv import Store

from .conftest import Feeder, pairs

# Few distinct keys, so that they meet again; some share the stored prefix, and the lengths around it.
_STEM = b"k" * 470
KEYS = st.one_of(
    st.sampled_from([b"a", b"ab", b"b", b"\0", b"\xff", b"\xff\xff"]),
    st.builds(
        lambda fill, tail: _STEM + fill + tail,
        st.sampled_from([b"", b"x" * 7, b"x" * 8, b"x" * 9, b"x" * 10, b"x" * 41, b"y" * 60]),
        st.sampled_from([b"", b"1", b"2", b"22", b"\0", b"\xff"]),
    ),
)
ENDS = st.one_of(st.just(b""), st.just(b"\0"), KEYS)


class Model:
    """All that ever happened: for each key a list of (revision, pair or None)."""

    def __init__(self) -> None:
        self.revision = 1
        self.history: dict[bytes, list[tuple[int, kv_pb2.KeyValue | None]]] = {}

    def at(self, key: bytes, revision: int) -> kv_pb2.KeyValue | None:
        found = None
        for when, pair in self.history.get(key, ()):
            if when <= revision:
                found = pair
        return found

    def range(self, key: bytes, end: bytes, revision: int) -> list[kv_pb2.KeyValue]:
        if not end:
            names = [key]
        else:
            names = [name for name in sorted(self.history) if name >= key and (end == b"\0" or name < end)]
        return [pair for name in names if (pair := self.at(name, revision)) is not None]

    def put(self, key: bytes, value: bytes) -> kv_pb2.KeyValue | None:
        old = self.at(key, self.revision)
        self.revision += 1
        pair = kv_pb2.KeyValue(
            key=key,
            value=value,
            create_revision=old.create_revision if old else self.revision,
            mod_revision=self.revision,
            version=old.version + 1 if old else 1,
        )
        self.history.setdefault(key, []).append((self.revision, pair))
        return old

    def delete(self, key: bytes, end: bytes) -> list[kv_pb2.KeyValue]:
        gone = self.range(key, end, self.revision)
        if gone:
            self.revision += 1
            for pair in gone:
                self.history[pair.key].append((self.revision, None))
        return gone


class StoreAgainstModel(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.kv = Feeder(Store.open(self.directory))
        self.model = Model()

    def teardown(self) -> None:
        self.kv.store.close()
        shutil.rmtree(self.directory)

    @rule(key=KEYS, value=st.binary(max_size=20))
    def put(self, key: bytes, value: bytes) -> None:
        result = self.kv.put(key, value, prev_kv=True)
        old = self.model.put(key, value)
        assert result.revision == self.model.revision
        assert (result.prev_kv and kv_pb2.KeyValue.FromString(result.prev_kv)) == old

    @rule(key=KEYS, end=ENDS)
    def delete(self, key: bytes, end: bytes) -> None:
        result = self.kv.delete(key, end, prev_kv=True)
        gone = self.model.delete(key, end)
        assert result.revision == self.model.revision
        assert result.deleted == len(gone)
        assert [kv_pb2.KeyValue.FromString(old) for old in result.prev_kvs] == gone

    @rule(key=KEYS, end=ENDS, limit=st.integers(0, 4), back=st.integers(0, 30))
    def read(self, key: bytes, end: bytes, limit: int, back: int) -> None:
        revision = max(1, self.model.revision - back)
        expected = self.model.range(key, end, revision)
        found = self.kv.range(key, end, limit=limit, revision=revision)
        assert pairs(found) == (expected[:limit] if limit else expected)
        assert found.count == len(expected)
        assert found.more == (0 < limit < len(expected))

    @precondition(lambda self: self.model.revision > 5)
    @rule()
    def reopen(self) -> None:
        digest = self.kv.store.hash()
        self.kv.store.close()
        self.kv = Feeder(Store.open(self.directory))
        assert self.kv.store.hash() == digest

    @invariant()
    def everything_agrees(self) -> None:
        assert self.kv.store.revision == self.model.revision
        everything = self.model.range(b"\0", b"\0", self.model.revision)
        assert pairs(self.kv.range(b"\0", b"\0")) == everything


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no finding
)
