"""Runtime: one member of one group, running."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable
from typing import Any

import msgspec

from oarlock.errors import Stopped, UsageError
from oarlock.machine import Machine
from oarlock.raft import Config, Configuration, Index, NodeId, Raft, Role, Term, bootstrap, trace
from oarlock.replica.ports import LogStorage, Transport
from oarlock.replica.proposals import OnDone, Proposals
from oarlock.replica.reads import OnReady, Reads
from oarlock.replica.ready_loop import ReadyLoop


class RuntimeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What callers may pile up before they get `Busy`."""

    proposals_max: int = 20_000
    """Commands without an answer on this member."""
    proposal_bytes_max: int = 128 * 1024 * 1024
    """Their bytes."""
    batch_bytes_max: int = 2 * 1024 * 1024
    """Bytes of one command, and of the commands forwarded to the leader in one message."""
    reads_max: int = 50_000
    """Linearizable reads without an answer on this member."""
    request_timeout: float = 5.0
    """Seconds that a request may take if its caller does not say."""


class Runtime:
    """Runs the consensus core on asyncio, between the storage, the transport and the state machine.

    The caller owns the transport and the machine: it starts the transport before and closes both after. The
    storage is loaded and closed here.

    Args:
        machine: the state machine; `applied_index` says where it stands.
        config: the core's settings; `config.id` is this member.
        initial: the configuration to start with if the storage is empty; ignored if it is not.
        group: tells this group's messages from others' on the same transport.
        random: source of election timeouts and of tags; seed it to repeat a run.
        trace: receives the core's events.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        config: Config,
        initial: Configuration,
        storage: LogStorage,
        transport: Transport,
        group: int = 1,
        random: random_module.Random | None = None,
        limits: RuntimeLimits | None = None,
        trace: Callable[[trace.Event], None] | None = None,
    ) -> None:
        self._machine = machine
        self._config = config
        self._initial = initial
        self._storage = storage
        self._transport = transport
        self._group = group
        self._random = random if random is not None else random_module.Random()
        self._limits = limits if limits is not None else RuntimeLimits()
        self._trace = trace
        self._raft: Raft | None = None
        self._ready_loop: ReadyLoop | None = None
        self._closed = False
        self._proposals = Proposals(
            self._random.getrandbits(64),
            self._random.getrandbits(48),
            count_max=self._limits.proposals_max,
            bytes_max=self._limits.proposal_bytes_max,
            batch_bytes_max=self._limits.batch_bytes_max,
        )
        self._reads = Reads(
            self._random.getrandbits(48),
            count_max=self._limits.reads_max,
            retry_after=config.election_timeout,
        )
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Gets the error as its result if this member can't go on; stop the process then."""

    # ── life ───────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Recover what is stored and take part.

        Raises:
            StorageError: what is stored cannot be used; the message says what and where.
            UsageError: the storage is empty and there is no configuration to start with.
        """
        recovered = self._storage.load()
        hard_state, entries = recovered.hard_state, recovered.entries
        if not entries:
            if hard_state.term:
                raise UsageError("the storage holds a term but no log: it does not belong to a member")
            hard_state, entries = bootstrap(self._initial)
            await self._store_bootstrap(hard_state, entries)
        loop = asyncio.get_running_loop()
        raft = Raft(
            self._config,
            hard_state,
            entries,
            random=self._random,
            now=loop.time(),
            applied_index=self._machine.applied_index,
            trace=self._trace,
        )
        self._raft = raft
        self._ready_loop = ReadyLoop(
            raft,
            storage=self._storage,
            transport=self._transport,
            group=self._group,
            machine=self._machine,
            proposals=self._proposals,
            reads=self._reads,
            on_failure=self._on_failure,
        )
        others = [member for member in raft.configuration.members if member.id != raft.id]
        self._transport.set_members(self._group, others)
        self._transport.register(self._group, self._ready_loop.receive)
        self._ready_loop.schedule()

    async def close(self) -> None:
        """Stop taking part; whoever waits gets `Stopped`. What was stored stays. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._ready_loop is not None:
            self._transport.unregister(self._group)
            self._ready_loop.stop()
        self._proposals.close()
        self._reads.close()
        await self._storage.close()

    # ── requests ───────────────────────────────────────────────────────────────────────────────────

    def propose(
        self, data: bytes, on_done: OnDone, request: Any = None, timeout: float | None = None
    ) -> None:
        """Replicate a command. The callback form: nothing is awaited, no task is made.

        Args:
            data: the command, as the machine understands it.
            on_done: called once with ``(result, None)`` when it is durable on a quorum and applied here, or
                with ``(None, error)``: `RequestTimeout`, `Busy`, `Stopped`, or what the machine gave.
            request: handed to this member's machine beside the bytes, see `Command.request`.
            timeout: seconds; None for the default.

        Raises:
            Busy: a bound is reached; nothing was done.
            Stopped: the member is not running.
            UsageError: the command is too large.
        """
        ready_loop = self._running()
        seconds = self._limits.request_timeout if timeout is None else timeout
        self._proposals.add(data, on_done, request, seconds, asyncio.get_running_loop().time())
        ready_loop.schedule()

    def read_barrier(self, on_ready: OnReady, timeout: float | None = None) -> None:
        """Call back when the local state holds everything that was committed before this call (6.4).

        Args:
            on_ready: called once: with None, and the state may be read there and then; or with the error.
            timeout: seconds; None for the default.

        Raises:
            Busy: too many reads wait.
            Stopped: the member is not running.
        """
        ready_loop = self._running()
        seconds = self._limits.request_timeout if timeout is None else timeout
        self._reads.add(on_ready, seconds, asyncio.get_running_loop().time())
        ready_loop.schedule()

    async def submit(self, data: bytes, request: Any = None, timeout: float | None = None) -> Any:
        """`propose` as an awaitable: returns the result or raises the error."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_done(result: Any, error: BaseException | None) -> None:
            if future.done():
                return  # the caller went away
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.propose(data, on_done, request, timeout)
        return await future

    async def barrier(self, timeout: float | None = None) -> None:
        """`read_barrier` as an awaitable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_ready(error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.read_barrier(on_ready, timeout)
        await future

    # ── state ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def raft(self) -> Raft:
        """The core, to look at. Raises `Stopped` before `start`."""
        if self._raft is None:
            raise Stopped("the member was not started")
        return self._raft

    @property
    def node_id(self) -> NodeId:
        return self._config.id

    @property
    def term(self) -> Term:
        return self.raft.term

    @property
    def role(self) -> Role:
        return self.raft.role

    @property
    def leader_id(self) -> NodeId:
        """The leader as far as this member knows, or 0."""
        return self.raft.leader_id

    @property
    def commit_index(self) -> Index:
        return self.raft.commit_index

    @property
    def applied_index(self) -> Index:
        return self.raft.applied_index

    @property
    def configuration(self) -> Configuration:
        return self.raft.configuration

    # ── inside ─────────────────────────────────────────────────────────────────────────────────────

    def _running(self) -> ReadyLoop:
        if self._ready_loop is None or self._closed:
            raise Stopped("the member is not running")
        if self.failed.done():
            raise Stopped(f"the member stopped: {self.failed.result()}")
        return self._ready_loop

    async def _store_bootstrap(self, hard_state: Any, entries: Any) -> None:
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_durable(error: BaseException | None) -> None:
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

        self._storage.append(hard_state, entries, on_durable)
        await durable

    def _on_failure(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(error)
        self._proposals.close()
        self._reads.close()
