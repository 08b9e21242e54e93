"""Config: every setting is validated where it is made, and the message names it."""

from __future__ import annotations

from typing import Any

import pytest

from oarlock.errors import UsageError
from oarlock.raft.config import Config


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"id": 0}, "id"),
        ({"id": 1 << 64}, "id"),
        ({"id": -1}, "id"),
        ({"id": 1, "heartbeat_interval": 0.0}, "heartbeat_interval"),
        ({"id": 1, "heartbeat_interval": 1.0, "election_timeout": 1.0}, "election_timeout"),
        ({"id": 1, "append_bytes_max": 0}, "append_bytes_max"),
        ({"id": 1, "inflight_messages_max": 0}, "inflight_messages_max"),
        ({"id": 1, "inflight_bytes_max": 0}, "inflight_bytes_max"),
        ({"id": 1, "uncommitted_bytes_max": 0}, "uncommitted_bytes_max"),
        ({"id": 1, "committed_bytes_max": -5}, "committed_bytes_max"),
        ({"id": 1, "pending_reads_max": 0}, "pending_reads_max"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Config(**settings)


def test_the_defaults_are_sound_and_ids_have_64_bits() -> None:
    config = Config(id=(1 << 64) - 1)
    assert config.heartbeat_interval * 5 <= config.election_timeout
