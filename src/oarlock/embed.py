"""Replica: a state machine of yours, replicated. The everyday face of the library.

This is the library's assembly, as `oarlock.server` is the server's: it picks the parts (data directory,
write-ahead log, TCP between the members, the runtime) and starts and stops them in order. Nothing is decided
here that safety rests on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import msgspec

from oarlock.errors import ChangeReason, ChangeRefused, DataDirError, RequestTimeout, Stopped, UsageError
from oarlock.founding import Identity, check_url, founding_members, identify
from oarlock.machine import MachineAdapter, StateMachine, encode_call, encode_open, run_query
from oarlock.raft import Config, Member, Role
from oarlock.raft.types import NOBODY, Change
from oarlock.replica import (
    LogStorage,
    OwnEntry,
    Runtime,
    RuntimeLimits,
    SnapshotPolicy,
    SnapshotStorage,
    Status,
)
from oarlock.session import Session, check_session_numbers
from oarlock.storage import DataDir, DiskSnapshots, DiskStorage, MemorySnapshots, MemoryStorage
from oarlock.transport import TcpTransport, invitation_for, parse_peer_url

M = TypeVar("M", bound=StateMachine)
R = TypeVar("R")
P = ParamSpec("P")

_GROUP = 1
_CHANGE_SECONDS = 300.0
"""A change of several members waits for the new ones to be started and to catch up."""
_PAUSE = 0.1


class MemberInfo(msgspec.Struct, frozen=True):
    """A member of the cluster, as the committed configuration has it."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    voter: bool
    """False: a learner, whose vote does not count."""
    joining: bool
    """A learner that becomes a voter by itself once it has caught up."""
    priority: int


