"""What must hold across members: the properties of the paper's Figure 3, seen by someone who sees everybody.

`Observer` is told what every member does and keeps the one true history. Each property is checked when
something happens that could break it, so a check costs as much as what happened, whatever the length of the
run:

- **Election safety**: at most one leader per term, and it has the votes of a majority; one vote per voter and
  term.
- **Log matching**: an entry is identified by its index and term, and so is the entry before it; by induction,
  so is the whole log up to it. Checked on every entry that any member hands to its disk.
- **Leader completeness**: a new leader's log holds all that was committed in earlier terms.
- **State machine safety**: all members commit, and apply, the same entry at the same index, in order and
  once.
- **Durability**: what is committed is on the disks of a majority at that moment; what was committed is never
  cut from a disk; a vote or an acknowledgement is on its sender's disk when it is sent.
- **Clients**: a command that was acknowledged stays; one that was refused never appears; none appears twice;
  a read sees all that was committed anywhere before it began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from oarlock.raft.messages import AppendEntries, AppendEntriesReply, Message, RequestVote, RequestVoteReply
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Entry, EntryKind, HardState, Index, NodeId, Term

if TYPE_CHECKING:
    from .cluster import Disk


_TERMS_TO_ADOPT = (AppendEntries, AppendEntriesReply, RequestVoteReply)
"""Messages whose later term is adopted in any case. (A RequestVote may be ignored, a PreVote names a future
term.)"""


class Violation(AssertionError):
    """A property that takes several members to see does not hold."""


class Observer:
    """The one true history, and everything that is checked against it.

    Args:
        voters: the members whose disks count.
        disk_of: a member's disk, for the durability properties.
    """

    def __init__(self, voters: Sequence[NodeId], disk_of: Callable[[NodeId], Disk]) -> None:
        self.history: list[Entry] = []
        """Every committed entry; index 1 is at 0."""
        self.commit_terms: list[Term] = []
        """In which term each was committed: never falls."""
        self.committed_commands: dict[bytes, Index] = {}
        self.refused_commands: dict[bytes, str] = {}
        self.leaders: dict[Term, NodeId] = {}
        self.votes: dict[tuple[Term, NodeId], NodeId] = {}
        """Who voted for whom, as told to others."""
        self._voters = voters
        self._disk_of = disk_of
        self._entries: dict[tuple[Index, Term], tuple[Entry, Term]] = {}

    # ── roles ─────────────────────────────────────────────────────────────────────────────────────

    def elected(self, raft: Raft) -> None:
        """A member leads that did not lead a moment ago."""
        other = self.leaders.setdefault(raft.term, raft.id)
        if other != raft.id:
            raise Violation(f"election safety: {other} and {raft.id} both lead term {raft.term}")
        votes = sum(1 for voter in self._voters if self.votes.get((raft.term, voter)) == raft.id)
        if votes <= len(self._voters) // 2 and len(self._voters) > 1:
            raise Violation(f"election safety: {raft.id} leads term {raft.term} with {votes} votes")
        index = len(self.history)
        while index and self.commit_terms[index - 1] >= raft.term:
            index -= 1
        if index and raft.log.term_at(index) != self.history[index - 1].term:
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

    def committing(self, raft: Raft, before: Index) -> None:
        """A member's commit index rose from `before`."""
        for index in range(before + 1, raft.commit_index + 1):
            entry = raft.log.entry(index)
            if index <= len(self.history):
                if self.history[index - 1] != entry:
                    raise Violation(
                        f"state machine safety: {raft.id} commits {entry}, but {self.history[index - 1]} was"
                    )
            else:
                self._extend(raft, entry)

    def _extend(self, raft: Raft, entry: Entry) -> None:
        on_disk = sum(1 for voter in self._voters if self._disk_of(voter).holds(entry))
        if on_disk <= len(self._voters) // 2:
            raise Violation(f"durability: {raft.id} commits {entry}, which only {on_disk} disks hold")
        if entry.kind is EntryKind.COMMAND:
            if entry.data in self.refused_commands:
                raise Violation(
                    f"a command that was refused ({self.refused_commands[entry.data]}) is committed: {entry}"
                )
            if entry.data in self.committed_commands:
                raise Violation(f"{entry} is committed twice, first at {self.committed_commands[entry.data]}")
            self.committed_commands[entry.data] = entry.index
        self.history.append(entry)
        self.commit_terms.append(raft.term)

    def refused(self, command: bytes, how: str) -> None:
        """Someone was told that this command is certainly not appended."""
        if command in self.committed_commands:
            raise Violation(f"{command!r} was refused ({how}), but is committed")
        self.refused_commands[command] = how

    def applying(self, member: NodeId, applied: Sequence[Entry], entry: Entry) -> None:
        """A state machine that holds `applied` takes one more entry."""
        if entry.index != len(applied) + 1:
            raise Violation(f"{member} applies entry {entry.index} after {len(applied)}")
        if entry.index > len(self.history) or self.history[entry.index - 1] != entry:
            raise Violation(f"state machine safety: {member} applies {entry}, which is not committed")
        if not self._disk_of(member).holds(entry):
            raise Violation(f"durability: {member} applies {entry}, which is not on its own disk")

    # ── disks and promises ────────────────────────────────────────────────────────────────────────

    def written(self, member: NodeId, first: Index, cut: Sequence[Entry]) -> None:
        """A member's disk replaced `cut`, which began at index `first`."""
        for entry in cut:
            if entry.index <= len(self.history) and self.history[entry.index - 1] == entry:
                raise Violation(f"durability: {member} cuts {entry}, which is committed, from its disk")

    def sending(self, message: Message, raft: Raft | None) -> None:
        """`raft` sends a message: if it is a promise, it has to be durable already."""
        kind = type(message)
        if message.sender not in self._voters:
            return
        if kind is AppendEntriesReply:
            if message.success:
                self._check_acknowledgement(message, raft)
        elif kind is RequestVoteReply:
            if message.granted:
                self._check_vote(message, message.to)
        elif kind is RequestVote:
            # A candidate's own vote counts in its election, and so does the log that it shows.
            self._check_vote(message, message.sender)

    def _check_vote(self, message: Message, voted_for: NodeId) -> None:
        other = self.votes.setdefault((message.term, message.sender), voted_for)
        if other != voted_for:
            raise Violation(
                f"election safety: {message.sender} votes for {other} and {voted_for} in term {message.term}"
            )
        state: HardState = self._disk_of(message.sender).state
        # A later term on the disk is as good: this term's vote can never be cast again.
        if state.term < message.term or (state.term == message.term and state.voted_for != voted_for):
            raise Violation(f"durability: {message} is sent while the disk holds {state}")

    def _check_acknowledgement(self, message: AppendEntriesReply, raft: Raft | None) -> None:
        disk = self._disk_of(message.sender)
        if disk.state.term > message.term:
            return
        if len(disk.entries) < message.match_index:
            raise Violation(f"durability: {message} is sent while the disk ends at {len(disk.entries)}")
        if raft is not None and raft.term == message.term and message.match_index:
            on_disk = disk.entries[message.match_index - 1]
            if raft.log.term_at(message.match_index) != on_disk.term:
                raise Violation(f"durability: {message} is sent while the disk holds {on_disk} there")

    def delivered(self, message: Message, raft: Raft) -> None:
        """A member has taken a message: what Figure 2 asks of everyone, whatever the role."""
        if type(message) is AppendEntries and message.term >= raft.term:
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
