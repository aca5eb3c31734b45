"""The metrics that every command has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rtprov import __version__
from rtprov.metrics.families import gauge, number
from rtprov.metrics.registry import Registry
from rtprov.tap.reloading import Renewal

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.core import Metric


def process_registry(
    services: Callable[[], Iterable[object]], lag_s: Callable[[], float]
) -> Registry:
    """Return the registry of a command. `services` returns the command's services, `lag_s` for how
    long the reactor was busy with one thing.
    """
    registry = Registry(process=True)
    registry.add(build_info)
    registry.add(lambda: lag(lag_s()))
    registry.add(lambda: expiries(each for each in services() if isinstance(each, Renewal)))
    return registry


def build_info() -> Iterator[Metric]:
    """Return the version as a label."""
    yield gauge("rtprov_build_info", "The version of rtprov", [((__version__,), 1.0)], ["version"])


def lag(seconds: float) -> Iterator[Metric]:
    """Return how late timers were."""
    yield number(
        "rtprov_reactor_lag_seconds",
        "The longest time by which a timer was late in the last minute",
        seconds,
    )


def expiries(renewals: Iterable[Renewal]) -> Iterator[Metric]:
    """Return when certificates expire. Of files with the same name, the earliest expiry."""
    first: dict[str, float] = {}
    for renewal in renewals:
        for name, at in renewal.expiries.items():
            first[name] = min(at, first.get(name, at))
    yield gauge(
        "rtprov_certificate_expiry_timestamp_seconds",
        "When the certificates of a file expire, in seconds since the epoch",
        [((name,), at) for name, at in sorted(first.items())],
        ["name"],
    )
