"""Endpoints: parsing them, and one lazily made connection to each."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Sequence
from urllib.parse import urlsplit

from oarlock.errors import UsageError
from oarlock.grpc import Channel, RpcError, StatusCode

DEFAULT_PORT = 2379


class Address:
    """Where an endpoint is: `host:port`, `http://host:port` or `https://host:port`.

    Raises: UsageError if the text is none of these.
    """

    __slots__ = ("host", "port", "secure", "text")

    def __init__(self, text: str) -> None:
        self.text = text = text.strip()
        expected = f"endpoint {text!r}: expected host:port, http://host:port or https://host:port"
        try:
            parts = urlsplit(text if "://" in text else f"//{text}")
            host, port = parts.hostname or "", parts.port
            host.encode("idna")  # as it will be looked up
        except ValueError as error:
            raise UsageError(f"{expected} ({error})") from None
        extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
        if parts.scheme not in ("", "http", "https") or not host or extra:
            raise UsageError(expected)
        self.host = host
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
        self._attempt: asyncio.Task[str] | None = None
        """To connect: one for all calls that wait for it, however long each of them may."""
        self._closed = False

    async def channel(self, timeout: float) -> Channel:
        """A connected channel.

        Raises: RpcError (UNAVAILABLE, not processed) if there is none within `timeout` seconds.
        """
        if not self._channel.connected and not self._closed:
            if self._attempt is None or self._attempt.done():
                self._attempt = asyncio.create_task(self._connect())
            attempt = self._attempt
            await asyncio.wait([attempt], timeout=timeout)
            if not attempt.done():
                raise self._unreachable(f"cannot connect to {self.address.text}: no answer in time")
            if not attempt.cancelled() and (problem := attempt.result()):
                raise self._unreachable(problem)
        if self._closed:
            raise self._unreachable("the client is closed")
        return self._channel

    async def close(self) -> None:
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        await self._channel.close()

    async def _connect(self) -> str:
        """Returns what is in the way, or nothing."""
        try:
            await self._channel.connect(self._dial_timeout)
        except RpcError as error:
            return error.message
        return ""

    @staticmethod
    def _unreachable(why: str) -> RpcError:
        return RpcError(StatusCode.UNAVAILABLE, why, not_processed=True)


def parse(endpoints: str | Sequence[str]) -> list[Address]:
    """Addresses from a list, or from one string with commas. Raises `UsageError`."""
    texts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    found = [Address(text) for text in texts if text.strip()]
    if not found:
        raise UsageError("no endpoints were given")
    return found
