"""One seed, one schedule: five cores through a storm, then proof that they recover.

`run_schedule(seed)` draws everything from the seed, in two phases:

**Safety.** Clients propose and read while faults come and go: crashes that lose unsynced state, partitions,
one-way cuts, pauses, clock jumps, lost and late and duplicated messages, slow disks. Whatever happens, the
invariants and the observer's properties hold after every step. A seed picks one of the `PROFILES` and scales
its rates ("swarm" testing: schedules that do everything at once miss what needs one thing in earnest).

**Liveness.** The weather clears, everybody is up. Then, within bounded virtual time: there is a leader whom
all follow; a new command commits everywhere; a read at every member is answered. And one of the `TRIALS`,
which are about leadership itself: a member that comes back does not disturb a working leader, a leader that
lost its quorum knows it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from oarlock.raft import invariants
from oarlock.raft.messages import PreVoteReply, RequestVote
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import NodeId

from .checkers import Violation
from .cluster import Cluster, Conditions, CoreFactory, Member

CALM = Conditions()
STRANGER: NodeId = 99
PATIENCE = 40.0
"""Election timeouts within which a healthy cluster has to get anywhere."""


@dataclass(frozen=True)
class Profile:
    """What a storm is made of. Rates are events per second of virtual time (an election timeout is 1 s)."""

    conditions: Conditions
    faults: dict[str, float]
    """Fault → weight."""
    fault_rate: float = 2.0
    proposals: float = 8.0
    reads: float = 3.0
    seconds: float = 8.0


PROFILES: dict[str, Profile] = {
    # Long partitions, in which leaders of several terms grow logs of their own.
    "partitions": Profile(
        Conditions(loss=0.02),
        {"isolate_leader": 3, "partition": 3, "one_way": 2, "heal": 5, "crash": 1},
        seconds=7.0,
    ),
    # Crashes, also of everyone at once, over disks that take their time.
    "crashes": Profile(
        Conditions(sync=(0.01, 0.25), duplication=0.05),
        {"crash": 4, "crash_leader": 3, "crash_all": 1, "restart_all": 2, "jump": 2},
        fault_rate=3.0,
    ),
    # The network at its worst; messages arrive long after what they were about.
    "network": Profile(
        Conditions(delay=(0.005, 0.2), late=0.06, loss=0.1, duplication=0.15, batching=0.2),
        {"jump": 3, "heal": 2, "one_way": 2, "pause": 1, "crash": 1},
        seconds=5.0,
    ),
    # Clocks jump: elections collide and overtake one another.
    "elections": Profile(
        Conditions(delay=(0.005, 0.12), sync=(0.005, 0.1), late=0.03, loss=0.05, duplication=0.1),
        {"jump": 10, "jump_all": 3, "crash": 2, "restart_all": 2, "isolate_leader": 1, "heal": 3},
        fault_rate=6.0,
        seconds=6.0,
    ),
    # Short-lived leaders that leave entries on a few members only: figure 8 of the paper.
    "figure_8": Profile(
        Conditions(sync=(0.002, 0.05), late=0.02),
        {"strand_leader": 6, "jump": 4, "heal": 4, "crash_leader": 2, "restart_all": 3},
        fault_rate=4.0,
        seconds=7.0,
    ),
    # Leaders that are replaced behind their back, and asked for reads all the while.
    "usurpers": Profile(
        Conditions(late=0.03, late_delay=2.0, duplication=0.03),
        {"usurp": 6, "heal": 3, "crash_leader": 1, "jump": 2},
        fault_rate=3.0,
        reads=8.0,
        seconds=5.0,
    ),
    # Leaders that lose an election and win the next, while much of what was sent to them is late.
    "reelections": Profile(
        Conditions(late=0.3, late_delay=1.5, duplication=0.05),
        {"reelect": 5, "heal": 1, "crash": 1},
        proposals=16.0,
        seconds=5.0,
    ),
    # Disks so slow that what is being written is cut again by the next leader.
    "slow_disks": Profile(
        Conditions(sync=(0.05, 0.4)),
        {"usurp": 1, "usurp_briefly": 5, "jump": 1, "crash": 1},
        fault_rate=1.5,
        seconds=7.0,
    ),
    # Everything a little, with every limit low.
    "limits": Profile(
        Conditions(
            loss=0.05,
            duplication=0.05,
            late=0.02,
            batching=0.3,
            config={
                "append_bytes_max": 24,
                "inflight_messages_max": 2,
                "inflight_bytes_max": 64,
                "uncommitted_bytes_max": 96,
                "committed_bytes_max": 20,
                "pending_reads_max": 2,
            },
        ),
        {"crash": 2, "isolate_leader": 2, "partition": 1, "heal": 4, "jump": 2, "pause": 1, "restart_all": 1},
        proposals=14.0,
        reads=8.0,
        seconds=4.0,
    ),
}


class Storm:
    """The faults, each a method; drawn by weight."""

    def __init__(self, cluster: Cluster, profile: Profile) -> None:
        self.cluster = cluster
        self.rng = cluster.rng
        self.profile = profile
        self.names = list(profile.faults)
        self.weights = [profile.faults[name] for name in self.names]
        self.over = False

    def start(self) -> None:
        self.cluster.at(self._in(self.profile.fault_rate), self._fault)
        self.cluster.at(self._in(self.profile.proposals), self._propose)
        self.cluster.at(self._in(self.profile.reads), self._read)

    def _in(self, rate: float) -> float:
        return self.cluster.now + self.rng.expovariate(rate)

    def _later(self, when: float, action: Callable[..., object], *arguments: object) -> None:
        """Part of a fault that comes a little later, unless the storm is over by then."""

        def unless_over() -> None:
            if not self.over:
                action(*arguments)

        self.cluster.at(when, unless_over)

    def _anyone(self) -> Member:
        return self.cluster.members[self.rng.choice(self.cluster.ids)]

    def _leader_or_anyone(self) -> Member:
        """Any member that believes to lead: of several, mostly not the rightful one."""
        leading = [member for member in self.cluster.members.values() if member.leads]
        return self.rng.choice(leading) if leading else self._anyone()

    def _fault(self) -> None:
        if self.over:
            return
        name = self.rng.choices(self.names, self.weights)[0]
        if self.cluster.log:
            self.cluster.log(f"{self.cluster.now:8.3f} fault {name}")
        getattr(self, name)()
        self.cluster.at(self._in(self.profile.fault_rate), self._fault)

    def _propose(self) -> None:
        if self.over:
            return
        member = self._leader_or_anyone() if self.rng.random() < 0.7 else self._anyone()
        self.cluster.propose(member, self.rng.choice((1, 1, 1, 2, 5)))
        self.cluster.at(self._in(self.profile.proposals), self._propose)

    def _read(self) -> None:
        if self.over:
            return
        self.cluster.read(self._leader_or_anyone() if self.rng.random() < 0.6 else self._anyone())
        self.cluster.at(self._in(self.profile.reads), self._read)

    # ── the faults ────────────────────────────────────────────────────────────────────────────────

    def crash(self) -> None:
        self._crash(self._anyone())

    def crash_leader(self) -> None:
        self._crash(self._leader_or_anyone())

    def crash_all(self) -> None:
        for member in self.cluster.members.values():
            self._crash(member)

    def _crash(self, member: Member) -> None:
        self.cluster.crash(member)
        self._later(self.cluster.now + self.rng.uniform(0.0, 1.5), self.cluster.start, member)

    def restart_all(self) -> None:
        """A random majority crashes and is back at once."""
        for node_id in self.rng.sample(self.cluster.ids, len(self.cluster.ids) // 2 + 1):
            self.cluster.crash(self.cluster.members[node_id])
            self.cluster.start(self.cluster.members[node_id])

    def partition(self) -> None:
        self.cluster.isolate(
            self.rng.sample(self.cluster.ids, self.rng.randint(1, len(self.cluster.ids) // 2))
        )

    def isolate_leader(self) -> None:
        """The leader keeps only a minority, or nobody."""
        leader = self._leader_or_anyone()
        others = [node_id for node_id in self.cluster.ids if node_id != leader.id]
        followers = self.rng.sample(others, self.rng.randint(0, (len(self.cluster.ids) - 1) // 2 - 1))
        self.cluster.isolate([leader.id, *followers])

    def strand_leader(self) -> None:
        """Cut the leader off with one follower, and give it commands that the rest will not see."""
        leader = self._leader_or_anyone()
        others = [node_id for node_id in self.cluster.ids if node_id != leader.id]
        self.cluster.heal()
        self.cluster.isolate([leader.id, self.rng.choice(others)])
        self.cluster.propose(leader, self.rng.randint(1, 3))

    def usurp(self) -> None:
        """Cut the leader off with at most one follower, and have the others elect another before it
        notices."""
        leader = self._leader_or_anyone()
        others = self.rng.sample(self.cluster.ids, len(self.cluster.ids))
        others.remove(leader.id)
        kept = self.rng.randint(0, 1)
        self.cluster.heal()
        self.cluster.isolate([leader.id, *others[:kept]])
        self.cluster.propose(leader, self.rng.randint(1, 8))
        now = self.cluster.now
        for node_id in others[kept:]:
            self._later(now + self.rng.uniform(0.0, 0.1), self.cluster.jump, self.cluster.members[node_id])
        for _ in range(6):
            self._later(now + self.rng.uniform(0.05, 0.6), self.cluster.read, leader)
        self._later(now + self.rng.uniform(0.1, 0.5), self.cluster.propose, leader, 1)
        return leader

    def usurp_briefly(self) -> None:
        """A replaced leader is still writing what it was last given when it meets its successor."""
        leader = self.usurp()
        back_at = self.cluster.now + self.rng.uniform(0.6, 1.1)
        for _ in range(3):
            self._later(back_at - self.rng.uniform(0.0, 0.3), self.cluster.propose, leader, 2)
        self._later(back_at, self.heal)

    def reelect(self) -> None:
        """The leader hears of a later term, and stands again at once; commands are on their way to it."""
        leader = self._leader_or_anyone()
        if leader.raft is None:
            return
        others = [node_id for node_id in self.cluster.ids if node_id != leader.id]
        for node_id in others:
            self.cluster.propose(self.cluster.members[node_id], 1)
        now = self.cluster.now
        news = PreVoteReply(leader.raft.term + 1, STRANGER, leader.id, False)
        self._later(now + 0.02, self.cluster.send, news)
        for node_id in self.rng.sample(others, len(others) // 2):
            self._later(now + 0.06, self.cluster.jump, self.cluster.members[node_id])
        self._later(now + 0.06, self.cluster.jump, leader)

    def one_way(self) -> None:
        sender, receiver = self.rng.sample(self.cluster.ids, 2)
        self.cluster.cut[sender, receiver] = None

    def heal(self) -> None:
        if not self.over:  # the trials cut as they like
            self.cluster.heal()

    def pause(self) -> None:
        self.cluster.pause(self._leader_or_anyone(), self.rng.uniform(0.1, 3.0))

    def jump(self) -> None:
        self.cluster.jump(self._anyone())

    def jump_all(self) -> None:
        """Several timers fire in the same moment."""
        for node_id in self.rng.sample(self.cluster.ids, 3):
            self.cluster.jump(self.cluster.members[node_id])


# ── liveness ──────────────────────────────────────────────────────────────────────────────────────


def _await(cluster: Cluster, what: str, condition: Callable[[], bool]) -> None:
    if not condition() and not cluster.run(cluster.now + PATIENCE, condition):
        states = "; ".join(repr(member.view) for member in cluster.members.values())
        raise Violation(f"liveness: {what} after {PATIENCE:g} election timeouts of calm: {states}")


def settle(cluster: Cluster, among: Sequence[NodeId] | None = None) -> Member:
    """All of `among` (default: everybody) agree on a leader, and have applied all that is committed, a new
    command included."""
    present = [cluster.members[node_id] for node_id in among or cluster.ids]
    _await(cluster, "no leader whom all follow", lambda: cluster.agreed_leader(among) is not None)
    commands: tuple[bytes, ...] = ()
    proposed_in = 0

    def applied_everywhere() -> bool:
        nonlocal commands, proposed_in
        history = cluster.observer.history
        if commands and commands[0] in cluster.observer.committed_commands:
            return all(len(member.machine) == len(history) for member in present)
        leader = cluster.agreed_leader(among)
        if leader is not None and leader.raft is not None and leader.raft.term > proposed_in:
            # The first leader seen may be one that steps down the next moment: then the next one is asked.
            commands = cluster.propose(leader, 1)
            proposed_in = leader.raft.term if commands else 0
        return False

    _await(cluster, "a new command is not applied everywhere", applied_everywhere)
    leader = cluster.agreed_leader(among)
    if leader is None:
        raise Violation("liveness: a settled cluster has lost its leader")
    return leader


def read_everywhere(cluster: Cluster, among: Sequence[NodeId] | None = None) -> None:
    """A read at each member is answered; one that was refused is asked again."""
    contexts = {node_id: cluster.read(cluster.members[node_id]) for node_id in among or cluster.ids}

    def answered() -> bool:
        for node_id, context in contexts.items():
            state = cluster.reads[context].state if context is not None else "refused"
            if state in ("refused", "rejected"):
                contexts[node_id] = cluster.read(cluster.members[node_id])
                return False
            if state != "served":
                return False
        return True

    _await(cluster, "a read is not answered", answered)


def trial_follower_loses_leader(cluster: Cluster) -> None:
    """A follower that stops hearing the leader, but hears the others, must not depose it (4.2.3, 9.6)."""
    leader = settle(cluster)
    follower = cluster.rng.choice([node_id for node_id in cluster.ids if node_id != leader.id])
    cluster.cut[leader.id, follower] = None
    if cluster.rng.random() < 0.5:
        cluster.cut[follower, leader.id] = None
    _stays(cluster, leader, "a follower lost touch with it")


def trial_follower_isolated(cluster: Cluster) -> None:
    """A member that was alone for a while comes back without disturbing anyone (9.6)."""
    leader = settle(cluster)
    follower = cluster.rng.choice([node_id for node_id in cluster.ids if node_id != leader.id])
    cluster.isolate([follower])
    _stays(cluster, leader, "a follower was isolated and came back")


def _stays(cluster: Cluster, leader: Member, why: str) -> None:
    assert leader.raft is not None
    term = leader.raft.term
    cluster.run(cluster.now + 4.0)
    cluster.propose(leader, 1)
    cluster.heal()
    cluster.run(cluster.now + 2.0)
    if not leader.leads or leader.raft.term != term:
        raise Violation(f"leadership: leader {leader.id} of term {term} was deposed because {why}")


def trial_leader_isolated(cluster: Cluster) -> None:
    """A leader that lost its quorum steps down, and the quorum elects another (6.2)."""
    leader = settle(cluster)
    others = [node_id for node_id in cluster.ids if node_id != leader.id]
    stranded = [
        leader.id,
        *cluster.rng.sample(others, cluster.rng.randint(0, (len(cluster.ids) - 1) // 2 - 1)),
    ]
    cluster.isolate(stranded)
    _replaced(cluster, leader, [node_id for node_id in cluster.ids if node_id not in stranded])


def trial_leader_deaf(cluster: Cluster) -> None:
    """A leader that can speak but not hear steps down: its heartbeats would keep the others from electing
    (6.2)."""
    leader = settle(cluster)
    others = [node_id for node_id in cluster.ids if node_id != leader.id]
    for node_id in others:
        cluster.cut[node_id, leader.id] = None
    _replaced(cluster, leader, others)


def _replaced(cluster: Cluster, leader: Member, quorum: list[NodeId]) -> None:
    assert leader.raft is not None
    term = leader.raft.term

    def another_leads() -> bool:
        other = cluster.agreed_leader(quorum)
        return other is not None and other is not leader and other.raft is not None and other.raft.term > term

    _await(cluster, "no new leader for a quorum that lost its old one", another_leads)
    cluster.run(cluster.now + 1.5)
    if leader.raft.role is Role.LEADER and leader.raft.term == term:
        raise Violation(f"leadership: {leader.id} has no quorum and still leads term {term}")
    cluster.heal()


def trial_stranger(cluster: Cluster) -> None:
    """Someone who is no member (any more) asks for votes in a later term: a live leader is not deposed
    (4.2.3)."""
    leader = settle(cluster)
    assert leader.raft is not None
    cluster.run(cluster.now + 1.0)  # everyone has heard the leader lately
    term = leader.raft.term
    for node_id in cluster.ids:
        log = leader.raft.log
        cluster.send(RequestVote(term + 3, STRANGER, node_id, log.last_index + 9, term + 3))
    _stays(cluster, leader, "a stranger asked for votes")


def trial_member_ahead(cluster: Cluster) -> None:
    """A member in a later term than everyone else's: a leader that hears of the term gives way, and all meet
    again."""
    leader = settle(cluster)
    assert leader.raft is not None
    term = leader.raft.term
    member = cluster.rng.choice([node_id for node_id in cluster.ids if node_id != leader.id])
    cluster.isolate([member])
    cluster.send(PreVoteReply(term + 3, STRANGER, member, False))
    cluster.run(cluster.now + 0.5)
    cluster.heal()


def trial_bare_majority(cluster: Cluster) -> None:
    """A majority and nobody more elects, commits and reads: everyone counts, the leader's own disk too."""
    settle(cluster)
    away = cluster.rng.sample(cluster.ids, (len(cluster.ids) - 1) // 2)
    for node_id in away:
        cluster.crash(cluster.members[node_id])
    present = [node_id for node_id in cluster.ids if node_id not in away]
    settle(cluster, present)
    read_everywhere(cluster, present)
    for node_id in away:
        cluster.start(cluster.members[node_id])


TRIALS = (
    trial_bare_majority,
    trial_member_ahead,
    trial_stranger,
    trial_follower_loses_leader,
    trial_follower_isolated,
    trial_leader_isolated,
    trial_leader_deaf,
)


def verify(cluster: Cluster) -> None:
    """At the end: equal machines, nothing acknowledged is missing, every log holds together."""
    history = cluster.observer.history
    for member in cluster.members.values():
        if member.machine != history:
            raise Violation(
                f"{member.id}'s state machine holds {len(member.machine)} of {len(history)} entries"
            )
        assert member.raft is not None
        invariants.check_log(member.raft)
    for context, read in cluster.reads.items():
        # Every read of the storm is over by now: served, or its reader was told. Or the reader is gone.
        waits = read.incarnation == cluster.members[read.member].incarnation
        if waits and read.state in ("asked", "confirmed"):
            raise Violation(f"read {context} at {read.member} is {read.state} and was forgotten")
    for command, index in cluster.acknowledged.items():
        if history[index - 1].data != command:
            raise Violation(
                f"{command!r} was acknowledged at index {index}, which holds {history[index - 1]}"
            )


@dataclass(frozen=True)
class Outcome:
    """What a schedule did, so that one that does nothing is noticed."""

    profile: str
    events: int
    committed: int
    acknowledged: int
    reads: int
    terms: int
    restarts: int


def run_schedule(
    seed: int,
    *,
    size: int = 5,
    core: CoreFactory = Raft,
    profile: str | None = None,
    log: Callable[[str], None] | None = None,
) -> Outcome:
    """Run the schedule of `seed`. Raises whatever is found to be wrong.

    Args:
        seed: decides everything.
        size: how many members.
        core: makes the cores: `Raft`, or a mutation of it.
        profile: one of `PROFILES`; by default the seed picks one.
        log: receives one line per event.
    """
    rng = random.Random(seed)
    name = profile or list(PROFILES)[seed % len(PROFILES)]
    chosen = PROFILES[name]
    vary = rng.uniform(0.3, 1.5)
    conditions = replace(
        chosen.conditions,
        loss=chosen.conditions.loss * vary,
        late=chosen.conditions.late * rng.uniform(0.0, 2.0),
        heartbeat_interval=rng.choice((0.2, 0.3, 0.45)),
    )
    cluster = Cluster(size, rng, conditions, core, log)
    storm = Storm(cluster, replace(chosen, fault_rate=chosen.fault_rate * rng.uniform(0.5, 1.5)))
    cluster.run(
        rng.choice((0.0, 3.0))
    )  # sometimes the storm finds a working leader, sometimes the first election
    storm.start()
    cluster.run(cluster.now + chosen.seconds)
    storm.over = True

    cluster.conditions = replace(
        CALM, heartbeat_interval=conditions.heartbeat_interval, config=conditions.config
    )
    cluster.heal()
    for member in cluster.members.values():
        cluster.start(member)
    cluster.run(cluster.now + conditions.late_delay * bool(conditions.late))
    settle(cluster)
    rng.choice(TRIALS)(cluster)
    settle(cluster)
    read_everywhere(cluster)
    verify(cluster)
    return Outcome(
        profile=name,
        events=cluster.events,
        committed=len(cluster.observer.history),
        acknowledged=len(cluster.acknowledged),
        reads=sum(1 for read in cluster.reads.values() if read.state == "served"),
        terms=len(cluster.observer.leaders),
        restarts=sum(member.incarnation - 1 for member in cluster.members.values()),
    )
