"""Membership: which configuration is in effect, and which one follows from a change (dissertation, 4).

The configuration in effect is the last one in the log, committed or not (4.1). One change is a walk over
configurations, each an entry of its own, and the next step is only taken when the one before is committed::

    at most one voter differs      C_old ───────────────────────────▶ C_new          (4.1)
    anything else                  C_old ──▶ C_old,new (joint) ─────▶ C_new          (4.3)
    a new member                   C_old ──▶ it learns ──▶ caught up ──▶ it votes    (4.2.1)

Any two majorities of the first kind share a member; in the joint phase agreement takes a majority of both.
Whatever leader is elected in between goes on from what its log says: a joint configuration holds all that is
needed to leave it, and `joining` says whom to promote.

**Why the leader has to commit an entry of its own term first** (an erratum to 4.1): two leaders that do not
know of each other's uncommitted change could each make a single-server change from the same old
configuration, and the two new ones need not overlap. An entry committed in the own term shows that no other
change is pending anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from oarlock.errors import ChangeReason, ChangeRefused, UsageError, WireError, invariant
from oarlock.raft.types import (
    Change,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    Member,
    NodeId,
    Snapshot,
)

MEMBERS_MAX = 64
"""More have no use, and every one costs the leader."""
PRIORITY_MAX = 1_000_000
REMOVED_MAX = 64
"""So many removed members are remembered by their ids."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    return _encoder.encode(configuration)


def decode_configuration(data: bytes) -> Configuration:
    """The configuration in an entry's data. Raises `WireError` if there is no well-formed one."""
    try:
        configuration = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise WireError(f"a configuration entry cannot be read: {error}") from None
    if problem := configuration.problem():
        raise WireError(f"a configuration entry is not valid: {problem}")
    return configuration


def bootstrap(configuration: Configuration) -> tuple[HardState, tuple[Entry, ...]]:
    """What every initial member stores before its first start: the configuration as entry 1 of term 1.

    All of them must be given equal configurations: then they start with equal logs, as if a leader of term 1
    had replicated the entry to all.

    Raises:
        UsageError: the configuration is not well formed, or joint.
    """
    if problem := configuration.problem():
        raise UsageError(f"not a configuration to start with: {problem}")
    if configuration.joint:
        raise UsageError("not a configuration to start with: it is joint")
    entry = Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(configuration))
    return HardState(term=1, commit_index=1), (entry,)


# ── what follows from a change ─────────────────────────────────────────────────────────────────────────


def planned(
    configuration: Configuration, change: Change, caught_up: Callable[[NodeId], bool]
) -> Configuration:
    """The configuration that `change` makes of `configuration`: the first step, if it takes several.

    Args:
        configuration: not joint.
        caught_up: whether a learner's log is nearly the leader's.

    Raises:
        ChangeRefused: it would break a rule; the reason says which.
    """
    invariant(not configuration.joint, "a change starts from a configuration that is not joint")
    _check_names(configuration, change)
    _check_ids(configuration, change, caught_up)
    voters = sorted({*configuration.voters, *change.promote} - {*change.demote, *change.remove})
    if not voters:
        raise ChangeRefused(ChangeReason.LAST_VOTER, "the last voter cannot be removed or demoted")
    arriving = [member.id for member in change.add]
    gone = {*change.promote, *change.remove}
    learners = [*(learner for learner in configuration.learners if learner not in gone), *arriving]
    joining = [node_id for node_id in configuration.joining if node_id not in gone]
    joint = len({*voters} ^ {*configuration.voters}) > 1
    # In the joint phase whoever leaves or is demoted still votes, as one of the outgoing.
    staying = {*configuration.voters} if joint else set()
    if not joint:
        learners += change.demote
    removed = [node_id for node_id in change.remove if node_id not in staying]
    result = Configuration(
        voters=tuple(voters),
        outgoing=configuration.voters if joint else (),
        learners=tuple(sorted(learners)),
        members=_members(configuration, change, removed),
        demoted=tuple(sorted(change.demote)) if joint else (),
        joining=tuple(sorted(joining if change.learners else joining + arriving)),
        removed=_remember(configuration.removed, removed),
    )
    invariant(result.problem() is None, f"a change made a bad configuration: {result.problem()}")
    return result


def after_joint(configuration: Configuration) -> Configuration:
    """C_new, which follows C_old,new as soon as that is committed (4.3)."""
    invariant(configuration.joint, "only a joint configuration is left")
    leaving = [
        node_id
        for node_id in configuration.outgoing
        if node_id not in configuration.voters and node_id not in configuration.demoted
    ]
    return Configuration(
        voters=configuration.voters,
        learners=tuple(sorted((*configuration.learners, *configuration.demoted))),
        members=tuple(member for member in configuration.members if member.id not in leaving),
        joining=configuration.joining,
        removed=_remember(configuration.removed, leaving),
    )


def _remember(removed: Sequence[NodeId], more: Iterable[NodeId]) -> tuple[NodeId, ...]:
    return (*removed, *more)[-REMOVED_MAX:]


