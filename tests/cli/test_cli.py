"""The command tree: quick to answer, quiet when wrong."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from .conftest import Oarlock

COMMANDS = (
    *("serve", "put", "get", "del", "member", "move-leader", "endpoint", "doctor"),
    *("demo", "bench", "version"),
)
HELP_SECONDS = 0.2
"""The design's bound for `oarlock --help`."""


def test_help_answers_within_its_bound() -> None:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "oarlock.cli", "--help"]
        done = subprocess.run(command, capture_output=True, timeout=20)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # It waits for nothing, so on an idle machine it answers after the time that it computes.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
    assert min(seconds) < HELP_SECONDS


def test_help_does_not_import_what_the_commands_need() -> None:
    code = (
        "import sys, oarlock.cli; oarlock.cli.run(['--help']); "
        "print(sorted({'asyncio', 'google.protobuf', 'rich', 'lmdb', 'uvloop'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_every_command(oarlock: Oarlock, arguments: list[str]) -> None:
    _, out, err = oarlock(*arguments)
    for command in COMMANDS:
        assert f"\n  {command} " in out + err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(oarlock: Oarlock, command: str) -> None:
    code, out, err = oarlock(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: oarlock")


def test_serve_help_lists_every_flag_that_is_obeyed(oarlock: Oarlock) -> None:
    from oarlock.server.options import OBEYED

    _, out, _ = oarlock("serve", "-h")
    for option in OBEYED:
        assert f"--{option.flag}" in out


def test_version_names_ours_and_the_api(oarlock: Oarlock) -> None:
    code, out, _ = oarlock("version")
    assert code == 0
    assert out.startswith("oarlock 0.")
    assert "etcd API 3.5" in out


@pytest.mark.parametrize("arguments", [["serve", "--bogus"], ["serve", "-h=x"], ["serve", "stray"]])
def test_serve_refuses_what_it_does_not_know(oarlock: Oarlock, arguments: list[str]) -> None:
    code, out, err = oarlock(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("oarlock: ")
    assert err.count("\n") == 1
