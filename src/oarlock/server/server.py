"""One member, assembled: opened from the bottom up, closed from the top down.

::

    who am I → data directory (lock) → log, snapshots → peers' connections → store → replica → etcd services
    → clients' port

Whatever fails on the way up closes what was opened. On the way down a leader hands over first, and goes on
serving while it does: what comes in is passed on to the new leader. Only then nothing new is accepted, what
is under way is answered, the log and the store are closed in good order and the data directory is marked
clean.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random

from msgspec.structs import replace

from oarlock import etcd, grpc
from oarlock.errors import DataDirError, UsageError
from oarlock.kv import Store
from oarlock.raft import Config
from oarlock.replica import OwnEntry, RuntimeLimits, SnapshotPolicy
from oarlock.server import joining
from oarlock.server.addresses import listen, places_of
from oarlock.server.config import Settings
from oarlock.server.health import HealthPages
from oarlock.server.replica import MemberReplica
from oarlock.storage import DataDir, DiskSnapshots, DiskStorage
from oarlock.storage.files import Files
from oarlock.transport import TcpTransport
from oarlock.wire.handshake import Invitation, Join, Refusal

log = logging.getLogger("oarlock.server")

GROUP = 1
"""A server has one group of members."""
DRAIN_SECONDS = 5.0
"""How long a stopping member waits for requests under way."""
GRPC_OVERHEAD_BYTES = 512 * 1024
"""A message may be that much larger than a request: etcd's own allowance."""
REQUEST_SECONDS = 5.0
"""A request may take that long, and two election timeouts more: etcd's own rule."""


