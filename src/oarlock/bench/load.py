"""Drive a number of clients over a number of connections, and measure.

Each client is one `_Client`: `send` starts a call, `done` is its callback, which notes the latency and
sends again. A client whose call failed pauses a moment, so that a dead endpoint does not spin.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from oarlock.bench.latency import Percentiles
from oarlock.bench.requests import PUT, RANGE, key_of, put_requests, range_requests
from oarlock.client.endpoints import Address
from oarlock.errors import OarlockError, UsageError
from oarlock.grpc import Channel, RpcError

ERROR_PAUSE = 0.05
"""Seconds a client waits after a failed call."""
CALL_TIMEOUT = 30.0
"""Seconds; generous: a benchmark wants to see slow calls, not to hide them."""


class Operation(enum.Enum):
    PUT = "put"
    RANGE = "range"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send where.

    Raises:
        UsageError: a value is out of its range.
    """

    operation: Operation
    endpoints: tuple[str, ...]
    """HOST:PORT; connections are spread over them in turn."""
    clients: int = 1
    """Requests in flight at any time."""
    connections: int = 1
    total: int = 0
    """Requests to answer before the end; 0 is no bound."""
    seconds: float = 0.0
    """Time before the end; 0 is no bound."""
    warmup_seconds: float = 0.0
    """Load before the measurement starts."""
    key_size: int = 8
    value_size: int = 256
    keys: int = 100_000
    """How many different keys are written or read."""
    linearizable: bool = True
    """Of range requests."""
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise UsageError("at least one endpoint is needed")
        if self.clients < 1 or self.connections < 1:
            raise UsageError("there must be at least one client and one connection")
        if self.connections > self.clients:
            raise UsageError(f"{self.connections} connections for {self.clients} clients: some would be idle")
        if self.total <= 0 and self.seconds <= 0:
            raise UsageError("give a number of requests or a duration")
        if self.value_size < 0:
            raise UsageError(f"value size must not be negative, not {self.value_size}")


class Report(msgspec.Struct, frozen=True):
    """What came of a load."""

    answered: int
    failed: int
    seconds: float
    latency: Percentiles
    errors: dict[str, int]
    """Message → how often, the most frequent first."""
    client_cpu_seconds: float
    """CPU time of the load generator itself."""

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0


class _Run:
    """What the clients of one load share."""

    def __init__(self, load: Load, make: Callable[[], bytes]) -> None:
        self.method = PUT if load.operation is Operation.PUT else RANGE
        self.make = make
        self.left = load.total or (1 << 62)
        self.in_flight = 0
        self.measure_from = float("inf") if load.warmup_seconds > 0 else 0.0
        """Requests that are sent from this moment on count."""
        self.stopping = False
        self.samples: list[float] = []
        self.errors: Counter[str] = Counter()
        self.finished = asyncio.Event()

    def check_finished(self) -> None:
        if self.in_flight == 0 and (self.stopping or self.left <= 0):
            self.finished.set()


class _Client:
    """One request in flight, always."""

    __slots__ = ("call", "run", "started")

    def __init__(self, run: _Run, channel: Channel) -> None:
        self.run = run
        self.call = channel.call
        self.started = 0.0

    def send(self) -> None:
        run = self.run
        if run.stopping or run.left <= 0:
            run.check_finished()
            return
        run.in_flight += 1
        self.started = time.perf_counter()
        if self.started >= run.measure_from:
            run.left -= 1
        self.call(run.method, run.make(), self.done)

    def done(self, reply: bytes | None, error: RpcError | None) -> None:
        run = self.run
        run.in_flight -= 1
        if error is not None:
            run.errors[str(error)] += 1
            asyncio.get_running_loop().call_later(ERROR_PAUSE, self.send)
            return
        if self.started >= run.measure_from:
            run.samples.append(time.perf_counter() - self.started)
        self.send()


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of an endpoint as clients write it.

    Raises:
        UsageError: it is none.
    """
    address = Address(endpoint)
    return address.host, address.port


async def run_load(load: Load, progress: Callable[[int], None] | None = None) -> Report:
    """Run one load to its end.

    Args:
        load: what to do.
        progress: called about ten times a second with the number of requests answered so far.

    Raises:
        RpcError: an endpoint could not be reached at the start.
    """
    random = Random(load.seed)
    if load.operation is Operation.PUT:
        make = put_requests(random, load.keys, load.key_size, load.value_size)
    else:
        make = range_requests(random, load.keys, load.key_size, load.linearizable)
    targets = [parse_endpoint(endpoint) for endpoint in load.endpoints]
    channels = [Channel(*targets[number % len(targets)]) for number in range(load.connections)]
    try:
        for channel in channels:
            await channel.connect()
        return await _drive(load, _Run(load, make), channels, progress)
    finally:
        for channel in channels:
            await channel.close()


async def _drive(
    load: Load, run: _Run, channels: Sequence[Channel], progress: Callable[[int], None] | None
) -> Report:
    for number in range(load.clients):
        _Client(run, channels[number % len(channels)]).send()
    if load.warmup_seconds > 0:
        await asyncio.sleep(load.warmup_seconds)
        run.errors.clear()
    started, cpu = time.perf_counter(), time.process_time()
    run.measure_from = min(run.measure_from, started)
    end = started + load.seconds if load.seconds > 0 else float("inf")
    while not run.finished.is_set() and (now := time.perf_counter()) < end:
        if progress is not None:
            progress(len(run.samples))
        try:
            await asyncio.wait_for(run.finished.wait(), min(0.1, end - now))
        except TimeoutError:
            pass
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    samples = list(run.samples)
    run.stopping = True
    run.check_finished()
    try:
        await asyncio.wait_for(run.finished.wait(), CALL_TIMEOUT)
    except TimeoutError:
        run.errors[f"no answer within {CALL_TIMEOUT:g} s"] += run.in_flight
    errors = dict(run.errors.most_common())
    return Report(len(samples), sum(errors.values()), seconds, Percentiles.of(samples), errors, cpu)


async def fill(endpoints: Sequence[str], keys: int, key_size: int, value_size: int) -> None:
    """Write keys 0 … `keys` - 1, so that range requests find something.

    Raises:
        OarlockError: a write failed.
    """
    from oarlock.etcd_pb import rpc_pb2

    channel = Channel(*parse_endpoint(endpoints[0]))
    await channel.connect()
    try:
        value = b"v" * value_size
        for start in range(0, keys, 256):
            numbers = range(start, min(start + 256, keys))
            await asyncio.gather(
                *(
                    channel.unary(
                        PUT,
                        rpc_pb2.PutRequest(key=key_of(number, key_size), value=value).SerializeToString(),
                        timeout=CALL_TIMEOUT,
                    )
                    for number in numbers
                )
            )
    except RpcError as error:
        raise OarlockError(f"cannot fill {endpoints[0]} with keys: {error}") from error
    finally:
        await channel.close()
