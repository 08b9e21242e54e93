"""Command-line flags as Go's `flag` package reads them, because that is how etcd's users write them.

``--flag value``, ``--flag=value``, ``-flag value`` and ``-flag=value`` are the same. A boolean flag takes its
value only after ``=``: bare, it is true. Reading stops at ``--``, at ``-`` and at the first argument that is
not a flag. A flag given twice has its last value.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from oarlock.errors import UsageError

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def parse_bool(name: str, text: str) -> bool:
    """A boolean as Go's strconv.ParseBool takes it.

    Raises:
        UsageError: it is none of Go's spellings.
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise UsageError(f"--{name}: {text!r} is not a boolean: write true or false")


def parse_flags(
    arguments: Sequence[str], known: Collection[str], booleans: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Split arguments into flag values, as text, and the rest.

    Args:
        arguments: without the program's name.
        known: every flag's name, without dashes.
        booleans: those of them that take no separate value.

    Raises:
        UsageError: an unknown flag, a flag without its value, or a malformed one.
    """
    values: dict[str, str] = {}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if len(argument) < 2 or not argument.startswith("-"):
            break
        position += 1
        if argument == "--":
            break
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {argument}")
        if name not in known:
            raise UsageError(f"unknown flag --{name}: see `oarlock serve --help`")
        if name in booleans:
            value = value if equals else "true"
        elif not equals:
            if position == len(arguments):
                raise UsageError(f"flag --{name} needs a value")
            value = arguments[position]
            position += 1
        values[name] = value
    return values, list(arguments[position:])
