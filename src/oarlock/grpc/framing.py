"""Messages in a byte stream: one byte of flags, four of length, then the message (gRPC
"Length-Prefixed-Message").

DATA frames and messages are independent of each other: a message may span frames, a frame may hold several.
The usual unary request is one of each and never comes here; `MessageReader` is for the rest."""

from __future__ import annotations

import struct
from typing import Final

from oarlock.grpc.status import RpcError, StatusCode

PREFIX_SIZE: Final = 5
PREFIX: Final = struct.Struct(">BI")

DEFAULT_MAX_MESSAGE: Final = 2 * 1024 * 1024
"""Largest message accepted: etcd's default of 1.5 MiB for a request plus 512 KiB of overhead."""


def frame_message(message: bytes) -> bytes:
    """``message`` with its prefix."""
    return PREFIX.pack(0, len(message)) + message


def check_prefix(flags: int, size: int, max_message: int) -> None:
    """Refuse what we do not read.

    Raises:
        RpcError: UNIMPLEMENTED for a compressed message, RESOURCE_EXHAUSTED for one that is too large.
    """
    if flags:
        raise RpcError(StatusCode.UNIMPLEMENTED, "grpc: compressed messages are not supported; use identity")
    if size > max_message:
        raise RpcError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"grpc: received message larger than max ({size} vs. {max_message})",
        )


class MessageReader:
    """Cuts a stream of DATA into messages.

    Invariant: holds at most one unfinished message, of at most ``max_message`` bytes, plus the last chunk
    fed."""

    __slots__ = ("_buffer", "_max_message")

    def __init__(self, max_message: int) -> None:
        self._buffer = bytearray()
        self._max_message = max_message

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes.

        Raises:
            RpcError: a prefix announces what we do not accept.
        """
        buffer = self._buffer
        buffer += data
        messages = []
        pos = 0
        while len(buffer) - pos >= PREFIX_SIZE:
            flags, size = PREFIX.unpack_from(buffer, pos)
            check_prefix(flags, size, self._max_message)
            end = pos + PREFIX_SIZE + size
            if end > len(buffer):
                break
            messages.append(bytes(buffer[pos + PREFIX_SIZE : end]))
            pos = end
        if pos:
            del buffer[:pos]
        return messages

    @property
    def held(self) -> int:
        """Bytes of the unfinished message."""
        return len(self._buffer)
