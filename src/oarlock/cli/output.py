"""How lists are printed: a table for people, lines with commas or JSON for programs; as etcdctl does it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

ALWAYS = frozenset({"health"})
"""JSON fields that are shown even if they are zero."""
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def print_rows(heading: Sequence[str], rows: Sequence[Sequence[str]], write_out: str | None) -> None:
    """A list of equal things, as `simple` or as `table`; None is a table only on a terminal."""
    if write_out is None:
        write_out = "table" if sys.stdout.isatty() else "simple"
    if write_out == "simple":
        for row in rows:
            click.echo(", ".join(row))
    else:
        click.echo(table(heading, rows), nl=False)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A box of ASCII: headings centred, cells to the right."""
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    rule = "+".join(["", *("-" * (width + 2) for width in widths), ""]) + "\n"
    lines = [_centred(heading, widths), *(_to_the_right(row, widths) for row in rows)]
    body = [f"| {' | '.join(line)} |\n" for line in lines]
    return "".join([rule, body[0], rule, *body[1:], rule if rows else ""])


def _centred(heading: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = []
    for text, width in zip(heading, widths, strict=True):
        spare = width - len(text)
        cells.append(" " * (spare // 2) + text.upper() + " " * (spare - spare // 2))
    return cells


def _to_the_right(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [text.rjust(width) for text, width in zip(row, widths, strict=True)]


def print_json(value: Any) -> None:
    """One line, without what is zero or empty, as Go prints it."""
    click.echo(json.dumps(_present(value), separators=(",", ":"), ensure_ascii=False))


def _present(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item or key in ALWAYS}
        return {key: _present(item) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_present(item) for item in value]
    return value


def human_bytes(size: int) -> str:
    """Like 25 kB: powers of 1000, one decimal below ten."""
    amount, unit = float(size), 0
    while amount >= 999.5 and unit < len(UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.1f} {UNITS[unit]}" if unit and amount < 9.95 else f"{amount:.0f} {UNITS[unit]}"


class MemberId(click.ParamType):  # type: ignore[type-arg]
    """A member's id, as it is printed: in hexadecimal."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch("[0-9a-fA-F]{1,16}", value):
            self.fail(f"bad member ID arg ({value!r}), expecting ID in Hex: `oarlock member list` shows them")
        return int(value, 16)


MEMBER_ID = MemberId()
