"""What no correct leader sends is refused before it reaches the log: a restart would trip over it."""

from __future__ import annotations

import pytest

from oarlock.errors import WireError
from oarlock.raft.messages import AppendEntries
from oarlock.raft.types import Entry, EntryKind

from .stage import Stage


def test_a_configuration_that_cannot_be_read_does_not_get_into_the_log() -> None:
    stage = Stage()
    entries = (Entry(2, 2), Entry(3, 2, EntryKind.CONFIGURATION, b"\xc1 nonsense"))
    with pytest.raises(WireError, match="configuration entry cannot be read"):
        stage.step(AppendEntries(2, 2, 1, 1, 1, 1, entries))
    assert stage[1].log.last_index == 1
    stage.deliver()
    stage.crash(1)
    stage.restart(1)
