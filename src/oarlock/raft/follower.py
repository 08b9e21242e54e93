"""What a follower does: store what the leader sends, and acknowledge what is durable (dissertation 3.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.errors import Busy, NotLeader, WireError
from oarlock.raft.membership import decode_configuration
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Message,
    Propose,
    ProposeReply,
    ReadIndex,
    ReadIndexReply,
)
from oarlock.raft.types import NOBODY, EntryKind, Index

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


def step(raft: Raft, message: Message) -> None:
    """A message of our own term, or one that holds in any term."""
    match message:
        case AppendEntries():
            append_entries(raft, message)
        case ReadIndexReply():
            # Index 0: it could not say. Asking the same member again at once would go in circles, so the read
            # waits for the next leader, or until it is given up.
            if message.index and raft.forwarded_read_answered(message.context):
                raft.confirm_read(message.context, message.index)
        case Propose() | ReadIndex():
            refuse_leaders_work(raft, message)
        case _:
            pass  # answers to an election that is over


def append_entries(raft: Raft, message: AppendEntries) -> None:
    """AppendEntries of our own term: its sender leads it."""
    _check_shape(message)
    if raft.leader_id not in (NOBODY, message.sender):
        raise WireError(
            f"{message.sender:x} claims to lead term {raft.term}, in which {raft.leader_id:x} leads"
        )
    raft.become_follower(raft.term, message.sender, "heard the leader")
    raft.heard_leader_at = raft.now
    raft.rearm_election(raft.now)
    raft.give_up_old_reads()
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

    Entries are acknowledged once they are stored. A heartbeat is answered at once, for what already is:
    a slow disk must not look like a dead member. A mere commit notice (no entries, no new round) needs
    no answer.
    """
    if message.round <= raft.answered_round and not message.entries:
        return
    raft.answered_round = max(raft.answered_round, message.round)
    if not message.entries:
        match_index = min(match_index, raft.log.stored_index)
    reply = AppendEntriesReply(raft.term, raft.id, message.sender, True, match_index, message.round)
    if match_index <= raft.log.stored_index:
        raft.send(reply)
    else:
        raft.send_after_stored(reply)


def refuse_leaders_work(raft: Raft, message: Propose | ReadIndex) -> None:
    """Someone takes us for the leader: say no, and tell our term, which may be a later one."""
    if isinstance(message, Propose):
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
