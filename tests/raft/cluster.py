"""A cluster of cores on virtual time: every delay, loss and crash is drawn from one `random.Random`.

Nothing here sleeps or waits: a heap of events is worked off in order of virtual time. Around each core stands
a `Member`, the smallest honest driver of the `Ready` contract; between them is a network that delays, loses,
duplicates, reorders and is cut at will. `Clients` keep the books about what they were told. The `Observer`
hears of everything.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from oarlock.raft.membership import bootstrap
from oarlock.raft.messages import ChangeMembership, Message, Propose
from oarlock.raft.raft import Raft
from oarlock.raft.types import Configuration, HardState, NodeId
from oarlock.raft.types import Member as Described

from .checkers import Observer, Violation
from .clients import Clients
from .disk import Disk
from .member import Member

EVENTS_MAX = 50_000
"""Far beyond what any schedule needs: more means that members keep each other busy for nothing."""

CoreFactory = Callable[..., Raft]


@dataclass
class Conditions:
    """The weather: what network, disks and clients are like. All times in seconds of virtual time."""

    election_timeout: float = 1.0
    heartbeat_interval: float = 0.25
    delay: tuple[float, float] = (0.005, 0.03)
    """Bounds of a message's travelling time."""
    late: float = 0.0
    """Share of messages that take up to `late_delay` instead: long after what they were about."""
    late_delay: float = 4.0
    loss: float = 0.0
    duplication: float = 0.0
    sync: tuple[float, float] = (0.002, 0.02)
    """Bounds of the time that one disk sync takes."""
    apply: tuple[float, float] = (0.0, 0.01)
    take: tuple[float, float] = (0.01, 0.3)
    """Bounds of the time that writing a snapshot takes."""
    fetch: tuple[float, float] = (0.02, 0.5)
    fetch_failure: float = 0.0
    batching: float = 0.0
    """Share of steps after which the driver takes the Ready only a moment later."""
    command_bytes: int = 8
    config: dict[str, Any] = field(default_factory=dict)
    """Further settings of the cores: small limits make limits matter."""


def described(node_id: NodeId, priority: int = 0) -> Described:
    return Described(node_id, f"m{node_id}", (f"http://m{node_id}",), (), priority)


