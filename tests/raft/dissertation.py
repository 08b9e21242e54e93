"""The dissertation's rules: where each is in the code, and which test holds it, or why it is not done.

A checklist of the mechanisms in chapters 3, 4, 5, 6 and section 10.2, with what 9 and 8 add. `test_paper.py`
holds that every rule has a test or a reason, and that the tests and the code named here exist; the table in
`docs/internals/dissertation.md` is drawn from this list.

Tests are named by their files below ``tests/``, code by its module in `oarlock.raft`, or in `oarlock`.
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    section: str
    text: str
    code: str = ""
    """Names, with spaces between."""
    tests: tuple[str, ...] = ()
    not_done: str = ""
    """Why not; with tests: in what it differs."""


def raft(*tests: str) -> tuple[str, ...]:
    """Tests in ``tests/raft``: ``file::test``, the file without ``test_``, or a test in `test_paper.py`."""
    full = (test if "::" in test else f"paper::{test}" for test in tests)
    return tuple(f"raft/test_{file}.py::{name}" for file, name in (test.split("::") for test in full))


STORY = "scenarios::test_the_story_goes_as_written"
CUT_SHORT = "interrupted_changes::test_the_next_leader_finishes_the_change_or_never_heard_of_it"
SCHEDULES = "schedules::test_random_schedules_keep_every_property"
TABLE = "transitions::test_each_message_in_each_role_does_what_the_table_says"

CHAPTER_3 = (
    Rule(
        "3.3",
        "a later term is adopted, and whoever led or stood follows",
        "term_rule.settle_higher raft.Raft.become_follower",
        raft("test_f2_a_later_term_makes_a_follower_that_has_not_voted", TABLE),
    ),
    Rule(
        "3.3",
        "messages of an earlier term change nothing; requests are answered with the term",
        "term_rule.settle_lower",
        raft("transitions::test_a_message_of_a_lower_term_changes_nothing"),
    ),
    Rule(
        "3.3",
        "messages may come twice, late and in any order",
        "raft.Raft.step",
        raft("test_f2_append_entries_3_a_late_message_erases_nothing", SCHEDULES),
    ),
    Rule(
        "3.3",
        "all members are asked at once, and forever",
        "leader.flush",
        raft("test_3_3_a_leader_asks_all_at_once_and_goes_on_asking_who_never_answers"),
    ),
    Rule("3.4", "heartbeats", "leader.timeout", raft("test_3_4_heartbeats_go_out_at_their_interval")),
    Rule(
        "3.4",
        "election timeouts are drawn uniformly at random, anew each time",
        "raft.Raft.rearm_election",
        raft(
            "test_3_4_timeouts_are_spread_over_one_to_two_election_timeouts",
            "test_3_4_each_wait_is_drawn_anew",
        ),
    ),
    Rule(
        "3.4",
        "one vote per term, first come",
        "votes.judge",
        raft("test_f2_request_vote_2_first_come_first_served_and_once_per_term"),
    ),
    Rule(
        "3.4",
        "a candidate gives way to the leader of its term or a later one",
        "candidate.step",
        raft("test_3_4_a_candidate_gives_way_to_the_leader_of_its_term", TABLE),
    ),
    Rule(
        "3.5",
        "entries are taken only behind one of equal index and term",
        "follower.step log.RaftLog.term_at",
        raft("test_f2_append_entries_2_the_previous_entry_has_to_match"),
    ),
    Rule(
        "3.5",
        "a leader probes, one message at a time, until the logs are known to agree",
        "progress.Progress.become_probe",
        raft("progress::test_probing_sends_one_message_at_a_time"),
        not_done="A probe carries entries: most guesses are right, and a wrong one costs one batch.",
    ),
    Rule(
        "3.5",
        "a refusal says how far back to go: by terms, not by entries",
        "log.RaftLog.agreement_hint",
        raft(
            "test_3_5_refusals_skip_whole_terms",
            "log::test_agreement_hint_never_skips_an_index_at_which_the_logs_agree",
            f"{STORY}[log_backtracking]",
        ),
    ),
    Rule(
        "3.5",
        "the log is cut only where it conflicts",
        "log.RaftLog.first_conflict raft.Raft.truncate",
        raft(
            "test_f2_append_entries_3_a_conflicting_entry_goes_and_all_after_it",
            "test_f2_append_entries_3_a_late_message_erases_nothing",
        ),
    ),
    Rule(
        "3.5",
        "a leader never overwrites its own log",
        "raft.Raft.truncate invariants.check_step",
        raft(
            "test_3_5_a_leader_never_overwrites_its_own_log",
            "invariants::test_a_step_that_cannot_be_is_noticed",
        ),
    ),
    Rule(
        "3.6.1",
        "a vote is for a log at least as up-to-date",
        "log.RaftLog.up_to_date",
        raft("test_3_6_1_a_vote_is_for_a_log_at_least_as_up_to_date"),
    ),
    Rule(
        "3.6.2",
        "only entries of the own term are committed by counting",
        "leader.advance_commit",
        raft(
            "test_3_6_2_entries_of_earlier_terms_are_not_committed_by_counting",
            "test_3_6_figure_8_an_entry_on_a_majority_can_still_be_lost_until_the_term_commits_on_top",
        ),
    ),
    Rule(
        "3.7",
        "who does not answer is asked again",
        "leader.flush",
        raft("test_3_3_what_was_lost_is_sent_again"),
    ),
    Rule(
        "3.7",
        "entries that are there already are ignored",
        "log.RaftLog.first_conflict",
        raft("test_f2_append_entries_4_what_is_missing_is_appended_after_what_is_there"),
    ),
    Rule(
        "3.8",
        "term, vote and log are durable before anyone is told",
        "raft.Raft.send raft.Raft.send_after_stored ready.Ready",
        (
            *raft(
                "test_f2_a_vote_is_told_only_when_it_is_durable",
                "test_f2_entries_are_acknowledged_only_when_they_are_durable",
                "test_f2_a_candidate_asks_for_votes_only_when_its_own_is_durable",
            ),
            "storage/test_crashes.py::test_power_cut_at_every_operation_loses_nothing_acknowledged",
        ),
    ),
    Rule(
        "3.8",
        "the commit index need not be durable",
        "types.HardState",
        raft("test_3_8_the_commit_index_need_not_be_stored_for_the_next_leader_finds_it"),
    ),
    Rule(
        "3.8",
        "the applied index is as durable as the state machine",
        "machine.Machine",
        (
            "replica/test_runtime.py::test_a_machine_that_kept_its_state_is_given_only_what_it_lacks",
            "kv/test_store.py::test_state_and_applied_index_survive_reopening",
        ),
    ),
    Rule(
        "3.8",
        "a server that lost its state comes back with a new identity only",
        "membership.planned",
        (
            "server/test_joining.py::test_a_member_that_lost_its_data_does_not_come_back_under_its_id",
            *raft("reconfiguration::test_a_member_that_is_taken_back_in_under_its_id_is_refused"),
        ),
    ),
    Rule(
        "3.9",
        "broadcast time ≪ election timeout ≪ time between failures",
        "config.Config",
        raft("config::test_the_defaults_are_sound_and_ids_have_64_bits"),
    ),
    Rule(
        "3.10",
        "transfer: no new commands, then the target gets all entries, then TimeoutNow",
        "transfer.begin transfer.advance raft.Raft.transfer_leadership",
        (
            *raft(
                "transfer::test_3_10_no_new_commands_are_taken_and_those_of_others_are_kept",
                "transfer::test_3_10_a_target_that_lacks_entries_gets_them_first",
                f"{STORY}[transfer_lagging_target]",
                f"{STORY}[transfer_lost_timeout_now]",
            ),
            "integration/test_handover.py::test_a_leader_that_is_stopped_hands_over_without_an_election_timeout",
        ),
    ),
    Rule(
        "3.10",
        "a transfer is given up after about an election timeout",
        "transfer.give_up",
        raft(
            "transfer::test_3_10_it_is_given_up_after_an_election_timeout_and_what_was_kept_is_appended",
            f"{STORY}[transfer_abort]",
        ),
    ),
    Rule(
        "3.10",
        "a leader looks from time to time whether another is better suited",
        "transfer.timeout types.Member",
        (
            *raft(
                "transfer::test_3_10_a_leader_hands_over_to_a_preferred_member_that_keeps_up",
                "transfer::test_a_leader_whose_disk_hangs_hands_over_after_the_bound",
            ),
            "integration/test_sick_disk.py::"
            "test_a_leader_whose_disk_hangs_is_replaced_and_comes_back_as_a_follower",
        ),
    ),
)

CHAPTER_4 = (
    Rule(
        "4.1",
        "a single server at a time needs no joint phase: the majorities overlap",
        "membership.planned",
        raft(
            "planning::test_4_1_one_voter_more_or_less_is_one_step",
            "planning::test_any_walk_of_changes_is_sound_and_safe_at_every_step",
        ),
    ),
    Rule(
        "4.1",
        "a configuration is in effect as soon as it is appended",
        "membership.ConfigurationHistory",
        raft("reconfiguration::test_4_1_the_configuration_counts_as_soon_as_it_is_appended"),
    ),
    Rule(
        "4.1",
        "one uncommitted configuration at a time",
        "reconfiguration.change",
        raft("reconfiguration::test_4_1_one_change_at_a_time"),
    ),
    Rule(
        "4.1",
        "a configuration that is cut from the log gives way to the one before",
        "membership.ConfigurationHistory.truncated",
        raft(
            "reconfiguration::test_4_1_a_truncation_falls_back_to_the_configuration_before",
            "membership::test_truncation_falls_back_to_the_configuration_before",
        ),
    ),
    Rule(
        "4.1",
        "messages of members that are in no configuration of ours are taken",
        "raft.Raft.step",
        raft("reconfiguration::test_4_1_a_leader_that_is_in_no_configuration_of_ours_is_followed"),
    ),
    Rule(
        "4.1",
        "the leader commits an entry of its own term before any change (found after the text was written)",
        "reconfiguration.change",
        raft("reconfiguration::test_4_1_erratum_a_leader_commits_an_entry_of_its_own_term_first"),
    ),
    Rule(
        "4.1",
        "a change survives the loss of its leader in every phase",
        "reconfiguration.committed",
        (
            *raft(CUT_SHORT),
            "integration/test_growth.py::"
            "test_a_cluster_grows_from_one_to_five_and_shrinks_to_three_and_nothing_is_lost",
        ),
    ),
    Rule(
        "4.2.1",
        "new servers catch up without a vote, in rounds, until one takes less than an election timeout",
        "progress.CatchUp reconfiguration.matched",
        raft(
            "catch_up::test_a_round_ends_with_what_the_leader_had_when_it_began",
            "catch_up::test_a_slow_round_does_not_count_and_the_next_one_may",
            "reconfiguration::test_4_2_1_a_newcomer_is_found_by_its_log_length_and_promoted_when_it_has_caught_up",
            f"{STORY}[learner_rounds]",
        ),
    ),
    Rule(
        "4.2.1",
        "a fixed number of rounds; a new server that makes no progress is given up",
        not_done="A learner holds up nobody, so it may take any number of rounds. The status shows that it "
        "lags, and the operator takes it out.",
    ),
    Rule(
        "4.2.1",
        "a refusal says how long the follower's log is, so that a newcomer is found at once",
        "leader.step log.RaftLog.agreement_hint",
        raft(
            "reconfiguration::test_4_2_1_a_newcomer_is_found_by_its_log_length_and_promoted_when_it_has_caught_up"
        ),
    ),
    Rule(
        "4.2.2",
        "a leader that removes itself leads on, without counting itself, until C_new is committed",
        "reconfiguration.committed",
        raft(
            "reconfiguration::"
            "test_4_2_2_a_leader_that_removes_itself_leads_without_counting_itself_and_then_steps_down",
            CUT_SHORT,
        ),
    ),
    Rule(
        "4.2.2",
        "who is not part of its own newest configuration may have to campaign",
        "raft.Raft.may_stand",
        raft(
            "reconfiguration::test_4_2_2_who_was_removed_stands_as_long_as_that_is_not_committed",
            f"{STORY}[removed_leader_must_campaign]",
        ),
    ),
    Rule(
        "4.2.3",
        "requests for votes are ignored within an election timeout of hearing a leader",
        "votes.sticks raft.Raft.hears_leader",
        raft(
            "test_4_2_3_who_hears_a_leader_ignores_rivals_for_an_election_timeout",
            f"{STORY}[removed_member_returns]",
        ),
    ),
    Rule(
        "4.2.3",
        "but for elections that the leader itself asked for",
        "messages.RequestVote",
        raft("transfer::test_3_10_a_follower_that_is_told_stands_at_once_and_says_why"),
    ),
    Rule(
        "4.2.3",
        "a removed server is told so",
        "reconfiguration.forget_told types.Configuration",
        (
            *raft(
                "reconfiguration::test_4_2_2_who_leaves_gets_the_entry_that_says_so_and_its_commit_and_then_nothing"
            ),
            "replica/test_changes.py::test_a_member_that_was_removed_while_it_was_down_is_told_when_it_comes_back",
        ),
        not_done="The paper leaves them to themselves. Ours gets the entry and its commit if it listens, and "
        "if it comes back later, the transport's refusal.",
    ),
    Rule(
        "4.3",
        "in the joint phase elections and commits take both majorities",
        "quorum.agreed quorum.vote_result",
        raft(
            "reconfiguration::test_4_3_while_it_is_joint_both_majorities_are_needed",
            "quorum::test_agreed_is_the_best_that_some_quorum_reached",
            "quorum::test_vote_result_is_what_the_quorums_say",
        ),
    ),
    Rule(
        "4.3",
        "members of both configurations may lead meanwhile",
        "raft.Raft.may_stand",
        raft(
            "reconfiguration::test_4_3_a_new_leader_goes_on_from_the_joint_configuration_that_it_finds",
            CUT_SHORT,
        ),
    ),
    Rule(
        "4.3",
        "no other change begins in the joint phase",
        "reconfiguration.change",
        raft("reconfiguration::test_4_3_a_joint_configuration_allows_no_other_change"),
    ),
    Rule(
        "4.3",
        "once C_old,new is committed the leader goes on to C_new by itself",
        "membership.after_joint",
        raft(
            "reconfiguration::test_4_3_the_leader_leaves_the_joint_configuration_by_itself",
            "planning::test_4_3_several_at_once_go_through_a_joint_configuration_that_holds_all_that_is_needed_"
            "to_leave_it",
        ),
    ),
    Rule(
        "4.4",
        "one server begins, with a configuration entry that holds only itself, and the others are added",
        "membership.bootstrap",
        (
            "replica/test_changes.py::test_from_one_member_to_five_and_to_three_others_while_writes_go_on",
            *raft("membership::test_all_initial_members_begin_with_the_same_committed_entry"),
        ),
        not_done="It may; but as in etcd several may also begin with one and the same first entry.",
    ),
    Rule(
        "4.4",
        "servers are added before others are removed",
        "reconfiguration.change",
        raft(
            "reconfiguration::test_a_change_that_would_leave_too_few_who_answer_is_refused_unless_that_is_wanted"
        ),
        not_done="One joint change does both. Removing first is refused if the rest would have no majority "
        "that answers.",
    ),
    Rule(
        "4.4",
        "failed servers are replaced automatically, toward a configured size",
        not_done="That is for an operator or an orchestrator to decide: they know which machines there are.",
    ),
)

CHAPTER_5 = (
    Rule(
        "5",
        "each server compacts its log by itself",
        "raft.Raft.snapshot_taken snapshots.trim",
        (
            "replica/test_snapshots.py::test_every_member_writes_snapshots_and_drops_the_log_before_them",
            *raft("snapshots::test_5_applied_entries_are_dropped_behind_a_tail"),
        ),
    ),
    Rule(
        "5",
        "index and term of the last discarded entry, and the latest configuration, are kept",
        "types.Snapshot types.LogBase",
        raft(
            "snapshots::test_5_the_configuration_survives_the_entry_that_held_it",
            "log::test_a_log_that_begins_later_knows_the_term_of_its_base_and_nothing_before",
        ),
    ),
    Rule(
        "5",
        "the state machine serves a restart and a slow follower",
        "replica.recovery.recover snapshots.offer",
        (
            "replica/test_snapshots.py::test_a_member_starts_from_its_snapshot_and_what_its_log_holds_after_it",
            "replica/test_snapshots.py::test_a_member_that_was_away_for_long_gets_a_snapshot_while_writes_go_on",
        ),
    ),
    Rule(
        "5.1",
        "snapshots are sent in chunks, in order",
        "replica.fetching.Fetching",
        (
            "replica/test_snapshots.py::test_a_transfer_that_breaks_goes_on_where_it_got_to",
            "integration/test_lagging.py::"
            "test_a_member_that_was_down_catches_up_by_a_snapshot_that_is_cut_twice_while_writes_go_on",
            "storage/test_snapshots.py::"
            "test_any_transfer_in_any_pieces_with_any_breaks_gives_the_bytes_that_were_sent",
        ),
        not_done="The follower fetches the chunks, on a connection of their own; InstallSnapshot only names "
        "them. So they hold up no heartbeat, and a broken transfer goes on where it was.",
    ),
    Rule(
        "5.1",
        "each chunk resets the election timer",
        "snapshots.install_snapshot",
        raft("snapshots::test_5_1_each_offer_resets_the_election_timer"),
        not_done="InstallSnapshot is repeated like heartbeats, and each one does.",
    ),
    Rule(
        "5.1",
        "a snapshot that is ahead of the log replaces it",
        "snapshots.received raft.Raft.restart_log",
        raft(
            "snapshots::test_5_1_a_snapshot_that_is_ahead_replaces_the_whole_log",
            f"{STORY}[new_member_snapshot]",
        ),
    ),
    Rule(
        "5.1",
        "of a log that holds the snapshot's last entry the rest is kept",
        "snapshots.install_snapshot",
        raft("snapshots::test_5_1_a_snapshot_that_the_log_covers_leaves_it_as_it_is"),
    ),
    Rule(
        "5.1",
        "client sessions are part of the snapshot",
        "machine.sessions machine.snapshot",
        ("machine/test_snapshot.py::test_sessions_and_the_clock_are_part_of_it",),
    ),
    Rule(
        "5.1",
        "a follower may be far behind while the membership changes",
        "snapshots.describe",
        raft(f"{STORY}[snapshot_during_change]"),
    ),
    Rule(
        "5.1.1",
        "writing a snapshot holds up no command: copy-on-write or immutable structures",
        "kv.snapshot machine.Capture",
        (
            "kv/test_snapshot.py::test_a_copy_is_the_state_when_it_was_captured_whatever_is_written_meanwhile",
            "kv/test_snapshot.py::test_copying_in_a_thread_while_batches_are_applied",
            "machine/test_snapshot.py::"
            "test_what_is_applied_after_the_capture_does_not_show_although_snapshot_makes_no_copy",
        ),
    ),
    Rule(
        "5.1.1",
        "a snapshot is streamed, not built in memory",
        "machine.Capture",
        (
            "kv/test_snapshot.py::test_pieces_are_small_and_all_of_the_pages_in_use",
            "machine/test_snapshot.py::test_pieces_are_of_a_megabyte_at_most",
        ),
    ),
    Rule(
        "5.1.1",
        "when room runs out a server stops accepting rather than dies",
        "kv.snapshot",
        (
            "kv/test_snapshot.py::test_a_write_that_needs_room_ends_the_capture_and_does_not_wait_for_it",
            "replica/test_snapshots.py::test_a_full_disk_keeps_the_log_and_the_member_goes_on",
        ),
    ),
    Rule(
        "5.1.2",
        "a snapshot is due when the log is several times as large as the last one",
        "replica.snapshots",
        ("replica/test_snapshots.py::test_by_entries_or_bytes_and_by_the_size_of_the_last_one",),
    ),
    Rule(
        "5.1.2",
        "only a minority writes snapshots at once",
        "turns.judge",
        (
            *raft(
                "turns::test_so_many_write_at_once_that_the_others_are_a_majority", f"{STORY}[snapshot_turns]"
            ),
            "replica/test_snapshots.py::test_writing_takes_turns_so_that_a_majority_is_never_at_it",
        ),
    ),
    Rule(
        "5.1.2",
        "a leader steps down before it writes one",
        not_done="Writing one does not block the leader; a change of leaders would cost more.",
    ),
    Rule(
        "5.1.3",
        "written under another name, flushed, renamed; with a checksum",
        "storage.snapshots",
        (
            "storage/test_snapshots.py::test_power_cut_at_every_operation_leaves_whole_snapshots",
            "storage/test_snapshots.py::test_every_flipped_byte_is_noticed_when_loading_and_when_reading",
        ),
    ),
    Rule(
        "5.1.3",
        "snapshots are compressed",
        not_done="A copy of the store's pages is sent as it is: on a local network compressing takes longer "
        "than sending.",
    ),
    Rule(
        "5.1.3",
        "every access to the log tolerates compaction",
        "log.RaftLog",
        raft("log::test_a_log_behind_a_base_answers_like_a_list_of_all_that_ever_was", SCHEDULES),
    ),
    Rule(
        "5.2",
        "disk-based state machines: a consistent image is sent while writes go on",
        "kv.snapshot",
        ("kv/test_snapshot.py::test_copying_in_a_thread_while_batches_are_applied",),
        not_done="The image is a read transaction of the store; its blocks are not sent twice.",
    ),
    Rule(
        "5.3",
        "incremental cleaning, log-structured merge trees",
        not_done="The store is a B+ tree on disk: a snapshot is a copy of its pages, with nothing to clean.",
    ),
    Rule(
        "5.4",
        "the leader writes snapshots for all, or in the log",
        not_done="For tiny state machines only, the chapter says.",
    ),
)

CHAPTER_6 = (
    Rule(
        "6.1",
        "clients find the cluster by a directory or DNS",
        "client.Client",
        ("client/test_client.py::test_an_endpoint_that_is_down_is_passed_over_even_by_writes",),
        not_done="Clients are given endpoints; a name that stands for several addresses is one.",
    ),
    Rule(
        "6.2",
        "a server that does not lead sends requests on, or says who leads",
        "raft.Raft.forward",
        ("replica/test_runtime.py::test_every_member_takes_commands_and_all_apply_the_same",),
    ),
    Rule(
        "6.2",
        "clients try others at random",
        "client.endpoints",
        ("client/test_client.py::test_a_write_that_was_turned_away_is_repeated_elsewhere",),
        not_done="In turn, not at random: every member takes every request, so any that answers will do.",
    ),
    Rule(
        "6.2",
        "a leader without an answer of a quorum for an election timeout steps down",
        "leader.has_quorum",
        raft("test_6_2_a_leader_that_no_quorum_answers_steps_down", f"{STORY}[check_quorum]"),
    ),
    Rule(
        "6.2",
        "who led is forgotten with a new term or election",
        "raft.Raft.become_pre_candidate",
        raft("test_6_2_a_leader_that_is_deposed_or_a_new_election_is_forgotten_as_a_hint"),
    ),
    Rule(
        "6.3",
        "a session is opened through the log; its id is the entry's index",
        "machine.sessions",
        ("machine/test_sessions.py::test_the_id_of_a_session_is_the_index_of_its_opening",),
    ),
    Rule(
        "6.3",
        "a command has a number; sent twice, it is executed once and answered twice",
        "machine.sessions",
        ("machine/test_sessions.py::test_a_command_that_is_sent_twice_is_executed_once_and_answered_twice",),
    ),
    Rule(
        "6.3",
        "a client may have several commands under way, and says which answers it has",
        "machine.sessions",
        (
            "machine/test_sessions.py::test_commands_of_one_session_may_arrive_in_any_order",
            "machine/test_sessions.py::test_what_the_client_has_acknowledged_is_forgotten_and_never_executed_again",
        ),
    ),
    Rule(
        "6.3",
        "sessions expire on all members alike, by the time that leaders stamp entries with",
        "cluster_clock.ClusterClock",
        (
            "machine/test_sessions.py::test_a_session_expires_when_it_was_not_used_for_longer_than_its_timeout",
            *raft(
                "cluster_clock::test_6_3_the_next_leader_goes_on_from_the_last_stamp_of_its_log",
                "cluster_clock::test_whatever_the_members_own_clock_does_no_stamp_is_less_than_one_before",
            ),
        ),
    ),
    Rule(
        "6.3",
        "a client that is alive keeps its session alive",
        "machine.sessions",
        ("machine/test_sessions.py::test_keeping_alive_keeps_alive",),
    ),
    Rule(
        "6.3",
        "a command of an unknown session is an error, never silently executed",
        "errors.SessionExpired",
        ("machine/test_sessions.py::test_an_unknown_session_is_an_error_and_nothing_is_executed",),
    ),
    Rule(
        "6.4",
        "a leader begins its term with a no-op, and reads wait until it is committed",
        "leader.start reading.read",
        raft(
            "test_6_4_a_leader_begins_its_term_with_a_no_op_that_it_sends_at_once",
            "test_6_4_a_new_leader_lets_reads_wait_until_it_has_committed_in_its_term",
        ),
    ),
    Rule(
        "6.4",
        "a read takes the commit index, then a round of heartbeats confirms that the leader leads",
        "reading.confirm",
        raft(
            "test_6_4_the_read_index_is_the_commit_index_when_the_read_came",
            "test_6_4_a_read_is_confirmed_by_a_round_that_began_after_it",
            f"{STORY}[read_index]",
            f"{STORY}[read_index_leader_change]",
        ),
    ),
    Rule(
        "6.4",
        "many reads share a round",
        "reading.read",
        (
            *raft("test_6_4_reads_that_come_together_share_a_round"),
            "replica/test_reads.py::test_reads_that_arrive_together_share_one_confirmation",
        ),
    ),
    Rule(
        "6.4",
        "a read waits until the state machine is as far",
        "types.ReadState",
        ("replica/test_reads.py::test_a_confirmed_read_waits_until_its_index_is_applied",),
    ),
    Rule(
        "6.4",
        "a follower asks the leader for a read index, and serves the read itself",
        "follower.read",
        (
            *raft("test_6_4_a_follower_asks_the_leader_and_forgets_when_the_leader_changes"),
            "replica/test_runtime.py::test_a_read_barrier_at_any_member_sees_every_answered_write",
        ),
    ),
    Rule(
        "6.4.1",
        "a lease is an election timeout from the beginning of a confirmed round, less the clocks' drift",
        "reading.has_lease",
        raft(
            "leases::test_6_4_1_a_lease_is_an_election_timeout_less_what_clocks_may_differ_by",
            "leases::test_6_4_1_a_lease_begins_when_the_round_began_and_not_when_it_was_echoed",
            f"{STORY}[lease_reads]",
            f"{STORY}[lease_voters]",
        ),
    ),
    Rule(
        "6.4.1",
        "a leader gives up its lease before it hands over",
        "transfer.advance",
        raft(
            "leases::test_6_4_1_a_leader_that_asked_somebody_to_stand_has_no_lease_for_the_rest_of_its_term"
        ),
    ),
    Rule(
        "6.4.1",
        "a client carries the index that it saw last, so that its reads never go backwards",
        not_done="Reads are linearizable unless asked to be serializable; then each answer has its revision, "
        "by which a client can tell that it is older than one before.",
    ),
)

CHAPTERS_8_TO_10 = (
    Rule(
        "8.1",
        "a formal specification",
        not_done="There is none of our own. The properties that it would prove are checked after every step "
        "of random schedules.",
    ),
    Rule(
        "8.3",
        "all transitions in one module without side effects, and whole clusters in one process",
        "raft.Raft",
        raft(SCHEDULES, "schedules::test_equal_seeds_give_equal_runs_whatever_the_hash_seed"),
    ),
    Rule(
        "8.3",
        "properties are asserted in every state and at every step",
        "invariants.check invariants.check_step",
        raft(
            "invariants::test_a_state_that_cannot_be_is_noticed",
            "invariants::test_a_step_that_cannot_be_is_noticed",
        ),
    ),
    Rule(
        "9.3",
        "shorter timeouts after a split vote",
        not_done="PreVote and the spread of the timeouts leave few split votes to hurry.",
    ),
    Rule(
        "9.3",
        "a candidate's own vote is written while it asks the others",
        not_done="Its request shows a log and a term that it must not forget: so they are durable first (see "
        "raft.md).",
    ),
    Rule(
        "9.6",
        "PreVote: a majority would vote, and has not heard a leader for an election timeout",
        "raft.Raft.become_pre_candidate votes.judge",
        raft(
            "test_9_6_a_pre_vote_changes_nothing_at_the_voter_and_is_not_stored",
            "test_9_6_without_a_quorum_of_pre_votes_the_term_stays",
            "test_9_6_a_pre_vote_is_refused_for_a_log_that_is_behind_or_while_a_leader_is_heard",
            f"{STORY}[pre_vote_partitioned]",
        ),
    ),
    Rule(
        "10.1",
        "threads: one that writes the log, timers that make a leader step down",
        "storage.disk leader.timeout",
        ("storage/test_disk.py::test_appends_that_wait_for_the_disk_share_one_write",),
    ),
    Rule(
        "10.2.1",
        "the leader's disk writes while its messages travel",
        "ready.Ready",
        ("replica/test_ready_loop.py::test_a_leader_replicates_while_its_own_disk_writes",),
    ),
    Rule(
        "10.2.1",
        "an entry may be committed before the leader's own disk has it",
        "leader.advance_commit",
        raft(
            "test_10_2_1_a_majority_of_others_commits_before_the_leaders_own_disk",
            "test_10_2_1_the_leaders_own_disk_counts_as_one",
        ),
    ),
    Rule(
        "10.2.2",
        "entries travel in batches, of about a megabyte so that heartbeats flow",
        "log.RaftLog.batch config.Config",
        raft("test_10_2_2_a_message_carries_as_much_as_fits_and_one_entry_at_least"),
    ),
    Rule(
        "10.2.2",
        "pipelining: the next index moves when entries are sent",
        "progress.Progress.sent",
        raft(
            "test_10_2_2_a_leader_sends_ahead_without_waiting_for_answers",
            "progress::test_replicating_sends_ahead_up_to_the_message_limit",
            "progress::test_replicating_sends_ahead_up_to_the_byte_limit",
        ),
    ),
    Rule(
        "10.2.2",
        "and back when some were lost",
        "leader.step progress.Progress.become_probe",
        raft("test_10_2_2_what_was_sent_ahead_and_lost_is_taken_back"),
    ),
    Rule(
        "10.2.2",
        "double buffering that adapts: what comes while the disk writes is one batch",
        "storage.disk",
        (
            "storage/test_disk.py::test_appends_that_wait_for_the_disk_share_one_write",
            "replica/test_runtime.py::test_a_batch_of_one_turn_costs_one_message_and_one_write",
        ),
    ),
    Rule(
        "11.7",
        "witnesses; servers without stable storage",
        not_done="Outside of what the chapters above describe, and nobody has asked for them.",
    ),
)

RULES = (*CHAPTER_3, *CHAPTER_4, *CHAPTER_5, *CHAPTER_6, *CHAPTERS_8_TO_10)
