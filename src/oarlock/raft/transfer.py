"""Handing over leadership (dissertation 3.10): asked for, to a preferred member, or because our disk is sick.

::

    asked ──▶ no new proposals; the target gets all entries ──▶ TimeoutNow ──▶ it is elected, we follow
                          │
                          └─ not done within an election timeout: given up, and we go on as before

TimeoutNow makes the target stand at once, without PreVote, and its RequestVote says that the leader asked for
it, so that voters do not refuse it because of that leader (4.2.3).

What was proposed meanwhile is not lost: our own member's commands stay with its driver (`propose` raises
`NotLeader`), those that others sent are held here, and appended if the transfer is given up. Refusing them
would be a promise that this term never takes any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.errors import ChangeReason, ChangeRefused
from oarlock.raft import trace
from oarlock.raft.leading import Transfer, leading_of
from oarlock.raft.messages import Propose, ProposeReply, TimeoutNow
from oarlock.raft.progress import Progress, ProgressState
from oarlock.raft.types import NOBODY, NodeId

if TYPE_CHECKING:
    from oarlock.raft.raft import Raft

_PREFERENCE_TIMEOUTS = 4
"""A leader looks for a preferred member no sooner, in election timeouts, after it took over or tried to hand
over: an attempt that failed is not repeated at once."""


def begin(raft: Raft, target: NodeId, of_sick_disk: bool = False) -> NodeId:
    """Start a transfer; `NOBODY` as the target means the best one. Returns the target.

    Raises:
        ChangeRefused: nobody fits, or another transfer is under way.
    """
    leading = leading_of(raft)
    if leading.transfer is not None:
        if target in (NOBODY, leading.transfer.target):
            return leading.transfer.target
        raise ChangeRefused(
            ChangeReason.IN_PROGRESS, f"leadership is being handed to {leading.transfer.target:x} already"
        )
    if target == NOBODY:
        target = best_target(raft)
        if target == NOBODY:
            raise ChangeRefused(ChangeReason.NO_TARGET, "no other voter is in touch with the leader")
    elif target == raft.id:
        raise ChangeRefused(ChangeReason.NO_TARGET, f"{target:x} leads already")
    elif target not in raft.configuration.voters:
        raise ChangeRefused(ChangeReason.NO_TARGET, f"{target:x} is not a voter")
    elif not _in_touch(raft, leading.progress[target]):
        raise ChangeRefused(ChangeReason.NO_TARGET, f"{target:x} is not in touch with the leader")
    leading.transfer = Transfer(target, raft.now + raft.config.election_timeout, of_sick_disk)
    if raft.trace is not None:
        raft.trace(trace.TransferBegan(raft.id, target))
    advance(raft)
    return target


def advance(raft: Raft) -> None:
    """Tell the target to stand, once it has all entries. Again with every heartbeat: messages get lost."""
    leading = leading_of(raft)
    transfer = leading.transfer
    if transfer is None:
        return
    progress = leading.progress.get(transfer.target)
    if progress is None or transfer.target not in raft.configuration.voters:
        give_up(raft, "the target was removed")
    elif progress.match_index == raft.log.last_index and not transfer.told:
        transfer.told = True
        leading.lease_given_up = True
        raft.send(TimeoutNow(raft.term, raft.id, transfer.target))


def timeout(raft: Raft) -> None:
    """Time passed: repeat, or give up; and look whether there is a reason to hand over."""
    leading = leading_of(raft)
    if leading.transfer is not None:
        if raft.now < leading.transfer.deadline:
            leading.transfer.told = False
            advance(raft)
            return
        if leading.transfer.of_sick_disk and not raft.alone:
            raft.become_follower(raft.term, NOBODY, "the disk hangs, and nobody took over")
        else:
            give_up(raft, "the target did not take over in time")
        return
    if raft.disk_is_sick():
        target = best_target(raft)
        if target != NOBODY:
            begin(raft, target, of_sick_disk=True)
    elif raft.now - leading.preferred_at >= _PREFERENCE_TIMEOUTS * raft.config.election_timeout:
        target = _preferred(raft)
        if target != NOBODY:
            leading.preferred_at = raft.now
            begin(raft, target)


def hold(raft: Raft, message: Propose) -> None:
    """A transfer is under way: keep what others want appended until its end."""
    transfer = leading_of(raft).transfer
    size = sum(map(len, message.commands))
    if transfer is None or transfer.held_bytes + size > raft.config.uncommitted_bytes_max:
        raft.send(ProposeReply(raft.term, raft.id, message.sender, message.batch, True))
        return
    transfer.held.append(message)
    transfer.held_bytes += size


def give_up(raft: Raft, reason: str) -> None:
    """The transfer failed: lead on, and append what was held."""
    leading = leading_of(raft)
    transfer, leading.transfer = leading.transfer, None
    if transfer is None:
        return
    if raft.trace is not None:
        raft.trace(trace.TransferGivenUp(raft.id, transfer.target, reason))
    for message in transfer.held:
        raft.step(message, raft.now)


def abdicated(raft: Raft) -> None:
    """We lead no longer: what was held is refused, and goes to whoever leads next."""
    transfer = leading_of(raft).transfer
    if transfer is not None:
        for message in transfer.held:
            raft.send(ProposeReply(raft.term, raft.id, message.sender, message.batch))


def best_target(raft: Raft) -> NodeId:
    """The voter in touch that is closest to our log: it can take over soonest. Of equals, the preferred."""
    candidates = [
        (progress.match_index, _priority(raft, peer), -peer)
        for peer, progress in leading_of(raft).progress.items()
        if peer in raft.configuration.voters and _in_touch(raft, progress)
    ]
    return -max(candidates)[2] if candidates else NOBODY


def _preferred(raft: Raft) -> NodeId:
    """A voter of a higher priority than ours that keeps up, or `NOBODY`."""
    if raft.commit_index < raft.configuration_index or raft.configuration.joint:
        return NOBODY
    own = _priority(raft, raft.id)
    candidates = [
        (_priority(raft, peer), progress.match_index, -peer)
        for peer, progress in leading_of(raft).progress.items()
        if peer in raft.configuration.voters
        and _priority(raft, peer) > own
        and _in_touch(raft, progress)
        and progress.state is ProgressState.REPLICATE
        and progress.match_index >= raft.commit_index  # all writes wait for it, so not for its disk, too
    ]
    return -max(candidates)[2] if candidates else NOBODY


def _in_touch(raft: Raft, progress: Progress) -> bool:
    return raft.now - progress.heard_at < raft.config.election_timeout


def _priority(raft: Raft, node_id: NodeId) -> int:
    member = raft.configuration.member(node_id)
    return 0 if member is None else member.priority
