"""Each finding of the doctor, from accounts that differ from those of a well cluster in one thing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from oarlock.replica.doctor import Finding, Severity, diagnose
from oarlock.replica.status import (
    ConfigurationStatus,
    ConnectionStatus,
    DiskStatus,
    MemberStatus,
    PeerProgress,
    PeerReport,
    SnapshotStatus,
    Status,
    VoteStatus,
)

NAMES = {"1": "a", "2": "b", "3": "c", "4": "d"}


def configuration(*voters: str, **fields: Any) -> ConfigurationStatus:
    ids = sorted({*voters, *fields.get("outgoing", ()), *fields.get("learners", ())})
    members = tuple(
        MemberStatus(id=id_, name=NAMES.get(id_, ""), client_urls=(f"http://client-{NAMES[id_]}:1",))
        for id_ in ids
    )
    return ConfigurationStatus(
        **{"index": 5, "committed": True, "joint": False, "voters": voters, "members": members, **fields}
    )


THREE = configuration("1", "2", "3")


def peer(id_: str, **fields: Any) -> PeerReport:
    """A follower that keeps up, as its leader sees it."""
    progress = {
        "state": "replicate",
        "match_index": 100,
        "next_index": 101,
        "inflight_messages": 0,
        "inflight_bytes": 0,
        "heard_age": 0.01,
        **fields,
    }
    return PeerReport(
        id=id_,
        name=NAMES[id_],
        connection=ConnectionStatus(connected=True),
        progress=PeerProgress(**progress),
    )


def status(id_: str, **fields: Any) -> Status:
    """A follower of member 1 to which nothing has happened."""
    account = {
        "id": id_,
        "name": NAMES[id_],
        "role": "follower",
        "learner": False,
        "term": 3,
        "leader": "1",
        "voted_for": "1",
        "votes": (),
        "first_index": 1,
        "last_index": 100,
        "stored_index": 100,
        "commit_index": 100,
        "applied_index": 100,
        "log_bytes": 1000,
        "uncommitted_bytes": 0,
        "configuration": THREE,
        "snapshot": SnapshotStatus(),
        "peers": (),
        "disk": DiskStatus(last_write=0.001, median=0.001, p99=0.002),
        "proposals": 0,
        "reads": 0,
        "transferring_to": "",
        "removed": False,
        "election_timeout": 0.5,
        **fields,
    }
    return Status(**account)


def leader(*peers: PeerReport, **fields: Any) -> Status:
    return status("1", **{"role": "leader", "peers": peers or (peer("2"), peer("3")), **fields})


def well(**changed: Status | str) -> dict[str, Status | str]:
    return {"a:1": leader(), "b:1": status("2"), "c:1": status("3"), **changed}


def leaderless(**changed: Any) -> dict[str, Status | str]:
    return {f"{NAMES[id_]}:1": status(id_, leader="", **changed) for id_ in ("1", "2", "3")}


def texts(findings: list[Finding], at_least: Severity = Severity.INFO) -> list[str]:
    return [finding.text for finding in findings if finding.severity >= at_least]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert diagnose(well()) == []
    assert diagnose({}) == []


def test_the_worst_comes_first_and_each_finding_has_advice() -> None:
    sick = well(
        **{"b:1": status("2", disk=DiskStatus(stalled=True, oldest_write_age=3.0))}, **{"x:1": "refused"}
    )
    findings = diagnose(sick)
    assert [finding.severity for finding in findings] == sorted(
        (finding.severity for finding in findings), reverse=True
    )
    assert len(findings) == 2
    assert all(finding.advice for finding in findings)


CASES: list[tuple[str, dict[str, Status | str], Severity, str]] = [
    (
        "unreachable",
        well(**{"c:1": "connection refused"}),
        Severity.WARNING,
        "c:1 does not answer: connection refused",
    ),
    (
        "unreachable, by its client URL",
        {"a:1": leader(), "http://client-c:1": "timed out"},
        Severity.WARNING,
        "member c (3) at http://client-c:1 does not answer: timed out",
    ),
    (
        "two clusters",
        well(**{"b:1": status("2", cluster_id="aa"), "c:1": status("3", cluster_id="bb")}),
        Severity.CRITICAL,
        "the endpoints belong to 2 clusters: aa, bb",
    ),
    (
        "quorum lost",
        {"a:1": status("1", leader=""), "b:1": "refused", "c:1": "refused"},
        Severity.CRITICAL,
        "quorum lost: 1 of 3 voters answer, and 2 are needed; missing: b (2), c (3)",
    ),
    (
        "quorum lost in one half",
        {
            f"{NAMES[id_]}:1": status(
                id_, leader="", configuration=configuration("1", "2", outgoing=("3", "4"), joint=True)
            )
            for id_ in ("1", "2")
        },
        Severity.CRITICAL,
        "quorum lost: 0 of 2 voters (of one half of a membership change) answer, and 2 are needed; missing: "
        "c (3), d (4)",
    ),
    ("no leader", leaderless(), Severity.CRITICAL, "there is no leader: no member that answers knows of one"),
    (
        "a vote refused",
        {
            **leaderless(),
            "b:1": status(
                "2",
                leader="",
                role="candidate",
                votes=(
                    VoteStatus(
                        member="1", term=4, granted=False, pre=False, reason="the log is behind: x", age=1.0
                    ),
                ),
            ),
        },
        Severity.WARNING,
        "a (1) did not vote for b (2) in term 4: the log is behind: x",
    ),
    (
        "a pre-vote refused",
        {
            **leaderless(),
            "b:1": status(
                "2",
                leader="",
                votes=(
                    VoteStatus(
                        member="3", term=4, granted=False, pre=True, reason="a leader is alive", age=1.0
                    ),
                ),
            ),
        },
        Severity.WARNING,
        "c (3) would not vote for b (2) in term 4: a leader is alive",
    ),
    (
        "two leaders",
        well(**{"c:1": status("3", leader="2")}),
        Severity.CRITICAL,
        "two leaders in term 3: a (1), b (2)",
    ),
    (
        "a leader without a quorum",
        {
            "a:1": leader(peer("2", heard_age=2.0), peer("3", heard_age=4.0)),
            "b:1": status("2"),
            "c:1": status("3"),
        },
        Severity.CRITICAL,
        "the leader a (1) is not in touch with a quorum, so nothing is committed: b (2) (silent for 2.0 s), "
        "c (3) (silent for 4.0 s)",
    ),
    (
        "commit is held back",
        well(
            **{
                "a:1": leader(
                    peer("2", match_index=100),
                    peer("3", match_index=90),
                    last_index=120,
                    uncommitted_bytes=5000,
                )
            }
        ),
        Severity.INFO,
        "20 entries wait to be committed; not yet acknowledged by b (2) (20 entries behind), "
        "c (3) (30 entries behind)",
    ),
    (
        "a silent follower",
        well(**{"a:1": leader(peer("2"), peer("3", heard_age=7.0))}),
        Severity.WARNING,
        "followers that do not keep up: c (3) (silent for 7.0 s)",
    ),
    (
        "a transfer",
        well(**{"a:1": leader(transferring_to="2")}),
        Severity.INFO,
        "a (1) is handing leadership over to b (2)",
    ),
    (
        "a disk that hangs",
        well(**{"b:1": status("2", disk=DiskStatus(stalled=True, oldest_write_age=3.04))}),
        Severity.CRITICAL,
        "the disk of b (2) hangs: a write has been under way for 3.0 s",
    ),
    (
        "a slow disk",
        well(**{"b:1": status("2", disk=DiskStatus(last_write=0.2, median=0.05, p99=0.25))}),
        Severity.WARNING,
        "the disk of b (2) is slow: one write in a hundred takes 250 ms or more (median 50 ms)",
    ),
    (
        "applying lags",
        well(**{"b:1": status("2", commit_index=9000, applied_index=100)}),
        Severity.WARNING,
        "b (2) has 8900 committed entries yet to apply",
    ),
    (
        "removed",
        well(**{"d:1": status("4", removed=True, leader="")}),
        Severity.WARNING,
        "4 was removed from the cluster and still runs",
    ),
    (
        "a stranger",
        well(**{"d:1": status("4", configuration=configuration("4", index=1), leader="1")}),
        Severity.WARNING,
        "d (4) is not a member of this cluster's configuration",
    ),
    (
        "a joint change",
        well(
            **{
                "a:1": leader(
                    configuration=configuration("1", "2", "3", outgoing=("1", "2"), joint=True, index=9)
                )
            }
        ),
        Severity.INFO,
        "a change of the membership is half way: it needs majorities of a (1), b (2) and of "
        "a (1), b (2), c (3)",
    ),
    (
        "a change that is not committed",
        well(**{"a:1": leader(configuration=configuration("1", "2", "3", committed=False, index=9))}),
        Severity.INFO,
        "the membership at index 9 is not committed yet: no other change can begin",
    ),
    (
        "an even number of voters",
        {
            "a:1": leader(peer("2"), configuration=configuration("1", "2")),
            "b:1": status("2", configuration=configuration("1", "2")),
        },
        Severity.INFO,
        "2 voters survive the loss of no more members than 1 would",
    ),
    (
        "a learner that is silent",
        well(
            **{
                "a:1": leader(
                    peer("2"),
                    peer("3"),
                    peer("4", heard_age=60.0, match_index=0),
                    configuration=configuration("1", "2", "3", learners=("4",), index=9),
                )
            }
        ),
        Severity.WARNING,
        "the learner d (4) has not been heard by the leader",
    ),
    (
        "a learner behind",
        well(
            **{
                "a:1": leader(
                    peer("2"),
                    peer("3"),
                    peer("4", match_index=10),
                    commit_index=50_000,
                    last_index=50_000,
                    applied_index=50_000,
                    configuration=configuration("1", "2", "3", learners=("4",), index=9),
                )
            }
        ),
        Severity.INFO,
        "the learner d (4) is 49990 entries behind",
    ),
    (
        "a snapshot on its way",
        well(
            **{"a:1": leader(peer("2"), peer("3", state="snapshot", snapshot_received=40, snapshot_size=100))}
        ),
        Severity.INFO,
        "the follower c (3) gets a snapshot: 40 of 100 bytes",
    ),
    (
        "a snapshot that has to be written first",
        well(**{"a:1": leader(peer("2"), peer("3", state="snapshot"))}),
        Severity.INFO,
        "the follower c (3) gets a snapshot: the leader is writing one first",
    ),
    (
        "no connection",
        well(
            **{
                "b:1": status(
                    "2",
                    peers=(
                        PeerReport(
                            id="3",
                            name="c",
                            connection=ConnectionStatus(
                                connected=False, address="http://c:2", last_error="connection refused"
                            ),
                        ),
                    ),
                )
            }
        ),
        Severity.WARNING,
        "b (2) has no connection to c (3) at http://c:2: connection refused",
    ),
]


@pytest.mark.parametrize(
    ("statuses", "severity", "text"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_finding(statuses: dict[str, Status | str], severity: Severity, text: str) -> None:
    assert text in [finding.text for finding in diagnose(statuses) if finding.severity is severity]


def test_a_vote_of_long_ago_tells_nothing() -> None:
    vote = VoteStatus(member="1", term=4, granted=False, pre=False, reason="x", age=60.0)
    findings = diagnose({**leaderless(), "b:1": status("2", leader="", votes=(vote,))})
    assert not any("did not vote" in text for text in texts(findings))


def test_a_leader_that_was_not_asked_is_no_missing_leader() -> None:
    assert texts(diagnose({"b:1": status("2"), "c:1": status("3")}), Severity.CRITICAL) == []


def test_a_status_is_json() -> None:
    account = leader(votes=(VoteStatus(member="2", term=1, granted=True, pre=True, reason="", age=1.0),))
    assert msgspec.json.decode(msgspec.json.encode(account), type=Status) == account
