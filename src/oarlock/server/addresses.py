"""Where a member listens: its addresses looked up, and one clear line if it cannot."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from oarlock.errors import UsageError
from oarlock.server.config import Address


async def places_of(address: Address) -> list[tuple[str, int]]:
    """The numeric addresses to listen on.

    A name may stand for addresses that this machine does not have, and one of them must not keep it from
    the others: in a container "localhost" usually is ::1 too, with IPv6 switched off.
    """
    as_given = [(address.host, address.port)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        return as_given  # whoever listens there says what is wrong
    places: dict[tuple[str, int], None] = {}
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind((place[0], 0, *place[2:]))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue
        places[str(place[0]), address.port] = None
    return list(places) or as_given


async def listen(flag: str, addresses: Any, start: Any) -> None:
    """Await `start`, and say which address it was about if the system refuses it."""
    try:
        await start
    except OSError as error:
        where = ", ".join(f"{address.host}:{address.port}" for address in addresses)
        raise UsageError(f"--{flag}: cannot listen on {where}: {error.strerror or error}") from None
