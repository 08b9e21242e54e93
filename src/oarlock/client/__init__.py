"""A Python client for any etcd v3 server.

::

    async with Client(["127.0.0.1:2379", "127.0.0.1:22379"], timeout=5) as client:
        await client.put("greeting", "hello")
        found = await client.get("greeting")

Reading order: `client`, `endpoints` (fail-over), `retry` (what may be repeated), `results`.
"""

from oarlock.client.client import Client, prefix_end
from oarlock.client.results import (
    AlarmResponse,
    DeleteResponse,
    GetResponse,
    HashResponse,
    Header,
    KeyValue,
    Member,
    MemberAddResponse,
    MemberListResponse,
    MoveLeaderResponse,
    PutResponse,
    StatusResponse,
)

__all__ = [
    "AlarmResponse",
    "Client",
    "DeleteResponse",
    "GetResponse",
    "HashResponse",
    "Header",
    "KeyValue",
    "Member",
    "MemberAddResponse",
    "MemberListResponse",
    "MoveLeaderResponse",
    "PutResponse",
    "StatusResponse",
    "prefix_end",
]
