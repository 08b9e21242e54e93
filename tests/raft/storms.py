"""The storms: what goes wrong in a schedule, and what is asked of the cluster meanwhile.

A seed picks one of the `PROFILES` and scales its rates ("swarm" testing: schedules that do everything at once
miss what needs one thing in earnest).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from oarlock.raft.messages import PreVoteReply
from oarlock.raft.types import Change, Configuration, NodeId
from oarlock.raft.types import Member as Described

from .clients import Session
from .cluster import Cluster, described
from .member import Member
from .profiles import Profile

STRANGER: NodeId = 99
SESSION_RATE = 3.0
"""Commands per second of one session client."""
SERVERS_MAX = 14
"""In one schedule, those that were removed included."""


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
        self.busy_until = 0.0
        """A plot is being carried out: no other faults until then."""

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
        if self.cluster.now >= self.busy_until:
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
            self._restart(self.cluster.members[node_id])

    def partition(self) -> None:
        self.cluster.isolate(
            self.rng.sample(self.cluster.ids, self.rng.randint(1, max(1, len(self.cluster.ids) // 2)))
        )

    def isolate_leader(self) -> None:
        """The leader keeps only a minority, or nobody."""
        leader = self._leader_or_anyone()
        others = [node_id for node_id in self.cluster.ids if node_id != leader.id]
        followers = self.rng.sample(others, self.rng.randint(0, max(0, (len(self.cluster.ids) - 1) // 2 - 1)))
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
        if len(self.cluster.ids) < 2:
            return
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
        for node_id in self.rng.sample(self.cluster.ids, min(3, len(self.cluster.ids))):
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

    # ── leases ────────────────────────────────────────────────────────────────────────────────────

    def heist(self) -> None:
        """A member that has lost touch with the leader for a while gets the others' ear when they restart, or
        are told that the leader is gone."""
        leader = self._leader_or_anyone()
        others = self._other_voters(leader)
        if len(others) < 2:
            return
        thief = self.cluster.members[self.rng.choice(others)]
        self.cluster.heal()
        self.cluster.cut[leader.id, thief.id] = self.cluster.cut[thief.id, leader.id] = None
        self.busy_until = self.cluster.now + 0.8
        self._later(self.busy_until, self._heist_begins, leader, thief, others)

    def _heist_begins(self, leader: Member, thief: Member, others: list[NodeId]) -> None:
        begins = min(max(self.cluster.now, thief.due - self.rng.uniform(0.0, 0.04)), self.cluster.now + 2.0)
        restarts = self.rng.random() < 0.6
        for node_id in others:
            other = self.cluster.members[node_id]
            if restarts and other is not thief:
                self._later(begins, self._restart, other)
            elif other is not thief:
                self._later(begins, self._hear_rumour, other, leader.id)
        self._later(begins, self.cluster.isolate, [leader.id])
        self._two_leaders(leader, begins + 0.05, begins + 0.9)

    def mute_leader(self) -> None:
        """Nobody hears the leader any more, while it still hears what they said a while ago."""
        leader = self._leader_or_anyone()
        self.cluster.heal()
        slow = self.rng.uniform(0.7, 0.95)
        for node_id in self.cluster.ids:
            self.cluster.slow[node_id, leader.id] = slow
        mute_at = self.cluster.now + self.rng.uniform(1.0, 1.5)
        for node_id in self.cluster.ids:
            self._later(mute_at, self.cluster.cut.__setitem__, (leader.id, node_id), None)
        self._two_leaders(leader, mute_at + 1.1, mute_at + 2.2)

    def hand_over_and_cut(self) -> None:
        """The leader's word to stand is the last that is heard of it."""
        leader = self._leader_or_anyone()
        others = self._other_voters(leader)
        if not others:
            return
        self.cluster.heal()
        self.cluster.clients.transfer(leader, self.rng.choice(others))
        now = self.cluster.now
        self._later(now + self.rng.uniform(0.005, 0.06), self.cluster.isolate, [leader.id])
        self._two_leaders(leader, now, now + 0.9)

    def _two_leaders(self, old: Member, begins: float, ends: float) -> None:
        """Writes go to whoever leads the latest term, reads to the old leader."""
        self.busy_until = ends
        for _ in range(15):
            self._later(self.rng.uniform(begins, ends), self._propose_to_latest)
            self._later(self.rng.uniform(begins, ends), self.cluster.clients.read, old)
            self._later(self.rng.uniform(begins, ends), self.cluster.clients.read, old)

    def _propose_to_latest(self) -> None:
        if (leader := self.cluster.leader) is not None:
            self.cluster.clients.propose(leader, 1)

    def _other_voters(self, leader: Member) -> list[NodeId]:
        return [node_id for node_id in self.cluster.configuration.voters if node_id != leader.id]

    def _restart(self, member: Member) -> None:
        member.crash()
        member.start()

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

    def change_and_crash(self) -> None:
        """Its leader crashes in whatever phase of a change."""
        leader = self.change()
        self._later(self.cluster.now + self.rng.uniform(0.0, 0.15), self._crash, leader)

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
            ("add", "add", "learner", "promote", "demote", "remove", "leader", "mix", "mix", "mix", "all")
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
            promote, demote, remove = (
                tuple(node_id for node_id in fates if fates[node_id] == fate)
                for fate in ("promote", "demote", "remove")
            )
            return Change(add=add, promote=promote, demote=demote, remove=remove)
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
