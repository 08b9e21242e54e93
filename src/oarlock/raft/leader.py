"""What a leader does: replicate, commit, and step down without a quorum.

Sending is lazy. Proposals, acknowledgements, reads and heartbeats only change state; `flush`, called once
per Ready, then sends each follower what it lacks. So everything that happened since the last Ready shares
one message per follower, which carries the entries, the commit index and the confirmation round.

Other files hold the rest of leading: `reading` (confirmation rounds and leases), `reconfiguration`
(membership changes), `transfer` (handing over), `snapshots` (for followers that are far behind).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from oarlock.errors import Busy, ChangeRefused, WireError, invariant
from oarlock.raft import reading, reconfiguration, snapshots, transfer, turns
from oarlock.raft.leading import Leading, leading_of
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    ChangeMembership,
    ChangeMembershipReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    Propose,
    ProposeReply,
    ReadIndex,
    SnapshotTurn,
)
from oarlock.raft.progress import Progress, ProgressState
from oarlock.raft.quorum import agreed
from oarlock.raft.types import NOBODY, Entry, EntryKind, Index, NodeId

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


def start(raft: Raft) -> None:
    """Just elected: append a no-op, for entries of earlier terms only commit beneath one of ours (3.6.2)."""
    next_index = raft.log.last_index + 1
    progress = {peer: Progress(next_index, raft.now) for peer in raft.configuration.ids if peer != raft.id}
    leading = Leading(progress, next_index, raft.now, raft.now + raft.config.heartbeat_interval)
    leading.uncommitted_bytes = raft.log.bytes_between(raft.commit_index + 1, raft.log.last_index)
    raft.leading = leading
    raft.append((Entry(next_index, raft.term, EntryKind.NOOP, b"", raft.clock.read(raft.now)),))
    advance_commit(raft)


def abdicate(raft: Raft) -> None:
    """Stop leading: whoever waits for something of ours is told."""
    reading.give_up(raft)
    transfer.abdicated(raft)
    raft.leading = None


def step(raft: Raft, message: Message) -> None:
    """A message of our own term, or one that holds in any term."""
    match message:
        case AppendEntriesReply():
            _append_entries_reply(raft, message)
        case Propose():
            _propose_for_another(raft, message)
        case ReadIndex():
            try:
                reading.read(raft, message.context, message.sender)
            except Busy:
                reading.answer(raft, message.context, message.sender, 0)
        case InstallSnapshotReply():
            _install_snapshot_reply(raft, message)
        case ChangeMembership():
            _change_for_another(raft, message)
        case SnapshotTurn():
            turns.step(raft, message)
        case AppendEntries() | InstallSnapshot():
            raise WireError(f"{message.sender:x} claims to lead term {raft.term}, which we lead")
        case _:
            pass  # votes that came after the election was won


def timeout(raft: Raft) -> None:
    """Time for heartbeats; and to look whether a quorum still answers (6.2)."""
    if not has_quorum(raft):
        raft.become_follower(raft.term, NOBODY, "no quorum answered for an election timeout")
        return
    leading = leading_of(raft)
    if raft.now >= leading.heartbeat_due:
        leading.heartbeat_due = raft.now + raft.config.heartbeat_interval
        leading.new_round(raft.now)
    transfer.timeout(raft)


def has_quorum(raft: Raft) -> bool:
    """Whether a quorum was in touch within the last election timeout."""
    heard = {peer: progress.heard_at for peer, progress in leading_of(raft).progress.items()}
    heard[raft.id] = raft.now
    return raft.now - agreed(raft.configuration, heard, float("-inf")) < raft.config.election_timeout


def propose(raft: Raft, commands: Sequence[bytes]) -> Index:
    leading = leading_of(raft)
    size = sum(map(len, commands))
    # An idle leader takes a batch of any size: else one that is over the bound could never pass.
    if leading.uncommitted_bytes and leading.uncommitted_bytes + size > raft.config.uncommitted_bytes_max:
        raise Busy(
            f"{leading.uncommitted_bytes} bytes are uncommitted already, "
            f"and the limit is {raft.config.uncommitted_bytes_max}"
        )
    leading.uncommitted_bytes += size
    first, term, kind, time = raft.log.last_index + 1, raft.term, EntryKind.COMMAND, raft.clock.read(raft.now)
    raft.append([Entry(index, term, kind, command, time) for index, command in enumerate(commands, first)])
    return first


def _propose_for_another(raft: Raft, message: Propose) -> None:
    if leading_of(raft).transfer is not None:
        transfer.hold(raft, message)
        return
    try:
        propose(raft, message.commands)
    except Busy:
        raft.send(ProposeReply(raft.term, raft.id, message.sender, message.batch, True))


def _change_for_another(raft: Raft, message: ChangeMembership) -> None:
    index, reason, text = 0, 0, ""
    try:
        index = reconfiguration.change(raft, message.change)
    except ChangeRefused as refused:
        reason, text = refused.reason, str(refused)
    raft.send(ChangeMembershipReply(raft.term, raft.id, message.sender, message.number, index, reason, text))


def flush(raft: Raft) -> None:
    """Send each follower what it lacks: entries, else a round or commit index that is new to it."""
    leading = leading_of(raft)
    for peer, progress in leading.progress.items():
        if progress.next_index <= raft.log.base_index and progress.state is not ProgressState.SNAPSHOT:
            progress.become_snapshot()
        if progress.state is ProgressState.SNAPSHOT:
            if progress.round_sent < leading.round and not snapshots.offer(raft, peer, progress):
                _send_append(raft, peer, progress, ())
            continue
        sent = False
        while progress.next_index <= raft.log.last_index and progress.may_send(raft.config):
            entries, size = raft.log.batch(
                progress.next_index, raft.log.last_index, raft.config.append_bytes_max
            )
            _send_append(raft, peer, progress, entries)
            progress.sent(entries[-1].index, size)
            sent = True
        if not sent and (
            progress.round_sent < leading.round
            or (progress.state is ProgressState.REPLICATE and progress.commit_sent < raft.commit_index)
        ):
            _send_append(raft, peer, progress, ())
    leading.round_flushed = leading.round
    if leading.reconfiguring:
        reconfiguration.forget_told(raft)


def _send_append(raft: Raft, peer: NodeId, progress: Progress, entries: tuple[Entry, ...]) -> None:
    # Who waits for a snapshot that has still to be written gets heartbeats that it will refuse.
    previous_index = max(progress.next_index - 1, raft.log.base_index)
    previous_term = raft.log.term_at(previous_index)
    invariant(previous_term is not None, "a leader's log holds what precedes what it sends")
    progress.round_sent = leading_of(raft).round
    progress.commit_sent = raft.commit_index
    raft.send(
        AppendEntries(
            raft.term,
            raft.id,
            peer,
            previous_index,
            previous_term or 0,
            raft.commit_index,
            entries,
            progress.round_sent,
        )
    )


def _append_entries_reply(raft: Raft, message: AppendEntriesReply) -> None:
    progress = _heard(raft, message)
    if progress is None:
        return
    if message.success:
        _matched(raft, message.sender, progress, message.match_index)
    elif progress.state is not ProgressState.SNAPSHOT:
        _refused(raft, progress, message)
    if raft.leading is not None:
        reading.confirm(raft)


def _install_snapshot_reply(raft: Raft, message: InstallSnapshotReply) -> None:
    progress = _heard(raft, message)
    if progress is None:
        return
    if message.match_index:
        _matched(raft, message.sender, progress, message.match_index)
    elif progress.state is ProgressState.SNAPSHOT:
        progress.received = message.received
    if raft.leading is not None:
        reading.confirm(raft)


def _heard(raft: Raft, message: AppendEntriesReply | InstallSnapshotReply) -> Progress | None:
    """A follower answered: it is in touch, and it echoes a round."""
    leading = leading_of(raft)
    progress = leading.progress.get(message.sender)
    if progress is None:
        return None
    if message.match_index > raft.log.last_index or message.round > leading.round:
        raise WireError(
            f"{type(message).__name__} from {message.sender:x}: index {message.match_index}, "
            f"round {message.round}, but we sent {raft.log.last_index} and {leading.round} at most"
        )
    progress.heard_at = raft.now
    progress.round = max(progress.round, message.round)
    return progress


def _matched(raft: Raft, peer: NodeId, progress: Progress, match_index: Index) -> None:
    """The follower's log equals ours up to `match_index`, durably."""
    news = progress.acknowledged(match_index)
    # What it says may be old: a snapshot that it needs, it needs until its log reaches ours.
    if progress.state is ProgressState.PROBE or (
        progress.state is ProgressState.SNAPSHOT and progress.match_index >= raft.log.base_index
    ):
        progress.become_replicate()
    if news:
        advance_commit(raft)
        if raft.leading is not None:
            reconfiguration.matched(raft, peer, progress)
            transfer.advance(raft)


def _refused(raft: Raft, progress: Progress, message: AppendEntriesReply) -> None:
    """The follower's log does not hold what we took for granted: go back to where both can agree."""
    refused = message.match_index
    stale = (
        refused <= progress.match_index
        if progress.state is ProgressState.REPLICATE
        else refused != progress.next_index - 1
    )
    if stale:
        return
    agreement, _ = raft.log.agreement_hint(min(message.hint_index, refused - 1), message.hint_term)
    progress.become_probe(agreement + 1)


def advance_commit(raft: Raft) -> None:
    """Commit what a quorum has durably, if it is of our own term (3.6.2). Our disk is one of the quorum."""
    leading = leading_of(raft)
    matches = {peer: progress.match_index for peer, progress in leading.progress.items()}
    matches[raft.id] = raft.log.stored_index
    index = agreed(raft.configuration, matches, 0)
    if index <= raft.commit_index or raft.log.term_at(index) != raft.term:
        return
    leading.uncommitted_bytes -= raft.log.bytes_between(raft.commit_index + 1, index)
    raft.commit(index)
    if leading.reads_before_first_commit:
        reading.first_entry_committed(raft)
    if leading.reconfiguring:
        reconfiguration.committed(raft)
