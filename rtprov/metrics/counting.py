"""Counts and histograms as plain numbers. They cost little where they are counted.

`rtprov.metrics.families` turns them into Prometheus's metrics when they are scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

# Upper bounds of the buckets, in seconds.
FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
CALLS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0, 900.0, 1530.0)
TASKS_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)

OTHER = "other"


class Counts:
    """Counts by labels: one text, or a tuple of texts.

    At most `limit` different labels are counted. Further ones are counted as `OTHER`, so that no
    client can fill the memory.
    """

    def __init__(self, limit: int = 1000) -> None:
        self.values: dict[str | tuple[str, ...], int] = {}
        self._limit = limit

    def add(self, labels: str | tuple[str, ...]) -> None:
        """Count one more."""
        values = self.values
        if labels not in values and len(values) >= self._limit:
            labels = OTHER if isinstance(labels, str) else (OTHER,) * len(labels)
        values[labels] = values.get(labels, 0) + 1


class Histogram:
    """Counts values in buckets. `bounds` are the buckets' upper bounds, in increasing order."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(map(float, bounds))
        self.counts = [0] * (len(self.bounds) + 1)  # the last one has no upper bound
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Histograms:
    """One histogram for each label. The labels are a closed list, or limited by the caller."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.values: dict[str, Histogram] = {}

    def observe(self, label: str, value: float) -> None:
        """Count one value with this label."""
        histogram = self.values.get(label)
        if histogram is None:
            histogram = self.values[label] = Histogram(self._bounds)
        histogram.observe(value)
