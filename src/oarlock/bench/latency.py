"""Latency percentiles, by nearest rank over all samples: no buckets, no interpolation, no surprise."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0
    mean: float = 0.0

    @classmethod
    def of(cls, samples: Iterable[float]) -> Percentiles:
        """All zero if there are no samples."""
        ordered = sorted(samples)
        if not ordered:
            return cls()

        def rank(per_mille: int) -> float:
            # The smallest value with at least that share of the samples at or below it.
            return ordered[max(0, (len(ordered) * per_mille + 999) // 1000 - 1)]

        return cls(rank(500), rank(900), rank(990), rank(999), ordered[-1], sum(ordered) / len(ordered))
