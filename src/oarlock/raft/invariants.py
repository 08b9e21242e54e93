"""What must always be true of one member: of each state, and of the step between two states.

The idea is LogCabin's: a short list of properties, checked after every step in tests and in the simulator,
finds most bugs at the step that makes them, long before two members disagree. Nothing here belongs to the
algorithm: a `Raft` never calls it.

::

    before = View(raft)
    raft.step(message, now)
    check(raft)                         # one state
    after = View(raft)
    check_step(before, after)           # two states

Both raise `InvariantViolated` with the member's id, the property and the values that break it. A check costs
a few microseconds whatever the length of the log: it looks at its ends and not at its middle. Properties that
take several members (one leader per term, log matching, state machine safety) need an observer who sees all
of them: the simulator, or `tests/raft/checkers.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oarlock.errors import InvariantViolated
from oarlock.raft.progress import ProgressState
from oarlock.raft.roles import TRANSITIONS, Role
from oarlock.raft.types import NOBODY, Configuration, Index, NodeId, Term

if TYPE_CHECKING:
    from oarlock.raft.log import RaftLog
    from oarlock.raft.raft import Raft


class View:
    """The part of a member's state that `check_step` compares, captured at one moment.

    `log` is the live log, not a copy: of two views, only the later one's log may be read, and only until the
    member's next step.
    """

    __slots__ = (
        "applied_index",
        "commit_index",
        "commit_term",
        "configuration",
        "configuration_index",
        "id",
        "last_index",
        "last_term",
        "leader_id",
        "log",
        "role",
        "stored_index",
        "term",
        "voted_for",
    )

    def __init__(self, raft: Raft) -> None:
        log = raft.log
        self.id: NodeId = raft.id
        self.term: Term = raft.term
        self.voted_for: NodeId = raft.voted_for
        self.role: Role = raft.role
        self.leader_id: NodeId = raft.leader_id
        self.commit_index: Index = raft.commit_index
        self.applied_index: Index = raft.applied_index
        self.last_index: Index = log.last_index
        self.last_term: Term = log.last_term
        self.stored_index: Index = log.stored_index
        self.commit_term: Term | None = log.term_at(self.commit_index)
        self.configuration: Configuration = raft.configuration
        self.configuration_index: Index = raft.configuration_index
        self.log: RaftLog = log

    def __repr__(self) -> str:
        return (
            f"{self.role.name} {self.id:x} term={self.term} vote={self.voted_for:x} "
            f"leader={self.leader_id:x} last=({self.last_index},{self.last_term}) stored={self.stored_index} "
            f"commit={self.commit_index} applied={self.applied_index}"
        )


def check(raft: Raft) -> None:
    """What holds in every state that a caller can see.

    Raises:
        InvariantViolated: one of the properties below does not hold.
    """
    log = raft.log
    last, commit = log.last_index, raft.commit_index
    if log.base_index > min(raft.commit_index, log.stored_index):
        _broken(raft, "nothing is dropped that is not both committed and stored")
    if log.base_index > raft.applied_index and not raft.installing:
        _broken(raft, "nothing is dropped that was not applied, but for a snapshot that is being installed")
    if not (raft.applied_index <= commit <= last and log.stored_index <= last and raft.applied_index >= 0):
        _broken(raft, "applied <= commit <= last and stored <= last")
    if raft.applied_index > log.stored_index:
        _broken(raft, "a state machine never outruns its member's own disk")
    if raft.term < log.last_term:
        _broken(raft, "no entry is of a later term than the member's")
    if raft.durable_term > raft.term:
        _broken(raft, "the durable term is a term that the member reached")
    if raft.durable_term == raft.term and raft.durable_vote not in (NOBODY, raft.voted_for):
        _broken(raft, "a durable vote is the vote")
    if (raft.role is Role.LEADER) != (raft.leader_id == raft.id) or (raft.role is Role.LEADER) != (
        raft.leading is not None
    ):
        _broken(raft, "a member takes itself for the leader exactly while it leads")
    if raft.role is Role.FOLLOWER:
        return
    if raft.role is not Role.LEADER and raft.leader_id != NOBODY:
        _broken(raft, "who stands for election knows no leader")
    if raft.role is not Role.PRE_CANDIDATE and raft.voted_for != raft.id:
        _broken(raft, "candidates and leaders have voted for themselves")
    if raft.role is Role.LEADER:
        _check_leader(raft)


def _check_leader(raft: Raft) -> None:
    last = raft.log.last_index
    if raft.log.last_term != raft.term:
        _broken(raft, "a leader's log ends with an entry of its own term")
    if raft.durable_term != raft.term or raft.durable_vote != raft.id:
        _broken(raft, "a leader's term and vote are durable")
    configuration, progress = raft.configuration, raft.progress
    for peer in (*configuration.voters, *configuration.outgoing, *configuration.learners):
        if (peer in progress) == (peer == raft.id):
            _broken(raft, "a leader follows up on every other member")
    if raft.transferring == raft.id:
        _broken(raft, "leadership is handed to somebody else")
    for peer, each in progress.items():
        if each.state is ProgressState.SNAPSHOT and (
            each.match_index >= raft.log.base_index or each.inflight_messages
        ):
            _broken(
                raft, f"only who lacks what was dropped needs a snapshot, and is sent no entries ({peer:x})"
            )
        if not 0 <= each.match_index < each.next_index <= last + 1:
            marks = f"match={each.match_index}, next={each.next_index}"
            _broken(raft, f"match < next <= last + 1 for {peer:x} ({marks})")


def check_log(raft: Raft) -> None:
    """The parts of `check` that take a look at the whole log: for the end of a run, or for short logs.

    Raises:
        InvariantViolated: the log or the configuration does not hold together.
    """
    index, term = 0, 0
    for entry in raft.log.slice(raft.log.first_index, raft.log.last_index):
        if entry.index != index + 1 and index:
            _broken(raft, f"indexes are consecutive ({entry.index} follows {index})")
        if entry.term < term:
            _broken(raft, f"terms never fall along the log (index {entry.index})")
        index, term = entry.index, entry.term
    problem = raft.configuration.problem()
    if raft.log.last_index and problem is not None:
        _broken(raft, f"the configuration is well formed: {problem}")


def check_step(before: View, after: View) -> None:
    """What holds between two moments of one member's life (between a start and the next crash).

    Raises:
        InvariantViolated: one of the properties below does not hold.
    """
    if after.term < before.term:
        _broken_step(before, after, "the term never falls")
    if after.commit_index < before.commit_index:
        _broken_step(before, after, "the commit index never falls")
    if after.applied_index < before.applied_index:
        _broken_step(before, after, "the applied index never falls")
    # What was dropped by now was committed; that it never changed cannot be seen any more.
    if before.commit_index >= after.log.base_index and (
        after.log.term_at(before.commit_index) != before.commit_term
    ):
        _broken_step(before, after, "committed entries never change")
    if after.configuration_index != before.configuration_index:
        _check_configurations(before, after)
    if after.term == before.term:
        _check_step_within_term(before, after)
    elif before.role is Role.LEADER and after.role is Role.LEADER:
        _broken_step(before, after, "a leader leads one term only")
    leads = before.role is Role.LEADER and after.role is Role.LEADER
    if leads and after.commit_index > before.commit_index and after.commit_term != after.term:
        # A follower may learn of older commits; a leader infers them from one of its own term (3.6.2).
        _broken_step(before, after, "a leader counts replicas only of entries of its own term")


def _check_step_within_term(before: View, after: View) -> None:
    if before.voted_for not in (NOBODY, after.voted_for):
        _broken_step(before, after, "within a term the vote is cast once")
    if NOBODY != before.leader_id != after.leader_id != NOBODY:
        _broken_step(before, after, "a term has one leader")
    if after.role is not before.role and after.role not in _REACHABLE[before.role]:
        _broken_step(before, after, "the role changes as the table of transitions allows")
    if before.role is Role.LEADER and (
        after.last_index < before.last_index
        or after.log.term_at(before.last_index) not in (before.last_term, None)
    ):
        _broken_step(before, after, "a leader only appends to its log")


def _check_configurations(before: View, after: View) -> None:
    problem = after.configuration.problem() if after.configuration_index else None
    if problem is not None:
        _broken_step(before, after, f"the configuration is well formed: {problem}")
    if before.role is not Role.LEADER or after.role is not Role.LEADER:
        return
    if before.configuration_index > after.commit_index:
        _broken_step(before, after, "a leader changes the membership once the last change is committed")
    if after.commit_term != after.term:
        _broken_step(before, after, "a leader changes the membership once it has committed in its term")
    if not _overlap(before.configuration, after.configuration):
        _broken_step(before, after, "majorities of consecutive configurations overlap")


def _overlap(old: Configuration, new: Configuration) -> bool:
    """Whether a step is one of those of chapter 4: one voter, into the joint phase, or out of it."""
    if old.joint:
        return not new.joint and new.voters == old.voters
    if new.joint:
        return new.outgoing == old.voters
    return len({*old.voters} ^ {*new.voters}) <= 1


def _reachable_within_a_term(start: Role) -> frozenset[Role]:
    """Where a member may be after any number of transitions without a new term: becoming a candidate begins
    one."""
    reached: list[Role] = [start]
    for role in reached:
        reached += [to for to in TRANSITIONS[role] if to is not Role.CANDIDATE and to not in reached]
    return frozenset(reached)


_REACHABLE = {role: _reachable_within_a_term(role) for role in Role}


def _broken(raft: Raft, what: str) -> None:
    raise InvariantViolated(f"member {raft.id:x}: {what}, but it does not hold: {View(raft)!r}")


def _broken_step(before: View, after: View, what: str) -> None:
    raise InvariantViolated(f"member {after.id:x}: {what}, but it does not hold: {before!r} became {after!r}")
