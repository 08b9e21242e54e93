"""The demo, as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PROGRAM = [sys.executable, "-m", "oarlock.cli", "demo"]


def test_the_check_loses_nothing_says_so_and_ends_within_a_minute(tmp_path: Path) -> None:
    began = time.monotonic()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([*PROGRAM, "--check"], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 60
    assert done.stdout.count("✓") == 6
    assert re.search(r"writes acknowledged +[0-9],[0-9]{3}", done.stdout)
    assert re.search(r"lost +0$", done.stdout, re.MULTILINE)
    assert re.search(r"failover +[0-9.]+s", done.stdout)
    assert not list(tmp_path.iterdir()), "its directory is removed"


def test_the_demo_stays_until_ctrl_c_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(PROGRAM, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("Ctrl-C"):
                break
        pids = [int(pid) for pid in re.findall(r"process ([0-9]+)", printed)]
        endpoints = re.findall(r"m[123] +(127\.0\.0\.1:[0-9]+)", printed)
        assert (len(pids), len(endpoints)) == (3, 3)
        for endpoint in endpoints:
            assert endpoint in re.search(r"OARLOCK_ENDPOINTS=(\S+)", printed)[1]  # type: ignore[index]
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_check_that_is_told_to_stop_takes_its_members_with_it(tmp_path: Path, number: int) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*PROGRAM, "--check"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("✓ start three members")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 3
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(30) == 130
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert not list(tmp_path.iterdir())
