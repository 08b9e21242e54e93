"""Endpoints: parsing them, and one lazily made connection to each."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Sequence
from urllib.parse import urlsplit

from oarlock.errors import UsageError
from oarlock.grpc import Channel

DEFAULT_PORT = 2379


class Address:
    """Where an endpoint is: `host:port`, `http://host:port` or `https://host:port`.

    Raises: UsageError if the text is none of these.
    """

    __slots__ = ("host", "port", "secure", "text")

    def __init__(self, text: str) -> None:
        self.text = text = text.strip()
        parts = urlsplit(text if "://" in text else f"//{text}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
        if parts.scheme not in ("", "http", "https") or not parts.hostname or port == -1 or extra:
            raise UsageError(f"endpoint {text!r}: expected host:port, http://host:port or https://host:port")
        self.host = parts.hostname
        self.port = DEFAULT_PORT if port is None else port
        self.secure = parts.scheme == "https"


class Endpoint:
    """One server, and the connection to it while there is one."""

    def __init__(self, address: Address, ssl: tls.SSLContext | None, dial_timeout: float) -> None:
        self.address = address
        self._dial_timeout = dial_timeout
        if ssl is None and address.secure:
            ssl = tls.create_default_context()
        self._channel = Channel(address.host, address.port, ssl=ssl if address.secure else None)
        self._connecting = asyncio.Lock()

    async def channel(self, timeout: float) -> Channel:
        """A connected channel.

        Raises: RpcError (UNAVAILABLE, not processed) if there is none within `timeout` seconds.
        """
        if not self._channel.connected:
            async with self._connecting:
                await self._channel.connect(min(timeout, self._dial_timeout))
        return self._channel

    async def close(self) -> None:
        await self._channel.close()


def parse(endpoints: str | Sequence[str]) -> list[Address]:
    """Addresses from a list, or from one string with commas. Raises `UsageError`."""
    texts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    found = [Address(text) for text in texts if text.strip()]
    if not found:
        raise UsageError("no endpoints were given")
    return found
