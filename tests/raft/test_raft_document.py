"""docs/internals/raft.md names code that exists, and its table of roles is the code's."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from oarlock.raft import (
    candidate,
    follower,
    leader,
    membership,
    progress,
    quorum,
    raft,
    reading,
    term_rule,
    votes,
)
from oarlock.raft import log as raft_log
from oarlock.raft.roles import TRANSITIONS

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "internals" / "raft.md").read_text()
NAMES = {
    "Raft": raft.Raft,
    "RaftLog": raft_log.RaftLog,
    "Progress": progress.Progress,
    "ProgressState": progress.ProgressState,
    "ConfigurationHistory": membership.ConfigurationHistory,
    "candidate": candidate,
    "follower": follower,
    "leader": leader,
    "quorum": quorum,
    "reading": reading,
    "term_rule": term_rule,
    "votes": votes,
    "roles": importlib.import_module("oarlock.raft.roles"),
}


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`([A-Za-z]+\.[A-Za-z_]+)", DOCUMENT))))
def test_code_that_the_document_names_exists(reference: str) -> None:
    owner, name = reference.split(".")
    if owner in NAMES:
        assert hasattr(NAMES[owner], name)


def test_the_roles_in_the_document_are_those_of_the_code() -> None:
    section = DOCUMENT.split("## Roles")[1].split("```")[0]
    rows = re.findall(r"^\| ([a-z-]+) \| ([a-z, -]+) \|$", section, re.MULTILINE)
    table = {start: tuple(ends.split(", ")) for start, ends in rows if start != "from"}
    assert table == {role.value: tuple(to.value for to in ends) for role, ends in TRANSITIONS.items()}


@pytest.mark.parametrize("prefix", sorted(set(re.findall(r"`(test_[a-z0-9_]+)_?…", DOCUMENT))))
def test_tests_that_the_document_names_exist(prefix: str) -> None:
    paper = (Path(__file__).parent / "test_paper.py").read_text()
    assert f"def {prefix}" in paper
