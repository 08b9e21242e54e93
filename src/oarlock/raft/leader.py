"""What a leader does: replicate, commit, confirm reads, and step down without a quorum.

Sending is lazy. Proposals, acknowledgements, reads and heartbeats only change state; `flush`, called once
per Ready, then sends each follower what it lacks. So everything that happened since the last Ready shares
one message per follower, which carries the entries, the commit index and the confirmation round.

Confirmation rounds serve reads and heartbeats alike. Each round has a number; a follower echoes the latest
it saw. A quorum that has echoed r or more proves that we still led when r began (dissertation 6.4).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from oarlock.errors import Busy, WireError, invariant
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Message,
    Propose,
    ProposeReply,
    ReadIndex,
    ReadIndexReply,
)
from oarlock.raft.progress import Progress, ProgressState
from oarlock.raft.quorum import agreed
from oarlock.raft.types import NOBODY, Entry, EntryKind, Index, NodeId

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


class Leading:
    """What only a leader keeps, from its election to its abdication."""

    __slots__ = (
        "first_index",
        "heartbeat_due",
        "progress",
        "reads",
        "reads_before_first_commit",
        "round",
        "round_flushed",
        "uncommitted_bytes",
    )

    def __init__(self, progress: dict[NodeId, Progress], first_index: Index, heartbeat_due: float) -> None:
        self.progress = progress
        """The others, by id, in order of id."""
        self.first_index = first_index
        """Our no-op: the first entry of our term. Reads wait until it is committed (6.4)."""
        self.heartbeat_due = heartbeat_due
        self.round = 0
        """The latest confirmation round."""
        self.round_flushed = 0
        """The latest one that went out. While it is behind `round`, more reads may join that one."""
        self.reads: deque[tuple[int, int, NodeId, Index]] = deque()
        """Reads to confirm: round, context, who asked, and the commit index when they came."""
        self.reads_before_first_commit: list[tuple[int, NodeId]] = []
        self.uncommitted_bytes = 0


def start(raft: Raft) -> None:
    """Just elected: append a no-op, for entries of earlier terms only commit beneath one of ours (3.6.2)."""
    next_index = raft.log.last_index + 1
    progress = {peer: Progress(next_index, raft.now) for peer in raft.configuration.ids if peer != raft.id}
    leading = Leading(progress, next_index, raft.now + raft.config.heartbeat_interval)
    leading.uncommitted_bytes = raft.log.bytes_between(raft.commit_index + 1, raft.log.last_index)
    raft.leading = leading
    raft.append((Entry(next_index, raft.term, EntryKind.NOOP),))
    leading.round = 1
    advance_commit(raft)


def abdicate(raft: Raft) -> None:
    """Stop leading: whoever waits for a read is told."""
    leading = _leading(raft)
    raft.leading = None
    for _, context, asker, _ in leading.reads:
        _answer_read(raft, context, asker, 0)
    for context, asker in leading.reads_before_first_commit:
        _answer_read(raft, context, asker, 0)


def step(raft: Raft, message: Message) -> None:
    """A message of our own term, or one that holds in any term."""
    match message:
        case AppendEntriesReply():
            _append_entries_reply(raft, message)
        case Propose():
            try:
                propose(raft, message.commands)
            except Busy:
                raft.send(ProposeReply(raft.term, raft.id, message.sender, message.batch, True))
        case ReadIndex():
            try:
                read(raft, message.context, message.sender)
            except Busy:
                _answer_read(raft, message.context, message.sender, 0)
        case AppendEntries():
            raise WireError(f"{message.sender:x} claims to lead term {raft.term}, which we lead")
        case _:
            pass  # votes that came after the election was won


def timeout(raft: Raft) -> None:
    """Time for heartbeats; and to look whether a quorum still answers (6.2)."""
    if not has_quorum(raft):
        raft.become_follower(raft.term, NOBODY, "no quorum answered for an election timeout")
        return
    leading = _leading(raft)
    leading.heartbeat_due = raft.now + raft.config.heartbeat_interval
    _new_round(leading)


def has_quorum(raft: Raft) -> bool:
    """Whether a quorum was in touch within the last election timeout."""
    heard = {peer: progress.heard_at for peer, progress in _leading(raft).progress.items()}
    heard[raft.id] = raft.now
    return raft.now - agreed(raft.configuration, heard, float("-inf")) < raft.config.election_timeout


def propose(raft: Raft, commands: Sequence[bytes]) -> Index:
    leading = _leading(raft)
    size = sum(map(len, commands))
    # An idle leader takes a batch of any size: else one that is over the bound could never pass.
    if leading.uncommitted_bytes and leading.uncommitted_bytes + size > raft.config.uncommitted_bytes_max:
        raise Busy(
            f"{leading.uncommitted_bytes} bytes are uncommitted already, "
            f"and the limit is {raft.config.uncommitted_bytes_max}"
        )
    leading.uncommitted_bytes += size
    first, term, kind = raft.log.last_index + 1, raft.term, EntryKind.COMMAND
    raft.append([Entry(index, term, kind, command) for index, command in enumerate(commands, first)])
    return first


def flush(raft: Raft) -> None:
    """Send each follower what it lacks: entries, else a round or commit index that is new to it."""
    leading = _leading(raft)
    for peer, progress in leading.progress.items():
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


def _send_append(raft: Raft, peer: NodeId, progress: Progress, entries: tuple[Entry, ...]) -> None:
    previous_index = progress.next_index - 1
    previous_term = raft.log.term_at(previous_index)
    invariant(previous_term is not None, "a leader's log holds what precedes what it sends")
    progress.round_sent = _leading(raft).round
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
    leading = _leading(raft)
    progress = leading.progress.get(message.sender)
    if progress is None:
        return
    if message.match_index > raft.log.last_index or message.round > leading.round:
        raise WireError(
            f"AppendEntriesReply from {message.sender:x}: index {message.match_index}, "
            f"round {message.round}, but we sent {raft.log.last_index} and {leading.round} at most"
        )
    progress.heard_at = raft.now
    progress.round = max(progress.round, message.round)
    if message.success:
        news = progress.acknowledged(message.match_index)
        if progress.state is ProgressState.PROBE:
            progress.become_replicate()
        if news:
            advance_commit(raft)
    else:
        _refused(raft, progress, message)
    _confirm_reads(raft)


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
    leading = _leading(raft)
    matches = {peer: progress.match_index for peer, progress in leading.progress.items()}
    matches[raft.id] = raft.log.stored_index
    index = agreed(raft.configuration, matches, 0)
    if index <= raft.commit_index or raft.log.term_at(index) != raft.term:
        return
    leading.uncommitted_bytes -= raft.log.bytes_between(raft.commit_index + 1, index)
    raft.commit(index)
    if leading.reads_before_first_commit:
        waiting, leading.reads_before_first_commit = leading.reads_before_first_commit, []
        for context, asker in waiting:
            _register_read(raft, context, asker)


def read(raft: Raft, context: int, asker: NodeId) -> None:
    """Confirm that we lead, then answer with the commit index as of now (6.4)."""
    leading = _leading(raft)
    if len(leading.reads) + len(leading.reads_before_first_commit) >= raft.config.pending_reads_max:
        raise Busy(f"{raft.config.pending_reads_max} reads wait for confirmation already")
    if raft.commit_index < leading.first_index:
        leading.reads_before_first_commit.append((context, asker))
    else:
        _register_read(raft, context, asker)


def _register_read(raft: Raft, context: int, asker: NodeId) -> None:
    leading = _leading(raft)
    if raft.alone:
        _answer_read(raft, context, asker, raft.commit_index)
        return
    if leading.round_flushed == leading.round:
        _new_round(leading)
    leading.reads.append((leading.round, context, asker, raft.commit_index))


def _new_round(leading: Leading) -> None:
    leading.round += 1


def _confirm_reads(raft: Raft) -> None:
    leading = _leading(raft)
    if not leading.reads:
        return
    rounds = {peer: progress.round for peer, progress in leading.progress.items()}
    rounds[raft.id] = leading.round
    confirmed = agreed(raft.configuration, rounds, 0)
    while leading.reads and leading.reads[0][0] <= confirmed:
        _, context, asker, index = leading.reads.popleft()
        _answer_read(raft, context, asker, index)


def _answer_read(raft: Raft, context: int, asker: NodeId, index: Index) -> None:
    """`index` 0: it could not be confirmed."""
    if asker != raft.id:
        raft.send(ReadIndexReply(raft.term, raft.id, asker, context, index))
    elif index:
        raft.confirm_read(context, index)
    else:
        raft.reject_read(context)


def _leading(raft: Raft) -> Leading:
    invariant(raft.leading is not None, "only a leader does this")
    return raft.leading  # type: ignore[return-value]
