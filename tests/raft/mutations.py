"""The core with one rule broken: each entry has to make the random schedules fail.

A mutation is an edit of one function's source, so that it reads like the slip of a programmer and stops
applying loudly when the code it edits changes. `broken(mutation)` puts it in place by exchanging the
function's code object, and takes it out again.

`MUTATIONS` covers every rule of Figure 2 of the paper, PreVote, CheckQuorum, stickiness, ReadIndex,
forwarding, and the rules of durability. `HARMLESS` lists what looks like a rule and breaks nothing, with the
reason.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType

from oarlock.raft import candidate, follower, leader, quorum, reading, term_rule, votes
from oarlock.raft.log import RaftLog
from oarlock.raft.progress import Progress
from oarlock.raft.raft import Raft


@dataclass(frozen=True)
class Mutation:
    """One broken rule."""

    name: str
    rule: str
    """The rule, and where it is stated: "F2" is Figure 2 of the paper, numbers are the dissertation's."""
    function: Callable[..., object]
    old: str
    new: str
    seeds: int = 40
    """Within how many seeds the schedules have to notice."""
    profile: str | None = None
    """The storm that brings it out; by default each seed picks its own."""


def mutated_code(mutation: Mutation) -> FunctionType:
    """The function after the edit."""
    function = mutation.function
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutation.old) != 1:
        raise LookupError(
            f"mutation {mutation.name} edits {mutation.old!r}, which is {source.count(mutation.old)} times "
            f"in {function.__qualname__}: bring the mutation up to date"
        )
    edited = source.replace(mutation.old, mutation.new)
    code = compile(edited, f"<{mutation.name}>", "exec", flags=__future__.annotations.compiler_flag)
    namespace: dict[str, object] = {}
    exec(code, function.__globals__, namespace)
    result = namespace[function.__name__]
    assert isinstance(result, FunctionType)
    return result


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """Within it, the rule is broken for everyone."""
    function = mutation.function
    assert isinstance(function, FunctionType)
    original = function.__code__
    function.__code__ = mutated_code(mutation).__code__
    try:
        yield
    finally:
        function.__code__ = original


