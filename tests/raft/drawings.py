"""What the documents of the core draw: made from the code's tables, and from what a small cluster does.

A document holds blocks between ``<!-- drawn: name -->`` and ``<!-- end -->``; `test_raft_document.py`
compares them with what comes out here, and writes them anew with ``--rewrite``.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from oarlock.raft import messages
from oarlock.raft.membership import after_joint, planned
from oarlock.raft.messages import Message
from oarlock.raft.progress import TRANSITIONS as PROGRESS
from oarlock.raft.progress import ProgressState
from oarlock.raft.roles import TRANSITIONS as ROLES
from oarlock.raft.roles import Role
from oarlock.raft.types import Change, Configuration

from . import dissertation
from .dissertation import Rule
from .script import parse_change, short_configuration
from .stage import Stage

BLOCK = re.compile(r"<!-- drawn: (\S+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


def drawn(text: str) -> str:
    """The document with its blocks as they should be."""
    return BLOCK.sub(lambda match: f"<!-- drawn: {match[1]} -->\n{DRAWINGS[match[1]]()}<!-- end -->\n", text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(row) for row in rows)]
    return "".join(f"| {line} |\n" if "---" not in line else f"|{line}|\n" for line in lines)


def mermaid(kind: str, lines: Iterable[str]) -> str:
    return "".join(["```mermaid\n", f"{kind}\n", *(f"    {line}\n" for line in lines), "```\n"])


# ── states, from the tables that the code holds ───────────────────────────────────────────────────────

ROLE_REASONS = {
    (Role.FOLLOWER, Role.FOLLOWER): "a later term, another leader",
    (Role.FOLLOWER, Role.PRE_CANDIDATE): "no leader was heard for an election timeout",
    (Role.FOLLOWER, Role.CANDIDATE): "the leader hands over to us",
    (Role.PRE_CANDIDATE, Role.FOLLOWER): "a leader, a later term, or a quorum refuses",
    (Role.PRE_CANDIDATE, Role.PRE_CANDIDATE): "time ran out, asks again",
    (Role.PRE_CANDIDATE, Role.CANDIDATE): "a quorum would vote for us",
    (Role.CANDIDATE, Role.FOLLOWER): "a leader, a later term, or a quorum refuses",
    (Role.CANDIDATE, Role.PRE_CANDIDATE): "time ran out",
    (Role.CANDIDATE, Role.LEADER): "a quorum voted, our own vote is durable",
    (Role.LEADER, Role.FOLLOWER): "a later term, no quorum answers, not a voter any more",
}
PROGRESS_REASONS = {
    (ProgressState.PROBE, ProgressState.PROBE): "refused, goes further back",
    (ProgressState.PROBE, ProgressState.REPLICATE): "acknowledged, sends ahead",
    (ProgressState.PROBE, ProgressState.SNAPSHOT): "what it needs was dropped",
    (ProgressState.REPLICATE, ProgressState.PROBE): "refused, something was lost",
    (ProgressState.REPLICATE, ProgressState.SNAPSHOT): "what it needs was dropped",
    (ProgressState.SNAPSHOT, ProgressState.REPLICATE): "its log reaches ours",
}


def role_table() -> str:
    return table(
        ("from", "to"), ((start.value, ", ".join(end.value for end in ends)) for start, ends in ROLES.items())
    )


def _diagram(start: str, edges: Iterable[tuple[str, str, str]]) -> str:
    names = (f"{one.replace('-', '_')} --> {other.replace('-', '_')}: {why}" for one, other, why in edges)
    return mermaid("stateDiagram-v2", [f"[*] --> {start}", *names])


def role_diagram() -> str:
    edges = ((one, other) for one, others in ROLES.items() for other in others)
    return _diagram("follower", ((one.value, other.value, ROLE_REASONS[one, other]) for one, other in edges))


def progress_diagram() -> str:
    edges = ((one, other) for one, others in PROGRESS.items() for other in others)
    return _diagram("probe", ((one.value, other.value, PROGRESS_REASONS[one, other]) for one, other in edges))


# ── membership: what the code makes of some changes ───────────────────────────────────────────────────

BEFORE = Configuration(voters=(1, 2, 3), learners=(4, 5, 6))
CHANGES = (
    "add=7",
    "add=7 learners",
    "promote=4",
    "promote=4,5",
    "demote=3",
    "demote=3 promote=4",
    "remove=3",
    "remove=2,3",
    "promote=4,5,6 remove=1,2,3",
)


def change_table() -> str:
    def row(words: str) -> tuple[str, str, str]:
        change: Change = parse_change(words.split())
        first = planned(BEFORE, change, lambda learner: True)
        then = short_configuration(after_joint(first)) if first.joint else ""
        if first.joining:
            caught_up = planned(first, Change(promote=first.joining), lambda learner: True)
            then = f"once it has caught up: {short_configuration(caught_up)}"
        return f"`{words}`", short_configuration(first), then

    before = f"The configuration before each: {short_configuration(BEFORE)}.\n\n"
    return before + table(("change", "is appended at once", "follows by itself"), map(row, CHANGES))


# ── sequences, as a small cluster carries them out ────────────────────────────────────────────────────

ELECTION = ("timeout 1", *("deliver 1 2", "deliver 2 1") * 3)
TRANSFER = ("elect 1", "*", "propose 1 a", "transfer 1 2", "deliver")
READ = ("elect 1", "*", "read 2 7", "deliver")
JOINT = (
    *("elect 1", "isolate 3", "join 4", "change 1 add=4 learners", "run 1"),
    *("*", "change 1 promote=4 remove=3", "deliver"),
)
SNAPSHOT = (
    *("elect 1", "isolate 3", "propose 1 a b c", "run 1", "propose 1 d", "run 0.1", "heal"),
    *(
        "*",
        "run 0.4",
        "snapshot 1",
        "run 0.2",
        "fetching 3 60",
        "propose 1 e",
        "run 0.2",
        "fetched 3",
        "deliver",
    ),
)


def sequence(orders: Sequence[str], members: Sequence[int], **settings: int) -> str:
    """The messages between `members` while these orders are carried out, from the order ``*`` on."""
    stage = Stage(3, **settings)
    happenings: list[str] = []
    for order in orders:
        if order == "*":
            happenings = []
        else:
            happenings += stage.perform(order)
    lines = [f"participant {member}" for member in members]
    for line in happenings:
        if (message := re.match(r" +(\d)→(\d) (.*?)( \(lost\))?$", line)) and not message[4]:
            if {int(message[1]), int(message[2])} <= {*members}:
                lines.append(f"{message[1]}->>{message[2]}: {_brief(message[3])}")
        elif (happened := re.match(r"(\d) (?!appends|applies)(.*)$", line)) and int(happened[1]) in members:
            lines.append(f"Note over {happened[1]}: {happened[2]}")
    return mermaid("sequenceDiagram", lines)


def _brief(message: str) -> str:
    return re.sub(r" term \d+|, commit \d+|, log ends [\d:]+|, round \d+(?=,|$)", "", message)


# ── the catalogue of messages ─────────────────────────────────────────────────────────────────────────


def catalogue() -> str:
    """Each message with its fields, as `messages.py` states them."""
    module = ast.parse(inspect.getsource(messages))
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    texts = []
    for kind in get_args(Message):
        name, tag = kind.__name__, kind.__struct_config__.tag
        node = classes[name]
        text = f"### {name}\n\nTag {tag}."
        purpose = _purpose(name)
        if purpose:
            text += f" Sent by {purpose[0]}. The receiver: {purpose[1]}."
        if docstring := ast.get_docstring(node):
            text += f" {_flat(docstring)}"
        texts.append(f"{text}\n\n{_fields(node)}")
    return "\n".join(texts)


def _fields(node: ast.ClassDef) -> str:
    rows = []
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            says = after.value if isinstance(after, ast.Expr) else None
            doc = _flat(str(says.value)) if isinstance(says, ast.Constant) else ""
            default = f" = {ast.unparse(field.value)}" if field.value is not None else ""
            rows.append((f"`{field.target.id}`", f"`{ast.unparse(field.annotation)}{default}`", doc))
    return table(("field", "type", "meaning"), rows) if rows else "No fields of its own.\n"


def _purpose(name: str) -> tuple[str, str] | None:
    """Both columns of the table in the module's docstring."""
    who, what, inside = "", "", False
    for line in (messages.__doc__ or "").splitlines():
        inside = line.split()[:1] == [name] if line[:1].strip() else inside and bool(line.strip())
        if inside:
            who += f" {line[20:45]}"
            what += f" {line[45:]}"
    return (_flat(who), _flat(what)) if who else None


