"""Commands in the replicated log: one byte that says which request follows, then the request's own bytes.

The bytes are those that the client sent, so nothing is encoded again between the socket and the log.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from oarlock.etcd_pb import rpc_pb2
from oarlock.kv.errors import MalformedCommand

PUT = b"\x01"
DELETE_RANGE = b"\x02"
"""Stored on disk: values never change meaning."""

_DECODERS = {
    PUT[0]: rpc_pb2.PutRequest.FromString,
    DELETE_RANGE[0]: rpc_pb2.DeleteRangeRequest.FromString,
}


def decode(data: bytes) -> Message:
    """The request in a command. Raises `MalformedCommand`."""
    if not data:
        raise MalformedCommand("an empty command")
    decoder = _DECODERS.get(data[0])
    if decoder is None:
        raise MalformedCommand(f"a command of unknown kind {data[0]}")
    try:
        return decoder(data[1:])
    except DecodeError:
        raise MalformedCommand(f"a command of kind {data[0]} whose request does not decode") from None
