"""The circuit breaker for service A: decides whether A is in trouble, and how many calls it gets.

Pure logic; time is an argument, in seconds. The breaker has three states:

- *Closed*: the breaker does not limit calls. Calls for ten different devices in succession without
  an answer open it; any answer in between starts the count again. So one busy or broken device
  never opens it.
- *Open*: one call at a time probes A, after pauses that grow and are jittered. Any answer makes the
  breaker half open.
- *Half open*: the permitted number of calls doubles every two seconds. Calls for three devices in
  succession without an answer open the breaker again. When the limit reaches the concurrency, the
  breaker closes.

A 503 with ``Retry-After`` does not count as an outage while the breaker is closed or half open,
because A itself names the time of the next call. An outage of a call that began before the breaker
opened does not count either. An answer always counts, even a late one, because it shows that A can
be reached.
"""

from __future__ import annotations

import random

from rtprov.backoff import jittered_backoff_s

# Devices without an answer in succession that open the breaker: when closed, and when half open.
FAILURE_THRESHOLD = 10
HALF_OPEN_FAILURE_THRESHOLD = 3
FIRST_PROBE_S = 1.0
LONGEST_PROBE_S = 15.0
# After this time a second probe may begin: the first one may hang for a reason of its own.
PROBE_OVERDUE_S = 90.0
# A's Retry-After delays the next probe, by this at most: one wrong value must not stop all devices
# for a day.
LONGEST_RETRY_AFTER_S = 300.0
# When half open: 5 calls at the same time, after two seconds 10, and so on.
FIRST_GROWTH = 5
GROWTH_STEP_S = 2.0


class CircuitBreaker:
    """The breaker of one worker process.

    `concurrency` is the largest number of calls at the same time when A is well; `rng` gives the
    jitter that spreads the probes of several workers.
    """

    def __init__(self, *, concurrency: int, rng: random.Random) -> None:
        self._concurrency = concurrency
        self._rng = rng
        self._unanswered_devices: set[str] = set()
        # How often the breaker has opened. Each call has the generation in which it began.
        self._generation = 0
        self._under_way = 0  # calls of this generation
        self._opened_at: float | None = None  # None while closed
        self._half_open_since: float | None = None
        self._probe_at = 0.0
        self._overdue_at = 0.0
        self._openings = 0  # since it was closed last

    @property
    def closed(self) -> bool:
        """Whether the breaker does not limit calls."""
        return self._opened_at is None

    @property
    def half_open(self) -> bool:
        """Whether A answers again and the number of calls grows step by step."""
        return self._half_open_since is not None

    def may_begin(self, now: float) -> bool:
        """Return whether one more call may begin. Closes the breaker if the growth is complete."""
        if self._opened_at is None:
            return True
        if self._half_open_since is None:
            return now >= self._next_probe_at
        limit = self._limit(now - self._half_open_since)
        if limit >= self._concurrency:
            self._opened_at = self._half_open_since = None
            self._openings = 0
            self._unanswered_devices.clear()
            return True
        return self._under_way < limit

    def next_look_s(self, now: float) -> float | None:
        """Return in how many seconds `may_begin` may become true by time alone; None if it is true
        now, or if time alone changes nothing.
        """
        if self._opened_at is None:
            return None
        if self._half_open_since is not None:
            return GROWTH_STEP_S - (now - self._half_open_since) % GROWTH_STEP_S
        return self._next_probe_at - now if now < self._next_probe_at else None

    def begin(self, now: float) -> int:
        """Register the begin of a call. Return its generation, for `end` and `outage`."""
        self._overdue_at = now + PROBE_OVERDUE_S
        self._under_way += 1
        return self._generation

    def end(self, generation: int) -> None:
        """Register the end of a call, whatever its result. After a probe that ended without a
        result, as when it was cancelled, another probe may begin.
        """
        if generation == self._generation:
            self._under_way -= 1

    def answered(self, now: float) -> None:
        """Register an answer of A, also one with an error."""
        self._unanswered_devices.clear()
        if self._opened_at is not None and self._half_open_since is None:
            self._half_open_since = now

    def outage(
        self, generation: int, device: str, now: float, retry_after_s: float | None = None
    ) -> None:
        """Register a call without an answer from A. `retry_after_s` is the ``Retry-After`` of a
        503, in seconds.
        """
        probing = self._opened_at is not None and self._half_open_since is None
        if generation != self._generation or (retry_after_s is not None and not probing):
            return
        self._unanswered_devices.add(device)
        if len(self._unanswered_devices) >= self._enough:
            self._open(now, retry_after_s)

    def _open(self, now: float, retry_after_s: float | None) -> None:
        if self._opened_at is None:
            self._opened_at = now
        self._openings += 1
        pause_s = jittered_backoff_s(
            self._openings, self._rng, first_s=FIRST_PROBE_S, longest_s=LONGEST_PROBE_S
        )
        self._probe_at = now + max(pause_s, min(retry_after_s or 0.0, LONGEST_RETRY_AFTER_S))
        self._generation += 1
        self._under_way = 0
        self._half_open_since = None
        self._unanswered_devices.clear()

    @property
    def _enough(self) -> int:
        """How many devices without an answer in succession open the breaker now."""
        if self._opened_at is None:
            return FAILURE_THRESHOLD
        return 1 if self._half_open_since is None else HALF_OPEN_FAILURE_THRESHOLD

    @property
    def _next_probe_at(self) -> float:
        return self._overdue_at if self._under_way else self._probe_at

    def _limit(self, growing_s: float) -> int:
        return FIRST_GROWTH << min(int(growing_s / GROWTH_STEP_S), 32)
