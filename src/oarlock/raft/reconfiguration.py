"""Leading through membership changes: judge them, take each next step, and let those go who leave.

What a change leads to is worked out in `membership`. Here is when: a step is taken when the configuration
before it is committed, never sooner (4.1, 4.3). So every leader does the same, whatever the last one did.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from oarlock.errors import ChangeReason, ChangeRefused
from oarlock.raft import transfer
from oarlock.raft.leading import leading_of
from oarlock.raft.membership import after_joint, encode_configuration, planned
from oarlock.raft.messages import TimeoutNow
from oarlock.raft.progress import Progress, ProgressState
from oarlock.raft.quorum import majority
from oarlock.raft.types import NOBODY, Change, Configuration, Entry, EntryKind, Index, NodeId

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft


def change(raft: Raft, asked: Change) -> Index:
    """Append the configuration that `asked` leads to. Raises `ChangeRefused`."""
    if asked.expected_index not in (0, raft.configuration_index):
        raise ChangeRefused(
            ChangeReason.OUTDATED,
            f"the membership changed at index {raft.configuration_index}, after {asked.expected_index}",
        )
    leading = leading_of(raft)
    if leading.transfer is not None:  # it would put off the end of the transfer (3.10)
        raise ChangeRefused(
            ChangeReason.IN_PROGRESS, f"leadership is being handed to {leading.transfer.target:x}"
        )
    if raft.commit_index < leading.first_index:
        raise ChangeRefused(ChangeReason.IN_PROGRESS, "the leader has not committed in its term yet")
    if raft.configuration_index > raft.commit_index or raft.configuration.joint:
        raise ChangeRefused(ChangeReason.IN_PROGRESS, "another change of the membership is under way")
    configuration = planned(raft.configuration, asked, lambda learner: _keeps_up(raft, learner))
    if raft.config.strict_reconfiguration and {*configuration.voters} != {*raft.configuration.voters}:
        _check_quorum(raft, configuration)
    return _append(raft, configuration)


def in_effect(raft: Raft) -> None:
    """A configuration was appended: newcomers get the log; who leaves does until it has been told."""
    leading = leading_of(raft)
    leading.reconfiguring = True
    next_index = raft.log.last_index + 1
    for peer in raft.configuration.ids:
        if peer != raft.id and peer not in leading.progress:
            leading.progress[peer] = Progress(next_index, raft.now)
    leading.progress = {peer: leading.progress[peer] for peer in sorted(leading.progress)}


def _settled(raft: Raft) -> bool:
    """Whether nothing follows from the configuration in effect, which is committed."""
    configuration = raft.configuration
    return (
        not configuration.joint
        and not configuration.joining
        and configuration.is_voter(raft.id)
        and len(leading_of(raft).progress) == len(configuration.ids) - 1
    )


def committed(raft: Raft) -> None:
    """The configuration in effect is committed: take the next step, if there is one."""
    if raft.configuration_index > raft.commit_index or raft.commit_index < leading_of(raft).first_index:
        return
    configuration = raft.configuration
    if configuration.joint:
        _append(raft, after_joint(configuration))
        return
    for peer, progress in leading_of(raft).progress.items():
        if peer not in configuration.ids:
            progress.leaving_until = min(progress.leaving_until, raft.now + raft.config.election_timeout)
    if not configuration.is_voter(raft.id):
        _step_down(raft)
        return
    leading_of(raft).reconfiguring = not _settled(raft)
    ready = tuple(node_id for node_id in configuration.joining if _keeps_up(raft, node_id))
    if ready:
        _append(raft, planned(configuration, Change(promote=ready[:1]), lambda learner: True))


def matched(raft: Raft, peer: NodeId, progress: Progress) -> None:
    """A follower acknowledged entries: if it is a learner, that may have been the end of a round (4.2.1)."""
    if peer in raft.configuration.learners:
        progress.catch_up.acknowledged(
            progress.match_index, raft.log.last_index, raft.now, raft.config.election_timeout
        )
        if peer in raft.configuration.joining:
            committed(raft)


def forget_told(raft: Raft) -> None:
    """Stop sending to those who left, once they were sent the entry that says so, and its commit (4.2.2)."""
    progress = leading_of(raft).progress
    for peer in [peer for peer, each in progress.items() if _told(raft, each)]:
        del progress[peer]


def _told(raft: Raft, progress: Progress) -> bool:
    if progress.leaving_until == math.inf:
        return False
    return raft.now >= progress.leaving_until or (
        progress.state is ProgressState.REPLICATE
        and progress.match_index >= raft.configuration_index
        and progress.commit_sent >= raft.configuration_index
    )


def _append(raft: Raft, configuration: Configuration) -> Index:
    index = raft.log.last_index + 1
    data = encode_configuration(configuration)
    leading_of(raft).uncommitted_bytes += len(data)
    raft.append((Entry(index, raft.term, EntryKind.CONFIGURATION, data, raft.clock.read(raft.now)),))
    return index


def _keeps_up(raft: Raft, learner: NodeId) -> bool:
    progress = leading_of(raft).progress.get(learner)
    return (
        progress is not None
        and progress.state is ProgressState.REPLICATE
        and progress.catch_up.keeps_up(progress.match_index, raft.now, raft.config.election_timeout)
    )


def _check_quorum(raft: Raft, configuration: Configuration) -> None:
    """Refuse what would leave too few voters that answer: a slip of the hand must not stop the cluster."""
    progress = leading_of(raft).progress
    answering = [
        voter
        for voter in configuration.voters
        if voter == raft.id
        or (voter in progress and raft.now - progress[voter].heard_at < raft.config.election_timeout)
    ]
    needed = majority(len(configuration.voters))
    if len(answering) < needed:
        raise ChangeRefused(
            ChangeReason.NO_QUORUM,
            f"it leaves {len(configuration.voters)} voters, of which {len(answering)} answer now, "
            f"and {needed} are needed",
        )


def _step_down(raft: Raft) -> None:
    """We are no voter any more, and that is committed: our work is done (4.2.2)."""
    target = transfer.best_target(raft)
    if target != NOBODY:
        leading_of(raft).lease_given_up = True
        raft.send(TimeoutNow(raft.term, raft.id, target))
    raft.become_follower(raft.term, NOBODY, "not a voter any more")