class Requests(Generic[M]):
    """What can be asked of a replica, with one timeout, and one bound on how old an answer may be."""

    def __init__(self, replica: Replica[M], timeout: float, max_staleness: float = 0.0) -> None:
        self._replica = replica
        self._timeout = timeout
        self._max_staleness = max_staleness

    def within(self, seconds: float) -> Requests[M]:
        """The same replica with another timeout: ``await replica.within(0.5).submit(Counter.add, 5)``."""
        if not seconds > 0:
            raise UsageError(f"a timeout is a positive number of seconds, not {seconds}")
        return Requests(self._replica, seconds, self._max_staleness)

    def stale(self, max_staleness: float) -> Requests[M]:
        """The same replica, whose queries may be answered with a state that is a little old.

        ``await replica.stale(0.5).query(Counter.read)`` sees every command that was answered more than half a
        second ago, by this member's own clock, and all that this member has answered. It asks nobody if a
        query that was asked for so lately was confirmed; else it costs what a query costs, and serves those
        that come after it.

        Args:
            max_staleness: seconds.
        """
        if not max_staleness > 0:
            raise UsageError(f"max_staleness is a positive number of seconds, not {max_staleness}")
        return Requests(self._replica, self._timeout, max_staleness)

    async def submit(
        self, command: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a command on every member, exactly once: ``await replica.submit(Counter.add, 5)``.

        Any member takes it. It returns when the command is durable on a majority and applied here. If the
        caller is cancelled meanwhile, the command may still be applied.

        Args:
            command: the method, taken from the class.
            args, kwargs: its arguments.

        Raises:
            CommandFailed: the method raised; its exception is the cause.
            RequestTimeout: no answer in time; `outcome_unknown` says if it may still be applied.
            Busy: too much waits already; nothing was done.
            Stopped: this member stopped; `outcome_unknown` as above.
            UsageError: it is not a command of this machine, or an argument or the result does not fit.
        """
        self._replica._check_owned(command)
        data = encode_call(command, args, kwargs)
        return cast(R, await self._replica._running().submit(data, request=True, timeout=self._timeout))

    async def query(self, query: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Look at the state, linearizably: it holds every command that was answered before this call.

        Costs one round of messages, shared with all queries that wait at the time, and no log entry
        (dissertation 6.4). What the method itself raises passes through.

        Raises:
            RequestTimeout: no majority could be reached in time.
            Busy: too many queries wait already.
            Stopped: this member stopped.
            UsageError: it is not a query of this machine, or an argument or the result does not fit.
        """
        self._replica._check_owned(query)
        await self._replica._running().barrier(self._timeout, self._max_staleness)
        return cast(R, run_query(self._replica.machine, query, args, kwargs))


class Replica(Requests[M]):
    """One member of a cluster that replicates a state machine.

    ::

        async with oarlock.Replica(Counter(), name="a", data_dir="data/a", initial_cluster=peers) as replica:
            await replica.submit(Counter.add, 5)
            await replica.query(Counter.read)

    The founding members are all started with the same `initial_cluster` and `token`, each with its own `name`
    and its own `data_dir`. One that is added later (`add_member`, on any member) is started with `join`
    instead. From its second start on, a member has its identity from its data directory, and the log says
    who the others are and where; the addresses given are tried beside those. One object is one run: to
    start again, make a new one, with a new machine.

    Args:
        machine: in its initial state. It is rebuilt from the snapshot and the log, and must be changed by
            commands only.
        name: this member's; fixed for good.
        data_dir: made if it does not exist; belongs to this member alone. None keeps everything in memory:
            for tests and trials in one process. A member that forgets must never come back.
        initial_cluster: names and peer URLs of the founding members, as a mapping or as
            ``a=http://host:port,b=…``. This one's must be among them.
        join: instead of `initial_cluster`: the peer URL of any member, or of several, of the cluster that has
            added this member.
        peer_url: with `join`: the URL under which this member was added.
        listen: where to listen for the others, as a URL; None: this member's peer URL.
        token: tells clusters with the same names apart.
        election_timeout: seconds without a leader before a member stands for election. At least ten times
            the time that a message and a write to disk take.
        heartbeat_interval: seconds; at most a fifth of the election timeout.
        request_timeout: seconds that a request may take; `within` sets another for some.
        priority: a leader hands over to a member of a higher priority than its own that keeps up. None: what
            it was before, at first 0.
        lease_reads: the leader answers queries without asking the others, while it may be sure that no other
            leads (6.4.1). That rests on clocks that run equally fast: no member's by more than a tenth faster
            than another's. Equal on all members, and so must be the election timeout.
        snapshots: when to write one, and what to keep of the log. Only for machines that have `snapshot` and
            `restore`.
        limits: what callers may pile up before they get `Busy`.

    Raises:
        UsageError: an argument makes no sense; one line that names it.
    """

    def __init__(
        self,
        machine: M,
        *,
        name: str,
        data_dir: Path | str | None,
        initial_cluster: Mapping[str, str] | str | None = None,
        join: str | Sequence[str] | None = None,
        peer_url: str | None = None,
        listen: str | None = None,
        token: str = "oarlock",
        election_timeout: float = 0.5,
        heartbeat_interval: float = 0.05,
        request_timeout: float = 5.0,
        priority: int | None = None,
        lease_reads: bool = False,
        snapshots: SnapshotPolicy | None = None,
        limits: RuntimeLimits | None = None,
    ) -> None:
        if not request_timeout > 0:
            raise UsageError(f"request_timeout must be a positive number of seconds, not {request_timeout}")
        super().__init__(self, request_timeout)
        self.machine = machine
        self._adapter = MachineAdapter(machine)
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._name = name
        self._token = token
        self._founders, self._join, self._peer_url = _place(name, initial_cluster, join, peer_url, token)
        address = parse_peer_url(listen if listen is not None else self._peer_url)
        self._listen = (address.host, address.port)
        # The id is not known before the data directory was read, or a member asked.
        self._config = Config(
            id=1,
            election_timeout=election_timeout,
            heartbeat_interval=heartbeat_interval,
            lease_reads=lease_reads,
        )
        self._priority = priority
        self._policy = snapshots
        self._limits = msgspec.structs.replace(limits or RuntimeLimits(), request_timeout=request_timeout)
        self._runtime: Runtime | None = None
        self._parts: AsyncExitStack | None = None
        self._closed = False
        self._sessions: dict[Session[M], None] = {}
        """Those that keep themselves alive here."""

    # ── life ───────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Recover what is stored and take part. ``async with`` does it, and `close`.

        A member that joins asks for its identity first; it goes on asking for a while if nobody answers.

        Raises:
            UsageError: the address cannot be listened at; this member is not known to the cluster that it is
                to join; or this object was started before.
            DataDirError: the directory is in use, of another member or cluster, or not writable.
            StorageError: what is stored is damaged.
        """
        if self._parts is not None:
            raise UsageError("a Replica is started once: make a new one, with a new machine")
        async with AsyncExitStack() as parts:
            self._parts = parts
            identity = await identify(
                self._name,
                self._data_dir,
                founders=self._founders,
                token=self._token,
                join=self._join,
                peer_url=self._peer_url,
            )
            log, snapshots = self._open_storage(identity, parts)
            transport = TcpTransport(
                identity.cluster_id, identity.member_id, listen=[self._listen], random=random.Random()
            )
            parts.push_async_callback(transport.close)
            await transport.start()
            runtime = Runtime(
                self._adapter,
                config=msgspec.structs.replace(self._config, id=identity.member_id),
                initial=identity.founding,
                storage=log,
                snapshots=snapshots,
                transport=transport,
                peers=identity.peers,
                own=None if self._priority is None else OwnEntry(priority=self._priority),
                policy=self._policy,
                group=_GROUP,
                clock=time.monotonic if self._config.lease_reads else None,
                limits=self._limits,
            )
            parts.push_async_callback(runtime.close, hand_over=True)
            await runtime.start()
            self._check_identity(identity, runtime)
            transport.answer_joins(
                lambda question: invitation_for(
                    runtime.committed_configuration, identity.cluster_id, question
                )
            )
            self._runtime = runtime
            self._parts = parts.pop_all()

    async def close(self) -> None:
        """Stop taking part; whoever waits gets `Stopped`. What was stored stays. Idempotent.

        If this member leads, it hands over first, so that the others go on at once.
        """
        self._closed = True
        for session in list(self._sessions):
            await session.leave()
        if self._parts is not None:
            await self._parts.aclose()

    async def __aenter__(self) -> Replica[M]:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def failed(self) -> asyncio.Future[BaseException]:
        """Done when this member cannot go on (its disk failed, say), with the error as the result.

        Every request then raises `Stopped`. Await it, or look at it, and end the process; the member recovers
        when it is started again.
        """
        return self._started().failed

    @property
    def removed(self) -> asyncio.Future[str]:
        """Done when this member was removed from the cluster: there is nothing left for it to do.

        Requests then raise `Stopped`. To come back, it is added as a new member, with a new data directory.
        """
        return self._started().removed

    # ── requests ───────────────────────────────────────────────────────────────────────────────────

    def peek(self, query: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Look at this member's own copy of the state, at once and without asking anyone: it may be stale.

        It is a state that the cluster was in, and successive peeks at one member never go back in time while
        it runs. How old it is has no bound: usually about a heartbeat, but a member that is cut off, or is
        still applying its log after a start, shows an old state without knowing. Where that matters, `query`.

        Raises:
            Stopped: this member stopped.
            UsageError: it is not a query of this machine, or an argument or the result does not fit.
        """
        self._check_owned(query)
        self._running()
        return cast(R, run_query(self.machine, query, args, kwargs))

    async def wait_for_leader(self, timeout: float | None = None) -> None:
        """Return once there is a working leader and this member has caught up with it.

        Requests wait for a leader by themselves; this is for those who want to know that the cluster is up.

        Args:
            timeout: seconds; None for `request_timeout`.

        Raises:
            RequestTimeout: no majority took part in time.
            Stopped: this member stopped.
        """
        await self._running().barrier(self._timeout if timeout is None else timeout)

    # ── sessions ───────────────────────────────────────────────────────────────────────────────────

    async def session(self, timeout: float = 60.0) -> Session[M]:
        """Open a client session: its commands are executed once, however often they have to be sent (6.3).

        Args:
            timeout: seconds, by the cluster's clock, after which the cluster forgets it if it is not used. It
                keeps itself alive while this replica runs.

        Raises:
            RequestTimeout: no majority took part in time.
            Busy: there are too many sessions.
            Stopped: this member stopped.
        """
        if not timeout > 0:
            raise UsageError(f"a session's timeout is a positive number of seconds, not {timeout}")
        data = encode_open(max(1, round(timeout * 1000)))
        id_ = await self._running().submit(data, request=True, timeout=self._timeout)
        return self._opened(Session(self, cast(int, id_), 1, timeout, self._timeout))

    def resume_session(self, id_: int, next_serial: int, timeout: float = 60.0) -> Session[M]:
        """Take up a session that was opened elsewhere, or in an earlier run.

        Args:
            id_: `Session.id`.
            next_serial: what to go on with: `Session.next_serial`; or, if the last command had no answer, the
                one that it had: the same command is then submitted again, and executed only if it was not.
            timeout: as it was opened with.
        """
        check_session_numbers(id_, next_serial)
        self._running()
        return self._opened(Session(self, id_, next_serial, timeout, self._timeout))

    # ── who is who ─────────────────────────────────────────────────────────────────────────────────

    @property
    def name(self) -> str:
        """This member's."""
        return self._name

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, as far as it knows: another may have been elected since."""
        runtime = self._alive()
        return runtime is not None and runtime.role is Role.LEADER

    @property
    def leader(self) -> str | None:
        """The leader's name, as far as this member knows; None if it knows of none."""
        runtime = self._alive()
        member = None if runtime is None else runtime.configuration.member(runtime.leader_id)
        return None if member is None else member.name

    @property
    def members(self) -> tuple[MemberInfo, ...]:
        """Who takes part, as far as this member knows. Raises `Stopped` before the start."""
        configuration = self._started().committed_configuration
        return tuple(
            MemberInfo(
                id=member.id,
                name=member.name,
                peer_urls=member.peer_urls,
                voter=configuration.is_voter(member.id),
                joining=member.id in configuration.joining,
                priority=member.priority,
            )
            for member in configuration.members
        )

    def status(self) -> Status:
        """This member's account of itself and of the others. Raises `Stopped` before the start."""
        return self._started().status()

    # ── membership and leadership ──────────────────────────────────────────────────────────────────

    async def add_member(self, name: str, peer_url: str, *, learner: bool = False) -> int:
        """Add a member, which is started afterwards, with ``join`` and this `peer_url`.

        It comes in as a learner, and becomes a voter by itself once it has caught up, so that it never holds
        up the others (4.2.1).

        Args:
            name: no other member's.
            peer_url: where the others will reach it.
            learner: it stays a learner until `promote`.

        Returns:
            Its id.

        Raises:
            ChangeRefused: `.reason` says which rule it breaks.
            RequestTimeout: `outcome_unknown` says if it may still be made.
            Stopped: this member stopped.
        """
        member = _new_member(name, peer_url)
        await self._change(Change(add=(member,), learners=learner))
        return member.id

    async def promote(self, who: str | int) -> None:
        """Make a learner a voter. `who` is its name or id. Raises as `add_member`."""
        await self._change(Change(promote=(self._id_of(who),)))

    async def remove(self, who: str | int) -> None:
        """Remove a member for good; it may be this one, or the leader. Raises as `add_member`."""
        await self._change(Change(remove=(self._id_of(who),)))

    async def change_members(
        self,
        *,
        add: Mapping[str, str] | None = None,
        remove: Iterable[str | int] = (),
        promote: Iterable[str | int] = (),
        demote: Iterable[str | int] = (),
        timeout: float = _CHANGE_SECONDS,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Change any number of members at once: three for three others, say (joint consensus, 4.3).

        New ones come in as learners first; start them then. When they have caught up, everything happens in
        one step: at no time do the old and the new members decide apart from each other, and the cluster
        takes writes throughout.

        Args:
            add: names and peer URLs of new voters.
            remove, promote, demote: names or ids. Demoted voters stay as learners.
            timeout: seconds for all of it. What has been done by then stays: new members are learners.
            progress: is told what is being waited for.

        Raises:
            ChangeRefused, RequestTimeout, Stopped: as `add_member`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        step = Change(
            promote=tuple(sorted(map(self._id_of, promote))),
            demote=tuple(sorted(map(self._id_of, demote))),
            remove=tuple(sorted(map(self._id_of, remove))),
        )
        new = tuple(_new_member(name, url) for name, url in (add or {}).items())
        if new:
            await self._running().change_membership(Change(add=new, learners=True), timeout)
            progress(f"added as learners, start them now: {', '.join(member.name for member in new)}")
            promoted = tuple(sorted((*step.promote, *(member.id for member in new))))
            step = msgspec.structs.replace(step, promote=promoted)
        told = ""
        while True:
            try:
                await self._running().change_membership(step, max(deadline - loop.time(), _PAUSE))
                progress("done")
                return
            except ChangeRefused as refusal:
                if not new or refusal.reason not in (ChangeReason.NOT_CAUGHT_UP, ChangeReason.NO_QUORUM):
                    raise
                if loop.time() + _PAUSE >= deadline:
                    raise RequestTimeout(timeout, outcome_unknown=False) from refusal
                if str(refusal) != told:
                    told = str(refusal)
                    progress(f"waiting: {told}")
            await asyncio.sleep(_PAUSE)

    async def transfer_leadership(self, to: str | int | None = None) -> str:
        """Hand this member's leadership over (3.10), and return the new leader's name when it leads.

        Args:
            to: name or id; None: whoever can take over soonest.

        Raises:
            NotLeader: this member does not lead; ask the one that does.
            ChangeRefused: nobody fits, or the target did not take over in time: this member goes on leading.
            RequestTimeout: this member leads no longer, and does not know who does.
            Stopped: this member stopped.
        """
        target = NOBODY if to is None else self._id_of(to)
        leader_id = await self._running().transfer_leadership(target, self._timeout)
        member = self._running().configuration.member(leader_id)
        return f"{leader_id:x}" if member is None else member.name

    # ── inside ─────────────────────────────────────────────────────────────────────────────────────

    def _opened(self, session: Session[M]) -> Session[M]:
        self._sessions[session] = None
        return session

    async def _change(self, change: Change) -> None:
        await self._running().change_membership(change, self._timeout)

    def _id_of(self, who: str | int) -> int:
        """Raises `UsageError` if nobody has that name."""
        if isinstance(who, int):
            return who
        members = self._running().committed_configuration.members
        found = next((member.id for member in members if member.name == who), None)
        if found is None:
            known = ", ".join(sorted(member.name for member in members))
            raise UsageError(f"there is no member {who!r}; there are {known}")
        return found

    def _open_storage(self, identity: Identity, parts: AsyncExitStack) -> tuple[LogStorage, SnapshotStorage]:
        if self._data_dir is None:
            return MemoryStorage(), MemorySnapshots()
        directory = DataDir.open(self._data_dir, cluster_id=identity.cluster_id, member_id=identity.member_id)

        def release(kind: object, error: BaseException | None, traceback: object) -> None:
            directory.close(clean=error is None)

        parts.push(release)
        snapshots = DiskSnapshots(directory.snapshots_dir)
        parts.callback(snapshots.close)
        return DiskStorage(directory.wal_dir, snapshot_index=snapshots.newest_index()), snapshots

    def _check_identity(self, identity: Identity, runtime: Runtime) -> None:
        """The data directory's word holds, but it has to be the directory that is meant."""
        member = runtime.configuration.member(identity.member_id)
        if member is not None and member.name and member.name != self._name:
            raise DataDirError(
                f"{self._data_dir}: belongs to member {member.name!r}, not to {self._name!r}: "
                "give this member its own data directory, or the name it was made with"
            )
        if self._founders and identity.founding is None and not runtime.raft.log.last_index:
            raise DataDirError(
                f"{self._data_dir}: belongs to cluster {identity.cluster_id:x}, not to the one of "
                "initial_cluster and token, and holds no log: give this member its own data directory, or "
                "the settings it was made with"
            )

    def _alive(self) -> Runtime | None:
        runtime = self._runtime
        return None if runtime is None or self._closed or runtime.failed.done() else runtime

    def _started(self) -> Runtime:
        if self._runtime is None:
            raise Stopped("the replica was not started: use it with `async with`")
        return self._runtime

    def _running(self) -> Runtime:
        runtime = self._started()
        if self._closed:
            raise Stopped("the replica was closed")
        if runtime.failed.done():
            raise Stopped(f"this member stopped: {runtime.failed.result()}")
        if runtime.removed.done():
            raise Stopped("this member was removed from the cluster")
        return runtime

    def _check_owned(self, function: Callable[..., Any]) -> None:
        """A method of another class, or one bound to an object, is a mistake that would go far."""
        name = getattr(function, "__name__", "")
        if not any(base.__dict__.get(name) is function for base in type(self.machine).__mro__):
            machine = type(self.machine).__name__
            raise UsageError(
                f"{getattr(function, '__qualname__', function)!s} is not a method of {machine}: "
                f"pass it as {machine}.method, without calling it"
            )


def _place(
    name: str,
    initial_cluster: Mapping[str, str] | str | None,
    join: str | Sequence[str] | None,
    peer_url: str | None,
    token: str,
) -> tuple[tuple[Member, ...], tuple[str, ...], str]:
    """The founding members, or the URLs of those to ask; and this member's own URL. Raises `UsageError`."""
    if (initial_cluster is None) == (join is None):
        raise UsageError("give initial_cluster (to found a cluster) or join (to enter one), and not both")
    if not name:
        raise UsageError("name is empty")
    if join is not None:
        urls = (join,) if isinstance(join, str) else tuple(join)
        if not urls:
            raise UsageError("join is empty: give the peer URL of a member")
        if peer_url is None:
            raise UsageError("join needs peer_url: the URL under which this member was added")
        for argument, url in (("peer_url", peer_url), *(("join", url) for url in urls)):
            check_url(argument, url)
        return (), urls, peer_url
    if peer_url is not None:
        raise UsageError("peer_url goes with join: initial_cluster has this member's URL already")
    founders = founding_members(initial_cluster or {}, token)
    own = next((member for member in founders if member.name == name), None)
    if own is None:
        known = ", ".join(member.name for member in founders)
        raise UsageError(f"name {name!r} is not in initial_cluster, which has {known}")
    return founders, (), own.peer_urls[0]


def _new_member(name: str, peer_url: str) -> Member:
    """With a random id: it never comes back, but the name may."""
    if not name:
        raise UsageError("a new member needs a name")
    check_url("peer_url", peer_url)
    return Member(random.SystemRandom().getrandbits(64) or 1, name, (peer_url,))
