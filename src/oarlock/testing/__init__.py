"""Contract suites: what every storage and every transport has to do, as test classes to inherit from.

For our own implementations, for the simulator's, and for those that users write. Free of pytest: `async`
test methods need a runner for them (pytest-asyncio in "auto" mode, for instance). And a disk that hangs on
demand.
"""

from __future__ import annotations

from oarlock.testing.slow_files import HangingFiles
from oarlock.testing.snapshot_suite import SnapshotSuite
from oarlock.testing.storage_suite import StorageSuite
from oarlock.testing.transport_suite import TransportSuite

__all__ = ["HangingFiles", "SnapshotSuite", "StorageSuite", "TransportSuite"]
