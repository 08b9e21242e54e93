"""Stories of small clusters as transcripts: orders on lines with ``> ``, and below each what happened.

After a change that is meant to show here: ``pytest tests/raft/test_scenarios.py --rewrite``, then read the
diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .stage import Stage

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def perform(script: str) -> str:
    """The script with what happened now. Lines with ``#`` and empty lines are kept; the rest is output."""
    stage = Stage()
    result: list[str] = []
    for line in script.splitlines():
        if line.startswith("#") or not line.strip():
            result.append(line)
        elif line.startswith("> "):
            result.append(line)
            if line.startswith("> cluster "):
                _, _, size, *settings = line.split()
                stage = Stage(int(size), **dict(map(setting, settings)))
            else:
                result.extend("  " + happened for happened in stage.perform(line[2:]))
    return "\n".join(result) + "\n"


def setting(text: str) -> tuple[str, float]:
    """A setting of the cores' `Config`, as in ``> cluster 3 lease_reads=1``."""
    key, value = text.split("=")
    return key, float(value) if "." in value else int(value)


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_the_story_goes_as_written(path: Path, rewrite: bool) -> None:
    written = path.read_text()
    happened = perform(written)
    if rewrite:
        path.write_text(happened)
    else:
        assert happened == written


def test_there_are_stories() -> None:
    assert len(SCENARIOS) >= 6
