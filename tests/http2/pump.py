"""Our connections and their foreign counterpart (`h2`), joined in memory."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.settings

from oarlock.http2 import frames
from oarlock.http2.client_connection import ClientConnection
from oarlock.http2.hpack import HeaderBlock, encode_stateless
from oarlock.http2.limits import Limits
from oarlock.http2.server_connection import ServerConnection
from oarlock.http2.stream import Stream

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a/B"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
REQUEST_BLOCK = encode_stateless([(name.encode(), value.encode()) for name, value in REQUEST])


class Recorder(Stream):
    """A stream that keeps what happened to it."""

    def __init__(self, connection: Any, stream_id: int, block: HeaderBlock | None = None) -> None:
        super().__init__(connection, stream_id)
        self.headers: list[list[tuple[bytes, bytes]]] = [block.fields] if block else []
        self.body = b""
        self.ended = False
        self.end: tuple[int, str, bool] | None = None
        self.writable_calls = 0

    def on_headers(self, block: HeaderBlock, end: bool) -> None:
        self.headers.append(block.fields)
        self.ended = end

    def on_data(self, data: bytes, end: bool) -> None:
        self.body += data
        self.ended = end
        self.consume(len(data))

    def on_closed(self, code: int, reason: str, *, processed: bool) -> None:
        self.end = (code, reason, processed)

    def on_writable(self) -> None:
        self.writable_calls += 1


class OurServer:
    """Our server connection, and the streams it accepted."""

    def __init__(self, limits: Limits | None = None, kind: type[Recorder] = Recorder) -> None:
        self._kind = kind
        self.accepted: list[Recorder] = []
        self.connection = ServerConnection(limits or Limits(), self._accept)

    def _accept(self, connection: ServerConnection, stream_id: int, block: HeaderBlock) -> Recorder:
        stream = self._kind(connection, stream_id, block)
        self.accepted.append(stream)
        return stream

    def feed(self, data: bytes) -> bytes:
        """Receive; returns everything that is sent in answer."""
        self.connection.receive_data(data)
        return everything(self.connection)

    def greet(self) -> bytes:
        """The client's preface and SETTINGS arrive."""
        return self.feed(frames.PREFACE + frames.settings({}))


def everything(connection: Any) -> bytes:
    """All that a connection wants to send."""
    out = b""
    while data := connection.output.take():
        out += data
    return out


def h2_client(**settings: int) -> h2.connection.H2Connection:
    """A foreign client, with its SETTINGS already in its outgoing data."""
    configuration = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
    connection = h2.connection.H2Connection(configuration)
    connection.initiate_connection()
    if settings:
        connection.update_settings(
            {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
        )
    return connection


def h2_server() -> h2.connection.H2Connection:
    """A foreign server, likewise."""
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    )
    connection.initiate_connection()
    return connection


def exchange(ours: Any, theirs: h2.connection.H2Connection) -> list[Any]:
    """Move bytes both ways until nobody has anything to say. Returns the events of the foreign side."""
    events: list[Any] = []
    while True:
        outgoing = everything(ours)
        if outgoing:
            events += theirs.receive_data(outgoing)
        incoming = theirs.data_to_send()
        if incoming:
            ours.receive_data(incoming)
        if not outgoing and not incoming:
            return events


def parse(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Frames as (type, flags, stream, payload)."""
    out = []
    pos = 0
    while pos < len(data):
        high, low, kind, flags, stream_id = frames.HEAD.unpack_from(data, pos)
        end = pos + 9 + (high << 8 | low)
        out.append((kind, flags, stream_id, data[pos + 9 : end]))
        pos = end
    return out


def goaway_code(data: bytes) -> int | None:
    """Code of the first GOAWAY in ``data``."""
    for kind, _, _, payload in parse(data):
        if kind == frames.GOAWAY:
            return int.from_bytes(payload[4:8], "big")
    return None


def reset_codes(data: bytes) -> dict[int, int]:
    """Codes of the RST_STREAM frames in ``data``, by stream."""
    return {
        stream_id: int.from_bytes(payload, "big")
        for kind, _, stream_id, payload in parse(data)
        if kind == frames.RST_STREAM
    }


__all__ = ["ClientConnection", "OurServer", "Recorder", "exchange", "h2_client", "h2_server", "parse"]