def _flat(text: str) -> str:
    return " ".join(text.split()).rstrip(".") if text else ""


# ── the dissertation ──────────────────────────────────────────────────────────────────────────────────


def rules(chapter: Sequence[Rule]) -> str:
    texts = []
    for rule in chapter:
        code = ", ".join(f"`{name}`" for name in rule.code.split())
        lines = [f"- **{rule.section}** {rule.text}" + (f" ({code})" if code else "")]
        lines += [f"  - {_shown(test)}" for test in rule.tests]
        if rule.not_done:
            lines.append(f"  - *{'Differs' if rule.tests else 'Not done'}.* {rule.not_done}")
        texts.append("\n".join(lines))
    return "\n".join(texts) + "\n"


def _shown(test: str) -> str:
    """The test's own name, without what all begin with, and its file. Of stories: their names."""
    file, name = test.split("::")
    name, _, case = name.partition("[")
    name = case[:-1] if case else name.removeprefix("test_")
    return f"`{name}` in [{file}](../../tests/{file})"


DRAWINGS: dict[str, Callable[[], str]] = {
    "role-table": role_table,
    "role-diagram": role_diagram,
    "progress-diagram": progress_diagram,
    "change-table": change_table,
    "election": lambda: sequence(ELECTION, (1, 2)),
    "read": lambda: sequence(READ, (1, 2, 3)),
    "joint-change": lambda: sequence(JOINT, (1, 2, 4)),
    "transfer": lambda: sequence(TRANSFER, (1, 2)),
    "snapshot": lambda: sequence(SNAPSHOT, (1, 3), log_entries_kept=0),
    "catalogue": catalogue,
    "chapter-3": lambda: rules(dissertation.CHAPTER_3),
    "chapter-4": lambda: rules(dissertation.CHAPTER_4),
    "chapter-5": lambda: rules(dissertation.CHAPTER_5),
    "chapter-6": lambda: rules(dissertation.CHAPTER_6),
    "chapters-8-to-11": lambda: rules(dissertation.CHAPTERS_8_TO_10),
}
