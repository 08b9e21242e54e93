"""The header of every response: which cluster and member answered, at which revision and term.

A header is encoded once per request, so all but seven bits of it are kept encoded from one to the next.
"""

from __future__ import annotations

from oarlock.etcd.ports import ReplicaPort
from oarlock.etcd_pb import rpc_pb2

_REVISION_TAG = b"\x18"
_TERM_TAG = b"\x20"
_LAST = [bytes((low,)) for low in range(0x80)]
_MORE = [bytes((low | 0x80,)) for low in range(0x80)]
"""The first byte of a varint: the low seven bits of the number, and whether more follow."""


def varint(value: int) -> bytes:
    """Protobuf's variable-length encoding of a number ≥ 0."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(tag: bytes, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return b"%b%b%b" % (tag, varint(len(data)), data)


class Headers:
    """Makes headers for one member."""

    def __init__(self, replica: ReplicaPort) -> None:
        self._replica = replica
        # The encoded header but for the low seven bits of the revision, and what it is valid for.
        self._front = self._back = b""
        self._low = _LAST
        self._term = self._high = -1

    def encode(self, revision: int) -> bytes:
        """The header as field 1 of a response: what every response starts with."""
        if revision >> 7 != self._high or self._replica.term != self._term:
            self._fix(revision)
        return self._front + self._low[revision & 0x7F] + self._back

    def message(self, revision: int) -> rpc_pb2.ResponseHeader:
        """The header as a message, where a response is built from messages."""
        replica = self._replica
        return rpc_pb2.ResponseHeader(
            cluster_id=replica.cluster_id,
            member_id=replica.node_id,
            revision=revision,
            raft_term=replica.term,
        )

    def _fix(self, revision: int) -> None:
        """Encode around the low bits of `revision`; holds for the 128 revisions that share the others."""
        replica = self._replica
        self._high, self._term = revision >> 7, replica.term
        ids = rpc_pb2.ResponseHeader(cluster_id=replica.cluster_id, member_id=replica.node_id)
        front = ids.SerializeToString() + _REVISION_TAG
        self._low = _MORE if self._high else _LAST
        self._back = (varint(self._high) if self._high else b"") + (
            _TERM_TAG + varint(self._term) if self._term else b""
        )
        # A header is shorter than 128 bytes, so its length is one byte.
        self._front = b"\x0a%c%b" % (len(front) + 1 + len(self._back), front)
