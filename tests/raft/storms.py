"""The storms: what goes wrong in a schedule, and what is asked of the cluster meanwhile.

A seed picks one of the `PROFILES` and scales its rates ("swarm" testing: schedules that do everything at once
miss what needs one thing in earnest). The first nine are about the plain algorithm with a fixed membership
and endless logs; the others mix in changes of the membership, snapshots, transfers, sick disks, sessions and
leases, with logs that are trimmed all the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from oarlock.raft.messages import PreVoteReply
from oarlock.raft.types import Change, Configuration, NodeId
from oarlock.raft.types import Member as Described

from .clients import Session
from .cluster import Cluster, Conditions, described
from .member import Member

STRANGER: NodeId = 99
SESSION_RATE = 3.0
"""Commands per second of one session client."""
SERVERS_MAX = 14
"""In one schedule, those that were removed included."""


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
    sessions: int = 0
    """How many session clients there are."""
    modern: bool = False
    """With trimmed logs and snapshots, priorities, and trials of all that changes the membership."""
    leases: bool = False


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
    # The membership changes all the time, by one or by all, while members crash and are cut off.
    "membership": Profile(
        Conditions(loss=0.02, duplication=0.02),
        {
            "change": 12,
            "crash": 2,
            "crash_leader": 2,
            "isolate_leader": 1,
            "partition": 1,
            "heal": 4,
            "jump": 2,
        },
        fault_rate=3.5,
        seconds=6.0,
        sessions=1,
        modern=True,
    ),
    # Changes that only a few members see before the next leader makes its own.
    "rival_changes": Profile(
        Conditions(sync=(0.002, 0.05), late=0.02),
        {"change": 4, "change_stranded": 6, "jump": 3, "heal": 4, "crash_leader": 2, "restart_all": 2},
        fault_rate=4.0,
        seconds=5.0,
        modern=True,
    ),
    # Members that fall behind and need snapshots, which are slow, fail, and are overtaken.
    "snapshots": Profile(
        Conditions(sync=(0.002, 0.06), late=0.03, duplication=0.03, fetch=(0.02, 1.0), fetch_failure=0.3),
        {"leave_behind": 6, "snapshot": 8, "heal": 2, "crash": 3, "crash_leader": 2, "usurp": 1, "change": 2},
        fault_rate=3.0,
        proposals=14.0,
        seconds=6.0,
        sessions=2,
        modern=True,
    ),
    # Leadership goes from hand to hand, wished for or not.
    "transfers": Profile(
        Conditions(loss=0.02, late=0.03, duplication=0.03),
        {
            "transfer": 8,
            "transfer_cut": 3,
            "hang_disk": 2,
            "rumour": 3,
            "crash_leader": 1,
            "heal": 4,
            "isolate_leader": 1,
            "change": 1,
        },
        fault_rate=3.0,
        proposals=12.0,
        seconds=5.0,
        sessions=2,
        modern=True,
    ),
    # Reads by lease: slow messages, leaders that are cut off, handed over and paused, clocks that differ.
    "leases": Profile(
        Conditions(delay=(0.005, 0.15), late=0.2, late_delay=0.9),
        {
            "isolate_leader": 5,
            "heal": 3,
            "transfer": 3,
            "restart_all": 1,
            "pause": 1,
            "crash_leader": 1,
            "change": 2,
        },
        fault_rate=1.2,
        reads=25.0,
        seconds=9.0,
        modern=True,
        leases=True,
    ),
    # Everything at once.
    "everything": Profile(
        Conditions(loss=0.03, late=0.02, duplication=0.05, batching=0.1, fetch_failure=0.1),
        {
            "change": 6,
            "change_stranded": 1,
            "transfer": 2,
            "transfer_cut": 1,
            "snapshot": 3,
            "leave_behind": 2,
            "hang_disk": 1,
            "rumour": 1,
            "crash": 2,
            "crash_leader": 1,
            "restart_all": 1,
            "partition": 1,
            "one_way": 1,
            "pause": 1,
            "jump": 2,
            "heal": 6,
        },
        fault_rate=4.0,
        seconds=6.0,
        sessions=2,
        modern=True,
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
        self.sessions = [Session(cluster, number) for number in range(profile.sessions)]
        cluster.clients.sessions.extend(self.sessions)
        self.over = False

    def start(self) -> None:
        self.cluster.at(self._in(self.profile.fault_rate), self._fault)
        self.cluster.at(self._in(self.profile.proposals), self._propose)
        self.cluster.at(self._in(self.profile.reads), self._read)
        for session in self.sessions:
            self.cluster.at(self._in(SESSION_RATE), self._act, session)

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
        self.cluster.say(lambda: f"fault {name}")
        getattr(self, name)()
        self.cluster.at(self._in(self.profile.fault_rate), self._fault)

    def _propose(self) -> None:
        if self.over:
            return
        member = self._leader_or_anyone() if self.rng.random() < 0.7 else self._anyone()
        self.cluster.clients.propose(member, self.rng.choice((1, 1, 1, 2, 5)))
        self.cluster.at(self._in(self.profile.proposals), self._propose)

    def _read(self) -> None:
        if self.over:
            return
        self.cluster.clients.read(self._leader_or_anyone() if self.rng.random() < 0.6 else self._anyone())
        self.cluster.at(self._in(self.profile.reads), self._read)

    def _act(self, session: Session) -> None:
        if self.over:
            return
        session.act()
        self.cluster.at(self._in(SESSION_RATE), self._act, session)

    # ── the faults ────────────────────────────────────────────────────────────────────────────────

    def crash(self) -> None:
        self._crash(self._anyone())

    def crash_leader(self) -> None:
        self._crash(self._leader_or_anyone())

    def crash_all(self) -> None:
        for member in self.cluster.members.values():
            self._crash(member)

    def _crash(self, member: Member) -> None:
        member.crash()
        self._later(self.cluster.now + self.rng.uniform(0.0, 1.5), member.start)

    def restart_all(self) -> None:
        """A random majority crashes and is back at once."""
        for node_id in self.rng.sample(self.cluster.ids, len(self.cluster.ids) // 2 + 1):
            self.cluster.members[node_id].crash()
            self.cluster.members[node_id].start()

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
        self.cluster.clients.propose(leader, self.rng.randint(1, 3))

    def usurp(self) -> Member:
        """Cut the leader off with at most one follower, and have the others elect another before it
        notices."""
        leader = self._leader_or_anyone()
        others = self.rng.sample(self.cluster.ids, len(self.cluster.ids))
        others.remove(leader.id)
        kept = self.rng.randint(0, 1)
        self.cluster.heal()
        self.cluster.isolate([leader.id, *others[:kept]])
        self.cluster.clients.propose(leader, self.rng.randint(1, 8))
        now = self.cluster.now
        for node_id in others[kept:]:
            self._later(now + self.rng.uniform(0.0, 0.1), self.cluster.members[node_id].jump)
        for _ in range(6):
            self._later(now + self.rng.uniform(0.05, 0.6), self.cluster.clients.read, leader)
        self._later(now + self.rng.uniform(0.1, 0.5), self.cluster.clients.propose, leader, 1)
        return leader

    def usurp_briefly(self) -> None:
        """A replaced leader is still writing what it was last given when it meets its successor."""
        leader = self.usurp()
        back_at = self.cluster.now + self.rng.uniform(0.6, 1.1)
        for _ in range(3):
            self._later(back_at - self.rng.uniform(0.0, 0.3), self.cluster.clients.propose, leader, 2)
        self._later(back_at, self.heal)

    def reelect(self) -> None:
        """The leader hears of a later term, and stands again at once; commands are on their way to it."""
        leader = self._leader_or_anyone()
        if leader.raft is None:
            return
        others = [node_id for node_id in self.cluster.ids if node_id != leader.id]
        for node_id in others:
            self.cluster.clients.propose(self.cluster.members[node_id], 1)
        now = self.cluster.now
        news = PreVoteReply(leader.raft.term + 1, STRANGER, leader.id, False)
        self._later(now + 0.02, self.cluster.send, news)
        for node_id in self.rng.sample(others, len(others) // 2):
            self._later(now + 0.06, self.cluster.members[node_id].jump)
        self._later(now + 0.06, leader.jump)

    def one_way(self) -> None:
        sender, receiver = self.rng.sample(self.cluster.ids, 2)
        self.cluster.cut[sender, receiver] = None

    def heal(self) -> None:
        if not self.over:  # the trials cut as they like
            self.cluster.heal()

    def pause(self) -> None:
        self._leader_or_anyone().pause(self.rng.uniform(0.1, 3.0))

    def jump(self) -> None:
        self._anyone().jump()

    def jump_all(self) -> None:
        """Several timers fire in the same moment."""
        for node_id in self.rng.sample(self.cluster.ids, 3):
            self.cluster.members[node_id].jump()

    # ── snapshots, transfers, sick disks ──────────────────────────────────────────────────────────

    def snapshot(self) -> None:
        """A member finds that its log has grown enough."""
        member = self._anyone()
        if member.raft is not None:
            member.raft.ask_for_snapshot_turn(member.clock())
            member.touched()

    def leave_behind(self) -> None:
        """A member is down or cut off for so long that the others drop what it lacks."""
        member = self._anyone()
        back_at = self.cluster.now + self.rng.uniform(1.0, 3.0)
        if self.rng.random() < 0.5:
            member.crash()
            self._later(back_at, member.start)
        else:
            self.cluster.isolate([member.id])
            self._later(back_at, self.heal)
        for _ in range(4):
            self._later(self.cluster.now + self.rng.uniform(0.0, 1.0), self._propose_at_leader, 4)

    def _propose_at_leader(self, count: int) -> None:
        self.cluster.clients.propose(self._leader_or_anyone(), count)

    def transfer(self) -> None:
        leader = self._leader_or_anyone()
        target = 0 if self.rng.random() < 0.3 else self._anyone().id
        self.cluster.clients.transfer(leader, target)
        now = self.cluster.now
        for _ in range(3):
            member = self._anyone()
            self._later(now + self.rng.uniform(0.0, 0.1), self.cluster.clients.propose, member, 1)
            self._later(now + self.rng.uniform(0.0, 0.5), self.cluster.clients.read, leader)

    def transfer_cut(self) -> None:
        """To someone who cannot be reached any more, from now on or in a moment."""
        leader = self._leader_or_anyone()
        target = self.cluster.clients.transfer(leader, 0 if self.rng.random() < 0.5 else self._anyone().id)
        if target:
            self._later(self.cluster.now + self.rng.uniform(0.0, 0.03), self.cluster.isolate, [target])
            for _ in range(3):
                when = self.cluster.now + self.rng.uniform(0.0, 1.0)
                self._later(when, self.cluster.clients.propose, self._anyone(), 1)

    def hang_disk(self) -> None:
        self._leader_or_anyone().hang_disk(self.rng.uniform(0.5, 4.0))

    def rumour(self) -> None:
        """Someone is told that a member is gone, mostly the leader; sometimes it is true."""
        lost = self._leader_or_anyone()
        if self.rng.random() < 0.5:
            self._crash(lost)
        for member in list(self.cluster.members.values()):
            if member.id != lost.id and self.rng.random() < 0.7:
                self._later(
                    self.cluster.now + self.rng.uniform(0.0, 0.05), self._hear_rumour, member, lost.id
                )

    def _hear_rumour(self, member: Member, lost: NodeId) -> None:
        if member.raft is not None:
            member.raft.peer_lost(lost, member.clock())
            member.touched()

    # ── membership ────────────────────────────────────────────────────────────────────────────────

    def change(self) -> Member:
        leader = self._leader_or_anyone()
        known = leader.raft.configuration if leader.raft is not None else self.cluster.configuration
        configuration = known if known.voters else self.cluster.configuration
        change = self._draw_change(configuration, leader.id)
        if self.rng.random() < 0.1 and leader.raft is not None:
            change = msgspec.structs.replace(
                change, expected_index=max(0, leader.raft.configuration_index - self.rng.randint(0, 1))
            )
        asked = leader if self.rng.random() < 0.7 else self._anyone()
        refused = self.cluster.clients.change(asked, change)
        self.cluster.say(lambda: f"      {asked.id} is asked for {change}: {refused or 'taken'}")
        return leader

    def change_stranded(self) -> None:
        """A change that its leader can tell to one member at most, while the others elect another leader,
        who is asked for another change."""
        leader = self.change()
        others = self.rng.sample(self.cluster.ids, len(self.cluster.ids))
        others.remove(leader.id)
        kept = self.rng.randint(0, 1)
        self.cluster.heal()
        self.cluster.isolate([leader.id, *others[:kept]])
        for node_id in others[kept:]:
            when = self.cluster.now + self.rng.uniform(0.0, 0.1)
            self._later(when, self.cluster.members[node_id].jump)
        self._later(self.cluster.now + self.rng.uniform(0.2, 0.4), self.change)

    def _draw_change(self, configuration: Configuration, leader: NodeId) -> Change:
        rng = self.rng
        voters, learners = list(configuration.voters), list(configuration.learners)
        room = len(configuration.ids) < 7
        kind = rng.choice(
            ("add", "add", "learner", "promote", "demote", "remove", "leader", "mix", "mix", "all")
        )
        if kind in ("add", "learner") and room:
            return Change(add=(self._newcomer(configuration),), learners=kind == "learner")
        if kind == "promote" and learners:
            return Change(promote=(rng.choice(learners),))
        if kind == "demote":
            return Change(demote=(rng.choice(voters),))
        if kind == "remove":
            return Change(remove=(rng.choice(voters + learners),))
        if kind == "leader":
            return Change(remove=(leader,)) if rng.random() < 0.7 else Change(demote=(leader,))
        if kind == "all" and learners:
            return Change(promote=tuple(learners), remove=tuple(voters))
        if kind == "mix":
            fates = {node_id: rng.choice(("stays", "stays", "demote", "remove")) for node_id in voters}
            fates |= {node_id: rng.choice(("stays", "promote", "promote", "remove")) for node_id in learners}
            add = (self._newcomer(configuration),) if room and rng.random() < 0.4 else ()
            return Change(
                add=add,
                **{
                    fate: tuple(node_id for node_id in fates if fates[node_id] == fate)
                    for fate in ("promote", "demote", "remove")
                },
            )
        member = rng.choice(voters)
        return Change(update=(described(member, rng.randint(0, 2)),))

    def _newcomer(self, configuration: Configuration) -> Described:
        known = {*configuration.ids, *configuration.removed}
        idle = [node_id for node_id in self.cluster.ids if node_id not in known]
        if idle and (self.rng.random() < 0.7 or len(self.cluster.ids) >= SERVERS_MAX):
            node_id = self.rng.choice(idle)
        elif len(self.cluster.ids) >= SERVERS_MAX:
            node_id = self.cluster.ids[-1]  # known already: it will be refused
        else:
            node_id = self.cluster.spawn()
        return described(node_id, self.rng.choice((0, 0, 0, 1)))
