"""Counts and histograms, and the text that Prometheus gets of them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.metrics.counting import FAST_S, OTHER, Counts, Histogram, Histograms
from rtprov.metrics.families import (
    counter,
    gauge,
    histogram,
    histograms,
    number,
    states,
    total,
)
from rtprov.metrics.registry import Registry


class Counting(SynchronousTestCase):
    def test_counts(self) -> None:
        """Each label has a count. Labels beyond the limit share one."""
        counts = Counts(limit=2)
        for label in ("a", "b", "a", "c", "d", "b"):
            counts.add(label)
        self.assertEqual(counts.values, {"a": 2, "b": 2, OTHER: 2})
        pairs = Counts(limit=1)
        for state in ("completed", "failed"):
            pairs.add((state, "x"))
        self.assertEqual(pairs.values, {("completed", "x"): 1, (OTHER, OTHER): 1})

    def test_bounds(self) -> None:
        """A value that equals a bound belongs to that bucket, as in Prometheus (``le``)."""
        seconds = Histogram((0.5, 1.0))
        for value in (0.1, 0.5, 0.75, 7.0):
            seconds.observe(value)
        self.assertEqual((seconds.counts, seconds.sum), ([2, 1, 1], 8.35))


class Text(SynchronousTestCase):
    def lines(self, *sources: object) -> list[str]:
        registry = Registry()
        registry.add(lambda: sources)  # type: ignore[arg-type,return-value] # families
        text, media_type = registry.text("")
        self.assertTrue(media_type.startswith("text/plain"))
        return [line for line in text.decode().splitlines() if not line.startswith("#")]

    def test_families(self) -> None:
        """All kinds of metrics are written with their labels."""
        counts = Counts()
        counts.add(("failed", "no_answer"))
        self.assertEqual(
            self.lines(
                counter("ends", "Ends.", ["state", "reason"], counts, counts),
                total("commits", "Commits.", 3),
                gauge("tasks", "Tasks.", [(("0of1",), 2.0)], ["shard"]),
                number("slots", "Slots.", 7),
                number("parked", "Parked.", None),
                states("breaker", "State.", "open", ["closed", "open"]),
                states("other_breaker", "State.", None, ["closed", "open"]),
            ),
            [
                'ends_total{reason="no_answer",state="failed"} 2.0',
                "commits_total 3.0",
                'tasks{shard="0of1"} 2.0',
                "slots 7.0",
                'breaker{state="closed"} 0.0',
                'breaker{state="open"} 1.0',
            ],
        )

    def test_histograms(self) -> None:
        """The buckets are cumulative. Histograms of several roles are added."""
        one, other = Histogram((0.5, 1.0)), Histogram((0.5, 1.0))
        one.observe(0.25)
        other.observe(0.75)
        other.observe(3.0)
        self.assertEqual(
            self.lines(histogram("seconds", "Seconds.", one, other)),
            [
                'seconds_bucket{le="0.5"} 1.0',
                'seconds_bucket{le="1.0"} 2.0',
                'seconds_bucket{le="+Inf"} 3.0',
                "seconds_count 3.0",
                "seconds_sum 4.0",
            ],
        )
        calls, others = Histograms(FAST_S), Histograms(FAST_S)
        calls.observe("completed", 0.25)
        others.observe("completed", 0.5)
        others.observe("failed", 0.5)
        lines = self.lines(histograms("calls", "Calls.", "outcome", calls, others))
        self.assertIn('calls_sum{outcome="completed"} 0.75', lines)
        self.assertIn('calls_count{outcome="failed"} 1.0', lines)

    def test_a_source_fails(self) -> None:
        """If a source fails, that is logged, and all others are written."""
        registry = Registry()

        def fail() -> list[object]:
            raise ZeroDivisionError

        registry.add(fail)  # type: ignore[arg-type] # it returns nothing
        registry.add(lambda: [number("slots", "Slots.", 7)])
        self.assertIn(b"slots 7.0", registry.text("")[0])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_openmetrics(self) -> None:
        """A scraper that asks for OpenMetrics gets it."""
        text, media_type = Registry().text("application/openmetrics-text; version=1.0.0")
        self.assertTrue(media_type.startswith("application/openmetrics-text"))
        self.assertEqual(text, b"# EOF\n")
