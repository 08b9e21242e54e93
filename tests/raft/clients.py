"""The clients of a schedule: who proposes, reads, and asks for changes, and what each was promised.

Plain commands are unlike any other, are sent once, and are followed closely: acknowledged ones stay, refused
ones never appear. Session clients send a command again and again, through whatever member, until one of them
answers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oarlock.errors import Busy, ChangeRefused, NotLeader
from oarlock.raft.messages import ChangeMembershipReply
from oarlock.raft.roles import Role
from oarlock.raft.types import Change, Entry, Index, NodeId

from . import machine
from .checkers import Violation

if TYPE_CHECKING:
    from .cluster import Cluster
    from .member import Member


@dataclass
class Read:
    member: NodeId
    incarnation: int
    committed_before: Index
    state: str = "asked"


class Session:
    """One client of the kind that dissertation 6.3 is about. It has up to three commands on their way."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.id = 0
        """0: it has none at the moment."""
        self.acknowledged: dict[machine.Execution, bytes] = {}
        self.expired = 0
        self._attempts = 0
        self._serial = 0
        self._opening = b""
        self._pending: dict[bytes, int] = {}
        """Commands without an answer, and their serial numbers."""

    def act(self) -> None:
        """Send something: a new command, or again an old one, through a random member."""
        rng = self.cluster.rng
        if not self.id:
            if not self._opening or rng.random() < 0.3:
                self._attempts += 1
                timeout = rng.choice((400, 3_000, 60_000))
                self._opening = machine.open_session(self.number, self._attempts, timeout)
            self._send(self._opening)
            return
        if self._pending and (len(self._pending) == 3 or rng.random() < 0.6):
            self._send(rng.choice(list(self._pending)))
            return
        self._serial += 1
        command = machine.call(self.id, self._serial, min(self._pending.values(), default=self._serial))
        self._pending[command] = self._serial
        self._send(command)

    def _send(self, command: bytes) -> None:
        members = [member for member in self.cluster.members.values() if member.up]
        if not members:
            return
        leading = [member for member in members if member.leads]
        member = self.cluster.rng.choice(leading if leading and self.cluster.rng.random() < 0.5 else members)
        self.cluster.clients.submit(member, command, self)

    def answered(self, command: bytes, result: bytes) -> None:
        """A member through which the command was sent has applied it."""
        if command == self._opening and not self.id:
            self.id, self._serial = int(result), 0
            self._opening = b""
        elif command in self._pending:
            serial = self._pending.pop(command)
            if result == machine.EXPIRED:
                self.id = 0
                self.expired += 1
                self._pending.clear()
            elif result == machine.STALE:
                raise Violation(f"sessions: {command!r} is refused as answered, but it never was")
            else:
                self.acknowledged[self.id, serial] = result


