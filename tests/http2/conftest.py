"""Every test of this package that runs an event loop runs on both loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What pytest-asyncio makes its loops with."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
