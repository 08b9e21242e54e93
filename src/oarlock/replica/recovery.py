"""What a member starts from: its log and its newest snapshot, brought into agreement.

The two are written apart, so a crash may leave one ahead of the other. The rules:

- A durable snapshot wins over a log that ends before it, or that holds another term at its index: such a log
  is reset, and begins anew behind the snapshot. (The power went between "the snapshot is durable" and "the
  log's reset is".)
- A log that begins behind the newest snapshot misses entries that nothing else holds: that is damage.
- The log follows the state machine from where it stands, or the snapshot is installed first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from oarlock.errors import StorageError, UsageError
from oarlock.machine import Machine
from oarlock.raft import Configuration, Entry, HardState, Index, Term, bootstrap
from oarlock.raft.types import NOBODY, LogBase, Recovered, StoredSnapshot
from oarlock.replica.ports import LogStorage, SnapshotStorage

InThread = Callable[..., Awaitable[Any]]
"""Calls a function with arguments where it may block, and gives its result: `asyncio.to_thread`."""


class StartingPoint(msgspec.Struct, frozen=True, gc=False):
    """What the core begins with."""

    hard_state: HardState
    entries: Sequence[Entry]
    base: LogBase
    snapshot: StoredSnapshot | None
    applied_index: Index = 0
    """What the state machine holds: `base.index` at least."""


async def recover(
    log: LogStorage,
    snapshots: SnapshotStorage | None,
    machine: Machine,
    initial: Configuration | None,
    in_thread: InThread,
) -> StartingPoint:
    """Load what is stored, settle what disagrees, and bring the state machine to where the log begins.

    Args:
        initial: the configuration to found the cluster with, if nothing is stored; None: an empty log is the
            start of a member that waits to be sent one.

    Raises:
        StorageError: what is stored cannot be used; the message says what and where.
        UsageError: the storage is not a member's.
    """
    recovered = log.load()
    stored = None if snapshots is None else await in_thread(snapshots.load)
    if stored is None and not recovered.entries and not recovered.base.index:
        return await _first_start(log, recovered, initial)
    if stored is None:
        if recovered.base.index:
            raise StorageError(
                f"the log begins behind index {recovered.base.index}, and there is no snapshot of what came "
                "before: restore this member from the other members"
            )
        return StartingPoint(
            recovered.hard_state, recovered.entries, recovered.base, None, machine.applied_index
        )
    start = await _settled(log, recovered, stored)
    # A machine that holds nothing is quicker with the snapshot, even if the log has all of it.
    index = machine.applied_index
    if index < start.base.index or index == 0:
        index = stored.snapshot.index
        await _install(snapshots, machine, index, in_thread)
    return msgspec.structs.replace(start, applied_index=index)


async def _first_start(log: LogStorage, recovered: Recovered, initial: Configuration | None) -> StartingPoint:
    if initial is None:
        return StartingPoint(recovered.hard_state, (), LogBase(), None)
    if recovered.hard_state.term:
        raise UsageError("the storage holds a term but no log: it does not belong to a founding member")
    hard_state, entries = bootstrap(initial)
    await _append(log, hard_state, entries, None)
    return StartingPoint(hard_state, entries, LogBase(), None)


async def _settled(log: LogStorage, recovered: Recovered, stored: StoredSnapshot) -> StartingPoint:
    """The log as it follows the snapshot, or follows from it."""
    index, term = stored.snapshot.index, stored.snapshot.term
    base = recovered.base
    if base.index > index:
        raise StorageError(
            f"the log begins behind index {base.index}, but the newest snapshot ends at {index}: what is "
            "between is lost. Restore this member from the other members"
        )
    hard_state = recovered.hard_state
    if _term_at(recovered, index) == term:
        known = msgspec.structs.replace(hard_state, commit_index=max(hard_state.commit_index, index))
        return StartingPoint(known, recovered.entries, base, stored)
    # The snapshot came from a leader of a term that is at least its own, and may have become durable first.
    voted_for = hard_state.voted_for if hard_state.term >= term else NOBODY
    begun = HardState(max(hard_state.term, term), voted_for, index)
    anew = LogBase(index, term)
    await _append(log, begun, (), anew)
    return StartingPoint(begun, (), anew, stored)


def _term_at(recovered: Recovered, index: Index) -> Term | None:
    if index == recovered.base.index:
        return recovered.base.term
    position = index - recovered.base.index - 1
    return recovered.entries[position].term if position < len(recovered.entries) else None


async def _install(
    snapshots: SnapshotStorage | None, machine: Machine, index: Index, in_thread: InThread
) -> None:
    if snapshots is None or not machine.can_snapshot:
        raise StorageError(
            f"there is a snapshot up to index {index}, but this state machine cannot be restored from one: "
            "it needs both `snapshot` and `restore`"
        )
    machine.install(await in_thread(prepare, snapshots, machine, index), index)


def prepare(
    snapshots: SnapshotStorage, machine: Machine, index: Index, given_up: Callable[[], bool] = lambda: False
) -> Any:
    """The stored snapshot as something that `Machine.install` takes. Blocks: call it in a thread.

    Args:
        given_up: asked between two pieces, so that nobody has to wait for the end of a large one.

    Raises:
        StorageError: of the storage, of the machine, or because it was given up.
    """
    return machine.prepare(_until(given_up, snapshots.chunks(index)))


def _until(given_up: Callable[[], bool], chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if given_up():
            raise StorageError("the snapshot is not needed any more")
        yield chunk


async def _append(
    log: LogStorage, hard_state: HardState, entries: Sequence[Entry], base: LogBase | None
) -> None:
    durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_durable(error: BaseException | None) -> None:
        if error is None:
            durable.set_result(None)
        else:
            durable.set_exception(error)

    if base is None:
        log.append(hard_state, entries, on_durable)
    else:
        log.append(hard_state, entries, on_durable, base)
    await durable
