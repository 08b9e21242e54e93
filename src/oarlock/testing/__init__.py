"""Contract suites: what every storage and every transport has to do, as test classes to inherit from.

For our own implementations, for the simulator's, and for those that users write. Free of pytest: `async`
test methods need a runner for them (pytest-asyncio in "auto" mode, for instance).
"""

from __future__ import annotations

from oarlock.testing.storage_suite import StorageSuite
from oarlock.testing.transport_suite import TransportSuite

__all__ = ["StorageSuite", "TransportSuite"]
