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
        ({"id": 1, "log_entries_kept": -1}, "log_entries_kept"),
        ({"id": 1, "log_bytes_kept": 0}, "log_bytes_kept"),
        ({"id": 1, "log_bytes_max": 0}, "log_bytes_max"),
        ({"id": 1, "clock_drift_bound": -0.1}, "clock_drift_bound"),
        ({"id": 1, "clock_drift_bound": 1.0}, "clock_drift_bound"),
        ({"id": 1, "disk_stall_timeout": 0.0}, "disk_stall_timeout"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Config(**settings)


def test_the_defaults_are_sound_and_ids_have_64_bits() -> None:
    config = Config(id=(1 << 64) - 1)
    assert config.heartbeat_interval * 5 <= config.election_timeout


def test_a_disk_is_sick_after_an_election_timeout_unless_a_bound_is_given() -> None:
    assert Config(id=1, election_timeout=0.7).stall_timeout == 0.7
    assert Config(id=1, election_timeout=0.7, disk_stall_timeout=3.0).stall_timeout == 3.0


def test_a_log_may_be_kept_whole_or_not_at_all() -> None:
    assert Config(id=1).log_entries_kept is None
    assert Config(id=1, log_entries_kept=0).log_entries_kept == 0
