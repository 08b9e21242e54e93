"""One member alone: the test plays all the others, and the disk.

For tests of single rules, where a whole `Stage` would only be in the way.
"""

from __future__ import annotations

import random
from typing import Any

from oarlock.raft.config import Config
from oarlock.raft.membership import bootstrap
from oarlock.raft.messages import AppendEntriesReply, PreVoteReply, RequestVoteReply
from oarlock.raft.raft import Raft
from oarlock.raft.roles import Role
from oarlock.raft.types import Configuration, Entry, HardState, NodeId


def core(
    *terms: int,
    term: int = 0,
    vote: int = 0,
    commit: int = 1,
    size: int = 3,
    seed: int = 1,
    configuration: Configuration | None = None,
    **settings: Any,
) -> Raft:
    """Member 1, restarted with a log of these terms behind the configuration entry (term 1)."""
    _, first = bootstrap(configuration or Configuration(voters=tuple(range(1, size + 1))))
    entries = (*first, *(Entry(index, t) for index, t in enumerate(terms, 2)))
    return Raft(
        Config(id=1, election_timeout=1.0, heartbeat_interval=0.2, **settings),
        HardState(term or entries[-1].term, vote, commit),
        entries,
        random=random.Random(seed),
        now=0.0,
        applied_index=commit,
    )


def sent(raft: Raft, *, store: bool = True) -> list[Any]:
    """All messages that go out; with `store`, as if every disk write were done at once."""
    messages: list[Any] = []
    while (ready := raft.ready()) is not None:
        messages += ready.messages
        if store:
            messages += ready.messages_after_stored
            raft.stored(ready.number)
        if ready.committed:
            raft.applied(ready.committed[-1].index)
    return messages


def elected(*terms: int, **settings: Any) -> Raft:
    """Member 1 as the leader of the term after its last, with its no-op sent and not yet acknowledged."""
    raft = core(*terms, **settings)
    raft.timeout(raft.deadline)
    sent(raft)
    voters = [peer for peer in raft.configuration.voters if peer != 1]
    for peer in voters:
        raft.step(PreVoteReply(raft.term + (raft.role is Role.PRE_CANDIDATE), peer, 1, True), raft.now)
    sent(raft)
    for peer in voters:
        raft.step(RequestVoteReply(raft.term, peer, 1, True), raft.now)
    assert raft.role is Role.LEADER
    return raft


def established(**settings: Any) -> Raft:
    """A leader that has committed its no-op, index 2 of term 2: all have it."""
    raft = elected(**settings)
    sent(raft)
    for peer in raft.configuration.ids:
        if peer != 1:
            raft.step(AppendEntriesReply(2, peer, 1, True, 2, 1), raft.now)
    sent(raft)
    assert raft.commit_index == 2
    return raft


def reads(raft: Raft) -> list[tuple[int, int]]:
    confirmed: list[tuple[int, int]] = []
    while (ready := raft.ready()) is not None:
        confirmed += [(state.context, state.index) for state in ready.reads]
        raft.stored(ready.number)
    return confirmed


def acknowledge(raft: Raft, *peers: NodeId) -> list[Any]:
    """These followers hold all that the leader has, and heard its latest round. Returns what it sends."""
    leading = raft.leading
    assert leading is not None
    for peer in peers:
        if raft.role is Role.LEADER:
            raft.step(
                AppendEntriesReply(raft.term, peer, 1, True, raft.log.last_index, leading.round), raft.now
            )
    return sent(raft)
