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

from oarlock.machine.sessions import Sessions
from oarlock.raft import (
    candidate,
    follower,
    leader,
    membership,
    quorum,
    reading,
    reconfiguration,
    snapshots,
    term_rule,
    transfer,
    votes,
)
from oarlock.raft.cluster_clock import ClusterClock
from oarlock.raft.log import RaftLog
from oarlock.raft.membership import ConfigurationHistory
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
        profile="partitions",
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
    # ── membership ────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "change_before_own_commit",
        "4.1, erratum: a leader commits an entry of its term before it changes the membership",
        reconfiguration.change,
        "if raft.commit_index < leading.first_index:",
        "if False:",
        profile="rival_changes",
    ),
    Mutation(
        "two_changes_at_once",
        "4.1: a change waits until the one before is committed",
        reconfiguration.change,
        "if raft.configuration_index > raft.commit_index or raft.configuration.joint:",
        "if raft.configuration.joint:",
        profile="membership",
    ),
    Mutation(
        "joint_phase_left_early",
        "4.3: C_new is appended once C_old,new is committed",
        reconfiguration.in_effect,
        "leading = leading_of(raft)\n",
        "leading = leading_of(raft)\n    if raft.configuration.joint:\n        "
        "raft.commit(raft.log.last_index)\n        committed(raft)\n",
        profile="membership",
    ),
    Mutation(
        "joint_phase_never_left",
        "4.3: the leader leaves the joint phase by itself",
        reconfiguration.committed,
        "_append(raft, after_joint(configuration))",
        "pass",
        profile="membership",
    ),
    Mutation(
        "incoming_half_commits",
        "4.3: in the joint phase a majority of both halves commits",
        quorum.agreed,
        "if configuration.outgoing:",
        "if False:",
        profile="membership",
    ),
    Mutation(
        "incoming_half_elects",
        "4.3: in the joint phase a majority of both halves elects",
        quorum.vote_result,
        "if configuration.outgoing:",
        "if False:",
        profile="membership",
    ),
    Mutation(
        "outgoing_half_commits",
        "4.3: in the joint phase a majority of both halves commits",
        quorum.agreed,
        "value = min(value, _agreed_half(configuration.outgoing, values, default))",
        "value = _agreed_half(configuration.outgoing, values, default)",
        profile="membership",
    ),
    Mutation(
        "learners_commit",
        "4.2.1: learners are counted nowhere",
        quorum.agreed,
        "_agreed_half(configuration.voters, values, default)",
        "_agreed_half(configuration.voters + configuration.learners[:2], values, default)",
        profile="membership",
    ),
    Mutation(
        "leader_counts_itself_though_no_voter",
        "4.2.2: a leader that is on its way out does not count itself",
        leader.advance_commit,
        "agreed(raft.configuration, matches, 0)",
        "agreed(type(raft.configuration)((*{*raft.configuration.voters, raft.id},)), matches, 0)",
        profile="membership",
    ),
    Mutation(
        "laggard_promoted",
        "4.2.1: only who keeps up is promoted",
        reconfiguration._keeps_up,
        "progress is not None\n        and progress.state",
        "True or progress.state",
        profile="membership",
    ),
    Mutation(
        "newcomer_never_promoted",
        "4.2.1: who has caught up is promoted",
        reconfiguration.committed,
        "for node_id in configuration.joining if _keeps_up(raft, node_id)",
        "for node_id in ()",
        profile="membership",
    ),
    Mutation(
        "removed_leader_stays",
        "4.2.2: a leader that was removed steps down once that is committed",
        reconfiguration.committed,
        "_step_down(raft)",
        "pass",
        profile="membership",
    ),
    Mutation(
        "newcomer_gets_no_log",
        "4.1: a configuration is in effect as soon as it is appended",
        reconfiguration.in_effect,
        "leading.progress[peer] = Progress(next_index, raft.now)",
        "pass",
        profile="membership",
    ),
    Mutation(
        "demoted_members_forgotten",
        "the joint phase ends with what it promised",
        membership.after_joint,
        "sorted((*configuration.learners, *configuration.demoted))",
        "sorted(configuration.learners)",
        profile="membership",
    ),
    Mutation(
        "removed_without_a_trace",
        "an id that was removed is used up",
        membership.after_joint,
        "removed=_remember(configuration.removed, leaving)",
        "removed=configuration.removed",
        profile="membership",
    ),
    Mutation(
        "joint_change_made_at_once",
        "4.3: more than one voter at once takes the joint phase",
        membership.planned,
        "len({*voters} ^ {*configuration.voters}) > 1",
        "False",
        profile="membership",
    ),
    Mutation(
        "truncated_configuration_stays",
        "4.1: a configuration that is truncated is not in effect any more",
        ConfigurationHistory.truncated,
        "self._stack.pop()\n        changed = True",
        "break",
        profile="rival_changes",
    ),
    Mutation(
        "removed_voter_cannot_stand",
        "4.2.2: who is only about to be removed may be needed to lead",
        Raft.may_stand,
        "self.configuration_index > self.commit_index and",
        "False and",
        profile="rival_changes",
    ),
    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "snapshot_keeps_the_suffix",
        "5.1: what a snapshot replaces does not come back",
        RaftLog.restart,
        "self._entries.clear()",
        "pass",
        profile="snapshots",
    ),
    Mutation(
        "snapshot_keeps_the_configuration",
        "5.1: a snapshot brings its configuration",
        Raft.restart_log,
        "self.configurations.restarted(snapshot)",
        "pass",
        profile="everything",
    ),
    Mutation(
        "snapshot_of_later_configuration",
        "5.1: a snapshot names the configuration in effect at its last entry",
        snapshots.describe,
        "raft.configurations.at(index)",
        "raft.configuration_index, raft.configuration",
        profile="everything",
    ),
    Mutation(
        "configuration_lost_in_trimming",
        "5.1: what is in effect at the base is remembered",
        ConfigurationHistory.compacted,
        "while len(self._stack) > 1 and self._stack[1][0] <= index:",
        "while len(self._stack) > 1:",
        profile="membership",
    ),
    Mutation(
        "snapshots_configuration_forgotten_in_restart",
        "5.1: a restart begins with the snapshot's configuration",
        Raft.__init__,
        "ConfigurationHistory(None if snapshot is None else snapshot.snapshot)",
        "ConfigurationHistory(None)",
        profile="snapshots",
    ),
    Mutation(
        "conflict_counts_as_covered",
        "5.1: a log that only is as long as a snapshot does not have what it covers",
        snapshots._covered,
        "raft.log.term_at(snapshot.index) == snapshot.term",
        "raft.log.last_index >= snapshot.index",
        profile="snapshots",
    ),
    Mutation(
        "snapshot_acknowledged_unfetched",
        "5.1: acknowledged is what is durable",
        snapshots.install_snapshot,
        "match_index = 0\n",
        "match_index = offered.index\n",
        profile="snapshots",
    ),
    Mutation(
        "trimmed_before_applied",
        "5.1: only what was applied is dropped",
        snapshots.trim,
        "limit = min(raft.applied_index, log.stored_index)",
        "limit = min(log.commit_index, log.stored_index)",
        profile="snapshots",
    ),
    Mutation(
        "never_trimmed",
        "memory is bounded",
        snapshots.trim,
        "if kept is None:",
        "if True:",
        profile="snapshots",
    ),
    Mutation(
        "kept_for_the_dead",
        "nothing is kept for followers that do not answer",
        snapshots._needed,
        "continue",
        "pass",
        profile="snapshots",
    ),
    Mutation(
        "snapshot_state_never_left",
        "5.1: who has the snapshot gets entries again",
        leader._matched,
        "progress.state is ProgressState.SNAPSHOT and",
        "False and",
        profile="snapshots",
    ),
    Mutation(
        "no_snapshot_is_asked_for",
        "5.1: a follower needs a snapshot and there is none: one is written",
        snapshots.offer,
        "raft.outbox.take_snapshot = True",
        "pass",
        profile="snapshots",
    ),
    Mutation(
        "failed_fetch_not_repeated",
        "5.1: a fetch that failed is tried again",
        Raft.snapshot_failed,
        "self.fetching = None",
        "pass",
        profile="snapshots",
    ),
    Mutation(
        "base_has_no_term",
        "the entry before the log takes part in the log matching check",
        RaftLog.term_at,
        "return self.base_term if position == -1 else None",
        "return None",
        profile="snapshots",
    ),
    # ── sessions, the cluster's clock ─────────────────────────────────────────────────────────────────
    Mutation(
        "sessions_not_in_the_snapshot",
        "6.3: sessions are part of the state",
        Sessions.records,
        "sorted(self._sessions.items())",
        "()",
        profile="everything",
    ),
    Mutation(
        "outcomes_not_remembered",
        "6.3: a command that comes again is answered and not executed",
        Sessions.leave,
        "self._remember(session, serial, outcome)",
        "pass",
        profile="everything",
    ),
    Mutation(
        "expired_session_begins_anew",
        "6.3: who has expired is told so",
        Sessions._find,
        "if session is None:",
        "if session is None:\n        session = _Session(id_, 60000, self.now)\n        "
        "self._add(session)\n    if False:",
        profile="everything",
    ),
    Mutation(
        "cluster_clock_forgets_the_log",
        "6.3: a new leader's clock goes on from the log",
        ClusterClock.stamped,
        "self.time = time",
        "pass",
        profile="transfers",
    ),
    Mutation(
        "clock_stands_still",
        "6.3: the cluster's clock runs while there is a leader",
        ClusterClock.read,
        "int((now - self._known_at) * 1000)",
        "0",
        profile="transfers",
    ),
    # ── transfer ──────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "held_and_appended",
        "3.10: what comes during a transfer is held, and appended or refused after",
        leader._propose_for_another,
        "transfer.hold(raft, message)\n        return",
        "transfer.hold(raft, message)",
        profile="transfers",
    ),
    Mutation(
        "held_forgotten",
        "3.10: what was held is appended when the transfer is given up",
        transfer.give_up,
        "for message in transfer.held:",
        "for message in ():",
        profile="transfers",
    ),
    Mutation(
        "transfer_never_given_up",
        "3.10: a transfer is given up after an election timeout",
        transfer.timeout,
        "if raft.now < leading.transfer.deadline:",
        "if True:",
        profile="transfers",
    ),
    Mutation(
        "target_never_told",
        "3.10: the target is told to stand once it has all entries",
        transfer.advance,
        "raft.send(TimeoutNow(raft.term, raft.id, transfer.target))",
        "pass",
        profile="transfers",
    ),
    Mutation(
        "target_does_not_stand",
        "3.10: who is told to stand does so at once",
        follower.step,
        "raft.become_candidate(transfer=True)",
        "pass",
        profile="transfers",
    ),
    Mutation(
        "transfer_refused_by_voters",
        "4.2.3, 3.10: a candidate that the leader asked to stand is no rival",
        votes.sticks,
        "if isinstance(message, RequestVote) and message.transfer:",
        "if False:",
        profile="transfers",
    ),
    Mutation(
        "preferred_member_ignored",
        "a member of higher priority that keeps up leads in the end",
        transfer._preferred,
        "return -max(candidates)[2] if candidates else NOBODY",
        "return NOBODY",
        profile="transfers",
    ),
    # ── sick disks ────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "sick_member_stands",
        "who cannot store a vote does not ask for any",
        Raft.timeout,
        "elif self.disk_is_sick():",
        "elif False:",
        profile="transfers",
    ),
    Mutation(
        "sick_leader_stays",
        "a leader whose disk hangs hands over",
        transfer.timeout,
        "if raft.disk_is_sick():",
        "if False:",
        profile="transfers",
    ),
    # ── leases ────────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "lease_survives_a_transfer",
        "6.4.1: who was asked to stand may do so at any time",
        transfer.advance,
        "leading.lease_given_up = True",
        "pass",
        profile="leases",
    ),
    Mutation(
        "lease_begins_with_the_echo",
        "6.4.1: a lease begins when its round began",
        reading.confirm,
        "leading.lease_from = leading.rounds_begun.popleft()[1]",
        "leading.rounds_begun.popleft()\n        leading.lease_from = raft.now",
        profile="leases",
    ),
    Mutation(
        "lease_too_long",
        "6.4.1: a lease ends before the voters give up on the leader",
        reading.has_lease,
        "(1 - raft.config.clock_drift_bound)",
        "1.5",
        profile="leases",
    ),
    Mutation(
        "lease_forgotten_in_restart",
        "6.4.1: a voter that has just started may have granted a lease",
        Raft.__init__,
        "now + config.election_timeout if config.lease_reads else -math.inf",
        "-math.inf",
        profile="leases",
    ),
    Mutation(
        "rumour_ends_a_promise",
        "6.4.1: who granted a lease waits for it, whatever is said of the leader",
        Raft.peer_lost,
        " or self.config.lease_reads",
        "",
        profile="leases",
    ),
    Mutation(
        "read_by_lease_before_first_commit",
        "6.4: a new leader knows the commit index once it committed in its own term",
        reading.read,
        "if raft.commit_index < leading.first_index:",
        "if False:",
        profile="leases",
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