def _members(configuration: Configuration, change: Change, removed: Sequence[NodeId]) -> tuple[Member, ...]:
    if not (configuration.members or change.add or change.update):
        return ()
    # A configuration may begin without any; once one member has a name and addresses, each has a `Member`.
    members = {node_id: Member(node_id, "") for node_id in configuration.ids}
    members |= {member.id: member for member in (*configuration.members, *change.update, *change.add)}
    return tuple(members[node_id] for node_id in sorted(members) if node_id not in removed)


def _check_names(configuration: Configuration, change: Change) -> None:
    """Every name and peer URL stands for one member."""
    newcomers = (*change.add, *change.update)
    rewritten = {member.id for member in change.update}
    names: dict[str, NodeId] = {}
    urls: dict[str, NodeId] = {}
    others = [member for member in configuration.members if member.id not in rewritten]
    for member in newcomers:
        if not 0 <= member.priority <= PRIORITY_MAX:
            raise ChangeRefused(ChangeReason.INVALID, f"a priority is a number from 0 to {PRIORITY_MAX}")
    for member in (*others, *newcomers):
        if member.name and names.setdefault(member.name, member.id) != member.id:
            raise ChangeRefused(
                ChangeReason.ALREADY_THERE, f"there is a member of the name {member.name!r} already"
            )
        for url in member.peer_urls:
            if urls.setdefault(url, member.id) != member.id:
                raise ChangeRefused(
                    ChangeReason.ALREADY_THERE, f"there is a member with the peer URL {url} already"
                )


def _check_ids(configuration: Configuration, change: Change, caught_up: Callable[[NodeId], bool]) -> None:
    arriving = [member.id for member in change.add]
    named = [*arriving, *change.promote, *change.demote, *change.remove]
    if not named and not change.update:
        raise ChangeRefused(ChangeReason.INVALID, "the change changes nothing")
    if len({*named}) < len(named):
        raise ChangeRefused(ChangeReason.INVALID, "the change names a member twice")
    present = {*configuration.ids}
    for node_id in arriving:
        if not 0 < node_id < 1 << 64:
            raise ChangeRefused(ChangeReason.INVALID, f"{node_id} is no id of a member")
        if node_id in present:
            raise ChangeRefused(ChangeReason.ALREADY_THERE, f"{node_id:x} is a member already")
        if node_id in configuration.removed:
            raise ChangeRefused(ChangeReason.WAS_REMOVED, f"{node_id:x} was removed, and its id is used up")
    if len(present) + len(arriving) > MEMBERS_MAX:
        raise ChangeRefused(ChangeReason.INVALID, f"a cluster has at most {MEMBERS_MAX} members")
    for node_id in (*change.promote, *change.demote, *change.remove, *(each.id for each in change.update)):
        if node_id not in present:
            gone = node_id in configuration.removed
            reason = ChangeReason.WAS_REMOVED if gone else ChangeReason.NOT_FOUND
            raise ChangeRefused(reason, f"{node_id:x} is not a member" + (" any more" if gone else ""))
    for node_id in change.promote:
        if node_id not in configuration.learners:
            raise ChangeRefused(ChangeReason.NOT_A_LEARNER, f"{node_id:x} is not a learner")
        if not caught_up(node_id):
            raise ChangeRefused(
                ChangeReason.NOT_CAUGHT_UP, f"{node_id:x} has not caught up with the leader's log yet"
            )
    for node_id in change.demote:
        if node_id not in configuration.voters:
            raise ChangeRefused(ChangeReason.INVALID, f"{node_id:x} is a learner already")


# ── which one is in effect ─────────────────────────────────────────────────────────────────────────────


class ConfigurationHistory:
    """The configurations in the log, so that a truncation falls back to the one before.

    The bottom is the one in effect at the log's base.
    """

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        bottom = (0, Configuration())
        if snapshot is not None:
            bottom = (snapshot.configuration_index, snapshot.configuration)
        self._stack: list[tuple[Index, Configuration]] = [bottom]

    @property
    def current(self) -> Configuration:
        return self._stack[-1][1]

    @property
    def index(self) -> Index:
        """Where the current configuration stands in the log; 0 if there is none."""
        return self._stack[-1][0]

    def at(self, index: Index) -> tuple[Index, Configuration]:
        """The configuration in effect at `index`, and where it stands."""
        return next(
            (at, each) for at, each in reversed(self._stack) if at <= index or at == self._stack[0][0]
        )

    def appended(self, entries: Iterable[Entry]) -> bool:
        """Take note of appended entries. True if the configuration changed."""
        changed = False
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                invariant(entry.index > self.index, "configurations are appended in order of index")
                self._stack.append((entry.index, decode_configuration(entry.data)))
                changed = True
        return changed

    def truncated(self, index: Index) -> bool:
        """Forget configurations at and after `index`. True if the configuration changed."""
        changed = False
        while len(self._stack) > 1 and self._stack[-1][0] >= index:
            self._stack.pop()
            changed = True
        return changed

    def compacted(self, index: Index) -> None:
        """The log's base is `index` now: what was in effect before that one's is forgotten."""
        while len(self._stack) > 1 and self._stack[1][0] <= index:
            del self._stack[0]

    def restarted(self, snapshot: Snapshot) -> None:
        """A snapshot replaced the log."""
        self._stack = [(snapshot.configuration_index, snapshot.configuration)]
