"""Prometheus's metric families, made of plain numbers when they are scraped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from rtprov.metrics.counting import Counts, Histogram, Histograms

Labels = tuple[str, ...]
NONE: Labels = ()


def gauge(
    name: str, text: str, rows: Iterable[tuple[Labels, float]], labels: Sequence[str] = ()
) -> Metric:
    """Return a gauge. `text` describes it, each of `rows` has the values of `labels` and a
    number.
    """
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def number(name: str, text: str, value: float | None) -> Metric:
    """Return a gauge without labels. It has no sample if `value` is None."""
    return gauge(name, text, [] if value is None else [(NONE, value)])


def counter(name: str, text: str, labels: Sequence[str], *parts: Counts) -> Metric:
    """Return a counter: the sum of `parts`; `name` is without ``_total``."""
    family = CounterMetricFamily(name, text, labels=labels)
    sums: dict[str | Labels, int] = {}
    for part in parts:
        for values, count in part.values.items():
            sums[values] = sums.get(values, 0) + count
    for values, count in sums.items():
        family.add_metric((values,) if isinstance(values, str) else values, count)
    return family


def total(name: str, text: str, count: float) -> Metric:
    """Return a counter without labels; `name` is without ``_total``."""
    family = CounterMetricFamily(name, text)
    family.add_metric(NONE, count)
    return family


def histogram(name: str, text: str, *parts: Histogram) -> Metric:
    """Return a histogram without labels: the sum of `parts`, which have the same bounds."""
    family = HistogramMetricFamily(name, text)
    family.add_metric(NONE, *_buckets(parts))
    return family


def histograms(name: str, text: str, label: str, *parts: Histograms) -> Metric:
    """Return a histogram for each value of `label`: the sum of those in `parts`."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for value in sorted({value for part in parts for value in part.values}):
        same = [part.values[value] for part in parts if value in part.values]
        family.add_metric((value,), *_buckets(same))
    return family


def states(name: str, text: str, now: str | None, all_states: Iterable[str]) -> Metric:
    """Return a gauge that is 1 for the state `now`, and 0 for all others of `all_states`.

    It has no samples if `now` is None.
    """
    rows: Mapping[str, float] = (
        {} if now is None else {each: float(each == now) for each in all_states}
    )
    return gauge(name, text, (((each,), value) for each, value in rows.items()), ["state"])


def _buckets(parts: Sequence[Histogram]) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative counts with their upper bounds, and the sum of all values."""
    bounds = [*map(str, parts[0].bounds), "+Inf"]
    rows: list[tuple[str, float]] = []
    upto = 0
    for bound, *counts in zip(bounds, *(part.counts for part in parts), strict=True):
        upto += sum(counts)
        rows.append((bound, float(upto)))
    return rows, sum(part.sum for part in parts)
