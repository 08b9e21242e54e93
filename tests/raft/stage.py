"""A few members under a director: every message, timeout and disk write happens when the script says so.

For tests that tell one story. `Stage` is used directly by tests, and through its text commands by the
transcripts in `scenarios/`. What happens is noted as lines of text: the core's trace events and the messages
it sends.

Disks write at once unless `slow`; messages wait in their link's queue until they are delivered or dropped.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence

from oarlock.errors import OarlockError
from oarlock.raft import invariants, trace
from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Message,
    PreVote,
    PreVoteReply,
    Propose,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
)
from oarlock.raft.raft import Raft
from oarlock.raft.ready import Ready
from oarlock.raft.types import Configuration, Entry, EntryKind, HardState, NodeId


def short_entry(entry: Entry) -> str:
    what = entry.data.decode() if entry.kind is EntryKind.COMMAND else entry.kind.name.lower()
    return f"{entry.index}:{entry.term}:{what}"


def short(message: Message) -> str:
    """One message as a short line."""
    head = f"{message.sender}→{message.to} {type(message).__name__} term {message.term}"
    match message:
        case PreVote() | RequestVote():
            return f"{head}, log ends {message.last_log_index}:{message.last_log_term}"
        case PreVoteReply() | RequestVoteReply():
            return f"{head}, " + ("granted" if message.granted else f"refused: {message.reason}")
        case AppendEntries():
            entries = " ".join(map(short_entry, message.entries)) or "nothing"
            return (
                f"{head}, after {message.previous_index}:{message.previous_term} {entries}, "
                f"commit {message.commit_index}, round {message.round}"
            )
        case AppendEntriesReply() if message.success:
            return f"{head}, holds {message.match_index}, round {message.round}"
        case AppendEntriesReply():
            return (
                f"{head}, lacks {message.match_index}, "
                f"agreement at most at {message.hint_index}:{message.hint_term}, round {message.round}"
            )
        case ReadIndexReply():
            return f"{head}, read {message.context}: " + (
                f"index {message.index}" if message.index else "refused"
            )
        case Propose():
            return f"{head}, batch {message.batch}: {' '.join(c.decode() for c in message.commands)}"
        case _:
            return head


def _trace_line(event: trace.Event) -> str | None:
    match event:
        case trace.RoleChanged():
            leader = f" of {event.leader_id}" if event.leader_id else ""
            return f"{event.node} is {event.role}{leader} in term {event.term}: {event.reason}"
        case trace.EntriesAppended():
            return f"{event.node} appends {event.first} to {event.last}, term {event.term}"
        case trace.LogTruncated():
            return f"{event.node} cuts its log from {event.index} on"
        case trace.Committed():
            return f"{event.node} knows {event.index} to be committed"
        case _:
            return None


class Actor:
    """One member on the stage."""

    def __init__(self, node_id: NodeId, state: HardState, entries: Sequence[Entry]) -> None:
        self.id = node_id
        self.state = state
        self.entries = list(entries)
        self.raft: Raft | None = None
        self.slow = False
        self.storing: deque[Ready] = deque()
        self.applied: list[Entry] = []

    @property
    def core(self) -> Raft:
        assert self.raft is not None, f"{self.id} is down"
        return self.raft


class Stage:
    """Members 1 … size. Times are those of a default election timeout of 1 s and heartbeats every 0.2 s."""

    def __init__(self, size: int = 3, **config: int) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.queue: list[Message] = []
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.config = config
        self.starts = 0
        state, entries = bootstrap(Configuration(voters=tuple(range(1, size + 1))))
        self.actors = {n: Actor(n, state, entries) for n in range(1, size + 1)}
        for node_id in self.actors:
            self.restart(node_id)

    def __getitem__(self, node_id: NodeId) -> Raft:
        return self.actors[node_id].core

    def _note(self, event: trace.Event) -> None:
        line = _trace_line(event)
        if line is not None:
            self.lines.append(line)

    # ── what the director may order ───────────────────────────────────────────────────────────────

    def restart(self, node_id: NodeId) -> None:
        """Start a member from what its disk holds."""
        actor = self.actors[node_id]
        self.starts += 1
        actor.applied = []
        actor.slow = False
        actor.raft = Raft(
            Config(id=node_id, election_timeout=1.0, heartbeat_interval=0.2, **self.config),
            actor.state,
            tuple(actor.entries),
            random=random.Random(self.starts),
            now=self.now,
            trace=self._note,
        )
        self._serve(actor)

    def crash(self, node_id: NodeId) -> None:
        """Stop a member; what its disk has not finished is lost, and so are messages on their way to it."""
        actor = self.actors[node_id]
        actor.raft = None
        actor.storing.clear()
        self.queue = [message for message in self.queue if message.to != node_id]

    def timeout(self, node_id: NodeId) -> None:
        """The clock reaches a member's deadline."""
        actor = self.actors[node_id]
        self.now = max(self.now, actor.core.deadline)
        actor.core.timeout(self.now)
        self._serve(actor)

    def step(self, message: Message) -> None:
        """Deliver a message that did not come from a queue."""
        actor = self.actors[message.to]
        if actor.raft is not None:
            actor.raft.step(message, self.now)
            self._serve(actor)

    def deliver(self, sender: NodeId = 0, to: NodeId = 0) -> None:
        """Deliver what is queued (on one link), and without a link all that follows from it."""
        while self.queue:
            now, self.queue = self._split(sender, to)
            for message in now:
                self.step(message)
            if sender or to or not now:
                return

    def drop(self, sender: NodeId = 0, to: NodeId = 0) -> None:
        _, self.queue = self._split(sender, to)

    def _split(self, sender: NodeId, to: NodeId) -> tuple[list[Message], list[Message]]:
        chosen, rest = [], []
        for message in self.queue:
            matches = sender in (0, message.sender) and to in (0, message.to)
            (chosen if matches else rest).append(message)
        return chosen, rest

    def isolate(self, node_id: NodeId) -> None:
        for other in self.actors:
            self.cut |= {(node_id, other), (other, node_id)}

    def heal(self) -> None:
        self.cut.clear()

    def run(self, seconds: float) -> None:
        """Let time pass: timers fire, messages arrive at once."""
        until = self.now + seconds
        self.deliver()
        while True:
            up = [actor for actor in self.actors.values() if actor.raft is not None]
            due = min((actor.core.deadline, actor.id) for actor in up)
            if due[0] > until or due[0] == math.inf:
                self.now = until
                return
            self.timeout(due[1])
            self.deliver()

    def propose(self, node_id: NodeId, *commands: str) -> None:
        actor = self.actors[node_id]
        actor.core.propose([command.encode() for command in commands], self.now)
        self._serve(actor)

    def read(self, node_id: NodeId, context: int) -> None:
        actor = self.actors[node_id]
        actor.core.read(context, self.now)
        self._serve(actor)

    def slow(self, node_id: NodeId) -> None:
        self.actors[node_id].slow = True

    def sync(self, node_id: NodeId) -> None:
        """A slow disk finishes all that it was given."""
        actor = self.actors[node_id]
        while actor.storing:
            self._finish(actor, actor.storing.popleft())
        self._serve(actor)

    def elect(self, node_id: NodeId) -> None:
        """Have a member elected, and all that follows delivered."""
        self.timeout(node_id)
        self.deliver()
        assert self[node_id].role.value == "leader"

    # ── the driver ────────────────────────────────────────────────────────────────────────────────

    def _serve(self, actor: Actor) -> None:
        raft = actor.core
        invariants.check(raft)
        while (ready := raft.ready()) is not None:
            self._post(ready.messages)
            if actor.storing or (actor.slow and ready.must_store):
                actor.storing.append(ready)
            else:
                self._finish(actor, ready)
            if ready.committed:
                actor.applied.extend(ready.committed)
                raft.applied(ready.committed[-1].index)
                self.lines.append(f"{actor.id} applies {' '.join(map(short_entry, ready.committed))}")
            for state in ready.reads:
                self.lines.append(f"{actor.id} may serve read {state.context} at index {state.index}")
            for context in ready.rejected_reads:
                self.lines.append(f"{actor.id} has no answer to read {context}")
            for refusal in ready.rejected_batches:
                self.lines.append(f"{actor.id} learns that batch {refusal.batch} was refused")
        invariants.check(raft)

    def _finish(self, actor: Actor, ready: Ready) -> None:
        if ready.hard_state is not None:
            actor.state = ready.hard_state
        if ready.entries:
            del actor.entries[ready.entries[0].index - 1 :]
            actor.entries.extend(ready.entries)
        self._post(ready.messages_after_stored)
        actor.core.stored(ready.number)

    def _post(self, messages: Sequence[Message]) -> None:
        for message in messages:
            lost = (message.sender, message.to) in self.cut
            self.lines.append(f"    {short(message)}{' (lost)' if lost else ''}")
            if not lost:
                self.queue.append(message)

    # ── transcripts ───────────────────────────────────────────────────────────────────────────────

    def perform(self, command: str) -> list[str]:
        """Carry out one line of a script. Returns what happened."""
        self.lines = []
        verb, *rest = command.split()
        numbers = [int(word) for word in rest if word.isdigit()]
        try:
            match verb:
                case "timeout" | "crash" | "restart" | "slow" | "sync" | "isolate":
                    getattr(self, verb)(numbers[0])
                case "deliver" | "drop" | "read":
                    getattr(self, verb)(*numbers)
                case "heal":
                    self.heal()
                case "cut":
                    self.cut.add((numbers[0], numbers[1]))
                case "elect":
                    self.elect(numbers[0])
                    self.lines = [f"{numbers[0]} leads term {self[numbers[0]].term}"]  # not the story here
                case "run":
                    self.run(float(rest[0]))
                case "propose":
                    self.propose(int(rest[0]), *rest[1:])
                case "logs":
                    self._logs()
                case "states":
                    self._states()
                case _:
                    raise ValueError(f"no such command in a scenario: {command}")
        except OarlockError as error:
            self.lines.append(f"{type(error).__name__}: {error}")
        return self.lines

    def _logs(self) -> None:
        for actor in self.actors.values():
            entries = actor.raft.log.slice(1, actor.raft.log.last_index) if actor.raft else actor.entries
            self.lines.append(f"{actor.id}: {' '.join(map(short_entry, entries))}")

    def _states(self) -> None:
        for actor in self.actors.values():
            self.lines.append(repr(invariants.View(actor.raft)) if actor.raft else f"{actor.id} is down")
