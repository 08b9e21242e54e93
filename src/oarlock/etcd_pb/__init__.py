"""The messages of the etcd v3 API, shared by store, server and client; this package imports nothing of ours.

`rpc_pb2` (requests, responses, services), `kv_pb2` (`KeyValue`, `Event`) and `auth_pb2` are generated from
the `.proto` files beside them by `scripts/generate_protobuf.py`, and committed. They follow etcd 3.5.
"""
