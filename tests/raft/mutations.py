"""The core with one rule broken: each of `MUTATIONS` has to make the random schedules fail.

`HARMLESS` lists what looks like a rule and breaks nothing, with the reason.
"""

from __future__ import annotations

from oarlock.raft import (
    candidate,
    reconfiguration,
    snapshots,
    term_rule,
    transfer,
    votes,
)
from oarlock.raft.progress import Progress
from oarlock.raft.raft import Raft

from .mutation import Mutation, broken
from .mutations_modern import MODERN
from .mutations_plain import PLAIN

__all__ = ["HARMLESS", "MUTATIONS", "Mutation", "broken"]

MUTATIONS = (*PLAIN, *MODERN)

HARMLESS = (
    Mutation(
        "own_vote_counts_before_durable",
        "It asks for the others' votes only once its own is durable, so none of theirs can be counted "
        "before. `become_leader` insists on it besides.",
        candidate.count_own_vote,
        "if raft.durable_term == raft.term and raft.durable_vote == raft.id and raft.id not in raft.votes:",
        "if raft.id not in raft.votes:",
    ),
    Mutation(
        "request_vote_of_earlier_term_judged",
        "The answer carries the voter's own, later term, and no one counts a vote of a term that it does "
        "not stand in. Should the sender stand in that very term by now, the vote is as good as one it "
        "asked for: how up-to-date a log is never falls.",
        term_rule.settle_lower,
        "if isinstance(message, PreVote | RequestVote):",
        "if isinstance(message, RequestVote):\n        return True\n    if isinstance(message, PreVote):",
    ),
    Mutation(
        "read_index_of_earlier_term_taken",
        "A follower rejects its forwarded reads whenever its leader or term changes, so no read is left "
        "that a late answer could serve.",
        term_rule.settle_lower,
        "return isinstance(\n        message, ",
        "return type(message).__name__ == 'ReadIndexReply' or isinstance(\n        message, ",
    ),
    Mutation(
        "term_told_before_durable",
        "Only votes and acknowledged entries are counted by anyone, and those wait for the disk by "
        "themselves. Entries that were durable before the term are of earlier terms, which their leader "
        "does not count (3.6.2). The core waits nevertheless: Figure 2 says so, and it costs nothing in a"
        " settled term.",
        Raft.send,
        "if self._durable.term == self.term:",
        "if True:",
    ),
    Mutation(
        "match_index_falls",
        "A lower match_index claims less. It delays a commit until the next acknowledgement, and "
        "next_index stays where it is.",
        Progress.acknowledged,
        "news = match_index > self.match_index",
        "news = match_index != self.match_index",
    ),
    Mutation(
        "vote_does_not_restart_the_timeout",
        "Only elections collide more often; PreVote and the next random timeout settle them.",
        votes.judge,
        "raft.rearm_election(raft.now)",
        "pass",
    ),
    Mutation(
        "snapshot_acknowledged_before_the_log_begins_anew",
        "The snapshot itself is durable by then. Should the member crash before its log is, it begins anew "
        "behind the snapshot when it restarts.",
        snapshots.received,
        "raft.send_after_stored(",
        "raft.send(",
    ),
    Mutation(
        "held_commands_not_refused_in_the_end",
        "Whoever sent them applies an entry of a later term before long, and knows by that that they are "
        "lost. Being told is faster.",
        transfer.abdicated,
        "for message in transfer.held:",
        "for message in ():",
    ),
    Mutation(
        "commands_taken_during_a_transfer",
        "The target has more to catch up with, and is told to stand later, or not before the transfer "
        "is given up: a long transfer, and no command is lost.",
        Raft.propose,
        "if self.leading.transfer is not None:",
        "if False:",
    ),
    Mutation(
        "laggard_told_to_stand",
        "It loses the election, for its log is behind, and the leader is deposed for nothing: a worse "
        "transfer, and a safe one.",
        transfer.advance,
        "progress.match_index == raft.log.last_index",
        "True",
    ),
    Mutation(
        "removed_members_not_told",
        "They ask for votes in vain, for the others hear their leader; and the transport tells them when it "
        "refuses them.",
        reconfiguration._told,
        "return raft.now >= progress.leaving_until or (",
        "return True or (",
    ),
    Mutation(
        "entries_of_a_snapshot_state_follower_kept_short",
        "The leader trims past the snapshot that a follower is fetching, and offers a newer one after it. "
        "Where writes are faster than snapshots this never ends; in calm weather it does.",
        snapshots._needed,
        "needed = min(needed, progress.snapshot.snapshot.index)",
        "pass",
    ),
)
"""What can be broken without breaking a promise; `rule` says why. The schedules need not notice."""
