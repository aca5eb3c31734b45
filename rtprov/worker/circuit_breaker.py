"""Whether A is in trouble, and how many calls it may get then. Pure bookkeeping; time is an
argument, in seconds.

A row of calls that got no answer, for different devices and with no answer to anybody in between,
opens the breaker: a device that is busy, or alone out of order, never does. While it is *open*, one
call at a time *probes*, at growing, jittered intervals. An answer lets the calls *grow* back in
number step by step, unless a short row of outages opens it again; at the end of the growth it is
*closed*.

An answer that is none, but comes with a Retry-After, sets the pace by itself: it neither opens the
breaker nor speaks against doing so. What becomes of a call that began before the breaker opened
speaks of the past: its silence changes nothing. Its answer, however late, tells that A is there.
"""

from __future__ import annotations

import random

# So many devices in a row, out of as many calls, leave little doubt; during the growth there is
# some already.
FAILURE_THRESHOLD = 10
ROW_WHILE_GROWING = 3
FIRST_PROBE_S = 1.0
LONGEST_PROBE_S = 15.0
# A probe that has not ended by then may hang where the next one would not.
PROBE_OVERDUE_S = 90.0
# A's own Retry-After puts a probe off, but one answer's mistake must not keep all devices waiting
# for a day.
LONGEST_RETRY_AFTER_S = 300.0
# 5 calls at once, two seconds later 10, and so on.
FIRST_GROWTH = 5
GROWTH_STEP_S = 2.0


class CircuitBreaker:
    """`concurrency` is how many calls may be under way where all is well; `rng` spreads the probes
    of several workers.
    """

    def __init__(self, *, concurrency: int, rng: random.Random) -> None:
        self._concurrency = concurrency
        self._rng = rng
        self._row: set[str] = set()
        self._generation = (
            0  # how often it has opened: tells calls that began before from those after
        )
        self._under_way = 0  # calls of this generation
        self._opened_at: float | None = None  # in trouble since; None while closed
        self._grows_since: float | None = None
        self._probe_at = 0.0
        self._overdue_at = 0.0
        self._openings = 0  # without having been closed in between

    @property
    def closed(self) -> bool:
        """All is well, as far as is known."""
        return self._opened_at is None

    @property
    def half_open(self) -> bool:
        """A answers again, and is given more calls step by step."""
        return self._grows_since is not None

    def may_begin(self, now: float) -> bool:
        """Whether one more call may begin. Closes the breaker where the growth has come to its
        end.
        """
        if self._opened_at is None:
            return True
        if self._grows_since is None:
            return now >= self._next_probe_at
        limit = self._limit(now - self._grows_since)
        if limit >= self._concurrency:
            self._opened_at = self._grows_since = None
            self._openings = 0
            self._row.clear()
            return True
        return self._under_way < limit

    def next_look_s(self, now: float) -> float | None:
        """In how many seconds `may_begin` may become true though nothing but time has passed; None:
        never, or it is true now.
        """
        if self._opened_at is None:
            return None
        if self._grows_since is not None:
            return GROWTH_STEP_S - (now - self._grows_since) % GROWTH_STEP_S
        return self._next_probe_at - now if now < self._next_probe_at else None

    def begin(self, now: float) -> int:
        """A call begins. Return its generation, for the methods below."""
        self._overdue_at = now + PROBE_OVERDUE_S
        self._under_way += 1
        return self._generation

    def end(self, generation: int) -> None:
        """The call is over, whatever came of it; where nothing did, as when it was given up,
        another one may take its place.
        """
        if generation == self._generation:
            self._under_way -= 1

    def answered(self, now: float) -> None:
        """A has answered a call, be it with an error of its own."""
        self._row.clear()
        if self._opened_at is not None and self._grows_since is None:
            self._grows_since = now

    def outage(
        self, generation: int, device: str, now: float, retry_after_s: float | None = None
    ) -> None:
        """A call got no answer in time, or an answer that is none. `retry_after_s` is A's own
        wish.
        """
        probing = self._opened_at is not None and self._grows_since is None
        if generation != self._generation or (retry_after_s is not None and not probing):
            return
        self._row.add(device)
        if len(self._row) >= self._enough:
            self._open(now, retry_after_s)

    def _open(self, now: float, retry_after_s: float | None) -> None:
        if self._opened_at is None:
            self._opened_at = now
        longest = min(LONGEST_PROBE_S, FIRST_PROBE_S * 2.0 ** min(self._openings, 16))
        interval = longest * (0.5 + self._rng.random() / 2)
        self._probe_at = now + max(interval, min(retry_after_s or 0.0, LONGEST_RETRY_AFTER_S))
        self._openings += 1
        self._generation += 1
        self._under_way = 0
        self._grows_since = None
        self._row.clear()

    @property
    def _enough(self) -> int:
        """How long a row opens it (again)."""
        if self._opened_at is None:
            return FAILURE_THRESHOLD
        return 1 if self._grows_since is None else ROW_WHILE_GROWING

    @property
    def _next_probe_at(self) -> float:
        return self._overdue_at if self._under_way else self._probe_at

    def _limit(self, growing_s: float) -> int:
        return FIRST_GROWTH << min(int(growing_s / GROWTH_STEP_S), 32)
