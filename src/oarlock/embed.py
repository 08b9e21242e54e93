"""Replica: a state machine of yours, replicated. The everyday face of the library.

This is the library's assembly, as `oarlock.server` is the server's: it picks the parts (data directory,
write-ahead log, TCP between the members, the runtime) and starts and stops them in order. Nothing is decided
here that safety rests on.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import msgspec

from oarlock.errors import Stopped, UsageError
from oarlock.machine import MachineAdapter, StateMachine, encode_call, run_query
from oarlock.raft import Config, Configuration, Member, Role
from oarlock.replica import LogStorage, Runtime, RuntimeLimits
from oarlock.storage import DataDir, DiskStorage, MemoryStorage
from oarlock.transport import TcpTransport, parse_peer_url

M = TypeVar("M", bound=StateMachine)
R = TypeVar("R")
P = ParamSpec("P")

_GROUP = 1


class Requests(Generic[M]):
    """What can be asked of a replica, with one timeout."""

    def __init__(self, replica: Replica[M], timeout: float) -> None:
        self._replica = replica
        self._timeout = timeout

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
        await self._replica._running().barrier(self._timeout)
        return cast(R, run_query(self._replica.machine, query, args, kwargs))


class Replica(Requests[M]):
    """One member of a cluster that replicates a state machine.

    ::

        async with oarlock.Replica(Counter(), name="a", data_dir="data/a", initial_cluster=peers) as replica:
            await replica.submit(Counter.add, 5)
            await replica.query(Counter.read)

    Every member is started with the same `initial_cluster` and `token`, its own `name` and its own
    `data_dir`. One object is one run: to start again, make a new one, with a new machine.

    Args:
        machine: in its initial state. It is rebuilt from the log, and must be changed by commands only.
        name: which of `initial_cluster` this member is.
        data_dir: made if it does not exist; belongs to this member alone. None keeps everything in memory:
            for tests and trials in one process. A member that forgets must never come back.
        initial_cluster: names and peer URLs of all members, as a mapping or as ``a=http://host:port,b=…``.
            The names are fixed for good; the addresses may change between runs, on all members alike.
        listen: where to listen for the others, as a URL; None: the URL in `initial_cluster`.
        token: tells clusters with the same names apart.
        election_timeout: seconds without a leader before a member stands for election. At least ten times
            the time that a message and a write to disk take.
        heartbeat_interval: seconds; at most a fifth of the election timeout.
        request_timeout: seconds that a request may take; `within` sets another for some.
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
        initial_cluster: Mapping[str, str] | str,
        listen: str | None = None,
        token: str = "oarlock",
        election_timeout: float = 0.5,
        heartbeat_interval: float = 0.05,
        request_timeout: float = 5.0,
        limits: RuntimeLimits | None = None,
    ) -> None:
        if not request_timeout > 0:
            raise UsageError(f"request_timeout must be a positive number of seconds, not {request_timeout}")
        super().__init__(self, request_timeout)
        self.machine = machine
        self._adapter = MachineAdapter(machine)
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._members = _members(initial_cluster, token)
        own = next((member for member in self._members if member.name == name), None)
        if own is None:
            known = ", ".join(member.name for member in self._members)
            raise UsageError(f"name {name!r} is not in initial_cluster, which has {known}")
        self._own = own
        address = parse_peer_url(listen if listen is not None else own.peer_urls[0])
        self._listen = (address.host, address.port)
        self._cluster_id = cluster_id(token, (member.name for member in self._members))
        self._config = Config(
            id=own.id, election_timeout=election_timeout, heartbeat_interval=heartbeat_interval
        )
        self._limits = msgspec.structs.replace(limits or RuntimeLimits(), request_timeout=request_timeout)
        self._runtime: Runtime | None = None
        self._parts: AsyncExitStack | None = None
        self._closed = False

    # ── life ───────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Recover what is stored and take part. ``async with`` does it, and `close`.

        Raises:
            UsageError: the address cannot be listened at; or this object was started before.
            DataDirError: the directory is in use, of another member or cluster, or not writable.
            CorruptLog: what is stored is damaged.
        """
        if self._parts is not None:
            raise UsageError("a Replica is started once: make a new one, with a new machine")
        async with AsyncExitStack() as parts:
            self._parts = parts
            storage = self._open_storage(parts)
            transport = TcpTransport(
                self._cluster_id, self._own.id, listen=[self._listen], random=random.Random()
            )
            parts.push_async_callback(transport.close)
            await transport.start()
            voters = tuple(member.id for member in self._members)
            runtime = Runtime(
                self._adapter,
                config=self._config,
                initial=Configuration(voters=voters, members=self._members),
                storage=storage,
                transport=transport,
                group=_GROUP,
                limits=self._limits,
            )
            parts.push_async_callback(runtime.close)
            await runtime.start()
            # The log keeps the addresses of the first start; the ones given now are the ones that hold.
            transport.set_members(_GROUP, [member for member in self._members if member != self._own])
            self._runtime = runtime
            self._parts = parts.pop_all()

    async def close(self) -> None:
        """Stop taking part; whoever waits gets `Stopped`. What was stored stays. Idempotent."""
        self._closed = True
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

    # ── requests ───────────────────────────────────────────────────────────────────────────────────

    def within(self, seconds: float) -> Requests[M]:
        """The same replica with another timeout: ``await replica.within(0.5).submit(Counter.add, 5)``."""
        if not seconds > 0:
            raise UsageError(f"a timeout is a positive number of seconds, not {seconds}")
        return Requests(self, seconds)

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

    # ── who is who ─────────────────────────────────────────────────────────────────────────────────

    @property
    def name(self) -> str:
        """This member's."""
        return self._own.name

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, as far as it knows: another may have been elected since."""
        runtime = self._alive()
        return runtime is not None and runtime.role is Role.LEADER

    @property
    def leader(self) -> str | None:
        """The leader's name, as far as this member knows; None if it knows of none."""
        runtime = self._alive()
        leader_id = 0 if runtime is None else runtime.leader_id
        return next((member.name for member in self._members if member.id == leader_id), None)

    # ── inside ─────────────────────────────────────────────────────────────────────────────────────

    def _open_storage(self, parts: AsyncExitStack) -> LogStorage:
        if self._data_dir is None:
            return MemoryStorage()
        directory = DataDir.open(self._data_dir, cluster_id=self._cluster_id, member_id=self._own.id)

        def release(kind: object, error: BaseException | None, traceback: object) -> None:
            directory.close(clean=error is None)

        parts.push(release)
        return DiskStorage(directory.wal_dir)

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


