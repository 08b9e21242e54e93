"""One rule broken on purpose, and how it is put in place.

A mutation is an edit of one function's source, so that it reads like the slip of a programmer and stops
applying loudly when the code it edits changes. `broken(mutation)` puts it in place by exchanging the
function's code object, and takes it out again.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType


@dataclass(frozen=True)
class Mutation:
    """One broken rule."""

    name: str
    rule: str
    """The rule, and where it is stated: "F2" is Figure 2 of the paper, numbers are the dissertation's."""
    function: Callable[..., object]
    old: str
    new: str
    seeds: int = 40
    """Within how many seeds the schedules have to notice."""
    profile: str | None = None
    """The storm that brings it out; by default each seed picks its own."""


def mutated_code(mutation: Mutation) -> FunctionType:
    """The function after the edit."""
    function = mutation.function
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutation.old) != 1:
        raise LookupError(
            f"mutation {mutation.name} edits {mutation.old!r}, which is {source.count(mutation.old)} times "
            f"in {function.__qualname__}: bring the mutation up to date"
        )
    edited = source.replace(mutation.old, mutation.new)
    code = compile(edited, f"<{mutation.name}>", "exec", flags=__future__.annotations.compiler_flag)
    namespace: dict[str, object] = {}
    exec(code, function.__globals__, namespace)
    result = namespace[function.__name__]
    assert isinstance(result, FunctionType)
    return result


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """Within it, the rule is broken for everyone."""
    function = mutation.function
    assert isinstance(function, FunctionType)
    original = function.__code__
    function.__code__ = mutated_code(mutation).__code__
    try:
        yield
    finally:
        function.__code__ = original