class Cluster:
    """Members 1 … size on virtual time. See the module's docstring.

    Args:
        size: how many voters.
        rng: decides everything.
        conditions: the weather; may be replaced at any time.
        core: makes a member's core; a mutation passes its own.
        log: if given, receives one line per event.
        priorities: the initial members', by id.
    """

    def __init__(
        self,
        size: int,
        rng: random.Random,
        conditions: Conditions,
        core: CoreFactory = Raft,
        log: Callable[[str], None] | None = None,
        priorities: dict[NodeId, int] | None = None,
    ) -> None:
        self.rng = rng
        self.conditions = conditions
        self.core = core
        self.now = 0.0
        self.events = 0
        self.log = log
        self.ids = list(range(1, size + 1))
        """All servers that ever were."""
        self.members: dict[NodeId, Member] = {}
        self.cut: dict[tuple[NodeId, NodeId], None] = {}
        """Ordered pairs (from, to) between which nothing arrives."""
        self.slow: dict[tuple[NodeId, NodeId], float] = {}
        """Ordered pairs between which everything takes so many seconds longer."""
        self.clients = Clients(self)
        self._serial = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        given = priorities or {}
        hard_state, entries = bootstrap(
            Configuration(
                voters=tuple(self.ids),
                members=tuple(described(node_id, given.get(node_id, 0)) for node_id in self.ids),
            )
        )
        disks: dict[NodeId, Disk] = {}
        self.observer = Observer(entries, disks)
        self._disks = disks
        for node_id in self.ids:
            self._add(node_id, Disk(hard_state, entries))
        for member in self.members.values():
            member.start()

    def _add(self, node_id: NodeId, disk: Disk) -> Member:
        self._disks[node_id] = disk
        self.members[node_id] = Member(self, node_id, disk)
        return self.members[node_id]

    def spawn(self) -> NodeId:
        """A new server, with nothing on its disk. Nobody knows it yet."""
        node_id = self.ids[-1] + 1
        self.ids.append(node_id)
        self._add(node_id, Disk(HardState(), ())).start()
        return node_id

    def say(self, line: Callable[[], str]) -> None:
        if self.log:
            self.log(f"{self.now:8.3f} {line()}")

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def at(self, when: float, action: Callable[..., None], *arguments: object) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, action, arguments))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Work off events up to `until`, or until `stop` says so. Returns whether it did."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(heap)
            self.events += 1
            if self.events > EVENTS_MAX:
                raise Violation(f"after {EVENTS_MAX} events at {self.now:.1f} s there is no end of them")
            action(*arguments)
            if stop is not None and stop():
                return True
        self.now = max(self.now, until)
        return False

    # ── network ───────────────────────────────────────────────────────────────────────────────────

    def send(self, message: Message) -> None:
        sender = self.members.get(message.sender)
        self.observer.sending(message, sender.raft if sender is not None else None)
        conditions, rng = self.conditions, self.rng
        self.say(lambda: f"      {message.sender}→{message.to} {message}")
        if (message.sender, message.to) in self.cut:
            return
        if conditions.loss and rng.random() < conditions.loss:
            return
        longer = self.slow.get((message.sender, message.to), 0.0)
        self.at(self.now + longer + self._travel(), self._deliver, message)
        if isinstance(message, Propose | ChangeMembership):
            return  # connections do not duplicate what they carry, and these would count twice
        if conditions.duplication and rng.random() < conditions.duplication:
            self.at(self.now + self._travel(), self._deliver, message)

    def _travel(self) -> float:
        conditions, rng = self.conditions, self.rng
        if conditions.late and rng.random() < conditions.late:
            return rng.uniform(conditions.delay[1], conditions.late_delay)
        low, high = conditions.delay
        return low + (high - low) * rng.random()

    def _deliver(self, message: Message) -> None:
        member = self.members.get(message.to)
        if member is None or (raft := member.raft) is None:
            return
        if (message.sender, message.to) in self.cut or member.postponed(self._deliver, message):
            return
        raft.step(message, member.clock())
        self.observer.delivered(message, raft)
        member.touched()

    def isolate(self, group: Sequence[NodeId]) -> None:
        """Cut `group` off from everyone else, in both directions."""
        for one in self.ids:
            for other in self.ids:
                if (one in group) != (other in group):
                    self.cut[one, other] = None

    def heal(self) -> None:
        self.cut.clear()
        self.slow.clear()

    # ── for the end of a run ──────────────────────────────────────────────────────────────────────

    @property
    def leader(self) -> Member | None:
        """The member that leads the latest term, if any does."""
        leading = [member for member in self.members.values() if member.leads]
        return max(leading, key=lambda member: member.raft.term if member.raft else 0, default=None)

    @property
    def configuration(self) -> Configuration:
        """The latest that is committed."""
        return self.observer.configurations[-1][1]

    def agreed_leader(self, among: Sequence[NodeId] | None = None) -> Member | None:
        """The leader whom all of `among` follow, if there is one; by default all members, and then the
        membership has to have come to rest, under a leader of the highest priority."""
        leader = self.leader
        if leader is None or leader.raft is None:
            return None
        raft = leader.raft
        if among is None:
            configuration = raft.configuration
            if raft.configuration_index > raft.commit_index or configuration.joint or configuration.joining:
                return None
            priorities = {member.id: member.priority for member in configuration.members}
            if priorities.get(leader.id, -1) < max(priorities[voter] for voter in configuration.voters):
                return None
            among = configuration.ids
            if leader.id not in configuration.voters:
                return None
        for node_id in among:
            follower = self.members[node_id].raft
            if follower is None or follower.term != raft.term or follower.leader_id != leader.id:
                return None
        return leader
