"""Progress: probe until the logs are known to agree, then send ahead within limits."""

from __future__ import annotations

import pytest

from oarlock.errors import InvariantViolated
from oarlock.raft.config import Config
from oarlock.raft.progress import TRANSITIONS, Progress, ProgressState
from oarlock.raft.types import Configuration, Snapshot, StoredSnapshot

CONFIG = Config(id=1, inflight_messages_max=2, inflight_bytes_max=100)


def replicating(match_index: int = 4) -> Progress:
    progress = Progress(match_index + 1, 0.0)
    progress.acknowledged(match_index)
    progress.become_replicate()
    return progress


def test_probing_sends_one_message_at_a_time() -> None:
    progress = Progress(5, 0.0)
    assert progress.may_send(CONFIG)
    progress.sent(7, 10)
    assert not progress.may_send(CONFIG)
    assert progress.next_index == 5  # a guess is not moved by sending
    progress.become_probe(3)
    assert progress.may_send(CONFIG)
    assert progress.next_index == 3


def test_replicating_sends_ahead_up_to_the_message_limit() -> None:
    progress = replicating()
    progress.sent(5, 1)
    progress.sent(6, 1)
    assert progress.next_index == 7
    assert not progress.may_send(CONFIG)
    progress.acknowledged(5)
    assert progress.inflight_messages == 1
    assert progress.may_send(CONFIG)


def test_replicating_sends_ahead_up_to_the_byte_limit() -> None:
    progress = replicating()
    progress.sent(5, 100)
    assert not progress.may_send(CONFIG)
    progress.acknowledged(5)
    assert progress.inflight_bytes == 0
    assert progress.may_send(CONFIG)


def test_one_acknowledgement_covers_all_messages_below_it() -> None:
    progress = replicating()
    progress.sent(5, 10)
    progress.sent(8, 20)
    assert progress.acknowledged(8)
    assert (progress.match_index, progress.inflight_messages, progress.inflight_bytes) == (8, 0, 0)


def test_match_index_never_falls() -> None:
    progress = replicating(9)
    assert not progress.acknowledged(6)
    assert not progress.acknowledged(9)
    assert progress.match_index == 9


def test_probing_never_goes_back_behind_what_is_matched() -> None:
    progress = replicating(9)
    progress.sent(12, 10)
    progress.become_probe(2)
    assert progress.state is ProgressState.PROBE
    assert (progress.next_index, progress.inflight_messages, progress.inflight_bytes) == (10, 0, 0)


def test_replicating_begins_right_after_what_is_matched() -> None:
    progress = Progress(50, 0.0)
    progress.acknowledged(20)
    progress.become_replicate()
    assert progress.next_index == 21


def test_who_needs_a_snapshot_gets_no_entries() -> None:
    progress = replicating()
    progress.sent(6, 10)
    progress.become_snapshot()
    assert not progress.may_send(CONFIG)
    assert (progress.inflight_messages, progress.inflight_bytes) == (0, 0)


def test_a_snapshot_that_arrived_is_followed_by_what_comes_behind_it() -> None:
    progress = Progress(5, 0.0)
    progress.become_snapshot()
    progress.snapshot = StoredSnapshot(Snapshot(9, 2, Configuration(voters=(1,))), 100, 0)
    progress.received = 70
    progress.acknowledged(9)
    progress.become_replicate()
    assert (progress.match_index, progress.next_index) == (9, 10)
    assert (progress.snapshot, progress.received) == (None, 0)
    assert progress.may_send(CONFIG)


def test_the_state_changes_as_the_table_says_and_in_no_other_way() -> None:
    become = {
        ProgressState.PROBE: lambda progress: progress.become_probe(3),
        ProgressState.REPLICATE: lambda progress: progress.become_replicate(),
        ProgressState.SNAPSHOT: lambda progress: progress.become_snapshot(),
    }
    for start in ProgressState:
        for end in ProgressState:
            progress = Progress(5, 0.0)
            progress.state = start
            if end in TRANSITIONS[start]:
                become[end](progress)
                assert progress.state is end
            else:
                with pytest.raises(InvariantViolated, match="no way from"):
                    become[end](progress)
