"""Load for any etcd v3 endpoint, ours or etcd's, and what came of it.

A closed loop: each simulated client has one request in flight and sends the next when the answer arrives,
as etcd's own benchmark does. The generator runs on the same machine as what it measures, so it must be
cheap: requests are put together from ready-made bytes, answers are not decoded, and a client is an object
with a callback, not a task.
"""

from oarlock.bench.latency import Percentiles
from oarlock.bench.load import Load, Operation, Report, fill, parse_endpoint, run_load

__all__ = ["Load", "Operation", "Percentiles", "Report", "fill", "parse_endpoint", "run_load"]
