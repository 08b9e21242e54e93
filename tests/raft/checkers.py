"""What must hold across members: the properties of the paper's Figure 3, seen by someone who sees everybody.

`Observer` is told what every member does and keeps the one true history. Each property is checked when
something happens that could break it, so a check costs as much as what happened, whatever the length of the
run:

- **Election safety**: at most one leader per term, and it has the votes of a majority of every half of its
  configuration; one vote per voter and term.
- **Log matching**: an entry is identified by its index and term, and so is the entry before it; by induction,
  so is the whole log up to it. Checked on every entry that any member hands to its disk.
- **Leader completeness**: a new leader's log, or what it was trimmed behind, holds all that was committed in
  earlier terms.
- **State machine safety**: all members commit, and apply, the same entry at the same index, in order and
  once; at equal indexes their states are equal, however they got there: by entries or by a snapshot.
- **Durability**: what is committed is on the disks of a quorum at that moment; what was committed is never
  cut from a disk; a vote or an acknowledgement is on its sender's disk when it is sent.
- **Membership**: committed configurations follow each other so that their majorities overlap; a snapshot
  names the configuration that is in effect at its index, and the terms and the clock of the true history.
- **Clients**: a command that was acknowledged stays; one that was refused never appears; none appears twice;
  a session's command is executed once; a read sees all that was committed anywhere before it began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from oarlock.raft.membership import decode_configuration
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
)
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Configuration, Entry, EntryKind, HardState, Index, NodeId, Snapshot, Term

from .machine import Execution, Machine

if TYPE_CHECKING:
    from .disk import Disk


_TERMS_TO_ADOPT = (
    AppendEntries,
    AppendEntriesReply,
    RequestVoteReply,
    InstallSnapshot,
    InstallSnapshotReply,
)
"""Messages whose later term is adopted in any case. (A RequestVote may be ignored, a PreVote names a future
term.)"""


class Violation(AssertionError):
    """A property that takes several members to see does not hold."""


def is_quorum(configuration: Configuration, agrees: Callable[[NodeId], bool]) -> bool:
    """Whether those who agree are a majority of every half. Written without a look at `quorum.py`."""
    for half in (configuration.voters, configuration.outgoing):
        if half and 2 * sum(map(agrees, half)) <= len(half):
            return False
    return True


def overlaps(old: Configuration, new: Configuration) -> bool:
    """Whether the step from `old` to `new` is one that chapter 4 allows."""
    if old.joint:
        return not new.joint and new.voters == old.voters
    if new.joint:
        return new.outgoing == old.voters
    return len({*old.voters} ^ {*new.voters}) <= 1


class Observer:
    """The one true history, and everything that is checked against it.

    Args:
        entries: what every initial member has, committed.
        disks: every member's disk.
    """

    def __init__(self, entries: Sequence[Entry], disks: Mapping[NodeId, Disk]) -> None:
        self.history: list[Entry] = list(entries)
        """Every committed entry; index 1 is at 0."""
        self.commit_terms: list[Term] = [entry.term for entry in entries]
        """In which term each was committed: never falls."""
        self.configurations: list[tuple[Index, Configuration]] = [
            (entry.index, decode_configuration(entry.data)) for entry in entries
        ]
        """Those that are committed."""
        self.committed_commands: dict[bytes, Index] = {}
        self.refused_commands: dict[bytes, str] = {}
        self.leaders: dict[Term, NodeId] = {}
        self.votes: dict[tuple[Term, NodeId], NodeId] = {}
        """Who voted for whom, as told to others."""
        self.executed: dict[Execution, Index] = {}
        """Which sessions' commands were executed, and at which index."""
        self.installed = 0
        self._digests: dict[Index, int] = {0: 0}
        self._disks = disks
        self._entries: dict[tuple[Index, Term], tuple[Entry, Term]] = {}

    def configuration_at(self, index: Index) -> tuple[Index, Configuration]:
        """The committed configuration in effect at a committed index."""
        return next(each for each in reversed(self.configurations) if each[0] <= index)

    # ── roles ─────────────────────────────────────────────────────────────────────────────────────

    def elected(self, raft: Raft) -> None:
        """A member leads that did not lead a moment ago."""
        other = self.leaders.setdefault(raft.term, raft.id)
        if other != raft.id:
            raise Violation(f"election safety: {other} and {raft.id} both lead term {raft.term}")
        state = self._disks[raft.id].state
        if (state.term, state.voted_for) != (raft.term, raft.id):
            raise Violation(f"election safety: {raft.id} leads term {raft.term}, its disk holds {state}")
        votes = {voter for (term, voter), to in self.votes.items() if (term, to) == (raft.term, raft.id)}
        if not is_quorum(raft.configuration, lambda voter: voter in votes or voter == raft.id):
            raise Violation(
                f"election safety: {raft.id} leads term {raft.term} with the votes of {sorted(votes)} "
                f"in {raft.configuration}"
            )
        index = len(self.history)
        while index and self.commit_terms[index - 1] >= raft.term:
            index -= 1
        # What it dropped was committed: then its base tells as much.
        here = max(index, raft.log.base_index)
        if index and (
            here > len(self.history) or raft.log.term_at(here) != (self.history[here - 1].term if here else 0)
        ):
            raise Violation(
                f"leader completeness: {raft.id} leads term {raft.term}, but entry {index}, "
                f"committed in term {self.commit_terms[index - 1]}, is not in its log"
            )

    # ── logs ──────────────────────────────────────────────────────────────────────────────────────

    def storing(self, raft: Raft, entries: Sequence[Entry]) -> None:
        """A member hands entries to its disk."""
        if not entries:
            return
        previous = raft.log.term_at(entries[0].index - 1)
        if previous is None:
            raise Violation(f"{raft.id} stores entry {entries[0].index} after a gap")
        for entry in entries:
            known = self._entries.setdefault((entry.index, entry.term), (entry, previous))
            if known[0] is not entry and known[0] != entry:
                raise Violation(f"log matching: {raft.id} stores {entry}, where another has {known[0]}")
            if known[1] != previous:
                raise Violation(
                    f"log matching: {raft.id} has term {previous} before entry {entry.index} of term "
                    f"{entry.term}, where another has term {known[1]}"
                )
            previous = entry.term

    def committing(self, raft: Raft, before: Index, configuration: Configuration) -> None:
        """A member's commit index rose from `before`, when `configuration` was in effect."""
        base = raft.log.base_index
        if base > before:
            self._check_covered(raft, base, raft.log.base_term)
        for index in range(max(before, base) + 1, raft.commit_index + 1):
            entry = raft.log.entry(index)
            if index <= len(self.history):
                if self.history[index - 1] != entry:
                    raise Violation(
                        f"state machine safety: {raft.id} commits {entry}, but {self.history[index - 1]} was"
                    )
            else:
                self._extend(raft, entry, configuration)

    def _check_covered(self, raft: Raft, index: Index, term: Term) -> None:
        if index > len(self.history) or self.history[index - 1].term != term:
            raise Violation(f"{raft.id}'s log begins behind ({index},{term}), which is not committed")

    def _extend(self, raft: Raft, entry: Entry, configuration: Configuration) -> None:
        disks = self._disks
        if not is_quorum(configuration, lambda voter: disks[voter].holds(entry)):
            on_disk = [node_id for node_id, disk in disks.items() if disk.holds(entry)]
            raise Violation(
                f"durability: {raft.id} commits {entry}, which only the disks of {on_disk} hold, "
                f"in {configuration}"
            )
        if entry.time < self.history[-1].time:
            raise Violation(f"the cluster's clock falls from {self.history[-1].time} at {entry}")
        if entry.kind is EntryKind.COMMAND and entry.data[:1].isdigit():
            if entry.data in self.refused_commands:
                raise Violation(
                    f"a command that was refused ({self.refused_commands[entry.data]}) is committed: {entry}"
                )
            if entry.data in self.committed_commands:
                raise Violation(f"{entry} is committed twice, first at {self.committed_commands[entry.data]}")
            self.committed_commands[entry.data] = entry.index
        elif entry.kind is EntryKind.CONFIGURATION:
            step = decode_configuration(entry.data)
            if not overlaps(self.configurations[-1][1], step):
                raise Violation(f"membership: {step} follows {self.configurations[-1]}")
            if left := {*self.configurations[-1][1].ids} - {*step.ids} - {*step.removed}:
                raise Violation(f"membership: nothing tells that {sorted(left)} were removed: {step}")
            self.configurations.append((entry.index, step))
        self.history.append(entry)
        self.commit_terms.append(raft.term)

    def refused(self, command: bytes, how: str) -> None:
        """Someone was told that this command is certainly not appended."""
        if command in self.committed_commands:
            raise Violation(f"{command!r} was refused ({how}), but is committed")
        self.refused_commands[command] = how

    # ── state machines ────────────────────────────────────────────────────────────────────────────

    def applying(self, member: NodeId, applied: Index, entry: Entry) -> None:
        """A state machine at `applied` takes one more entry."""
        if entry.index != applied + 1:
            raise Violation(f"{member} applies entry {entry.index} after {applied}")
        if entry.index > len(self.history) or self.history[entry.index - 1] != entry:
            raise Violation(f"state machine safety: {member} applies {entry}, which is not committed")
        if not self._disks[member].holds(entry):
            raise Violation(f"durability: {member} applies {entry}, which is not on its own disk")

    def applied(self, member: NodeId, machine: Machine, executed: Execution | None) -> None:
        """It has taken it, and executed a command of a session."""
        self._check_digest(member, machine)
        if executed is not None and self.executed.setdefault(executed, machine.index) != machine.index:
            raise Violation(
                f"sessions: {member} executes {executed} at {machine.index}, but it was executed at "
                f"{self.executed[executed]}"
            )

    def installs(self, member: NodeId, machine: Machine) -> None:
        """A member's state machine was replaced by a snapshot's."""
        self.installed += 1
        self._check_digest(member, machine)

    def _check_digest(self, member: NodeId, machine: Machine) -> None:
        if self._digests.setdefault(machine.index, machine.digest) != machine.digest:
            raise Violation(f"state machine safety: {member} has another state at index {machine.index}")

    def snapshot_named(self, member: NodeId, snapshot: Snapshot) -> None:
        """A member writes, or offers, this snapshot."""
        if not 0 < snapshot.index <= len(self.history):
            raise Violation(f"{member} names {snapshot}, which is not of committed entries")
        last = self.history[snapshot.index - 1]
        at = self.configuration_at(snapshot.index)
        if (
            snapshot.term != last.term
            or snapshot.time < last.time
            or (snapshot.configuration_index, snapshot.configuration) != at
        ):
            raise Violation(f"{member} names {snapshot}, but the last entry is {last}, the membership {at}")

    # ── disks and promises ────────────────────────────────────────────────────────────────────────

    def written(self, member: NodeId, cut: Sequence[Entry]) -> None:
        """A member's disk lost `cut`."""
        for entry in cut:
            # Who has not heard of the term in which it was committed may cut it for a leader of a term
            # before: its copy was not counted.
            known = entry.index <= len(self.history) and self.history[entry.index - 1] == entry
            if known and self.commit_terms[entry.index - 1] <= self._disks[member].state.term:
                raise Violation(f"durability: {member} cuts {entry}, which is committed, from its disk")

    def sending(self, message: Message, raft: Raft | None) -> None:
        """`raft` sends a message: if it is a promise, it has to be durable already."""
        if message.sender not in self._disks:
            return
        match message:
            case AppendEntriesReply(success=True) | InstallSnapshotReply():
                self._check_acknowledgement(message, raft)
            case RequestVoteReply(granted=True):
                self._check_vote(message, message.to)
            case RequestVote():
                # A candidate's own vote counts in its election, and so does the log that it shows.
                self._check_vote(message, message.sender)
            case InstallSnapshot():
                self.snapshot_named(message.sender, message.snapshot)
            case _:
                pass

    def _check_vote(self, message: Message, voted_for: NodeId) -> None:
        other = self.votes.setdefault((message.term, message.sender), voted_for)
        if other != voted_for:
            raise Violation(
                f"election safety: {message.sender} votes for {other} and {voted_for} in term {message.term}"
            )
        state: HardState = self._disks[message.sender].state
        # A later term on the disk is as good: this term's vote can never be cast again.
        if state.term < message.term or (state.term == message.term and state.voted_for != voted_for):
            raise Violation(f"durability: {message} is sent while the disk holds {state}")

    def _check_acknowledgement(
        self, message: AppendEntriesReply | InstallSnapshotReply, raft: Raft | None
    ) -> None:
        disk = self._disks[message.sender]
        index = message.match_index
        if disk.state.term > message.term or index <= disk.covered:
            return
        if disk.last_index < index:
            raise Violation(f"durability: {message} is sent while the disk ends at {disk.last_index}")
        current = raft is not None and raft.term == message.term and raft.log.base_index <= index
        if current and raft is not None and raft.log.term_at(index) != disk.term_at(index):
            raise Violation(f"durability: {message} is sent, the disk has term {disk.term_at(index)} there")

    def delivered(self, message: Message, raft: Raft) -> None:
        """A member has taken a message: what Figure 2 asks of everyone, whatever the role."""
        if isinstance(message, AppendEntries | InstallSnapshot) and message.term >= raft.term:
            if (
                raft.role is not Role.FOLLOWER
                or raft.leader_id != message.sender
                or raft.term != message.term
            ):
                raise Violation(
                    f"{raft.id} does not follow {message.sender}, whom it heard leading term {message.term}, "
                    f"but {raft.leader_id} in term {raft.term} as a {raft.role.value}"
                )
        elif raft.term < message.term and type(message) in _TERMS_TO_ADOPT:
            raise Violation(f"{raft.id} stays in term {raft.term} after {message}")

    # ── reads ─────────────────────────────────────────────────────────────────────────────────────

    def read_confirmed(self, member: NodeId, committed_before: Index, index: Index) -> None:
        """A read that began when `committed_before` was committed is to be served at `index`."""
        if index < committed_before:
            raise Violation(
                f"linearizability: a read at {member} is confirmed at index {index}, but {committed_before} "
                "was committed before it began"
            )
