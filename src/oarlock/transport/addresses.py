"""Peer URLs: ``http://host:port`` and ``https://host:port``, as etcd writes them."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from oarlock.errors import UsageError


class Address(NamedTuple):
    host: str
    """Name or IP address, without the brackets of IPv6."""
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{format_host(self.host)}:{self.port}"


def parse_peer_url(url: str) -> Address:
    """The address in a peer URL. The scheme says whether to use TLS; nothing about HTTP is meant.

    Raises:
        UsageError: one line with the URL and what is wrong with it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as it will be looked up
    except ValueError as error:
        raise UsageError(f"peer URL {url!r}: {error}; write http://host:port or https://host:port") from None
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"peer URL {url!r}: the scheme has to be http or https, as in http://host:port")
    if not host or any(character.isspace() for character in host):
        raise UsageError(f"peer URL {url!r}: there is no host, as in http://host:port")
    if port is None:
        raise UsageError(f"peer URL {url!r}: there is no port, as in http://{format_host(host)}:2380")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(f"peer URL {url!r}: only a host and a port are allowed, as in http://host:port")
    return Address(host, port, parts.scheme == "https")


def format_host(host: str) -> str:
    """As it stands before a port: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
