"""One seed, one schedule: cores through a storm, then proof that they recover.

`run_schedule(seed)` draws everything from the seed, in two phases:

**Safety.** Clients propose and read while faults come and go: crashes that lose unsynced state, partitions,
one-way cuts, pauses, clock jumps, lost and late and duplicated messages, slow disks, changes of the
membership, snapshots, transfers. Whatever happens, the invariants and the observer's properties hold after
every step.

**Liveness.** The weather clears, everybody is up. Then, within bounded virtual time: there is a leader whom
all follow, no change is half done, a new command commits everywhere, a read at every member is answered, logs
are trimmed. And one of the trials, see `trials`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from oarlock.raft import invariants
from oarlock.raft.raft import Raft

from . import trials
from .checkers import Violation
from .cluster import Cluster, Conditions, CoreFactory
from .profiles import PROFILES, Profile
from .storms import Storm
from .trials import raft_of, read_everywhere, settle

CALM = Conditions()


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
    configurations: int
    installed: int
    executed: int


_TURNS = [*PROFILES, *(name for name, profile in PROFILES.items() if profile.trials)]


def profile_of(seed: int) -> str:
    """The seed's own profile. Those with a changing membership have two turns, the others one."""
    return _TURNS[seed % len(_TURNS)]


def run_schedule(
    seed: int,
    *,
    size: int | None = None,
    core: CoreFactory = Raft,
    profile: str | None = None,
    log: Callable[[str], None] | None = None,
) -> Outcome:
    """Run the schedule of `seed`. Raises whatever is found to be wrong.

    Args:
        seed: decides everything.
        size: how many members there are at first; by default five, or what the profile says.
        core: makes the cores: `Raft`, or a mutation of it.
        profile: one of `PROFILES`; by default the seed picks one.
        log: receives one line per event.
    """
    rng = random.Random(seed)
    name = profile or profile_of(seed)
    chosen = PROFILES[name]
    vary = rng.uniform(0.3, 1.5)
    conditions = replace(
        chosen.conditions,
        loss=chosen.conditions.loss * vary,
        late=chosen.conditions.late * rng.uniform(0.0, 2.0),
        heartbeat_interval=rng.choice((0.2, 0.3, 0.45)),
    )
    priorities = {}
    if chosen.trials:
        conditions.config = _modern_settings(chosen, rng)
        priorities = {rng.randint(1, 5): 1} if rng.random() < 0.3 else {}
        size = size or rng.choice((3, 4, 5))
    cluster = Cluster(size or 5, rng, conditions, core, log, priorities)
    storm = Storm(cluster, replace(chosen, fault_rate=chosen.fault_rate * rng.uniform(0.5, 1.5)))
    cluster.run(
        rng.choice((0.0, 3.0))
    )  # sometimes the storm finds a working leader, sometimes the first election
    storm.start()
    cluster.run(cluster.now + chosen.seconds)
    storm.over = True
    _calm_down(cluster)
    settle(cluster)
    _try_something(cluster, chosen)
    settle(cluster)
    read_everywhere(cluster)
    _check_memory_and_clock(cluster)
    # Reads of which a message was lost are given up after an election timeout.
    cluster.run(cluster.now + 1.5, lambda: not cluster.clients.waiting_reads())
    verify(cluster)
    return _outcome(cluster, name)


def _modern_settings(profile: Profile, rng: random.Random) -> dict[str, Any]:
    settings = {
        **profile.conditions.config,
        "log_entries_kept": rng.choice((0, 1, 3, 8)),
        "log_bytes_kept": rng.choice((16, 1 << 20)),
        "log_bytes_max": rng.choice((200, 1 << 20)),
        "strict_reconfiguration": rng.random() < 0.7,
    }
    if profile.leases:
        settings |= {"lease_reads": True, "clock_drift_bound": 0.06}
    return settings


def _calm_down(cluster: Cluster) -> None:
    storm = cluster.conditions
    cluster.conditions = replace(
        CALM,
        heartbeat_interval=storm.heartbeat_interval,
        fetch_failure=storm.fetch_failure,
        config=storm.config,
    )
    cluster.heal()
    for member in cluster.members.values():
        member.disk_hangs_until = 0.0
        member.start()
    cluster.run(cluster.now + storm.late_delay * bool(storm.late))


def _try_something(cluster: Cluster, profile: Profile) -> None:
    voters = len(cluster.configuration.voters)
    names = profile.trials or tuple(trials.PLAIN)
    possible = [name for name in names if trials.fits(name, voters)] or ["stranger"]
    name = cluster.rng.choice(possible)
    cluster.say(lambda: f"trial {name}")
    trials.ALL[name][0](cluster)


def _check_memory_and_clock(cluster: Cluster) -> None:
    """All answer and nothing is on its way: then nobody keeps more of the log than it was told to. And the
    cluster's clock runs."""
    kept = cluster.conditions.config.get("log_entries_kept")
    if kept is None:
        return
    time = cluster.observer.history[-1].time
    for _ in range(2):
        cluster.clients.propose(settle(cluster), 3)
        cluster.run(cluster.now + 0.5)
    settle(cluster)
    if cluster.observer.history[-1].time < time + 500:
        raise Violation(f"the cluster's clock stands still at {time}")
    for node_id in cluster.configuration.ids:
        log = raft_of(cluster.members[node_id]).log
        if log.last_index - log.base_index > 2 * kept + 8:
            raise Violation(f"memory: {node_id} keeps {log.last_index - log.base_index} entries, not {kept}")


def verify(cluster: Cluster) -> None:
    """At the end: equal machines, nothing acknowledged is missing, every log holds together."""
    observer, clients = cluster.observer, cluster.clients
    history = observer.history
    for node_id in cluster.configuration.ids:
        member = cluster.members[node_id]
        if member.machine.index != len(history):
            raise Violation(
                f"{member.id}'s state machine holds {member.machine.index} of {len(history)} entries"
            )
        invariants.check_log(raft_of(member))
    for read in clients.waiting_reads():
        raise Violation(f"{read} was forgotten")
    for command, index in clients.acknowledged.items():
        if history[index - 1].data != command:
            raise Violation(
                f"{command!r} was acknowledged at index {index}, which holds {history[index - 1]}"
            )
    for session in clients.sessions:
        for execution, result in session.acknowledged.items():
            if observer.executed.get(execution) != int(result):
                raise Violation(f"sessions: {execution} was answered with {result!r}, but not executed there")


def _outcome(cluster: Cluster, name: str) -> Outcome:
    observer, clients = cluster.observer, cluster.clients
    return Outcome(
        profile=name,
        events=cluster.events,
        committed=len(observer.history),
        acknowledged=len(clients.acknowledged),
        reads=sum(1 for read in clients.reads.values() if read.state == "served"),
        terms=len(observer.leaders),
        restarts=sum(member.incarnation - 1 for member in cluster.members.values()),
        configurations=len(observer.configurations) - 1,
        installed=observer.installed - sum(member.incarnation for member in cluster.members.values()),
        executed=len(observer.executed),
    )