class Server:
    """A running member of a cluster. Start it inside a running event loop.

    Args:
        settings: see `oarlock.server.config`.
        files: the file system below log and snapshots; None: the real one.
    """

    def __init__(self, settings: Settings, files: Files | None = None) -> None:
        self.settings = settings
        self._files = files
        self._opened = AsyncExitStack()
        self._identity: joining.Identity | None = None
        self._replica: MemberReplica | None = None
        self._stopping = False

    @property
    def replica(self) -> MemberReplica:
        if self._replica is None:
            raise UsageError("the server was not started")
        return self._replica

    @property
    def identity(self) -> joining.Identity:
        if self._identity is None:
            raise UsageError("the server was not started")
        return self._identity

    @property
    def node_id(self) -> int:
        return self.identity.node_id

    @property
    def cluster_id(self) -> int:
        return self.identity.cluster_id

    async def start(self) -> None:
        """Recover, join the other members and serve.

        Raises:
            UsageError: an address cannot be listened on, or the cluster to join does not know this server.
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
        self._identity = identity = await joining.identify(settings)
        data_dir = DataDir.open(
            settings.data_dir,
            cluster_id=identity.cluster_id,
            member_id=identity.node_id,
            token="" if settings.join else settings.initial_cluster_token,
        )
        self._opened.push(self._leave(data_dir))
        transport = TcpTransport(
            identity.cluster_id,
            identity.node_id,
            listen=[place for address in settings.listen_peer for place in await places_of(address)],
            random=Random(),
        )
        transport.answer_joins(self._answer_join)
        await listen("listen-peer-urls", settings.listen_peer, transport.start())
        self._opened.push_async_callback(transport.close)
        store = open_store(data_dir)
        self._opened.callback(store.close)
        snapshots = DiskSnapshots(data_dir.snapshots_dir, files=self._files)
        self._opened.callback(snapshots.close)
        storage = DiskStorage(
            data_dir.wal_dir,
            durable_index=store.applied_index,
            snapshot_index=snapshots.newest_index(),
            files=self._files,
        )
        replica = self._make_replica(identity, store, storage, snapshots, transport)
        self._opened.push_async_callback(replica.close)
        await replica.start()
        self._replica = replica
        if settings.join and not identity.peers and not replica.configuration.voters:
            # It crashed after it knew who it is, and before it had any log: whom to talk to is forgotten.
            transport.set_members(GROUP, (await joining.ask(settings)).peers)
        await self._serve_clients(store, storage, replica)
        log.info(
            "member %s (%x) of cluster %x serves after %.2f s: clients %s, peers %s, data in %s",
            *(settings.name, self.node_id, self.cluster_id, time.monotonic() - began),
            ", ".join(address.url for address in settings.listen_client),
            ", ".join(address.url for address in settings.listen_peer),
            settings.data_dir,
        )

    def _make_replica(
        self,
        identity: joining.Identity,
        store: Store,
        storage: DiskStorage,
        snapshots: DiskSnapshots,
        transport: TcpTransport,
    ) -> MemberReplica:
        settings = self.settings
        limits = RuntimeLimits()
        batch_bytes_max = max(limits.batch_bytes_max, settings.request_bytes_max + GRPC_OVERHEAD_BYTES)
        replica = MemberReplica(
            store,
            config=Config(
                id=identity.node_id,
                election_timeout=settings.election_timeout,
                heartbeat_interval=settings.heartbeat_interval,
                lease_reads=settings.lease_reads,
                strict_reconfiguration=settings.strict_reconfiguration,
            ),
            initial=identity.founding,
            peers=identity.peers,
            own=OwnEntry(
                name=settings.name, client_urls=settings.advertise_client_urls, priority=settings.priority
            ),
            storage=storage,
            snapshots=snapshots,
            policy=snapshot_policy(settings.snapshot_count),
            transport=transport,
            group=GROUP,
            clock=time.monotonic,  # the loop's clock, but read anew each time: what leases rest on
            limits=replace(limits, batch_bytes_max=batch_bytes_max),
        )
        replica.cluster_id = identity.cluster_id
        return replica

    def _answer_join(self, join: Join) -> Invitation | Refusal:
        """A server asks who it is."""
        known = None if self._replica is None else self._replica.committed_configuration
        if known is None or not known.voters:
            return Refusal("this member is starting, and does not know the members yet: ask another one")
        return joining.answer(known, self.cluster_id, join)

    async def _serve_clients(self, store: Store, storage: DiskStorage, replica: MemberReplica) -> None:
        settings = self.settings
        server = grpc.Server(max_message_bytes=settings.request_bytes_max + GRPC_OVERHEAD_BYTES)
        server.http1 = pages = HealthPages(replica, retry=settings.heartbeat_interval)
        watching = asyncio.get_running_loop().create_task(pages.watch())
        self._opened.callback(watching.cancel)
        limits = etcd.Limits(
            request_bytes=settings.request_bytes_max,
            quota_bytes=settings.quota_bytes,
            timeout=REQUEST_SECONDS + 2 * settings.election_timeout,
            learners_max=settings.learners_max,
        )
        etcd.register_services(server, store, replica, limits, storage)
        self._opened.push_async_callback(server.close, DRAIN_SECONDS)
        for address in settings.listen_client:
            for host, port in await places_of(address):
                await listen("listen-client-urls", [address], server.listen(host, port))

    async def close(self) -> None:
        """Hand over, then stop in good order. Idempotent.

        Raises:
            StorageError: the log or the store could not be closed properly.
        """
        first, self._stopping = not self._stopping, True
        if first and self._replica is not None and not self._replica.failed.done():
            await self._take_leave(self._replica)
        await self._opened.aclose()

    async def _take_leave(self, replica: MemberReplica) -> None:
        if replica.removed.done():
            # Who asked for the removal is answered. All else that is under way here would wait in vain.
            await asyncio.sleep(self.settings.heartbeat_interval)
            await replica.close()
        elif successor := await replica.hand_over():
            log.info("handed leadership over to %x", successor)

    def _leave(self, data_dir: DataDir) -> Callable[..., None]:
        """The last step down: the directory is marked clean only if every step before it went well."""

        def leave(problem: type[BaseException] | None, *_: object) -> None:
            data_dir.close(clean=problem is None and self._stopping)

        return leave


def snapshot_policy(entries: int) -> SnapshotPolicy:
    """Who wants snapshots often wants a short log: no more is kept behind one than came since the last."""
    usual = SnapshotPolicy(entries=entries)
    return replace(usual, trailing_entries=min(usual.trailing_entries, entries))


def open_store(data_dir: DataDir) -> Store:
    """The key-value store. One that cannot be read is thrown away: the log has all of it."""
    try:
        return Store.open(data_dir.kv_dir)
    except DataDirError as error:
        log.warning("%s; rebuilding it from the log", error)
        Store.destroy(data_dir.kv_dir)
        return Store.open(data_dir.kv_dir)
