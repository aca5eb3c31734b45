"""Sets of times as lists of intervals."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.intervals import Interval, gaps, union, without

LAST = 40


def times(intervals: list[Interval]) -> set[int]:
    """Return the tens of seconds in the intervals: a gap of ten seconds is long enough to count."""
    return {at for at in range(LAST) if any(a <= at * 10 < b for a, b in intervals)}


some = st.lists(
    st.tuples(st.integers(0, LAST), st.integers(1, LAST)).map(
        lambda each: (each[0] * 10.0, (each[0] + each[1]) * 10.0)
    ),
    max_size=6,
)


class Intervals(SynchronousTestCase):
    @given(some)
    def test_union(self, intervals: list[Interval]) -> None:
        """A union has the same times, in order, and nothing between two of its intervals."""
        merged = union(intervals)
        self.assertEqual(times(merged), times(intervals))
        self.assertEqual(merged, sorted(merged))
        self.assertTrue(all(a[1] < b[0] for a, b in pairwise(merged)))

    @given(some, st.integers(0, LAST), st.integers(0, LAST))
    def test_without(self, intervals: list[Interval], begin: int, length: int) -> None:
        """The times of a cut are missing, and no others."""
        cut = (begin * 10.0, (begin + length) * 10.0)
        self.assertEqual(times(without(intervals, cut)), times(intervals) - times([cut]))

    @given(some, st.integers(0, LAST), st.integers(0, LAST))
    def test_gaps(self, covered: list[Interval], begin: int, length: int) -> None:
        """Gaps are the times that are asked for and not covered, up to the last covered one."""
        last = max((each[1] for each in covered), default=0.0)
        asked = (begin * 10.0, (begin + length) * 10.0)
        expected = {at for at in times([asked]) - times(covered) if at * 10 < last}
        self.assertEqual(times(gaps(covered, *asked)), expected)

    def test_small_differences(self) -> None:
        """The clocks of two processes make no gap."""
        self.assertEqual(union([(0.0, 10.0), (10.5, 20.0)]), [(0.0, 20.0)])
        self.assertEqual(gaps([(0.5, 10.0), (10.5, 20.0)], 0.0, 20.0), [])
        self.assertEqual(gaps([(0.0, 10.0), (12.0, 20.0)], 0.0, 20.0), [(10.0, 12.0)])
