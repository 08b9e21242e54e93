"""How the store's three tables are laid out in LMDB.

`revisions`: revision → what happened in it. Key: main revision (8 bytes) and sub revision (4), big-endian, so
that keys only ever grow and every write is an append. Value: the protobuf bytes of `mvccpb.KeyValue` as
clients receive them, so a range answer is put together without decoding; a deletion is a record with the key
and version 0.

`index`: key → its history, one entry per revision, as LMDB's sorted duplicates of fixed size. Entries hold
*inverted* revisions (2**64-1 - main), so the newest sorts first: a plain get of the key returns its current
state, a walk over distinct keys returns the current state of each, and the state at revision R is the first
duplicate at or after the inverted R: one lookup each.

`meta`: see `oarlock.kv.store`.

**Long keys.** LMDB's keys end at 511 bytes, etcd's do not. Keys of up to 478 bytes are stored as they are. A
longer one is stored as its first 479 bytes followed by its SHA-256: 511 bytes, which no short key has. The
order stays right except among long keys that share their first 479 bytes; walks sort such a group by the full
keys, which the records hold (`oarlock.kv.scan`).
"""

from __future__ import annotations

import hashlib
import struct

from oarlock.errors import invariant

MAX_STORED_KEY = 511
"""LMDB's limit, for keys and for duplicates."""
LONG_PREFIX = MAX_STORED_KEY - hashlib.sha256().digest_size
SHORT_KEY = LONG_PREFIX - 1
"""The longest key that is stored as it is, in bytes."""

MAIN_TOP = (1 << 64) - 1
SUB_TOP = (1 << 32) - 1

_REVISION = struct.Struct(">QI")
_ENTRY = struct.Struct(">QIQQ")
ENTRY_SIZE = _ENTRY.size
VERSION_AT = 20
NO_VERSION = bytes(8)
"""The version field of a deletion, as stored."""

revision_key = _REVISION.pack
"""(main, sub) → key in `revisions`."""
pack_entry = _ENTRY.pack
"""(MAIN_TOP - main, SUB_TOP - sub, create_revision, version) → entry; version 0 means a deletion."""
unpack_history = struct.Struct(">12xQQ").unpack
"""Entry → (create_revision, version)."""

invariant(LONG_PREFIX > SHORT_KEY and ENTRY_SIZE <= MAX_STORED_KEY, "the layout does not fit LMDB's limits")


def stored_key(key: bytes) -> bytes:
    """The key under which `index` holds `key`, which must not be empty."""
    if len(key) <= SHORT_KEY:
        return key
    return key[:LONG_PREFIX] + hashlib.sha256(key).digest()


def is_deletion(entry: bytes) -> bool:
    return entry[VERSION_AT:] == NO_VERSION


def record_key(entry: bytes) -> bytes:
    """Where `revisions` holds what `entry` points to."""
    main, sub = _REVISION.unpack_from(entry)
    return _REVISION.pack(MAIN_TOP - main, SUB_TOP - sub)


def newest_at(revision: int) -> bytes:
    """Sorts before every entry of `revision` or older, and after every newer one."""
    return _REVISION.pack(MAIN_TOP - revision, 0)
