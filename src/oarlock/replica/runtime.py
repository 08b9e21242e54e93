"""Runtime: one member of one group, running."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from oarlock.errors import Busy, ChangeReason, ChangeRefused, RequestError, Stopped
from oarlock.machine import Machine
from oarlock.raft import Config, Configuration, Index, Member, NodeId, Raft, Role, Term, trace
from oarlock.raft.types import NOBODY, Change
from oarlock.replica.addresses import Addresses
from oarlock.replica.changes import Changes, OwnEntry
from oarlock.replica.conditions import Conditions
from oarlock.replica.fetching import Fetching
from oarlock.replica.observations import Observations
from oarlock.replica.ports import LogStorage, SnapshotStorage, Transport
from oarlock.replica.proposals import OnDone, Proposals
from oarlock.replica.reads import OnReady, Reads
from oarlock.replica.ready_loop import ReadyLoop
from oarlock.replica.recovery import InThread, StartingPoint, recover
from oarlock.replica.snapshots import SnapshotPolicy, Snapshots
from oarlock.replica.status import Status, member_status

_log = logging.getLogger("oarlock.replica")


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
    apply_lag_max: int = 50_000
    """Entries that are committed and not applied here yet. A member that is further behind (it has just
    started, or its disk is slow) takes no commands."""
    request_timeout: float = 5.0
    """Seconds that a request may take if its caller does not say."""


class Runtime:
    """Runs the consensus core on asyncio, between the storage, the transport and the state machine.

    The caller owns the transport, the machine and the snapshot storage: it starts the transport before and
    closes them after. The log storage is loaded and closed here.

    Args:
        machine: the state machine; `applied_index` says where it stands.
        config: the core's settings; `config.id` is this member. `log_entries_kept` is set here from `policy`
            if it is None and there can be snapshots.
        initial: the configuration to found the cluster with if the storage is empty; ignored if it is not.
            None: this member joins a cluster, and waits until a leader sends it the log.
        snapshots: None: none are written or taken, and the log is kept whole.
        peers: where members may be found beside the addresses in the log, and while there is no log.
        own: what this member's settings say of it; the log is made to say the same.
        policy: when to write snapshots.
        group: tells this group's messages from others' on the same transport.
        clock: seconds, for the core; None: the event loop's time. uvloop reads the clock once per turn only:
            with lease reads, pass `time.monotonic`. It has to be the loop's clock, only fresher.
        in_thread: runs what blocks for the disk; tests on virtual time pass something that does it at once.
        random: source of election timeouts and of tags; seed it to repeat a run.
        trace: receives the core's events.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        config: Config,
        initial: Configuration | None,
        storage: LogStorage,
        transport: Transport,
        snapshots: SnapshotStorage | None = None,
        peers: Sequence[Member] = (),
        own: OwnEntry | None = None,
        policy: SnapshotPolicy | None = None,
        group: int = 1,
        clock: Callable[[], float] | None = None,
        in_thread: InThread = asyncio.to_thread,
        random: random_module.Random | None = None,
        limits: RuntimeLimits | None = None,
        trace: Callable[[trace.Event], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._machine = machine
        self._config = config
        self._initial = initial
        self._storage = storage
        self._snapshot_storage = snapshots
        self._transport = transport
        self._peers = peers
        self._own = own
        self._policy = policy if policy is not None else SnapshotPolicy()
        self._group = group
        self._clock = clock if clock is not None else loop.time
        self._in_thread = in_thread
        self._random = random if random is not None else random_module.Random()
        self._limits = limits if limits is not None else RuntimeLimits()
        self._trace = trace
        self._raft: Raft | None = None
        self._ready_loop: ReadyLoop | None = None
        self._closed = False
        self._conditions = Conditions()
        self._observations = Observations()
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
        self.failed: asyncio.Future[BaseException] = loop.create_future()
        """Gets the error as its result if this member can't go on; stop the process then."""
        self.removed: asyncio.Future[str] = loop.create_future()
        """Done when this member was removed from the cluster, with a sentence that says how it was learned.
        It does nothing useful any more: close it. Under its id it never comes back."""

    # ── life ───────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Recover what is stored and take part.

        Raises:
            StorageError: what is stored cannot be used; the message says what and where.
            UsageError: the storage does not belong to a founding member.
        """
        able = self._snapshot_storage is not None and self._machine.can_snapshot
        if able and self._config.log_entries_kept is None:
            self._config = msgspec.structs.replace(
                self._config, log_entries_kept=self._policy.trailing_entries
            )
        elif not able:
            self._config = msgspec.structs.replace(self._config, log_entries_kept=None)
            if self._snapshot_storage is not None:
                _log.warning(
                    "this state machine has no snapshots: the log is kept whole, on disk and in memory"
                )
        start = await recover(
            self._storage, self._snapshot_storage, self._machine, self._initial, self._in_thread
        )
        if self._closed:
            raise Stopped("the member was closed while it started")
        ready_loop = self._assemble(start)
        del start  # the core has its own copy of the log, and trims it
        self._addresses.update()
        self._transport.register(
            self._group,
            ready_loop.receive,
            on_lost=self._on_lost,
            on_removed=self._on_removed,
        )
        if self._snapshot_storage is not None:
            self._transport.serve_snapshots(self._group, self._snapshots.open)
        ready_loop.schedule()
        if self._own is not None:
            self._publishing = asyncio.get_running_loop().create_task(self._changes.publish(self._own))

    def _assemble(self, start: StartingPoint) -> ReadyLoop:
        """The core, and the parts around it."""
        self._raft = raft = Raft(
            self._config,
            start.hard_state,
            start.entries,
            random=self._random,
            now=self._clock(),
            applied_index=start.applied_index,
            base=start.base,
            snapshot=start.snapshot,
            trace=self._trace,
        )
        self._snapshots = Snapshots(
            raft,
            self._machine,
            self._snapshot_storage,
            self._storage,
            policy=self._policy,
            stored=start.snapshot,
            clock=self._clock,
            in_thread=self._in_thread,
            wake=self._wake,
            fail=self._fail,
        )
        self._snapshots.recovered(start.entries, raft.applied_index)
        self._fetching = Fetching(
            raft,
            self._machine,
            self._snapshot_storage,
            self._transport,
            self._group,
            on_installed=self._snapshots.installed,
            clock=self._clock,
            in_thread=self._in_thread,
            wake=self._wake,
            fail=self._fail,
        )
        self._changes = Changes(
            raft,
            self._conditions,
            first_number=self._random.getrandbits(48),
            clock=self._clock,
            wake=self._wake,
            removed=self.removed,
        )
        self._addresses = Addresses(raft, self._transport, self._group, self._peers)
        self._ready_loop = ReadyLoop(
            raft,
            storage=self._storage,
            transport=self._transport,
            group=self._group,
            machine=self._machine,
            proposals=self._proposals,
            reads=self._reads,
            snapshots=self._snapshots,
            fetching=self._fetching,
            changes=self._changes,
            conditions=self._conditions,
            observations=self._observations,
            clock=self._clock,
            on_configuration=self._on_configuration,
            on_failure=self._on_failure,
        )
        return self._ready_loop

    async def close(self, *, hand_over: bool = False) -> None:
        """Stop taking part; whoever waits gets `Stopped`. What was stored stays. Idempotent.

        Args:
            hand_over: if this member leads, it hands over first, so that the others need no election timeout.
        """
        if self._closed:
            return
        if hand_over and self._ready_loop is not None and not self.failed.done():
            await self.hand_over()
        self._closed = True
        self._conditions.close()
        if self._ready_loop is not None:
            self._transport.unregister(self._group)
            self._ready_loop.stop()
            self._addresses.close()
            if self._publishing is not None:
                self._publishing.cancel()
                await asyncio.wait([self._publishing])
            await self._fetching.close()
            await self._snapshots.close()
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
                with ``(None, error)``: `RequestTimeout`, `Busy`, `OutcomeUnknown`, `Stopped`, or what the
                machine gave.
            request: handed to this member's machine beside the bytes, see `Command.request`.
            timeout: seconds; None for the default.

        Raises:
            Busy: a bound is reached; nothing was done.
            Stopped: the member is not running.
            UsageError: the command is too large.
        """
        ready_loop = self._running()
        raft = ready_loop.raft
        lag = raft.log.commit_index - raft.applied_index
        if lag > self._limits.apply_lag_max:
            raise Busy(f"this member has {lag} entries yet to apply: retry later, or at another member")
        seconds = self._limits.request_timeout if timeout is None else timeout
        self._proposals.add(data, on_done, request, seconds, asyncio.get_running_loop().time())
        ready_loop.schedule()

    def read_barrier(
        self, on_ready: OnReady, timeout: float | None = None, max_staleness: float = 0.0
    ) -> None:
        """Call back when the local state holds everything that was committed before this call (6.4).

        Args:
            on_ready: called once: with None, and the state may be read there and then; or with the error.
                If `max_staleness` allows, before this returns.
            timeout: seconds; None for the default.
            max_staleness: seconds: what was committed at most so long before this call may be missing. Then a
                read that was confirmed so lately serves again, without asking anyone. Measured by this
                member's own clock from when that read was *asked for*, so nothing is assumed about the
                network or about other clocks. Commands answered on this member are seen anyhow.

        Raises:
            Busy: too many reads wait.
            Stopped: the member is not running.
        """
        ready_loop = self._running()
        if max_staleness > 0.0 and self._clock() - self._reads.fresh_at <= max_staleness:
            on_ready(None)
            return
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

    async def barrier(self, timeout: float | None = None, max_staleness: float = 0.0) -> None:
        """`read_barrier` as an awaitable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_ready(error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.read_barrier(on_ready, timeout, max_staleness)
        await future

    # ── membership and leadership ──────────────────────────────────────────────────────────────────

    async def change_membership(self, change: Change, timeout: float | None = None) -> Configuration:
        """Change who takes part (chapter 4). Any member takes it; the leader judges it.

        Returns:
            The configuration as committed, with the change in it. New members are learners in it, which the
            leader promotes by itself when they have caught up, unless `change.learners`.

        Raises:
            ChangeRefused: `.reason` says which rule it breaks; nothing was changed. Another change that is in
                progress is waited for.
            RequestTimeout: it is not made yet; `outcome_unknown` says if it may still be.
            Stopped: the member is not running.
        """
        self._running()
        return await self._changes.change(change, self._seconds(timeout))

    async def transfer_leadership(self, target: NodeId = NOBODY, timeout: float | None = None) -> NodeId:
        """Hand this member's leadership over (3.10), and return when another one is known to lead.

        Args:
            target: to whom; 0: to whoever can take over soonest.

        Returns:
            The new leader: as a rule, but not certainly, the target.

        Raises:
            NotLeader: this member does not lead.
            ChangeRefused: nobody fits (`NO_TARGET`), or the target did not take over in time and this member
                goes on leading (`ABORTED`).
            RequestTimeout: this member leads no longer, and does not know who does.
            Stopped: the member is not running.
        """
        self._running()
        return await self._changes.transfer(target, self._seconds(timeout))

    async def hand_over(self, timeout: float | None = None) -> NodeId:
        """If this member leads, have the most up-to-date other one lead: before stopping.

        Args:
            timeout: seconds; None: two election timeouts. It returns at once if there is nobody.

        Returns:
            The new leader, or 0: this member did not lead, or nobody took over.
        """
        seconds = 2 * self._config.election_timeout if timeout is None else timeout
        try:
            if self.role is not Role.LEADER or not self._anyone_there():
                return NOBODY
            return await self._changes.transfer(NOBODY, seconds, lambda: not self._anyone_there())
        except ChangeRefused as refusal:
            if refusal.reason is not ChangeReason.NO_TARGET and self._anyone_there():
                _log.warning("leadership was not handed over: %s", refusal)
        except RequestError:
            _log.info("leadership was handed over, but nobody has taken over within %.3g s", seconds)
        return NOBODY

    # ── state ──────────────────────────────────────────────────────────────────────────────────────

    def status(self) -> Status:
        """This member's account of itself. Raises `Stopped` before `start`."""
        ready_loop = self._ready_loop
        if ready_loop is None:
            raise Stopped("the member was not started")
        return member_status(
            self.raft,
            now=self._clock(),
            observations=self._observations,
            snapshots=self._snapshots,
            fetching=self._fetching,
            connections=self._connections(),
            oldest_write=ready_loop.oldest_write,
            proposals=len(self._proposals),
            reads=len(self._reads),
            removed=self.removed.done(),
        )

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
        """The one in effect."""
        return self.raft.configuration

    @property
    def committed_configuration(self) -> Configuration:
        """The last one that nothing takes back."""
        return self.raft.committed_configuration

    # ── inside ─────────────────────────────────────────────────────────────────────────────────────

    _publishing: asyncio.Task[None] | None = None
    _snapshots: Snapshots
    _fetching: Fetching
    _changes: Changes
    _addresses: Addresses

    def _seconds(self, timeout: float | None) -> float:
        return self._limits.request_timeout if timeout is None else timeout

    def _running(self) -> ReadyLoop:
        if self._ready_loop is None or self._closed:
            raise Stopped("the member is not running")
        if self.failed.done():
            raise Stopped(f"the member stopped: {self.failed.result()}")
        return self._ready_loop

    def _connections(self) -> dict[NodeId, Any]:
        """What the transport says of each peer, if it says anything."""
        peer_status = getattr(self._transport, "peer_status", None)
        return {} if peer_status is None else peer_status()

    def _anyone_there(self) -> bool:
        """Whether another voter may be connected. The core would believe in one for an election timeout."""
        connections = self._connections()
        return not connections or any(
            connections[voter].connected for voter in self.configuration.voters if voter in connections
        )

    def _wake(self) -> None:
        if self._ready_loop is not None:
            self._ready_loop.schedule()

    def _fail(self, error: BaseException) -> None:
        if self._ready_loop is not None:
            self._ready_loop.fail(error)

    def _on_lost(self, peer: NodeId) -> None:
        """A peer's process is gone: if it led, there is no need to wait for an election timeout."""
        self.raft.peer_lost(peer, self._clock())
        self._wake()

    def _on_configuration(self) -> None:
        self._addresses.update()
        if self.raft.removed:
            self._was_removed("the log says so")

    def _on_removed(self, peer: NodeId) -> None:
        self._was_removed(f"member {peer:x} says so")

    def _was_removed(self, how: str) -> None:
        if not self.removed.done():
            _log.warning("this member (%x) was removed from the cluster: %s", self.node_id, how)
            self.removed.set_result(how)
            self._conditions.look()

    def _on_failure(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(error)
        self._proposals.close()
        self._reads.close()
        self._conditions.close()
