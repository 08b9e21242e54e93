"""A few members under a director: every message, timeout and disk write happens when the script says so.

For tests that tell one story. `Stage` is used directly by tests, and through its text commands by the
transcripts in `scenarios/`. What happens is noted as lines of text: the core's trace events and the messages
it sends.

Disks write at once unless `slow`; messages wait in their link's queue until they are delivered or dropped.
Snapshots are written when the director says so, and fetched ones have arrived when he says so.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from oarlock.errors import OarlockError
from oarlock.raft import invariants, trace
from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap
from oarlock.raft.messages import (
    InstallSnapshot,
    Message,
)
from oarlock.raft.raft import Raft
from oarlock.raft.ready import Ready
from oarlock.raft.roles import Role
from oarlock.raft.types import (
    NOBODY,
    Change,
    Configuration,
    Entry,
    HardState,
    LogBase,
    NodeId,
    StoredSnapshot,
)

from .script import is_turning_point, named, parse_change, short, short_configuration, short_entry, trace_line


class Actor:
    """One member on the stage."""

    def __init__(self, node_id: NodeId, state: HardState, entries: Sequence[Entry]) -> None:
        self.id = node_id
        self.state = state
        self.entries = list(entries)
        self.base = LogBase()
        self.snapshot: StoredSnapshot | None = None
        self.raft: Raft | None = None
        self.slow = False
        self.storing: deque[Ready] = deque()
        self.applied: list[Entry] = []
        """Since the last start, behind what its snapshot held."""
        self.fetching: InstallSnapshot | None = None

    @property
    def core(self) -> Raft:
        assert self.raft is not None, f"{self.id} is down"
        return self.raft


class Stage:
    """Members 1 … size. Times are those of a default election timeout of 1 s and heartbeats every 0.2 s."""

    def __init__(self, size: int = 3, **config: Any) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.queue: list[Message] = []
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.config = config
        self.starts = 0
        ids = tuple(range(1, size + 1))
        state, entries = bootstrap(Configuration(voters=ids, members=tuple(map(named, ids))))
        self.actors = {n: Actor(n, state, entries) for n in range(1, size + 1)}
        for node_id in self.actors:
            self.restart(node_id)

    def __getitem__(self, node_id: NodeId) -> Raft:
        return self.actors[node_id].core

    def _note(self, event: trace.Event) -> None:
        line = trace_line(event)
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
            Config(id=node_id, **{"election_timeout": 1.0, "heartbeat_interval": 0.2, **self.config}),
            actor.state,
            tuple(actor.entries),
            random=random.Random(self.starts),
            now=self.now,
            applied_index=0 if actor.snapshot is None else actor.snapshot.snapshot.index,
            base=actor.base,
            snapshot=actor.snapshot,
            trace=self._note,
        )
        self._serve(actor)

    def join(self, node_id: NodeId) -> None:
        """Start a new member that has nothing yet."""
        self.actors[node_id] = Actor(node_id, HardState(), ())
        self.restart(node_id)

    def crash(self, node_id: NodeId) -> None:
        """Stop a member; what its disk has not finished is lost, and so are messages on their way to it."""
        actor = self.actors[node_id]
        actor.raft = None
        actor.fetching = None
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
        actor = self.actors.get(message.to)
        if actor is not None and actor.raft is not None:
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

    def forward(self, node_id: NodeId, batch: int, *commands: str) -> None:
        """A member sends commands to its leader."""
        actor = self.actors[node_id]
        actor.core.forward(batch, [command.encode() for command in commands], self.now)
        self._serve(actor)

    def change(self, node_id: NodeId, change: Change) -> None:
        """An operator asks this member for a change of the membership."""
        actor = self.actors[node_id]
        if actor.core.role is Role.LEADER:
            actor.core.change_membership(change, self.now)
        else:
            actor.core.forward_change(1, change, self.now)
        self._serve(actor)

    def transfer(self, node_id: NodeId, target: NodeId = NOBODY) -> None:
        actor = self.actors[node_id]
        actor.core.transfer_leadership(target, self.now)
        self._serve(actor)

    def peer_lost(self, node_id: NodeId, peer: NodeId) -> None:
        actor = self.actors[node_id]
        actor.core.peer_lost(peer, self.now)
        self._serve(actor)

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────

    def snapshot(self, node_id: NodeId) -> None:
        """A member writes a snapshot of what it has applied."""
        actor = self.actors[node_id]
        snapshot = actor.core.snapshot_at(actor.core.applied_index)
        actor.snapshot = StoredSnapshot(snapshot, size=100, checksum=snapshot.index)
        actor.core.snapshot_taken(actor.snapshot, self.now)
        self._serve(actor)

    def compact(self, node_id: NodeId) -> None:
        """A member's disk drops the entries that its snapshot covers."""
        actor = self.actors[node_id]
        if actor.snapshot is not None and actor.snapshot.snapshot.index > actor.base.index:
            snapshot = actor.snapshot.snapshot
            actor.entries = [entry for entry in actor.entries if entry.index > snapshot.index]
            actor.base = LogBase(snapshot.index, snapshot.term)

    def fetching(self, node_id: NodeId, received: int) -> None:
        """Some bytes of the snapshot that a member fetches have arrived."""
        self.actors[node_id].core.snapshot_progress(received)

    def fetched(self, node_id: NodeId) -> None:
        """The snapshot that a member fetches is whole and durable."""
        actor = self.actors[node_id]
        message, actor.fetching = actor.fetching, None
        if message is None:
            raise ValueError(f"{node_id} fetches nothing")
        stored = StoredSnapshot(message.snapshot, message.size, message.checksum)
        if actor.snapshot is None or actor.snapshot.snapshot.index < stored.snapshot.index:
            actor.snapshot = stored
        actor.core.snapshot_received(stored, self.now)
        self._serve(actor)

    def unfetched(self, node_id: NodeId) -> None:
        """The snapshot cannot be fetched."""
        actor = self.actors[node_id]
        actor.fetching = None
        actor.core.snapshot_failed(self.now)
        self._serve(actor)

    def turn(self, node_id: NodeId) -> None:
        """A member asks whether it may write a snapshot."""
        actor = self.actors[node_id]
        actor.core.ask_for_snapshot_turn(self.now)
        self._serve(actor)

    def turned(self, node_id: NodeId) -> None:
        """A member gives its turn back."""
        actor = self.actors[node_id]
        actor.core.snapshot_turn_done(self.now)
        self._serve(actor)

    # ── reads, disks, elections ───────────────────────────────────────────────────────────────────

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

    def leader(self) -> NodeId:
        """The leader of the latest term."""
        terms = [
            (actor.raft.term, actor.id)
            for actor in self.actors.values()
            if actor.raft is not None and actor.raft.role is Role.LEADER
        ]
        assert terms, "nobody leads"
        return max(terms)[1]

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
            if ready.install is not None:
                actor.applied = []
                raft.applied(ready.install.index)
            if ready.fetch is not None:
                actor.fetching = ready.fetch
                name = ready.fetch.snapshot
                self.lines.append(
                    f"{actor.id} fetches the snapshot of {name.index}:{name.term} from {ready.fetch.sender}"
                )
            if ready.take_snapshot:
                self.lines.append(f"{actor.id} is to write a snapshot")
            for answer in ready.changes:
                self.lines.append(
                    f"{actor.id} learns that change {answer.number} "
                    + (f"is at {answer.index}" if answer.index else f"was refused: {answer.text}")
                )
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
        if ready.install is not None:
            actor.entries = []
            actor.base = LogBase(ready.install.index, ready.install.term)
        if ready.entries:
            del actor.entries[ready.entries[0].index - 1 - actor.base.index :]
            actor.entries.extend(ready.entries)
        self._post(ready.messages_after_stored)
        actor.core.stored(ready.number)

    def _post(self, messages: Sequence[Message]) -> None:
        for message in messages:
            lost = (message.sender, message.to) in self.cut or message.to not in self.actors
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
                case "timeout" | "crash" | "restart" | "slow" | "sync" | "isolate" | "join":
                    getattr(self, verb)(numbers[0])
                case "snapshot" | "compact" | "fetched" | "unfetched" | "turn" | "turned":
                    getattr(self, verb)(numbers[0])
                case "deliver" | "drop" | "read" | "transfer" | "peer_lost" | "fetching":
                    getattr(self, verb)(*numbers)
                case "change":
                    self.change(numbers[0], parse_change(rest[1:]))
                case "forward":
                    self.forward(numbers[0], numbers[1], *rest[2:])
                case "heal":
                    self.heal()
                case "cut":
                    self.cut.add((numbers[0], numbers[1]))
                case "elect":
                    self.elect(numbers[0])
                    self.lines = [f"{numbers[0]} leads term {self[numbers[0]].term}"]  # not the story here
                case "run":
                    self.run(float(rest[0]))
                case "later":
                    self.run(float(rest[0]))
                    self.lines = [line for line in self.lines if is_turning_point(line)]
                case "leader_proposes":
                    self.deliver()
                    self.propose(self.leader(), *rest)
                    self.deliver()
                    self.lines = [line for line in self.lines if is_turning_point(line)]
                case "members":
                    self._members()
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
            log = actor.raft.log if actor.raft else None
            entries = log.slice(log.first_index, log.last_index) if log else actor.entries
            base = log.base_index if log else actor.base.index
            dropped = f"(up to {base} dropped) " if base else ""
            self.lines.append(f"{actor.id}: {dropped}{' '.join(map(short_entry, entries))}")

    def _states(self) -> None:
        for actor in self.actors.values():
            self.lines.append(repr(invariants.View(actor.raft)) if actor.raft else f"{actor.id} is down")

    def _members(self) -> None:
        for actor in self.actors.values():
            if actor.raft is None:
                self.lines.append(f"{actor.id} is down")
                continue
            raft = actor.raft
            where = (
                f"{raft.configuration_index}{'' if raft.configuration_index <= raft.commit_index else '?'}"
            )
            self.lines.append(
                f"{raft.role.name} {raft.id} term {raft.term}, configuration {where}: "
                + short_configuration(raft.configuration)
            )
