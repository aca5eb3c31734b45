"""Counts of HTTP requests by route and status, and of refused callers, for metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rtprov.errors import (
    CredentialsExpired,
    CredentialsMissing,
    CredentialsUnknown,
    Forbidden,
    ForeignOrigin,
    NotYours,
    TooManyRequests,
)
from rtprov.metrics.counting import FAST_S, OTHER, Counts, Histograms
from rtprov.metrics.families import counter, histograms

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# The first matching row counts.
_WHY: tuple[tuple[type[BaseException], str], ...] = (
    (CredentialsMissing, "missing"),
    (CredentialsExpired, "expired"),
    (CredentialsUnknown, "unknown"),
    (ForeignOrigin, "origin"),
    (NotYours, "caller"),
    (Forbidden, "role"),
    (TooManyRequests, "rate"),
)
_VARIABLE = re.compile(r"<(?:[^<>:]+:)?(\w+)>")
_SNAKE = re.compile(r"_([a-z])")


class Traffic:
    """Counts the requests of one site.

    `rules` are the rules of its routes, as they are given to ``Klein.route``. A request with
    another path is counted as ``other``, so that clients cannot add labels. `now` returns seconds
    of a monotonic clock.
    """

    def __init__(self, rules: Iterable[str], now: Callable[[], float]) -> None:
        self.now = now
        self.requests = Counts()
        self.seconds = Histograms(FAST_S)
        self.refused = Counts()
        self.refused.values.update((why, 0) for _, why in _WHY)
        rules = sorted(set(rules))
        self._plain = {rule.encode(): rule for rule in rules if "<" not in rule}
        # By the number of slashes, so that few expressions are tried for a path.
        self._patterns: dict[int, list[tuple[Callable[[bytes], object], str]]] = {}
        for rule in rules:
            if "<" in rule:
                matches = re.compile(_pattern(rule).encode()).fullmatch
                self._patterns.setdefault(rule.count("/"), []).append((matches, _label(rule)))

    def route(self, path: bytes) -> str:
        """Return the route of a request's path, with its variable parts in braces."""
        plain = self._plain.get(path)
        if plain is not None:
            return plain
        for matches, label in self._patterns.get(path.count(b"/"), ()):
            if matches(path):
                return label
        return OTHER

    def answered(self, path: bytes, status: int, began_at: float | None) -> None:
        """Count a request that was answered.

        `began_at` is when it had arrived, by `now`; None if it was refused before.
        """
        route = self.route(path)
        self.requests.add((route, str(status)))
        if began_at is not None:
            self.seconds.observe(route, self.now() - began_at)

    def refused_for(self, error: BaseException) -> None:
        """Count a request that is refused because of its caller, or the caller's rate."""
        self.refused.add(next((why for kind, why in _WHY if isinstance(error, kind)), OTHER))

    def metrics(self) -> Iterator[Metric]:
        """Return the metrics of this site."""
        yield counter(
            "rtprov_http_requests",
            "HTTP requests that were answered, by route and status",
            ["route", "status"],
            self.requests,
        )
        yield histograms(
            "rtprov_http_seconds",
            "Seconds from the last byte of a request to its answer",
            "route",
            self.seconds,
        )
        yield counter(
            "rtprov_auth_refused",
            "Requests refused with 401, 403 or 429, by reason",
            ["why"],
            self.refused,
        )


def _pattern(rule: str) -> str:
    """Return the regular expression of a rule."""
    return "[^/]*".join(re.escape(part) for part in _VARIABLE.sub("\0", rule).split("\0"))


def _label(rule: str) -> str:
    """Return the rule as OpenAPI writes it: ``<string:task_id>`` becomes ``{taskId}``."""
    return _VARIABLE.sub(
        lambda match: f"{{{_SNAKE.sub(lambda each: each[1].upper(), match[1])}}}", rule
    )
