"""gRPC over our own HTTP/2: a server with callbacks for unary calls, and a client channel.

::

    server   server_calls      Server, Call, ServerStream
    channel  client_calls      Channel, ClientStream
    framing  metadata  status  deadlines

Messages are bytes here: protobuf belongs to the layers above.
"""

from oarlock.grpc.channel import Channel
from oarlock.grpc.client_calls import ClientCall, ClientStream
from oarlock.grpc.server import Server
from oarlock.grpc.server_calls import Call, ServerStream
from oarlock.grpc.status import RpcError, StatusCode
from oarlock.http2.limits import Limits

__all__ = [
    "Call",
    "Channel",
    "ClientCall",
    "ClientStream",
    "Limits",
    "RpcError",
    "Server",
    "ServerStream",
    "StatusCode",
]
