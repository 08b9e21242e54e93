"""One member, assembled: opened from the bottom up, closed from the top down.

::

    data directory (lock) → log → peers' connections → store → replica → etcd services → clients' port

Whatever fails on the way up closes what was opened. On the way down nothing new is accepted, what is under
way is answered, then the log and the store are closed in good order and the data directory is marked clean.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

from msgspec.structs import replace

from oarlock import etcd, grpc
from oarlock.errors import DataDirError, RequestError, UsageError
from oarlock.kv import Store
from oarlock.raft import Config, Configuration, Member
from oarlock.replica import Runtime, RuntimeLimits
from oarlock.server.config import Address, Settings
from oarlock.server.health import HealthPages
from oarlock.storage import DataDir, DiskStorage
from oarlock.transport import TcpTransport

log = logging.getLogger("oarlock.server")

DRAIN_SECONDS = 5.0
"""How long a stopping member waits for requests under way."""
GRPC_OVERHEAD_BYTES = 512 * 1024
"""A message may be that much larger than a request: etcd's own allowance."""
REQUEST_SECONDS = 5.0
"""A request may take that long, and two election timeouts more: etcd's own rule."""
GC_THRESHOLDS = (50_000, 25, 100)
"""Requests make no reference cycles, so the collector finds nothing: run it seldom."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

OnDone = Callable[[Any, BaseException | None], None]


class MemberReplica(Runtime):
    """The replica as the etcd services want it: it knows its cluster, and refuses through the callback."""

    cluster_id: int = 0
    client_urls: tuple[str, ...] = ()
    """Where clients reach this member."""

    @property
    def configuration(self) -> Configuration:
        """As the log has it, with this member's client URLs: the others' are not known here yet."""
        configuration = super().configuration
        members = tuple(
            replace(member, client_urls=self.client_urls) if member.id == self.node_id else member
            for member in configuration.members
        )
        return replace(configuration, members=members)

    def propose(
        self, data: bytes, on_done: OnDone, request: Any = None, timeout: float | None = None
    ) -> None:
        try:
            super().propose(data, on_done, request, timeout)
        except RequestError as error:
            on_done(None, error)

    def read_barrier(
        self, on_ready: Callable[[BaseException | None], None], timeout: float | None = None
    ) -> None:
        try:
            super().read_barrier(on_ready, timeout)
        except RequestError as error:
            on_ready(error)


def initial_configuration(settings: Settings) -> Configuration:
    """The members that the settings name, with the ids that etcd would give them."""
    members = []
    for name, peer_urls in settings.initial_cluster:
        # Without client URLs: this becomes the log's first entry, so it must be equal on all members, and
        # each is told only its own.
        node_id = etcd.member_id(peer_urls, settings.initial_cluster_token)
        members.append(Member(node_id, name, tuple(sorted(peer_urls))))
    members.sort(key=lambda member: member.id)
    return Configuration(voters=tuple(member.id for member in members), members=tuple(members))


class Server:
    """A running member of a cluster. Start it inside a running event loop.

    Args:
        settings: see `oarlock.server.config`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.configuration = initial_configuration(settings)
        self.node_id = next(
            member.id for member in self.configuration.members if member.name == settings.name
        )
        self.cluster_id = etcd.cluster_id(self.configuration.voters)
        self._opened = AsyncExitStack()
        self._replica: MemberReplica | None = None
        self._stopping = False

    @property
    def replica(self) -> MemberReplica:
        if self._replica is None:
            raise UsageError("the server was not started")
        return self._replica

    async def start(self) -> None:
        """Recover, join the other members and serve.

        Raises:
            UsageError: an address cannot be listened on.
            StorageError: the data directory or what it holds cannot be used.
        """
        try:
            await self._open()
        except BaseException:
            await self._opened.aclose()
            raise

    async def _open(self) -> None:
        settings = self.settings
        began = time.monotonic()
        self._check_first_start()
        data_dir = DataDir.open(settings.data_dir, cluster_id=self.cluster_id, member_id=self.node_id)
        self._opened.push(self._leave(data_dir))
        transport = TcpTransport(
            self.cluster_id,
            self.node_id,
            listen=[place for address in settings.listen_peer for place in await places_of(address)],
            random=Random(),
        )
        await listen("listen-peer-urls", settings.listen_peer, transport.start())
        self._opened.push_async_callback(transport.close)
        store = open_store(data_dir)
        limits = RuntimeLimits()
        batch_bytes_max = max(limits.batch_bytes_max, settings.request_bytes_max + GRPC_OVERHEAD_BYTES)
        self._opened.callback(store.close)
        storage = DiskStorage(data_dir.wal_dir, durable_index=store.applied_index)
        self._replica = replica = MemberReplica(
            store,
            config=Config(
                id=self.node_id,
                election_timeout=settings.election_timeout,
                heartbeat_interval=settings.heartbeat_interval,
            ),
            initial=self.configuration,
            storage=storage,
            transport=transport,
            limits=replace(limits, batch_bytes_max=batch_bytes_max),
        )
        replica.cluster_id = self.cluster_id
        replica.client_urls = settings.advertise_client_urls
        self._opened.push_async_callback(replica.close)
        await replica.start()
        await self._serve_clients(store, storage, replica)
        log.info(
            "member %s (%x) of cluster %x serves after %.2f s: clients %s, peers %s, data in %s",
            *(settings.name, self.node_id, self.cluster_id, time.monotonic() - began),
            ", ".join(address.url for address in settings.listen_client),
            ", ".join(address.url for address in settings.listen_peer),
            settings.data_dir,
        )

    def _check_first_start(self) -> None:
        """A member that is new but claims to have been here has lost its disk: its votes are forgotten."""
        settings = self.settings
        if settings.initial_cluster_existing and not DataDir.in_use_before(settings.data_dir):
            raise UsageError(
                f"--initial-cluster-state existing, but in {settings.data_dir} there is no data of a member: "
                "joining a running cluster is not supported yet; a new cluster is started with `new`"
            )

    async def _serve_clients(self, store: Store, storage: DiskStorage, replica: MemberReplica) -> None:
        settings = self.settings
        server = grpc.Server(max_message_bytes=settings.request_bytes_max + GRPC_OVERHEAD_BYTES)
        server.http1 = HealthPages(replica)
        limits = etcd.Limits(
            request_bytes=settings.request_bytes_max,
            quota_bytes=settings.quota_bytes,
            timeout=REQUEST_SECONDS + 2 * settings.election_timeout,
        )
        etcd.register_services(server, store, replica, limits, storage)
        self._opened.push_async_callback(server.close, DRAIN_SECONDS)
        for address in settings.listen_client:
            for host, port in await places_of(address):
                await listen("listen-client-urls", [address], server.listen(host, port))

    async def close(self) -> None:
        """Stop in good order. Idempotent.

        Raises:
            StorageError: the log or the store could not be closed properly.
        """
        self._stopping = True
        await self._opened.aclose()

    def _leave(self, data_dir: DataDir) -> Callable[..., None]:
        """The last step down: the directory is marked clean only if every step before it went well."""

        def leave(problem: type[BaseException] | None, *_: object) -> None:
            data_dir.close(clean=problem is None and self._stopping)

        return leave


