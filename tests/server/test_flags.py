"""Flags are read as Go's `flag` package reads them."""

from __future__ import annotations

import pytest

from oarlock.errors import UsageError
from oarlock.server.flags import parse_bool, parse_flags

KNOWN = {"name", "pre-vote", "data-dir"}
BOOLEANS = {"pre-vote"}


def parse(*arguments: str) -> tuple[dict[str, str], list[str]]:
    return parse_flags(arguments, KNOWN, BOOLEANS)


@pytest.mark.parametrize("arguments", [("--name", "a"), ("--name=a",), ("-name", "a"), ("-name=a",)])
def test_four_spellings_of_a_flag_are_the_same(arguments: tuple[str, ...]) -> None:
    assert parse(*arguments) == ({"name": "a"}, [])


def test_a_bare_boolean_is_true_and_takes_no_value() -> None:
    assert parse("--pre-vote", "false") == ({"pre-vote": "true"}, ["false"])


def test_a_boolean_takes_its_value_after_an_equals_sign() -> None:
    assert parse("--pre-vote=false", "--name=a") == ({"pre-vote": "false", "name": "a"}, [])


def test_a_value_may_contain_equals_signs_and_begin_with_a_dash() -> None:
    assert parse("--name=a=b", "--data-dir", "-x") == ({"name": "a=b", "data-dir": "-x"}, [])


def test_an_empty_value_is_a_value() -> None:
    assert parse("--name=", "--data-dir", "") == ({"name": "", "data-dir": ""}, [])


@pytest.mark.parametrize(
    ("arguments", "rest"),
    [(("--name", "a", "x", "--data-dir", "y"), ["x", "--data-dir", "y"]), (("--", "--name"), ["--name"])],
)
def test_reading_stops_at_the_first_argument_that_is_no_flag(
    arguments: tuple[str, ...], rest: list[str]
) -> None:
    assert parse(*arguments)[1] == rest


def test_the_last_of_several_values_counts() -> None:
    assert parse("--name=a", "--name=b")[0] == {"name": "b"}


def test_an_unknown_flag_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="unknown flag --nmae"):
        parse("--nmae", "a")


def test_a_flag_without_its_value_is_refused() -> None:
    with pytest.raises(UsageError, match="--name needs a value"):
        parse("--name")


@pytest.mark.parametrize("argument", ["---name", "--=x", "-=x"])
def test_malformed_flags_are_refused(argument: str) -> None:
    with pytest.raises(UsageError, match="bad flag syntax"):
        parse(argument)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("T", True), ("False", False), ("f", False)])
def test_booleans_have_gos_spellings(text: str, value: bool) -> None:
    assert parse_bool("x", text) is value


def test_other_booleans_are_refused() -> None:
    with pytest.raises(UsageError, match="'yes' is not a boolean"):
        parse_bool("x", "yes")
