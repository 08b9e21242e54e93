"""Two thousand random schedules of a cluster hold; and each broken rule makes them fail.

On a failure the seed is in the message. To watch it happen::

    python -c "from tests.raft.schedules import run_schedule; run_schedule(1234, log=print)"
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .mutations import HARMLESS, MUTATIONS, Mutation, broken
from .profiles import PROFILES
from .schedules import Outcome, profile_of, run_schedule

SCHEDULES = 2_000
CHUNK = 50
"""Schedules per test, so that pytest-xdist can spread them."""


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_random_schedules_keep_every_property(first: int) -> None:
    outcomes: list[Outcome] = []
    for seed in range(first, first + CHUNK):
        try:
            outcomes.append(run_schedule(seed))
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
    # A storm so strong that nothing happens in it would prove nothing.
    assert sum(outcome.acknowledged for outcome in outcomes) > 20 * CHUNK
    assert sum(outcome.reads for outcome in outcomes) > 8 * CHUNK
    assert sum(outcome.terms for outcome in outcomes) > 2 * CHUNK
    assert sum(outcome.restarts for outcome in outcomes) > 2 * CHUNK
    assert sum(outcome.configurations for outcome in outcomes) > CHUNK // 2
    assert sum(outcome.installed for outcome in outcomes) > CHUNK // 4
    assert sum(outcome.executed for outcome in outcomes) > CHUNK // 2


@pytest.mark.parametrize("size", [3, 4, 7])
def test_clusters_of_other_sizes_keep_every_property(size: int) -> None:
    for seed in range(14):
        try:
            run_schedule(seed, size=size)
        except Exception as error:
            pytest.fail(f"seed {seed}, {size} members: {type(error).__name__}: {error}")


@pytest.mark.parametrize("size", [1, 2])
def test_clusters_that_begin_small_keep_every_property(size: int) -> None:
    for name in [name for name, profile in PROFILES.items() if profile.trials]:
        for seed in range(5):
            try:
                run_schedule(seed, size=size, profile=name)
            except Exception as error:
                pytest.fail(f"seed {seed}, {name}, {size} members: {type(error).__name__}: {error}")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_schedules_notice_a_broken_rule(
    mutation: Mutation, record_property: Callable[[str, object], None]
) -> None:
    with broken(mutation):
        for seed in range(mutation.seeds):
            try:
                run_schedule(seed, profile=mutation.profile)
            except Exception as error:
                record_property("seeds_needed", seed + 1)
                print(f"{mutation.name}: noticed by seed {seed}: {type(error).__name__}: {error}")
                return
    pytest.fail(f"{mutation.seeds} schedules did not notice that this is broken: {mutation.rule}")


@pytest.mark.parametrize("mutation", HARMLESS, ids=[mutation.name for mutation in HARMLESS])
def test_harmless_mutations_break_no_property(mutation: Mutation) -> None:
    with broken(mutation):
        for seed in range(14):
            run_schedule(seed)


def test_mutations_are_listed_once_and_leave_nothing_behind() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    before = run_schedule(3)
    with broken(MUTATIONS[0]), pytest.raises(Exception, match=r"\w"):
        run_schedule(3)
    assert run_schedule(3) == before


def test_every_profile_is_drawn() -> None:
    assert {profile_of(seed) for seed in range(2 * len(PROFILES))} == set(PROFILES)
    assert run_schedule(3).profile == profile_of(3)


DIGEST = """
import hashlib
from tests.raft.schedules import run_schedule
digest = hashlib.sha256()
for seed in (0, 1, 4, 10, 12, 14):
    run_schedule(seed, log=lambda line: digest.update(line.encode()))
print(digest.hexdigest())
"""


def test_equal_seeds_give_equal_runs_whatever_the_hash_seed() -> None:
    """Every message, transition and crash, in two processes whose sets and dictionaries hash differently."""
    root = Path(__file__).resolve().parents[2]
    digests = []
    for hash_seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "src")])
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        digests.append(done.stdout.strip())
    assert len(digests[0]) == hashlib.sha256().digest_size * 2
    assert digests[0] == digests[1]
