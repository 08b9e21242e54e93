"""Reads without log entries: by a confirmation round, or by a lease (dissertation 6.4).

Confirmation rounds serve reads and heartbeats alike. Each round has a number; a follower echoes the latest
it saw. A quorum that has echoed r or more proves that we still led when r began. So a read takes the commit
index as of its arrival and waits for the next round that goes out.

**Leases** (6.4.1) need no round. A voter that heard from us refuses every other candidate for an election
timeout, by its own clock (it remembers that across leaders, and a member that has just started refuses
everyone for as long). So from the moment at which a round *began* that a quorum echoed, nobody else can be
elected for `election_timeout`, less what clocks may differ by. Only a transfer gets around the refusal;
therefore a leader that ever asked someone to stand uses no leases for the rest of its term.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.errors import Busy
from oarlock.raft.leading import leading_of
from oarlock.raft.messages import ReadIndexReply
from oarlock.raft.quorum import agreed
from oarlock.raft.types import Index, NodeId

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


def read(raft: Raft, context: int, asker: NodeId) -> None:
    """Confirm that we lead, then answer with the commit index as of now."""
    leading = leading_of(raft)
    if len(leading.reads) + len(leading.reads_before_first_commit) >= raft.config.pending_reads_max:
        raise Busy(f"{raft.config.pending_reads_max} reads wait for confirmation already")
    if raft.commit_index < leading.first_index:
        leading.reads_before_first_commit.append((context, asker))
    else:
        _register(raft, context, asker)


def first_entry_committed(raft: Raft) -> None:
    """What leaders before us committed is known now: the reads that waited for that can begin."""
    leading = leading_of(raft)
    waiting, leading.reads_before_first_commit = leading.reads_before_first_commit, []
    for context, asker in waiting:
        _register(raft, context, asker)


def _register(raft: Raft, context: int, asker: NodeId) -> None:
    leading = leading_of(raft)
    if raft.alone or has_lease(raft):
        answer(raft, context, asker, raft.commit_index)
        return
    if leading.round_flushed == leading.round:
        leading.new_round(raft.now)
    leading.reads.append((leading.round, context, asker, raft.commit_index))


def has_lease(raft: Raft) -> bool:
    """Whether nobody else can have been elected by now, as far as clocks can be trusted."""
    leading = leading_of(raft)
    if not raft.config.lease_reads or leading.lease_given_up:
        return False
    length = raft.config.election_timeout * (1 - raft.config.clock_drift_bound)
    return raft.now < leading.lease_from + length


def confirm(raft: Raft) -> None:
    """A follower echoed a round: answer the reads of those that a quorum has echoed by now."""
    leading = leading_of(raft)
    if not leading.reads and not raft.config.lease_reads:
        return
    rounds = {peer: progress.round for peer, progress in leading.progress.items()}
    rounds[raft.id] = leading.round
    confirmed = agreed(raft.configuration, rounds, 0)
    while leading.rounds_begun and leading.rounds_begun[0][0] <= confirmed:
        leading.lease_from = leading.rounds_begun.popleft()[1]
    while leading.reads and leading.reads[0][0] <= confirmed:
        _, context, asker, index = leading.reads.popleft()
        answer(raft, context, asker, index)


def give_up(raft: Raft) -> None:
    """We lead no longer: whoever waits is told."""
    leading = leading_of(raft)
    for _, context, asker, _ in leading.reads:
        answer(raft, context, asker, 0)
    for context, asker in leading.reads_before_first_commit:
        answer(raft, context, asker, 0)


def answer(raft: Raft, context: int, asker: NodeId, index: Index) -> None:
    """`index` 0: it could not be confirmed."""
    if asker != raft.id:
        raft.send(ReadIndexReply(raft.term, raft.id, asker, context, index))
    elif index:
        raft.confirm_read(context, index)
    else:
        raft.reject_read(context)
