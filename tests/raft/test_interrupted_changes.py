"""Membership changes that are cut short: each kind of change, with the leader crashing in each of its phases.

A change is one configuration entry, or two in joint consensus (dissertation 4.1, 4.3), and the leader can die
before, between and after any two of its steps. For each kind × phase the orders are made here, and what came
of them is a transcript in `scenarios/interrupted/`. After a change that is meant to show there:
``pytest tests/raft/test_interrupted_changes.py --rewrite``, then read the diff.

What must hold whatever the transcripts say: an entry that reached nobody else is gone with its leader, and
the old configuration stays; one that reached the others is finished by the next leader, through the joint
phase to the new configuration; the old leader comes back and finds its place; and the cluster works.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from oarlock.raft.roles import Role

from .stage import Stage

FOLDER = Path(__file__).parent / "scenarios" / "interrupted"


class Kind(NamedTuple):
    """One change of a cluster that member 1 leads."""

    about: str
    before: tuple[str, ...]
    """Orders that lead up to it."""
    change: str
    voters: tuple[int, ...]
    """When it is made."""
    joint: bool


KINDS = {
    "add_two": Kind(
        "two learners become voters at once",
        ("cluster 3", "elect 1", "join 4", "join 5", "change 1 add=4,5 learners", "later 1"),
        "change 1 promote=4,5",
        (1, 2, 3, 4, 5),
        joint=True,
    ),
    "replace_three": Kind(
        "three new members take the place of all three, the leader among them",
        (
            "cluster 3",
            "elect 1",
            *("join 4", "join 5", "join 6", "change 1 add=4,5,6 learners"),
            "later 1",
        ),
        "change 1 promote=4,5,6 remove=1,2,3",
        (4, 5, 6),
        joint=True,
    ),
    "remove_leader": Kind(
        "the leader removes itself",
        ("cluster 4", "elect 1"),
        "change 1 remove=1",
        (2, 3, 4),
        joint=False,
    ),
    "replace_leader": Kind(
        "the leader has a learner take its place",
        ("cluster 3", "elect 1", "join 4", "change 1 add=4 learners", "later 1"),
        "change 1 promote=4 remove=1",
        (2, 3, 4),
        joint=True,
    ),
    "demote_voter": Kind(
        "a voter becomes a learner",
        ("cluster 4", "elect 1"),
        "change 1 demote=3",
        (1, 2, 4),
        joint=False,
    ),
    "demote_two": Kind(
        "two voters become learners",
        ("cluster 5", "elect 1"),
        "change 1 demote=4,5",
        (1, 2, 3),
        joint=True,
    ),
}


class Phase(NamedTuple):
    """How far a change has come when its leader dies."""

    about: str
    orders: tuple[str, ...]
    """What happens between the change and the crash. The last of them drops what is still under way."""
    only_joint: bool = False
    survives: bool = True


DELIVER = ("deliver 1 0", "deliver 0 1")
PHASES = {
    "1_not_replicated": Phase("the entry is on the leader's disk and nowhere else", (), survives=False),
    "2_replicated": Phase("the others have the entry, and the leader does not know", ("deliver 1 0",)),
    "3_joint_committed": Phase(
        "the joint configuration is committed; C_new was never written",
        ("slow 1", "deliver 1 0", "deliver 0 1"),
        only_joint=True,
    ),
    "4_new_not_replicated": Phase(
        "C_new is on the leader's disk and nowhere else",
        ("deliver 1 0", "deliver 0 1"),
        only_joint=True,
    ),
    "5_new_replicated": Phase(
        "the others have C_new, and the leader does not know",
        ("deliver 1 0", "deliver 0 1", "deliver 1 0"),
        only_joint=True,
    ),
    "6_committed": Phase("the change is committed, and the followers do not know", ()),
}


def orders(kind: Kind, phase: str) -> list[str]:
    """The script of one case, comments included."""
    between = PHASES[phase].orders
    if phase == "6_committed":
        between = DELIVER * (2 if kind.joint else 1)
    return [
        f"# The change: {kind.about}. The crash: {PHASES[phase].about}.",
        "",
        *(f"> {order}" for order in (*kind.before, kind.change, *between)),
        "",
        "# The leader dies, and what it had under way is lost with it.",
        *("> drop", "> crash 1", "> later 6", "> members"),
        "",
        "# It comes back, and the cluster works.",
        *("> restart 1", "> later 3", "> leader_proposes a", "> later 1", "> members", "> logs"),
    ]


def perform(script: list[str]) -> tuple[str, Stage]:
    stage = Stage()
    result: list[str] = []
    for line in script:
        result.append(line)
        if line.startswith("> cluster "):
            stage = Stage(int(line.split()[2]))
        elif line.startswith("> "):
            result += [f"  {happened}" for happened in stage.perform(line[2:])]
    return "\n".join(result) + "\n", stage


CASES = [
    (kind, phase) for kind in KINDS for phase in PHASES if KINDS[kind].joint or not PHASES[phase].only_joint
]


@pytest.mark.parametrize(("name", "phase"), CASES, ids=[f"{name}-{phase}" for name, phase in CASES])
def test_the_next_leader_finishes_the_change_or_never_heard_of_it(
    name: str, phase: str, rewrite: bool
) -> None:
    kind = KINDS[name]
    happened, stage = perform(orders(kind, phase))
    path = FOLDER / f"{name}-{phase}.txt"
    if rewrite:
        FOLDER.mkdir(exist_ok=True)
        path.write_text(happened)
    before = Stage(int(kind.before[0].split()[1]))[1].configuration.voters
    voters = kind.voters if PHASES[phase].survives else before
    leader = stage[stage.leader()]
    assert leader.id in voters
    assert leader.committed_configuration == leader.configuration
    assert (leader.configuration.voters, leader.configuration.joint) == (voters, False)
    for node_id in leader.configuration.ids:
        member = stage[node_id]
        assert member.configuration == leader.configuration
        assert member.committed_configuration == leader.configuration
        assert stage.actors[node_id].applied[-1].data == b"a"
        assert member.role is (Role.LEADER if member is leader else Role.FOLLOWER)
    assert happened == path.read_text()


def test_each_case_has_a_transcript_and_no_other_is_there() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == sorted(f"{k}-{p}" for k, p in CASES)


@pytest.mark.parametrize("name", KINDS)
def test_without_a_crash_the_change_is_made(name: str) -> None:
    kind = KINDS[name]
    _, stage = perform([f"> {order}" for order in (*kind.before, kind.change, "later 3")])
    assert stage[stage.leader()].committed_configuration.voters == kind.voters