MUTATIONS = (
    # ── terms ─────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "no_term_adoption",
        "F2 all servers: a message of a later term makes a follower of that term",
        term_rule.settle_higher,
        "raft.become_follower(message.term,",
        "(lambda *_: None)(message.term,",
    ),
    Mutation(
        "leader_survives_later_term",
        "F2 all servers: also a leader steps down for a later term",
        term_rule.settle_higher,
        "leads = isinstance(",
        "if raft.role.value == 'leader':\n        raft.term = message.term\n        return True\n    "
        "leads = isinstance(",
    ),
    Mutation(
        "append_entries_of_lower_term_accepted",
        "F2 AppendEntries 1: false if the term has passed",
        term_rule.settle_lower,
        "if isinstance(message, AppendEntries):",
        "if isinstance(message, AppendEntries):\n        return True\n    if False:",
    ),
    Mutation(
        "refusal_hides_later_term",
        "F2 AppendEntries 1: the answer to a leader of the past says so",
        term_rule.settle_lower,
        "raft.send(AppendEntriesReply(raft.term,",
        "raft.send(AppendEntriesReply(message.term,",
    ),
    Mutation(
        "vote_of_earlier_term_counts",
        "F2 candidates: votes are of the candidate's own term",
        term_rule.settle_lower,
        "return isinstance(\n        message, ",
        "return type(message).__name__ == 'RequestVoteReply' or isinstance(\n        message, ",
        profile="elections",
    ),
    Mutation(
        "match_index_from_stale_reply",
        "F2 leaders: an acknowledgement counts in the term that asked for it",
        term_rule.settle_lower,
        "return isinstance(\n        message, ",
        "return type(message).__name__ == 'AppendEntriesReply' or isinstance(\n        message, ",
        profile="elections",
    ),
    Mutation(
        "candidate_keeps_its_term",
        "F2 candidates: an election begins with a new term",
        Raft.become_candidate,
        "self.term += 1",
        "pass",
    ),
    # ── votes ─────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "vote_granted_twice",
        "F2 RequestVote 2: one vote per term",
        votes._reason_to_refuse,
        "elif raft.voted_for not in (NOBODY, message.sender):",
        "elif False:",
    ),
    Mutation(
        "vote_not_recorded",
        "F2 RequestVote 2: a granted vote is remembered",
        votes.judge,
        "raft.voted_for = message.sender",
        "pass",
    ),
    Mutation(
        "candidate_does_not_vote_for_itself",
        "F2 candidates: the own vote is cast first",
        Raft.become_candidate,
        "self.voted_for = self.id",
        "self.voted_for = NOBODY",
    ),
    Mutation(
        "vote_survives_its_term",
        "F2 state: voted_for belongs to the current term",
        Raft.become_follower,
        "self.voted_for = NOBODY",
        "pass",
    ),
    Mutation(
        "no_log_check_in_votes",
        "F2 RequestVote 2, 3.6.1: only for a log at least as up-to-date",
        votes._reason_to_refuse,
        "if not raft.log.up_to_date(message.last_log_index, message.last_log_term):",
        "if False:",
        profile="usurpers",
    ),
    Mutation(
        "log_check_ignores_terms",
        "3.6.1: the later last term is the more up-to-date log",
        RaftLog.up_to_date,
        "(last_term, last_index) >= (self.last_term, self.last_index)",
        "last_index >= self.last_index",
        profile="usurpers",
    ),
    Mutation(
        "log_check_ignores_length",
        "3.6.1: of equal last terms, the longer log is the more up-to-date",
        RaftLog.up_to_date,
        "(last_term, last_index) >= (self.last_term, self.last_index)",
        "last_term >= self.last_term",
        profile="usurpers",
    ),
    Mutation(
        "half_the_votes_win",
        "F2 candidates: votes of a majority",
        quorum._vote_half,
        "needed = majority(len(voters))",
        "needed = len(voters) // 2",
    ),
    Mutation(
        "candidate_ignores_new_leader",
        "F2 candidates: AppendEntries from a new leader ends the candidacy",
        candidate.step,
        "follower.step(raft, message)",
        "pass",
    ),
    Mutation(
        "election_never_starts_again",
        "F2 candidates: an election timeout starts the next election",
        Raft.timeout,
        "elif not self.may_stand():",
        "elif self.role is not Role.FOLLOWER or not self.may_stand():",
        profile="partitions",
    ),
    Mutation(
        "election_timer_ignores_leader",
        "F2 followers: AppendEntries from the leader restarts the election timeout",
        follower._hear_leader,
        "raft.rearm_election(raft.now)",
        "pass",
    ),
    # ── AppendEntries, receiver ───────────────────────────────────────────────────────────────────
    Mutation(
        "previous_term_not_checked",
        "F2 AppendEntries 2: the previous entry's term has to match",
        follower._append_entries,
        "if raft.log.term_at(message.previous_index) != message.previous_term:",
        "if raft.log.term_at(message.previous_index) is None:",
    ),
    Mutation(
        "previous_entry_not_checked",
        "F2 AppendEntries 2: the previous entry has to exist",
        follower._append_entries,
        "if raft.log.term_at(message.previous_index) != message.previous_term:",
        "if False:",
    ),
    Mutation(
        "conflict_not_truncated",
        "F2 AppendEntries 3: a conflicting entry goes, and all after it",
        follower._take_entries,
        "raft.truncate(entries[0].index)\n    raft.append(entries)",
        "return\n    raft.append(entries)",
    ),
    Mutation(
        "conflict_not_seen",
        "F2 AppendEntries 3: entries of equal index and other term conflict",
        RaftLog.first_conflict,
        "if self.entry(entry.index).term != entry.term:",
        "if False:",
    ),
    Mutation(
        "truncation_without_conflict",
        "F2 AppendEntries 3: without a conflict nothing goes",
        follower._take_entries,
        "if conflict:",
        "entries = message.entries\n    if message.entries[0].index <= raft.log.last_index:",
    ),
    Mutation(
        "late_message_cuts_the_tail",
        "F2 AppendEntries 3: a late message must not erase what a newer one brought",
        follower._take_entries,
        "if position == len(message.entries):\n        return",
        "if position == len(message.entries):\n        end = message.previous_index + position + 1\n        "
        "if message.entries and raft.commit_index < end <= raft.log.last_index:\n            "
        "raft.truncate(end)\n        return",
    ),
    Mutation(
        "entries_not_appended",
        "F2 AppendEntries 4: append what is not in the log",
        follower._take_entries,
        "entries = message.entries[position:] if position else message.entries",
        "entries = message.entries[position : position + 1]",
    ),
    Mutation(
        "commit_beyond_last_new_entry",
        "F2 AppendEntries 5: commit at most the last new entry",
        follower._append_entries,
        "min(message.commit_index, match_index)",
        "min(message.commit_index, raft.log.last_index)",
    ),
    Mutation(
        "commit_not_learned",
        "F2 AppendEntries 5: followers learn the commit index",
        follower._append_entries,
        "raft.commit(max(raft.commit_index, min(message.commit_index, match_index)))",
        "pass",
    ),
    Mutation(
        "commit_index_falls",
        "F2 state: the commit index increases monotonically",
        Raft.commit,
        "if index > self.log.commit_index:",
        "index = min(index, self.applied_index + 1)\n    if index != self.log.commit_index:",
    ),
    Mutation(
        "acknowledges_whole_log",
        "3.5: only what the leader is known to hold is acknowledged",
        follower._append_entries,
        "match_index = message.previous_index + len(message.entries)",
        "match_index = raft.log.last_index",
    ),
    # ── leaders ───────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "no_heartbeats",
        "F2 leaders: heartbeats keep the others from elections",
        leader.timeout,
        "leading.new_round(raft.now)",
        "pass",
    ),
    Mutation(
        "old_term_committed_by_counting",
        "F2 leaders, 3.6.2: replicas are counted only of entries of the own term",
        leader.advance_commit,
        "or raft.log.term_at(index) != raft.term",
        "",
        profile="crashes",
    ),
    Mutation(
        "minority_commits",
        "F2 leaders: a majority of match_index",
        quorum._agreed_half,
        "ordered[majority(len(ordered)) - 1]",
        "ordered[max(0, majority(len(ordered)) - 2)]",
    ),
    Mutation(
        "refusal_taken_for_success",
        "F2 leaders: only a successful AppendEntries raises match_index",
        leader._append_entries_reply,
        "if message.success:",
        "if True:",
    ),
    Mutation(
        "acknowledgements_do_not_commit",
        "F2 leaders: commit as soon as a majority acknowledged",
        leader._matched,
        "if news:",
        "if False:",
    ),
    Mutation(
        "own_disk_does_not_count",
        "10.2.1: a leader's own disk is one of the quorum",
        leader.advance_commit,
        "matches[raft.id] = raft.log.stored_index",
        "pass",
    ),
    Mutation(
        "next_index_never_falls",
        "F2 leaders: after an inconsistency, retry with an earlier next_index",
        leader._refused,
        "progress.become_probe(agreement + 1)",
        "pass",
    ),
    Mutation(
        "no_noop",
        "6.4, 3.6.2: a leader begins its term with an entry of it",
        leader.start,
        'raft.append((Entry(next_index, raft.term, EntryKind.NOOP, b"", raft.clock.read(raft.now)),))',
        "pass",
    ),
    Mutation(
        "leader_overwrites_its_log",
        "3.5 leader append-only",
        leader.propose,
        "leading.uncommitted_bytes += size",
        "leading.uncommitted_bytes += size\n    if raft.log.last_index > raft.commit_index + 1:\n        "
        "raft.log.truncate(raft.log.last_index)\n        raft._next_to_store = raft.log.last_index + 1",
    ),
    Mutation(
        "uncommitted_entries_applied",
        "F2 all servers: apply up to the commit index",
        Raft._take_committed,
        "high = min(self.log.commit_index, self.log.stored_index)",
        "high = self.log.stored_index",
    ),
    Mutation(
        "entries_applied_twice",
        "F2 all servers: apply in order, each once",
        Raft._take_committed,
        "self._next_to_apply += len(committed)",
        "self._next_to_apply += max(1, len(committed) - 1)",
    ),
    Mutation(
        "entry_skipped_when_applied",
        "F2 all servers: apply all",
        Raft._take_committed,
        "self._next_to_apply += len(committed)",
        "self._next_to_apply += len(committed)\n    committed = committed[-2:]",
    ),
    # ── durability ────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "vote_told_before_durable",
        "F2 state: a vote is on stable storage before it is answered",
        votes.judge,
        "raft.send_after_stored(RequestVoteReply",
        "raft.outbox.messages.append(RequestVoteReply",
    ),
    Mutation(
        "election_before_own_vote_durable",
        "F2 state: a candidate's own vote is durable before it asks for others",
        candidate.ask_for_votes,
        "raft.send_after_stored(",
        "raft.outbox.messages.append(",
    ),
    Mutation(
        "vote_forgotten_in_restart",
        "F2 state: voted_for is persistent",
        Raft.__init__,
        "self.voted_for: NodeId = hard_state.voted_for",
        "self.voted_for: NodeId = NOBODY",
        profile="elections",
    ),
    Mutation(
        "term_forgotten_in_restart",
        "F2 state: current_term is persistent",
        Raft.__init__,
        "self.term: Term = hard_state.term",
        "self.term: Term = entries[-1].term",
        profile="crashes",
    ),
    Mutation(
        "acknowledged_before_durable",
        "F2 state: log entries are durable before they are acknowledged",
        follower._acknowledge,
        "stored = min(match_index, raft.log.stored_index)",
        "stored = match_index",
    ),
    Mutation(
        "leader_counts_own_disk_early",
        "10.2.1: a leader's own disk counts once it is durable",
        leader.advance_commit,
        "matches[raft.id] = raft.log.stored_index",
        "matches[raft.id] = raft.log.last_index",
    ),
    Mutation(
        "replaced_entries_count_as_stored",
        "what was being written when it was truncated is not durable when that write is done",
        Raft.truncate,
        "storing.last_index = min(storing.last_index, index - 1)",
        "pass",
        profile="slow_disks",
    ),
    Mutation(
        "stored_mark_survives_truncation",
        "a truncated entry's durability is not its successor's",
        RaftLog.truncate,
        "self.stored_index = min(self.stored_index, index - 1)",
        "pass",
    ),
    Mutation(
        "applied_before_durable",
        "Ready 4: a state machine never outruns its own log",
        Raft._take_committed,
        "min(self.log.commit_index, self.log.stored_index)",
        "self.log.commit_index",
    ),
    # ── PreVote, stickiness, CheckQuorum ──────────────────────────────────────────────────────────
    Mutation(
        "no_pre_vote",
        "9.6: ask whether an election could be won before raising the term",
        candidate.ask_for_pre_votes,
        "_count(raft, raft.id, True)",
        "raft.become_candidate()",
    ),
    Mutation(
        "pre_vote_raises_terms",
        "9.6: a PreVote changes nobody's term",
        term_rule.settle_higher,
        "if isinstance(message, PreVote) or",
        "if",
    ),
    Mutation(
        "pre_vote_against_live_leader",
        "9.6, 4.2.3: no pre-vote while a leader is heard",
        votes._reason_to_refuse,
        "if reason := sticks(raft, message):",
        "if False:",
    ),
    Mutation(
        "no_stickiness",
        "4.2.3: voters of a live leader ignore rivals, whatever their term",
        term_rule.settle_higher,
        "if isinstance(message, RequestVote) and (reason := votes.sticks(raft, message)):",
        "if False:",
    ),
    Mutation(
        "no_check_quorum",
        "6.2: a leader without a quorum steps down",
        leader.timeout,
        "if not has_quorum(raft):",
        "if False:",
    ),
    # ── ReadIndex, forwarding ─────────────────────────────────────────────────────────────────────
    Mutation(
        "read_not_confirmed",
        "6.4: a round of heartbeats confirms that we still lead",
        reading._register,
        "if raft.alone or has_lease(raft):",
        "if True:",
        profile="usurpers",
    ),
    Mutation(
        "read_before_first_commit",
        "6.4: a new leader knows the commit index once it committed in its own term",
        reading.read,
        "if raft.commit_index < leading.first_index:",
        "if False:",
        profile="usurpers",
    ),
    Mutation(
        "read_joins_a_round_under_way",
        "6.4: the round that confirms a read begins after the read",
        reading._register,
        "leading.new_round(raft.now)",
        "pass",
        profile="usurpers",
    ),
    Mutation(
        "one_echo_confirms_a_read",
        "6.4: a majority confirms",
        reading.confirm,
        "confirmed = agreed(raft.configuration, rounds, 0)",
        "confirmed = sorted(rounds.values())[-2]",
        profile="usurpers",
    ),
    Mutation(
        "follower_reads_its_own_commit_index",
        "6.4: the leader decides on the read index",
        follower.read,
        "forwarded[context] = raft.now",
        "return raft.confirm_read(context, raft.commit_index)",
    ),
    Mutation(
        "waiting_reads_forgotten",
        "6.4: whoever waits for a read is told when leadership ends",
        follower.read,
        "forwarded[context] = raft.now",
        "pass",
    ),
    Mutation(
        "leaders_reads_forgotten",
        "6.4: a leader that steps down tells whoever waits for a read",
        reading.give_up,
        "for _, context, asker, _ in leading.reads:\n        answer(raft, context, asker, 0)",
        "pass",
    ),
    Mutation(
        "forwarded_reads_forgotten",
        "6.4: reads that the old leader was asked about are asked again",
        Raft._set_leader,
        "self.outbox.rejected_reads.extend(self._forwarded_reads)",
        "pass",
    ),
    Mutation(
        "proposal_of_earlier_term_appended",
        "commands sent in a term are appended in it or never",
        term_rule.settle_lower,
        "isinstance(message, Propose):",
        "isinstance(message, Propose):\n        return True\n    if False:",
        profile="reelections",
    ),
    Mutation(
        "refused_batch_appended",
        "a refused batch is certainly not appended",
        leader._propose_for_another,
        "except Busy:\n        raft.send(ProposeReply(",
        "except Busy:\n        raft.append([Entry(raft.log.last_index + 1, raft.term, EntryKind.COMMAND, "
        "message.commands[0])])\n        raft.send(ProposeReply(",
        profile="limits",
    ),
)

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
)
"""What can be broken without breaking a promise; `rule` says why. The schedules need not notice."""
