"""The header of every response: which cluster and member answered, at which revision and term.

A header is encoded once per put, so its fixed parts are kept encoded: a put costs one varint and a join.
"""

from __future__ import annotations

from oarlock.etcd.ports import ReplicaPort
from oarlock.etcd_pb import rpc_pb2

_REVISION_TAG = b"\x18"
_TERM_TAG = b"\x20"


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
        self._cluster_and_member = b""
        self._term = -1
        self._term_part = b""

    def encode(self, revision: int) -> bytes:
        """The header as field 1 of a response: what every response starts with."""
        term = self._replica.term
        if term != self._term:
            self._fix(term)
        body = b"%b%b%b" % (self._cluster_and_member, varint(revision), self._term_part)
        # A header is shorter than 128 bytes, so its length is one byte.
        return b"\x0a%c%b" % (len(body), body)

    def message(self, revision: int) -> rpc_pb2.ResponseHeader:
        """The header as a message, where a response is built from messages."""
        replica = self._replica
        return rpc_pb2.ResponseHeader(
            cluster_id=replica.cluster_id,
            member_id=replica.node_id,
            revision=revision,
            raft_term=replica.term,
        )

    def _fix(self, term: int) -> None:
        fixed = rpc_pb2.ResponseHeader(cluster_id=self._replica.cluster_id, member_id=self._replica.node_id)
        self._cluster_and_member = fixed.SerializeToString() + _REVISION_TAG
        self._term_part = _TERM_TAG + varint(term) if term else b""
        self._term = term
