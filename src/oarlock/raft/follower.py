"""What a follower does: store what the leader sends, and acknowledge what is durable (dissertation 3.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.errors import Busy, NotLeader, WireError
from oarlock.raft import snapshots
from oarlock.raft.membership import decode_configuration
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    ChangeMembership,
    ChangeMembershipReply,
    InstallSnapshot,
    Message,
    Propose,
    ProposeReply,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
)
from oarlock.raft.types import NOBODY, EntryKind, Index

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


def step(raft: Raft, message: Message) -> None:
    """A message of our own term, or one that holds in any term."""
    match message:
        case AppendEntries():
            _append_entries(raft, message)
        case InstallSnapshot():
            _hear_leader(raft, message)
            snapshots.install_snapshot(raft, message)
        case TimeoutNow():
            if raft.leader_id in (NOBODY, message.sender) and raft.may_stand() and not raft.disk_is_sick():
                raft.become_candidate(transfer=True)
        case ReadIndexReply():
            # Index 0: it could not say. Asking the same member again at once would go in circles, so the read
            # waits for the next leader, or until it is given up.
            if message.index and raft.forwarded_read_answered(message.context):
                raft.confirm_read(message.context, message.index)
        case Propose() | ReadIndex() | ChangeMembership():
            refuse_leaders_work(raft, message)
        case _:
            pass  # answers to an election that is over


def _hear_leader(raft: Raft, message: AppendEntries | InstallSnapshot) -> None:
    """A message of our own term that only its leader sends."""
    if raft.leader_id not in (NOBODY, message.sender):
        raise WireError(
            f"{message.sender:x} claims to lead term {raft.term}, in which {raft.leader_id:x} leads"
        )
    raft.become_follower(raft.term, message.sender, "heard the leader")
    raft.heard_leader_at = raft.now
    if raft.config.lease_reads:
        raft.lease_granted_until = raft.now + raft.config.election_timeout
    raft.rearm_election(raft.now)
    raft.give_up_old_reads()


def _append_entries(raft: Raft, message: AppendEntries) -> None:
    _check_shape(message)
    _hear_leader(raft, message)
    if message.previous_index < raft.log.base_index:
        # About a part of the log that is committed and dropped: all of that equals the leader's.
        _acknowledge(raft, message, raft.commit_index)
        return
    if raft.log.term_at(message.previous_index) != message.previous_term:
        hint_index, hint_term = raft.log.agreement_hint(message.previous_index, message.previous_term)
        raft.answered_round = max(raft.answered_round, message.round)
        raft.send(
            AppendEntriesReply(
                raft.term,
                raft.id,
                message.sender,
                False,
                message.previous_index,
                message.round,
                hint_index,
                hint_term,
            )
        )
        return
    _take_entries(raft, message)
    match_index = message.previous_index + len(message.entries)
    raft.commit(max(raft.commit_index, min(message.commit_index, match_index)))
    _acknowledge(raft, message, match_index)


def _check_shape(message: AppendEntries) -> None:
    term = message.previous_term
    for expected, entry in enumerate(message.entries, start=message.previous_index + 1):
        if entry.index != expected or not term <= entry.term <= message.term:
            raise WireError(
                f"AppendEntries from {message.sender:x}: entry {entry.index} of term {entry.term} "
                f"where index {expected} and a term of {term} to {message.term} was due"
            )
        if entry.kind is EntryKind.CONFIGURATION:
            decode_configuration(entry.data)  # once it is in the log, it is too late to find out
        term = entry.term


def _take_entries(raft: Raft, message: AppendEntries) -> None:
    """Truncate only on conflict: a late message must not erase what a newer one brought."""
    position, conflict = raft.log.first_conflict(message.entries)
    if position == len(message.entries):
        return
    entries = message.entries[position:] if position else message.entries
    if conflict:
        raft.truncate(entries[0].index)
    raft.append(entries)


def _acknowledge(raft: Raft, message: AppendEntries, match_index: Index) -> None:
    """Tell the leader what is durable here, where that is news to it.

    Entries are acknowledged once they are stored. A new round is answered at once, with what already is: a
    slow disk must not look like a dead member, nor hold up reads. A mere commit notice (no entries, no new
    round) needs no answer.
    """
    news = message.round > raft.answered_round
    raft.answered_round = max(raft.answered_round, message.round)
    stored = min(match_index, raft.log.stored_index)
    if news or (message.entries and stored == match_index):
        raft.send(AppendEntriesReply(raft.term, raft.id, message.sender, True, stored, message.round))
    if message.entries and stored < match_index:
        raft.send_after_stored(
            AppendEntriesReply(raft.term, raft.id, message.sender, True, match_index, message.round)
        )


def refuse_leaders_work(raft: Raft, message: Propose | ReadIndex | ChangeMembership) -> None:
    """Someone takes us for the leader: say no, and tell our term, which may be a later one."""
    if isinstance(message, ChangeMembership):
        raft.send(ChangeMembershipReply(raft.term, raft.id, message.sender, message.number, 0))
    elif isinstance(message, Propose):
        raft.send(ProposeReply(raft.term, raft.id, message.sender, message.batch))
    else:
        raft.send(ReadIndexReply(raft.term, raft.id, message.sender, message.context, 0))


def read(raft: Raft, context: int, forwarded: dict[int, float]) -> None:
    """Ask the leader for a read index (dissertation 6.4)."""
    if raft.leader_id == NOBODY:
        raise NotLeader
    if len(forwarded) >= raft.config.pending_reads_max:
        raise Busy(f"{len(forwarded)} reads wait for the leader's answer already")
    forwarded[context] = raft.now
    raft.send(ReadIndex(raft.term, raft.id, raft.leader_id, context))
