"""Percentiles by nearest rank."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oarlock.bench.latency import Percentiles


def test_of_a_thousand_samples_each_percentile_is_the_sample_of_its_rank() -> None:
    samples = [number / 1000 for number in range(1000, 0, -1)]
    got = Percentiles.of(samples)
    assert (got.p50, got.p90, got.p99, got.p999, got.max) == (0.5, 0.9, 0.99, 0.999, 1.0)
    assert abs(got.mean - 0.5005) < 1e-9


def test_of_one_sample_all_are_that_sample() -> None:
    assert Percentiles.of([0.25]) == Percentiles(0.25, 0.25, 0.25, 0.25, 0.25, 0.25)


def test_of_no_samples_all_are_zero() -> None:
    assert Percentiles.of([]) == Percentiles()


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_at_least_the_stated_share_is_at_or_below(samples: list[float]) -> None:
    got = Percentiles.of(samples)
    for share, value in ((0.5, got.p50), (0.9, got.p90), (0.99, got.p99), (0.999, got.p999)):
        assert value in samples
        assert sum(sample <= value for sample in samples) >= share * len(samples)
