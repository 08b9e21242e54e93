"""The documents are true: links lead somewhere, code compiles, the README's program runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oarlock.server import options
from oarlock.server.processes import HOST, PortReservation

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(path.read_text()) if kind == language]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{name(path)} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_python_example_compiles(path: Path) -> None:
    for code in blocks(path, "python"):
        compile(code, name(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_flag_of_serve_that_is_named_exists(path: Path) -> None:
    for block in blocks(path, "sh"):
        for command in re.findall(r"oarlock serve((?:[^\n\\]|\\\n)*)", block):
            for flag in re.findall(r"--([a-z-]+)", command):
                assert flag in options.KNOWN, f"{name(path)}: oarlock serve --{flag}"


def test_the_program_in_the_readme_runs(tmp_path: Path) -> None:
    (program,) = blocks(ROOT / "README.md", "python")
    ports = PortReservation()
    code = program.replace("127.0.0.1:7001", f"{HOST}:{ports.take()}")
    assert code != program
    for expected in ("5\n5\n", "10\n10\n"):  # the second run finds what the first one left
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == expected
    ports.close()
