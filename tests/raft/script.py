"""The words of scripts and the lines of transcripts: what `Stage` reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oarlock.raft import trace
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    ChangeMembership,
    ChangeMembershipReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    PreVote,
    PreVoteReply,
    Propose,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    SnapshotTurn,
    SnapshotTurnReply,
)
from oarlock.raft.types import (
    Change,
    Configuration,
    Entry,
    EntryKind,
    Member,
    NodeId,
)


def short_entry(entry: Entry) -> str:
    what = entry.data.decode() if entry.kind is EntryKind.COMMAND else entry.kind.name.lower()
    return f"{entry.index}:{entry.term}:{what}"


def short(message: Message) -> str:
    """One message as a short line."""
    head = f"{message.sender}→{message.to} {type(message).__name__} term {message.term}"
    match message:
        case PreVote() | RequestVote():
            why = ", handed over" if isinstance(message, RequestVote) and message.transfer else ""
            return f"{head}, log ends {message.last_log_index}:{message.last_log_term}{why}"
        case PreVoteReply() | RequestVoteReply():
            return f"{head}, " + ("granted" if message.granted else f"refused: {message.reason}")
        case AppendEntries():
            entries = " ".join(map(short_entry, message.entries)) or "nothing"
            return (
                f"{head}, after {message.previous_index}:{message.previous_term} {entries}, "
                f"commit {message.commit_index}, round {message.round}"
            )
        case AppendEntriesReply() if message.success:
            return f"{head}, holds {message.match_index}, round {message.round}"
        case AppendEntriesReply():
            return (
                f"{head}, lacks {message.match_index}, "
                f"agreement at most at {message.hint_index}:{message.hint_term}, round {message.round}"
            )
        case ReadIndexReply():
            return f"{head}, read {message.context}: " + (
                f"index {message.index}" if message.index else "refused"
            )
        case Propose():
            return f"{head}, batch {message.batch}: {' '.join(c.decode() for c in message.commands)}"
        case InstallSnapshot():
            return (
                f"{head}, snapshot of {message.snapshot.index}:{message.snapshot.term}, round {message.round}"
            )
        case InstallSnapshotReply():
            how_far = (
                f"holds {message.match_index}" if message.match_index else f"has {message.received} bytes"
            )
            return f"{head}, {how_far}, round {message.round}"
        case ChangeMembership():
            return f"{head}, number {message.number}"
        case ChangeMembershipReply():
            result = (
                f"at {message.index}" if message.index else f"refused: {message.text or 'not the leader'}"
            )
            return f"{head}, number {message.number} {result}"
        case SnapshotTurn():
            return f"{head}, " + ("done" if message.done else "may I?")
        case SnapshotTurnReply():
            return f"{head}, " + ("granted" if message.granted else "not now")
        case _:
            return head


def short_configuration(configuration: Configuration) -> str:
    """Who votes, and whatever else there is to say."""
    labels = ("voters", "outgoing", "demoted", "learners", "joining", "removed")
    parts = [
        f"{label} {' '.join(map(str, ids))}" for label in labels if (ids := getattr(configuration, label))
    ]
    return ", ".join(parts)


def parse_change(words: Sequence[str]) -> Change:
    """``add=4,5 promote=… demote=… remove=… after=7 learners``"""
    options: dict[str, Any] = {"learners": "learners" in words}
    for verb, ids in (word.split("=") for word in words if "=" in word):
        numbers = tuple(int(each) for each in ids.split(","))
        if verb == "after":
            options["expected_index"] = numbers[0]
        else:
            options[verb] = tuple(map(named, numbers)) if verb == "add" else numbers
    return Change(**options)


def named(node_id: NodeId) -> Member:
    return Member(node_id, f"n{node_id}")


def trace_line(event: trace.Event) -> str | None:
    match event:
        case trace.RoleChanged():
            leader = f" of {event.leader_id}" if event.leader_id else ""
            return f"{event.node} is {event.role}{leader} in term {event.term}: {event.reason}"
        case trace.EntriesAppended():
            return f"{event.node} appends {event.first} to {event.last}, term {event.term}"
        case trace.LogTruncated():
            return f"{event.node} cuts its log from {event.index} on"
        case trace.Committed():
            return f"{event.node} knows {event.index} to be committed"
        case trace.ConfigurationChanged():
            return (
                f"{event.node} is in configuration {event.index}: {short_configuration(event.configuration)}"
            )
        case trace.TransferBegan():
            return f"{event.node} hands over to {event.target}"
        case trace.TransferGivenUp():
            return f"{event.node} gives up handing over to {event.target}: {event.reason}"
        case trace.SnapshotTaken():
            return f"{event.node} has a snapshot of index {event.index}"
        case trace.SnapshotInstalled():
            return f"{event.node} starts its log anew behind {event.index}:{event.term}"
        case _:
            return None


def is_turning_point(line: str) -> bool:
    """Neither a message nor the daily business of a log."""
    return not line.startswith("    ") and " knows " not in line and " appends " not in line