def member_id(token: str, name: str) -> int:
    """A member's id, from its name: so it stays itself when it moves to another address."""
    return _id_of(b"member", token, name)


def cluster_id(token: str, names: Iterable[str]) -> int:
    """The id of the cluster that these members found."""
    return _id_of(b"cluster", token, *sorted(names))


def _id_of(kind: bytes, *parts: str) -> int:
    """64 bits, never 0. Each part goes in with its length: no two lists of parts give the same bytes."""
    digest = hashlib.blake2b(digest_size=8, person=kind)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big") or 1


def _members(initial_cluster: Mapping[str, str] | str, token: str) -> tuple[Member, ...]:
    """All members, sorted by id. Raises `UsageError`."""
    if isinstance(initial_cluster, str):
        pairs = [part.strip().partition("=") for part in initial_cluster.split(",") if part.strip()]
        addresses = {name: url for name, _, url in pairs}
        if len(addresses) != len(pairs):
            raise UsageError(f"initial_cluster {initial_cluster!r}: a name is there twice")
    else:
        addresses = dict(initial_cluster)
    if not addresses:
        raise UsageError("initial_cluster is empty: give every member's name and peer URL")
    for name, url in addresses.items():
        if not name or not url:
            raise UsageError(f"initial_cluster: {name or url!r}: write name=http://host:port")
        if parse_peer_url(url).tls:
            raise UsageError(f"initial_cluster: {url!r}: TLS is not supported here yet, write http://…")
    if len(set(addresses.values())) != len(addresses):
        raise UsageError("initial_cluster: two members have the same URL")
    members = [Member(member_id(token, name), name, (url,)) for name, url in addresses.items()]
    return tuple(sorted(members, key=lambda member: member.id))
