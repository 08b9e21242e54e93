"""What storms are made of: each profile stresses one thing in earnest.

The first nine are about the plain algorithm, with a fixed membership and endless logs. The others mix in
changes of the membership, snapshots, transfers, sick disks, sessions and leases; their logs are trimmed all
the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cluster import Conditions


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
    trials: tuple[str, ...] = ()
    """Which may follow, by name, where logs are trimmed and members have priorities; else one of
    `trials.PLAIN`."""
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
        Conditions(delay=(0.005, 0.12), sync=(0.005, 0.1), late=0.1, loss=0.05, duplication=0.1),
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
            "change": 8,
            "change_and_crash": 6,
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
        trials=("removed_member", "newcomer", "leader_removed", "all_replaced", "bare_majority"),
    ),
    # Changes that only a few members see before the next leader makes its own.
    "rival_changes": Profile(
        Conditions(sync=(0.002, 0.05), late=0.02),
        {"change": 4, "change_stranded": 6, "jump": 3, "heal": 4, "crash_leader": 2, "restart_all": 2},
        fault_rate=4.0,
        seconds=5.0,
        trials=("removal_interrupted", "leader_removed", "removed_member", "member_ahead", "stranger"),
    ),
    # Members that fall behind and need snapshots, which are slow, fail, and are overtaken.
    "snapshots": Profile(
        Conditions(sync=(0.002, 0.06), late=0.03, duplication=0.03, fetch=(0.02, 1.0), fetch_failure=0.3),
        {"leave_behind": 6, "snapshot": 8, "heal": 2, "crash": 3, "crash_leader": 2, "usurp": 1, "change": 2},
        fault_rate=3.0,
        proposals=14.0,
        seconds=6.0,
        sessions=2,
        trials=("left_behind", "left_behind", "left_behind", "newcomer", "bare_majority"),
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
        trials=("handed_over", "handed_to_nobody", "sick_disk", "follower_isolated"),
    ),
    # Reads by lease: leaders that are mute, cut off, handed over and paused, clocks that differ.
    "leases": Profile(
        Conditions(delay=(0.005, 0.04), late=0.1, late_delay=0.9),
        {
            "mute_leader": 5,
            "heist": 5,
            "hand_over_and_cut": 4,
            "isolate_leader": 1,
            "rumour": 1,
            "heal": 2,
            "restart_all": 1,
            "pause": 1,
            "change": 1,
        },
        fault_rate=1.0,
        proposals=0.7,
        reads=4.0,
        seconds=14.0,
        trials=("handed_over", "leader_isolated", "left_behind"),
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
        trials=(
            "newcomer",
            "all_replaced",
            "left_behind",
            "sick_disk",
            "handed_over",
            "follower_loses_leader",
        ),
    ),
}
