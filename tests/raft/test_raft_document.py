"""The documents of the core name code and tests that exist, and their drawings are the code's."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from oarlock import raft
from oarlock.raft.progress import TRANSITIONS as PROGRESS
from oarlock.raft.roles import TRANSITIONS as ROLES

from . import drawings

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "internals"
DOCUMENTS = {
    name: FOLDER / f"{name}.md"
    for name in ("raft", "messages", "raft-membership", "raft-snapshots", "dissertation")
}
HAND_WRITTEN = "\n".join(drawings.BLOCK.sub("", path.read_text()) for path in DOCUMENTS.values())


def named(owner: str) -> object:
    """A module of `oarlock.raft`, or a class in one of them. None: it is something else."""
    folder = Path(inspect.getfile(raft)).parent
    for module in sorted(path.stem for path in folder.glob("*.py")):
        loaded = importlib.import_module(f"oarlock.raft.{module}" if module != "__init__" else "oarlock.raft")
        if module == owner:
            return loaded
        if inspect.isclass(found := getattr(loaded, owner, None)):
            return found
    return None


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`([A-Za-z_]+\.[A-Za-z_]+)", HAND_WRITTEN))))
def test_code_that_the_documents_name_exists(reference: str) -> None:
    owner, name = reference.split(".")
    if owner != "oarlock" and name not in ("py", "md", "txt"):
        where = named(owner)
        assert where is not None
        assert hasattr(where, name) or name in getattr(where, "__annotations__", ())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_drawings_are_what_the_code_gives(name: str, rewrite: bool) -> None:
    path = DOCUMENTS[name]
    text = path.read_text()
    if rewrite:
        path.write_text(drawings.drawn(text))
    else:
        assert drawings.drawn(text) == text


def test_every_drawing_is_in_a_document_and_every_step_has_a_reason() -> None:
    shown = [block for path in DOCUMENTS.values() for block, _ in drawings.BLOCK.findall(path.read_text())]
    assert sorted(shown) == sorted(drawings.DRAWINGS)
    assert {*drawings.ROLE_REASONS} == {(start, end) for start, ends in ROLES.items() for end in ends}
    assert {*drawings.PROGRESS_REASONS} == {(start, end) for start, ends in PROGRESS.items() for end in ends}


@pytest.mark.parametrize("prefix", sorted(set(re.findall(r"`(test_[a-z0-9_]+)_?…", HAND_WRITTEN))))
def test_tests_that_the_documents_name_exist(prefix: str) -> None:
    paper = (Path(__file__).parent / "test_paper.py").read_text()
    assert f"def {prefix}" in paper


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in Path(inspect.getfile(raft)).parent.glob("*.py"))
)
def test_every_file_of_the_core_is_in_the_document(name: str) -> None:
    assert name == "__init__" or f"[`{name}.py`]" in DOCUMENTS["raft"].read_text()
