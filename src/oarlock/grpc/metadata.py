"""gRPC's use of headers: timeouts, status messages, metadata (gRPC over HTTP/2 protocol)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from oarlock.errors import UsageError
from oarlock.grpc.status import RpcError, StatusCode

Metadata = Sequence[tuple[str, str | bytes]]
"""Names and values; the value of a name that ends in ``-bin`` is bytes."""

_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_RESERVED: Final = frozenset((b"te", b"content-type", b"user-agent"))
_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[\x20-\x7e]*")


def parse_timeout(value: bytes) -> float:
    """Seconds of a ``grpc-timeout``: up to eight digits and a unit.

    Raises:
        RpcError: INTERNAL, as grpc-go answers a timeout it cannot read.
    """
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise RpcError(StatusCode.INTERNAL, f"malformed grpc-timeout: {value[:40]!r}")
    return int(digits) * unit


def format_timeout(seconds: float) -> bytes:
    """``grpc-timeout`` for so many seconds, in the finest unit that has room for it; never rounded down to
    0."""
    for unit, factor in ((b"u", 1e6), (b"m", 1e3), (b"S", 1.0)):
        amount = int(seconds * factor)
        if amount < 100_000_000:
            return b"%d%b" % (max(amount, 1), unit)
    return b"99999999S"


def encode_message(text: str) -> bytes:
    """``grpc-message``: UTF-8, percent-encoded outside of printable ASCII."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode()
    )


def decode_message(value: bytes) -> str:
    """The reverse; never fails, since a status message must not hide the status."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


def encode_metadata(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Metadata to header fields.

    Raises:
        UsageError: a name or value that HTTP/2 or gRPC does not allow.
    """
    fields = []
    for name, value in metadata:
        if not _NAME.fullmatch(name) or name.startswith("grpc-") or name.encode() in _RESERVED:
            raise UsageError(f"metadata name {name!r} is not allowed")
        if name.endswith("-bin"):
            raw = value if isinstance(value, bytes) else value.encode()
            fields.append((name.encode(), base64.b64encode(raw).rstrip(b"=")))
        else:
            if not isinstance(value, str) or not _TEXT.fullmatch(value) or value != value.strip(" "):
                raise UsageError(
                    f"value of metadata {name!r} is not printable ASCII; a name in -bin takes bytes"
                )
            fields.append((name.encode(), value.encode()))
    return fields


def decode_metadata(fields: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str | bytes]]:
    """Header fields to metadata: without pseudo-headers and what belongs to gRPC itself. Values of ``-bin``
    names that are not base64 are left out."""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name[:1] == b":" or name[:5] == b"grpc-" or name in _RESERVED:
            continue
        if name[-4:] != b"-bin":
            metadata.append((name.decode("latin-1"), value.decode("latin-1")))
            continue
        for part in value.split(b","):  # equal names may have been joined on the way
            try:
                raw = base64.b64decode(part.strip() + b"=" * (-len(part.strip()) % 4), validate=True)
            except (binascii.Error, ValueError):
                continue
            metadata.append((name.decode("latin-1"), raw))
    return metadata
