"""Every test here runs on virtual time."""

from __future__ import annotations

from collections.abc import Callable

from tests.replica.virtual_time import VirtualLoop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], VirtualLoop]]:
    return {"virtual": VirtualLoop}
