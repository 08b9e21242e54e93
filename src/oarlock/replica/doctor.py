"""Doctor: why there is no leader, or no progress, told from the accounts of those members that answer.

Pure: statuses in, findings out. `oarlock doctor` gathers the one and prints the other. The order of thought
is an operator's: who answers; is that a quorum; does somebody lead, and if not, who refuses whom and why;
does the commit index move, and if not, who holds it back; then disks, the membership, and those that lag.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from oarlock.replica.status import ConfigurationStatus, MemberStatus, PeerReport, Status

_LAG = 10_000
"""Entries that a follower may be behind without being worth a word."""
_APPLY_LAG = 5_000
_SLOW_WRITE_SHARE = 0.2
"""A disk is slow if one write in a hundred takes more than this share of the election timeout."""
_RECENT_TIMEOUTS = 10.0
"""Votes older than so many election timeouts tell nothing about now."""


class Severity(enum.IntEnum):
    INFO = 1
    """Worth knowing."""
    WARNING = 2
    """Works, but not for long, or not well."""
    CRITICAL = 3
    """No writes, or no linearizable reads, until it is mended."""


class Finding(msgspec.Struct, frozen=True):
    severity: Severity
    text: str
    """What is the matter, in one sentence."""
    advice: str
    """What to do."""
    member: str = ""
    """The id of the member that it is about, if it is about one."""


def diagnose(statuses: Mapping[str, Status | str]) -> list[Finding]:
    """What is wrong, the worst first; empty if nothing is.

    Args:
        statuses: for each endpoint that was asked: what it answered, or why it did not.
    """
    case = _Case(statuses)
    checks = (
        _unreachable,
        _quorum_lost,
        _no_leader,
        _held_back,
        _disks,
        _membership,
        _lagging,
        _connections,
    )
    findings = [finding for check in checks for finding in check(case)]
    return sorted(findings, key=lambda finding: -finding.severity)


class _Case:
    """The accounts, put together."""

    def __init__(self, statuses: Mapping[str, Status | str]) -> None:
        answers = [status for status in statuses.values() if isinstance(status, Status)]
        self.silent = {
            endpoint: status for endpoint, status in statuses.items() if not isinstance(status, Status)
        }
        self.by_id = {status.id: status for status in answers}
        taking_part = [status for status in self.by_id.values() if not status.removed]
        self.configuration: ConfigurationStatus | None = max(
            (status.configuration for status in taking_part if status.configuration.voters),
            key=lambda configuration: configuration.index,
            default=None,
        )
        members = () if self.configuration is None else self.configuration.members
        self.members: dict[str, MemberStatus] = {member.id: member for member in members}
        leaders = [status for status in taking_part if status.role == "leader"]
        self.leader: Status | None = max(leaders, key=lambda status: status.term, default=None)
        self.taking_part = taking_part

    @property
    def voters(self) -> tuple[str, ...]:
        return () if self.configuration is None else self.configuration.voters

    @property
    def halves(self) -> list[tuple[str, ...]]:
        """The sets of voters of which a majority each is needed."""
        if self.configuration is None:
            return []
        return [half for half in (self.configuration.voters, self.configuration.outgoing) if half]

    def name(self, member_id: str) -> str:
        member = self.members.get(member_id)
        return f"{member.name} ({member_id})" if member is not None and member.name else member_id

    def names(self, ids: Iterable[str]) -> str:
        return ", ".join(self.name(member_id) for member_id in ids)

    def progressing(self) -> bool:
        """Whether a leader is in touch with a quorum."""
        leader = self.leader
        if leader is None:
            return False
        heard = {leader.id} | {
            peer.id
            for peer in leader.peers
            if peer.progress is not None and peer.progress.heard_age < 2 * leader.election_timeout
        }
        return all(2 * sum(voter in heard for voter in half) > len(half) for half in self.halves)


# ── who answers ────────────────────────────────────────────────────────────────────────────────────────


def _unreachable(case: _Case) -> Iterator[Finding]:
    of_url = {url: member for member in case.members.values() for url in member.client_urls}
    for endpoint, problem in case.silent.items():
        member = of_url.get(endpoint) or of_url.get(f"http://{endpoint}") or of_url.get(f"https://{endpoint}")
        who = f"member {case.name(member.id)} at {endpoint}" if member is not None else endpoint
        yield Finding(
            Severity.WARNING,
            f"{who} does not answer: {problem}",
            "see whether its process runs, what its log says last, and whether this machine may connect",
            "" if member is None else member.id,
        )
    clusters = sorted({status.cluster_id for status in case.by_id.values() if status.cluster_id})
    if len(clusters) > 1:
        yield Finding(
            Severity.CRITICAL,
            f"the endpoints belong to {len(clusters)} clusters: {', '.join(clusters)}",
            "ask the endpoints of one cluster at a time; if they should be one, compare the initial-cluster "
            "settings of the members",
        )


def _quorum_lost(case: _Case) -> Iterator[Finding]:
    if case.progressing():
        return
    for half in case.halves:
        absent = [voter for voter in half if voter not in case.by_id]
        here, needed = len(half) - len(absent), len(half) // 2 + 1
        if here < needed:
            which = "" if len(case.halves) == 1 else " (of one half of a membership change)"
            yield Finding(
                Severity.CRITICAL,
                f"quorum lost: {here} of {len(half)} voters{which} answer, and {needed} are needed; "
                f"missing: {case.names(absent)}",
                "start the missing members again, with their data directories; if those are lost for good, "
                "restore the cluster from a snapshot",
            )


# ── who leads ──────────────────────────────────────────────────────────────────────────────────────────


def _no_leader(case: _Case) -> Iterator[Finding]:
    of_term: dict[int, set[str]] = {}
    for status in case.taking_part:
        if status.leader:
            of_term.setdefault(status.term, set()).add(status.leader)
    for term, leaders in sorted(of_term.items()):
        if len(leaders) > 1:
            yield Finding(
                Severity.CRITICAL,
                f"two leaders in term {term}: {case.names(sorted(leaders))}",
                "this must never be: stop writing, keep the data directories, and report it",
            )
    if case.leader is not None or not case.taking_part:
        return
    known = sorted({status.leader for status in case.taking_part if status.leader})
    if known and all(status.leader for status in case.taking_part):
        return  # it was not among those that were asked
    yield Finding(
        Severity.CRITICAL,
        "there is no leader: "
        + (f"only some follow {case.names(known)}" if known else "no member that answers knows of one"),
        "see the findings below; if there are none, ask again in a second: an election may be under way",
    )
    for status in case.taking_part:
        yield from _refusals(case, status)


def _refusals(case: _Case, status: Status) -> Iterator[Finding]:
    for vote in status.votes:
        if vote.granted or vote.age > _RECENT_TIMEOUTS * status.election_timeout:
            continue
        asked = "would not vote" if vote.pre else "did not vote"
        yield Finding(
            Severity.WARNING,
            f"{case.name(vote.member)} {asked} for {case.name(status.id)} in term {vote.term}: "
            f"{vote.reason or 'no reason given'}",
            _advice_about_vote(vote.reason),
            status.id,
        )


def _advice_about_vote(reason: str) -> str:
    if reason.startswith("the log is behind"):
        return "nothing to do for this member: one with a longer log has to win; make sure that those are up"
    if "leader" in reason:
        return "the refusing member still hears a leader: look at the network between the two that disagree"
    return "the next election settles it"


# ── what holds back ────────────────────────────────────────────────────────────────────────────────────


def _held_back(case: _Case) -> Iterator[Finding]:
    """A leader whose commit index does not reach the end of its log: who would have to acknowledge."""
    leader = case.leader
    if leader is None:
        return
    behind = []
    for peer in leader.peers:
        progress = peer.progress
        if progress is None or peer.id not in {*case.voters, *leader.configuration.outgoing}:
            continue
        silent = progress.heard_age >= leader.election_timeout
        if silent:
            behind.append(f"{case.name(peer.id)} (silent for {progress.heard_age:.1f} s)")
        elif progress.match_index < leader.last_index and leader.commit_index < leader.last_index:
            missing = leader.last_index - progress.match_index
            behind.append(f"{case.name(peer.id)} ({missing} entries behind)")
    if not case.progressing():
        yield Finding(
            Severity.CRITICAL,
            f"the leader {case.name(leader.id)} is not in touch with a quorum, so nothing is committed: "
            + (", ".join(behind) or "no follower answers"),
            "look at these members and at the network between them and the leader",
            leader.id,
        )
    elif leader.commit_index < leader.last_index and leader.uncommitted_bytes and behind:
        yield Finding(
            Severity.INFO,
            f"{leader.last_index - leader.commit_index} entries wait to be committed; not yet acknowledged "
            f"by {', '.join(behind)}",
            "nothing, if it is under load; if the number stays, look at the disks of these members",
            leader.id,
        )
    elif behind:
        yield Finding(
            Severity.WARNING,
            f"followers that do not keep up: {', '.join(behind)}",
            "look at these members: with one more gone the cluster may stop",
            leader.id,
        )
    if leader.transferring_to:
        yield Finding(
            Severity.INFO,
            f"{case.name(leader.id)} is handing leadership over to {case.name(leader.transferring_to)}",
            "wait a moment",
            leader.id,
        )


def _disks(case: _Case) -> Iterator[Finding]:
    for status in case.by_id.values():
        disk = status.disk
        if disk.stalled:
            yield Finding(
                Severity.CRITICAL,
                f"the disk of {case.name(status.id)} hangs: a write has been under way for "
                f"{disk.oldest_write_age or 0.0:.1f} s",
                "look at the disk and its controller; the member leads again and votes when the disk does",
                status.id,
            )
        elif disk.p99 is not None and disk.p99 > _SLOW_WRITE_SHARE * status.election_timeout:
            yield Finding(
                Severity.WARNING,
                f"the disk of {case.name(status.id)} is slow: one write in a hundred takes "
                f"{disk.p99 * 1000:.0f} ms or more (median {(disk.median or 0.0) * 1000:.0f} ms)",
                "give the log a faster disk, or one of its own, or raise the election timeout on all members",
                status.id,
            )
        lag = status.commit_index - status.applied_index
        if lag > _APPLY_LAG:
            yield Finding(
                Severity.WARNING,
                f"{case.name(status.id)} has {lag} committed entries yet to apply",
                "nothing, if it has just started; else its disk or its processor is too slow",
                status.id,
            )


# ── membership, and those that lag ─────────────────────────────────────────────────────────────────────


def _membership(case: _Case) -> Iterator[Finding]:
    for status in case.by_id.values():
        if status.removed:
            yield Finding(
                Severity.WARNING,
                f"{case.name(status.id)} was removed from the cluster and still runs",
                "stop it; to have it back, add it as a new member with an empty data directory",
                status.id,
            )
        elif case.members and status.id not in case.members:
            yield Finding(
                Severity.WARNING,
                f"{status.name or status.id} ({status.id}) is not a member of this cluster's configuration",
                "add it with `oarlock member add`, or stop it",
                status.id,
            )
    configuration = case.configuration
    if configuration is None:
        return
    if configuration.joint:
        yield Finding(
            Severity.INFO if case.progressing() else Severity.CRITICAL,
            "a change of the membership is half way: it needs majorities of "
            f"{case.names(configuration.outgoing)} and of {case.names(configuration.voters)}",
            "it completes by itself once a leader reaches both: start those that are missing",
        )
    elif not configuration.committed and case.leader is not None:
        yield Finding(
            Severity.INFO,
            f"the membership at index {configuration.index} is not committed yet: no other change can begin",
            "wait; if it stays so, a quorum of the new voters is not in touch with the leader",
        )
    if not case.silent and case.progressing():
        voters = len(configuration.voters)
        if voters % 2 == 0:
            yield Finding(
                Severity.INFO,
                f"{voters} voters survive the loss of no more members than {voters - 1} would",
                "add a voter, or remove one",
            )


def _lagging(case: _Case) -> Iterator[Finding]:
    leader = case.leader
    if leader is None or case.configuration is None:
        return
    for peer in leader.peers:
        progress = peer.progress
        if progress is None or progress.heard_age >= leader.election_timeout:
            if peer.id in case.configuration.learners:
                yield Finding(
                    Severity.WARNING,
                    f"the learner {case.name(peer.id)} has not been heard by the leader",
                    "start it, and see that the leader can reach its peer URL",
                    peer.id,
                )
            continue
        kind = "learner" if peer.id in case.configuration.learners else "follower"
        missing = leader.commit_index - progress.match_index
        if progress.state == "snapshot":
            yield Finding(
                Severity.INFO,
                f"the {kind} {case.name(peer.id)} gets a snapshot: {_share(peer)}",
                "wait; if it does not move, look at the log of that member",
                peer.id,
            )
        elif missing > _LAG:
            yield Finding(
                Severity.INFO,
                f"the {kind} {case.name(peer.id)} is {missing} entries behind",
                "wait; if the number grows, that member or its disk is too slow for the load",
                peer.id,
            )


def _share(peer: PeerReport) -> str:
    progress = peer.progress
    if progress is None or not progress.snapshot_size:
        return "the leader is writing one first"
    return f"{progress.snapshot_received} of {progress.snapshot_size} bytes"


def _connections(case: _Case) -> Iterator[Finding]:
    for status in case.taking_part:
        for peer in status.peers:
            way = peer.connection
            if way is not None and not way.connected and peer.id in case.members:
                yield Finding(
                    Severity.WARNING,
                    f"{case.name(status.id)} has no connection to {case.name(peer.id)} at "
                    f"{way.address or 'no address'}: {way.last_error or 'not tried yet'}",
                    "see that the member runs, that its peer URL is right, and that no firewall is between",
                    peer.id,
                )