async def places_of(address: Address) -> list[tuple[str, int]]:
    """The numeric addresses to listen on.

    A name may stand for addresses that this machine does not have, and one of them must not keep it from
    the others: in a container "localhost" usually is ::1 too, with IPv6 switched off.
    """
    as_given = [(address.host, address.port)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        return as_given  # whoever listens there says what is wrong
    places: dict[tuple[str, int], None] = {}
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind((place[0], 0, *place[2:]))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue
        places[str(place[0]), address.port] = None
    return list(places) or as_given


async def listen(flag: str, addresses: Any, start: Any) -> None:
    """Await `start`, and say which address it was about if the system refuses it."""
    try:
        await start
    except OSError as error:
        where = ", ".join(f"{address.host}:{address.port}" for address in addresses)
        raise UsageError(f"--{flag}: cannot listen on {where}: {error.strerror or error}") from None


def open_store(data_dir: DataDir) -> Store:
    """The key-value store. One that cannot be read is thrown away: the log has all of it."""
    try:
        return Store.open(data_dir.kv_dir)
    except DataDirError as error:
        log.warning("%s; rebuilding it from the log", error)
        Store.destroy(data_dir.kv_dir)
        return Store.open(data_dir.kv_dir)


async def serve(settings: Settings) -> int:
    """Run a member until SIGTERM, SIGINT or a failure that it cannot outlive.

    Returns:
        the exit code: 0 after a signal, 1 after a failure.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[Any] = loop.create_future()  # its result: the signal that came

    def ask_to_stop(number: int) -> None:
        if not stop.done():
            stop.set_result(signal.Signals(number))

    def on_signal(number: int, _: object) -> None:
        loop.call_soon_threadsafe(ask_to_stop, number)

    # Not the loop's own handlers: those go with the loop, and a second signal would then kill the process.
    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)
    server = Server(settings)
    await server.start()
    gc.collect()
    gc.freeze()  # what start-up made stays: no need to look at it again
    gc.set_threshold(*GC_THRESHOLDS)
    failed: asyncio.Future[Any] = server.replica.failed
    await asyncio.wait([stop, failed], return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        # The replica has said why. What the disk holds is unknown: nothing more is written, least of all a
        # mark that all is well.
        return 1
    log.info("stopping on %s", stop.result().name)
    await server.close()
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # all is in order: asking again must not spoil the exit code
    log.info("stopped")
    return 0


def configure_logging(level: str) -> None:
    """One line per event on standard error, for people."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%F %T")
    )
    root = logging.getLogger("oarlock")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def run(settings: Settings) -> int:
    """`oarlock serve`: run a member to its end, on uvloop where there is one.

    Raises:
        UsageError, DataDirError: what the caller asked for cannot be; the message says what to do.
        OarlockError: anything else that kept the member from starting or from stopping properly.
    """
    configure_logging(settings.log_level)
    for warning in settings.warnings:
        log.warning("%s", warning)
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        code = runner.run(serve(settings))
    if code:
        sys.stderr.flush()
        os._exit(code)  # a worker stuck in a failing disk must not keep the process
    return code
