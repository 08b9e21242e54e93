"""How `oarlock serve` ends."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, threading, types
from oarlock.server import running

async def serve(settings, files):
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)  # a write to a disk that hangs
    return 1

running.serve = serve
running.run(types.SimpleNamespace(log_level="INFO", warnings=[]))
"""


def test_member_that_failed_ends_although_a_thread_is_stuck_in_its_disk() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], timeout=30, capture_output=True)
    assert (ended.returncode, ended.stderr) == (1, b"")