class Clients:
    """All of them, and the books about what they were told."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.reads: dict[int, Read] = {}
        self.acknowledged: dict[bytes, Index] = {}
        self.sessions: list[Session] = []
        self.changes = 0
        """Changes of the membership that were taken on."""
        self._changes: dict[int, NodeId] = {}
        self._batches: dict[int, tuple[NodeId, tuple[bytes, ...]]] = {}
        self._owners: dict[bytes, tuple[NodeId, int]] = {}
        self._senders: dict[bytes, tuple[Session, set[tuple[NodeId, int]]]] = {}
        self._names = 0

    @property
    def rng(self) -> random.Random:
        return self.cluster.rng

    # ── commands ──────────────────────────────────────────────────────────────────────────────────

    def propose(self, member: Member, count: int) -> tuple[bytes, ...]:
        """A client of `member` submits commands: it appends them, forwards them, or refuses. Returns them."""
        raft, observer = member.raft, self.cluster.observer
        if raft is None:
            return ()
        first = self._names + 1
        self._names += count
        width = self.cluster.conditions.command_bytes
        commands = tuple(b"%0*d" % (width, number) for number in range(first, self._names + 1))
        for command in commands:
            self._owners[command] = (member.id, member.incarnation)
        try:
            self._hand_in(member, commands)
        except (NotLeader, Busy) as error:
            for command in commands:
                observer.refused(command, type(error).__name__)
            return ()
        member.proposed.extend((raft.term, command) for command in commands)
        member.touched()
        return commands

    def submit(self, member: Member, command: bytes, session: Session) -> None:
        """A session's command: it may be sent more than once."""
        _, through = self._senders.setdefault(command, (session, set()))
        through.add((member.id, member.incarnation))
        try:
            self._hand_in(member, (command,))
        except (NotLeader, Busy):
            return
        member.touched()

    def _hand_in(self, member: Member, commands: tuple[bytes, ...]) -> None:
        raft, now = member.raft, member.clock()
        if raft is None:
            return
        if raft.role is not Role.LEADER:
            self._names += 1
            self._batches[self._names] = (member.id, commands)
            raft.forward(self._names, commands, now)
            return
        last = raft.log.last_index
        first = raft.propose(commands, now)
        if first != last + 1 or raft.log.last_index != last + len(commands):
            raise Violation(f"{len(commands)} commands after index {last} were appended at {first}")

    def batch_refused(self, member: Member, batch: int) -> None:
        owner, commands = self._batches[batch]
        if owner != member.id:
            raise Violation(f"{member.id} is told that batch {batch} of {owner} was refused")
        for command in commands:
            if command in self._owners:
                self.cluster.observer.refused(command, f"batch {batch}")

    def applied(self, member: Member, entry: Entry, result: bytes) -> None:
        """An applied entry acknowledges the command it holds; one of a later term shows what was lost."""
        if self._owners.get(entry.data) == (member.id, member.incarnation):
            self.acknowledged[entry.data] = entry.index
        elif entry.data in self._senders:
            session, through = self._senders[entry.data]
            if (member.id, member.incarnation) in through:
                session.answered(entry.data, result)
        while member.proposed and member.proposed[0][0] < entry.term:
            _, command = member.proposed.popleft()
            if command not in self.acknowledged:
                self.cluster.observer.refused(command, "an entry of a later term was applied before it")

    # ── changes ───────────────────────────────────────────────────────────────────────────────────

    def change(self, member: Member, change: Change) -> str:
        """An operator asks `member` for a change. Returns "" or why it was refused at once."""
        raft = member.raft
        if raft is None:
            return "down"
        try:
            if raft.role is Role.LEADER:
                raft.change_membership(change, member.clock())
                self.changes += 1
            else:
                self._names += 1
                self._changes[self._names] = member.id
                raft.forward_change(self._names, change, member.clock())
        except (NotLeader, ChangeRefused) as error:
            return str(error)
        member.touched()
        return ""

    def change_answered(self, member: Member, answer: ChangeMembershipReply) -> None:
        if self._changes.get(answer.number) != member.id:
            raise Violation(f"{member.id} is answered {answer}, for which it did not ask")
        self.changes += answer.index > 0

    def transfer(self, member: Member, target: NodeId) -> NodeId:
        """An operator asks a leader to hand over. Returns to whom, or 0."""
        raft = member.raft
        if raft is None:
            return 0
        try:
            chosen = raft.transfer_leadership(target, member.clock())
        except (NotLeader, ChangeRefused):
            return 0
        member.touched()
        return chosen

    # ── reads ─────────────────────────────────────────────────────────────────────────────────────

    def read(self, member: Member) -> int | None:
        """A client of `member` reads. Returns the read's context, or None if it was refused at once."""
        raft = member.raft
        if raft is None:
            return None
        self._names += 1
        context = self._names
        self.reads[context] = Read(member.id, member.incarnation, len(self.cluster.observer.history))
        try:
            raft.read(context, member.clock())
        except (NotLeader, Busy):
            self.reads[context].state = "refused"
            return None
        member.touched()
        return context

    def waiting_reads(self) -> list[Read]:
        """Those that were neither served nor rejected, at members that are there to hear of it: those that
        crashed or were removed are not."""
        present = self.cluster.configuration.ids
        return [
            read
            for read in self.reads.values()
            if read.state in ("asked", "confirmed")
            and read.member in present
            and read.incarnation == self.cluster.members[read.member].incarnation
        ]

    def _asked(self, member: Member, context: int) -> Read:
        read = self.reads.get(context)
        if read is None or (read.member, read.incarnation, read.state) != (
            member.id,
            member.incarnation,
            "asked",
        ):
            raise Violation(f"{member.id} answers read {context}, which is {read}")
        return read

    def read_confirmed(self, member: Member, context: int, index: Index) -> bool:
        """Returns whether it has to wait until `index` is applied."""
        read = self._asked(member, context)
        self.cluster.observer.read_confirmed(member.id, read.committed_before, index)
        read.state = "served" if index <= member.machine.index else "confirmed"
        return read.state == "confirmed"

    def read_served(self, context: int) -> None:
        self.reads[context].state = "served"

    def read_rejected(self, member: Member, context: int) -> None:
        self._asked(member, context).state = "rejected"
