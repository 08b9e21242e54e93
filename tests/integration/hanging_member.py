"""`oarlock serve` with a disk that hangs while a file exists: `hang.NAME` beside the data directory."""

from __future__ import annotations

import os
import sys

from oarlock.server.config import load_settings
from oarlock.server.running import run
from oarlock.storage.files import RealFiles
from oarlock.testing.slow_files import HangingFiles

if __name__ == "__main__":
    settings = load_settings(sys.argv[1:], os.environ)
    switch = settings.data_dir.parent / f"hang.{settings.name}"
    sys.exit(run(settings, HangingFiles(RealFiles(), switch)))
