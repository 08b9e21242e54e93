"""What a schedule proves once its storm is over: the cluster works again, and trials of what it promises.

`settle` and `read_everywhere` are the basic liveness; each of the `TRIALS` is about one promise that takes a
calm cluster to be seen: a member that comes back does not disturb a working leader, a leader that lost its
quorum knows it, leadership is handed over in a moment, a newcomer is promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oarlock.raft.messages import PreVoteReply, RequestVote
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Change, NodeId

from .checkers import Violation
from .cluster import Cluster, described
from .member import Member
from .storms import STRANGER

PATIENCE = 40.0
"""Election timeouts within which a healthy cluster has to get anywhere."""


def wait_for(cluster: Cluster, what: str, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    if not condition() and not cluster.run(cluster.now + patience, condition):
        states = "; ".join(repr(member.view) for member in cluster.members.values())
        membership = cluster.configuration
        raise Violation(
            f"liveness: {what} after {patience:g} election timeouts of calm: {membership}; {states}"
        )


def settle(cluster: Cluster, among: Sequence[NodeId] | None = None) -> Member:
    """All of `among` (default: all members) agree on a leader, and have applied all that is committed, a new
    command included. By default a change that was under way has come to its end, too."""
    wait_for(cluster, "no leader whom all follow", lambda: cluster.agreed_leader(among) is not None)
    commands: tuple[bytes, ...] = ()
    proposed_in = 0

    def applied_everywhere() -> bool:
        nonlocal commands, proposed_in
        leader = cluster.agreed_leader(among)
        if leader is None:
            return False
        raft, history = raft_of(leader), cluster.observer.history
        if commands and commands[0] in cluster.observer.committed_commands:
            present = among or raft.configuration.ids
            return all(cluster.members[node_id].machine.index == len(history) for node_id in present)
        if raft.term > proposed_in:
            # The first leader seen may be one that steps down the next moment: then the next one is asked.
            commands = cluster.clients.propose(leader, 1)
            proposed_in = raft.term if commands else 0
        return False

    wait_for(cluster, "a new command is not applied everywhere", applied_everywhere)
    leader = cluster.agreed_leader(among)
    if leader is None:
        raise Violation("liveness: a settled cluster has lost its leader")
    return leader


def raft_of(member: Member) -> Raft:
    if member.raft is None:
        raise Violation(f"{member.id} is down")
    return member.raft


def read_everywhere(cluster: Cluster, among: Sequence[NodeId] | None = None) -> None:
    """A read at each member is answered; one that was refused is asked again."""
    clients = cluster.clients
    present = among or cluster.configuration.ids
    contexts = {node_id: clients.read(cluster.members[node_id]) for node_id in present}

    def answered() -> bool:
        for node_id, context in contexts.items():
            state = clients.reads[context].state if context is not None else "refused"
            if state in ("refused", "rejected"):
                contexts[node_id] = clients.read(cluster.members[node_id])
                return False
            if state != "served":
                return False
        return True

    wait_for(cluster, "a read is not answered", answered)


def others(cluster: Cluster, leader: Member) -> list[NodeId]:
    """The voters but for the leader."""
    return [node_id for node_id in raft_of(leader).configuration.voters if node_id != leader.id]


# ── stable leadership ─────────────────────────────────────────────────────────────────────────────


def follower_loses_leader(cluster: Cluster) -> None:
    """A follower that stops hearing the leader, but hears the others, must not depose it (4.2.3, 9.6)."""
    leader = settle(cluster)
    follower = cluster.rng.choice(others(cluster, leader))
    cluster.cut[leader.id, follower] = None
    if cluster.rng.random() < 0.5:
        cluster.cut[follower, leader.id] = None
    _stays(cluster, leader, "a follower lost touch with it")


def follower_isolated(cluster: Cluster) -> None:
    """A member that was alone for a while comes back without disturbing anyone (9.6)."""
    leader = settle(cluster)
    cluster.isolate([cluster.rng.choice(others(cluster, leader))])
    _stays(cluster, leader, "a follower was isolated and came back")


def stranger(cluster: Cluster) -> None:
    """Someone who is no member (any more) asks for votes in a later term: a live leader is not deposed
    (4.2.3)."""
    leader = settle(cluster)
    cluster.run(cluster.now + 1.0)  # everyone has heard the leader lately
    raft = raft_of(leader)
    for node_id in raft.configuration.ids:
        cluster.send(RequestVote(raft.term + 3, STRANGER, node_id, raft.log.last_index + 9, raft.term + 3))
    _stays(cluster, leader, "a stranger asked for votes")


def removed_member(cluster: Cluster) -> None:
    """A member that was removed, and did not hear of it, campaigns: nobody is disturbed (4.2.3)."""
    leader = settle(cluster)
    leaving = cluster.rng.choice(others(cluster, leader))
    cluster.isolate([leaving])
    if refusal := cluster.clients.change(leader, Change(remove=(leaving,))):
        raise Violation(f"{leaving} cannot be removed: {refusal}")
    wait_for(cluster, "a member is not removed", lambda: leaving in cluster.configuration.removed)
    leader = settle(cluster)
    _stays(cluster, leader, "a removed member came back")
    cluster.members[leaving].jump()
    _stays(cluster, leader, "a removed member campaigned")


def _stays(cluster: Cluster, leader: Member, why: str) -> None:
    raft = raft_of(leader)
    term = raft.term
    cluster.run(cluster.now + 4.0)
    cluster.clients.propose(leader, 1)
    cluster.heal()
    cluster.run(cluster.now + 2.0)
    if not leader.leads or raft.term != term:
        raise Violation(f"leadership: leader {leader.id} of term {term} was deposed because {why}")


def leader_isolated(cluster: Cluster) -> None:
    """A leader that lost its quorum steps down, and the quorum elects another (6.2)."""
    leader = settle(cluster)
    rest = others(cluster, leader)
    with_it = cluster.rng.sample(rest, cluster.rng.randint(0, len(rest) // 2 - 1))
    cluster.isolate([leader.id, *with_it])
    _replaced(cluster, leader, [node_id for node_id in rest if node_id not in with_it])


def leader_deaf(cluster: Cluster) -> None:
    """A leader that can speak but not hear steps down: its heartbeats would keep the others from electing
    (6.2)."""
    leader = settle(cluster)
    for node_id in cluster.ids:
        cluster.cut[node_id, leader.id] = None
    _replaced(cluster, leader, others(cluster, leader))


def _replaced(cluster: Cluster, leader: Member, quorum: list[NodeId]) -> None:
    raft = raft_of(leader)
    term = raft.term

    def another_leads() -> bool:
        other = cluster.agreed_leader(quorum)
        return other is not None and other is not leader and raft_of(other).term > term

    wait_for(cluster, "no new leader for a quorum that lost its old one", another_leads)
    cluster.run(cluster.now + 1.5)
    if raft.role is Role.LEADER and raft.term == term:
        raise Violation(f"leadership: {leader.id} has no quorum and still leads term {term}")
    cluster.heal()


def member_ahead(cluster: Cluster) -> None:
    """A member in a later term than everyone else's: a leader that hears of the term gives way, and all meet
    again."""
    leader = settle(cluster)
    member = cluster.rng.choice(others(cluster, leader))
    cluster.isolate([member])
    cluster.send(PreVoteReply(raft_of(leader).term + 3, STRANGER, member, False))
    cluster.run(cluster.now + 0.5)
    cluster.heal()


def bare_majority(cluster: Cluster) -> None:
    """A majority and nobody more elects, commits and reads: everyone counts, the leader's own disk too."""
    leader = settle(cluster)
    configuration = raft_of(leader).configuration
    voters = configuration.voters
    away = cluster.rng.sample(voters, (len(voters) - 1) // 2)
    for node_id in (*away, *configuration.learners):
        cluster.members[node_id].crash()
    present = [node_id for node_id in voters if node_id not in away]
    settle(cluster, present)
    read_everywhere(cluster, present)
    for node_id in (*away, *configuration.learners):
        cluster.members[node_id].start()


# ── membership ────────────────────────────────────────────────────────────────────────────────────


def newcomer(cluster: Cluster) -> None:
    """A server with an empty disk joins, catches up, and is promoted without anybody's help (4.2.1)."""
    leader = settle(cluster)
    node_id = cluster.spawn()
    if refusal := cluster.clients.change(leader, Change(add=(described(node_id),))):
        raise Violation(f"{node_id} cannot join: {refusal}")
    wait_for(cluster, "a newcomer is not promoted", lambda: node_id in cluster.configuration.voters)


def leader_removed(cluster: Cluster) -> None:
    """A leader that was told to remove itself does it, and somebody else takes over at once (4.2.2)."""
    leader = settle(cluster)
    asked = cluster.clients.change(leader, Change(remove=(leader.id,)))
    if asked:
        raise Violation(f"the leader cannot be removed: {asked}")
    wait_for(cluster, "the leader is not removed", lambda: leader.id in cluster.configuration.removed, 2.0)
    rest = cluster.configuration.voters
    wait_for(cluster, "nobody takes over", lambda: cluster.agreed_leader(rest) is not None, 4.0)


def all_replaced(cluster: Cluster) -> None:
    """Every voter at once is replaced by a newcomer, through one joint phase (4.3)."""
    leader = settle(cluster)
    old = cluster.configuration.voters
    new = tuple(cluster.spawn() for _ in range(min(3, len(old))))
    coming = Change(add=tuple(described(node_id) for node_id in new), learners=True)
    if refusal := cluster.clients.change(leader, coming):
        raise Violation(f"{new} cannot join: {refusal}")
    wait_for(cluster, "newcomers are not added", lambda: {*new} <= {*cluster.configuration.learners})
    leader = settle(cluster)
    going = Change(promote=new, remove=old)
    wait_for(cluster, "learners do not catch up", lambda: not cluster.clients.change(leader, going))
    wait_for(cluster, "the members are not replaced", lambda: cluster.configuration.voters == new)


# ── leadership that moves ─────────────────────────────────────────────────────────────────────────


def handed_over(cluster: Cluster) -> None:
    """The target leads the next term, long before an election timeout (3.10); commands are not lost."""
    leader = settle(cluster)
    cluster.run(cluster.now + 1.0)  # all answer
    target = cluster.rng.choice(others(cluster, leader))
    term = raft_of(leader).term
    if cluster.clients.transfer(leader, target) != target:
        raise Violation(f"{leader.id} does not hand over to {target}")
    forwarded = _forward(cluster, leader)
    cluster.run(cluster.now + 0.9)
    if cluster.observer.leaders.get(term + 1) != target:
        raise Violation(f"leadership: {leader.id} did not hand over to {target}")
    _all_settled(cluster, forwarded)


def handed_to_nobody(cluster: Cluster) -> None:
    """The target is cut off: the leader goes on after an election timeout, with what was sent to it."""
    leader = settle(cluster)
    cluster.run(cluster.now + 1.0)
    target = cluster.rng.choice(others(cluster, leader))
    term = raft_of(leader).term
    cluster.isolate([target])
    cluster.clients.transfer(leader, target)
    forwarded = _forward(cluster, leader, target)
    cluster.run(cluster.now + 1.5)
    if not leader.leads or raft_of(leader).term != term or raft_of(leader).transferring:
        raise Violation(f"leadership: {leader.id} does not lead on after a transfer that failed")
    _all_settled(cluster, forwarded)
    cluster.heal()


def _forward(cluster: Cluster, *but: Member | NodeId) -> list[bytes]:
    avoided = [node.id if isinstance(node, Member) else node for node in but]
    commands: list[bytes] = []
    for node_id in cluster.configuration.ids:
        if node_id not in avoided:
            commands += cluster.clients.propose(cluster.members[node_id], 2)
    return commands


def _all_settled(cluster: Cluster, commands: list[bytes]) -> None:
    """In calm weather every command is committed, or its sender is told that it never will be."""
    observer = cluster.observer
    wait_for(
        cluster,
        "a forwarded command is neither committed nor refused",
        lambda: all(
            each in observer.committed_commands or each in observer.refused_commands for each in commands
        ),
        8.0,
    )


def sick_disk(cluster: Cluster) -> None:
    """A leader whose disk hangs is replaced within three election timeouts, and comes back as a follower."""
    leader = settle(cluster)
    term = raft_of(leader).term
    leader.hang_disk(9.0)
    cluster.clients.propose(leader, 1)
    rest = others(cluster, leader)

    def another_leads() -> bool:
        other = cluster.agreed_leader(rest)
        return other is not None and other is not leader and raft_of(other).term > term

    wait_for(cluster, "a leader with a sick disk is not replaced", another_leads, 3.0)
    cluster.run(cluster.now + 2.0)
    if leader.leads:
        raise Violation(f"leadership: {leader.id} leads with a disk that hangs")


def left_behind(cluster: Cluster) -> None:
    """A member that was down while the others dropped what it lacks catches up by a snapshot (5.1)."""
    leader = settle(cluster)
    follower = cluster.members[cluster.rng.choice(others(cluster, leader))]
    follower.crash()
    had = max(follower.disk.last_index, follower.disk.covered)
    kept = raft_of(leader).config.log_entries_kept or 0
    cluster.run(cluster.now + 1.5)  # it does not answer: nothing is kept for it
    for _ in range(kept + 3):
        leader = cluster.leader or leader
        cluster.clients.propose(leader, 3)
        cluster.run(cluster.now + 0.3)
    if raft_of(leader).config.log_entries_kept is not None and raft_of(leader).log.base_index <= had:
        raise Violation(f"memory: {leader.id} keeps the log for a member that is down: {leader.view!r}")
    follower.start()
    settle(cluster)


def removal_interrupted(cluster: Cluster) -> None:
    """Only the leader that is to leave knows of it, and hardly a majority is up: it may have to lead them
    through its own removal (4.2.2)."""
    leader = settle(cluster)
    rest = others(cluster, leader)
    away = rest[: (len(rest) - 1) // 2]
    cluster.isolate([leader.id])
    if cluster.clients.change(leader, Change(remove=(leader.id,))):
        return  # those that would remain have just gone silent
    cluster.run(cluster.now + 0.1)
    leader.crash()
    for node_id in away:
        cluster.members[node_id].crash()
    cluster.heal()
    leader.start()
    present = rest[len(away) :]
    wait_for(cluster, "nobody leads", lambda: cluster.agreed_leader(present) is not None)
    for node_id in away:
        cluster.members[node_id].start()


Trial = Callable[[Cluster], None]

PLAIN: dict[str, tuple[Trial, int]] = {
    "bare_majority": (bare_majority, 1),
    "member_ahead": (member_ahead, 2),
    "stranger": (stranger, 1),
    "follower_loses_leader": (follower_loses_leader, 3),
    "follower_isolated": (follower_isolated, 3),
    "leader_isolated": (leader_isolated, 3),
    "leader_deaf": (leader_deaf, 3),
}
"""With how many voters each needs at least."""

ALL: dict[str, tuple[Trial, int]] = PLAIN | {
    "removed_member": (removed_member, 3),
    "newcomer": (newcomer, 1),
    "leader_removed": (leader_removed, 2),
    "all_replaced": (all_replaced, 1),
    "removal_interrupted": (removal_interrupted, 2),
    "handed_over": (handed_over, 2),
    "handed_to_nobody": (handed_to_nobody, 3),
    "sick_disk": (sick_disk, 3),
    "left_behind": (left_behind, 3),
}


def fits(name: str, voters: int) -> bool:
    return voters >= ALL[name][1]
