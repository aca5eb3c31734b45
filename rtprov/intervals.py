"""Sets of times as lists of intervals: which times a history covers, and which it does not."""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[float, float]
"""From, and up to; in seconds since the epoch."""

# Shorter gaps come from the clocks of two processes.
SHORTEST_GAP_S = 1.0


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the same times as the fewest intervals, in order."""
    merged: list[Interval] = []
    for since, upto in sorted(intervals):
        if merged and since <= merged[-1][1] + SHORTEST_GAP_S:
            merged[-1] = (merged[-1][0], max(merged[-1][1], upto))
        elif since < upto:
            merged.append((since, upto))
    return merged


def without(intervals: Iterable[Interval], cut: Interval) -> list[Interval]:
    """Return the intervals without the times in `cut`."""
    parts: list[Interval] = []
    for since, upto in intervals:
        parts += [(since, min(upto, cut[0])), (max(since, cut[1]), upto)]
    return [(since, upto) for since, upto in parts if since < upto]


def gaps(covered: Iterable[Interval], since: float, upto: float) -> list[Interval]:
    """Return the times from `since` to `upto` that are not covered. What is later than everything
    covered is no gap: it has not happened yet.
    """
    found: list[Interval] = []
    for begin, end in union(covered):
        if begin - since > SHORTEST_GAP_S and since < upto:
            found.append((since, min(begin, upto)))
        since = max(since, end)
    return found
