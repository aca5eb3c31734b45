"""Clocks for deadlines and for times that cross processes.

`AwakeClock` drives every deadline in a process. It is monotonic. It stands still while the process
does not run: while it is stopped (SIGSTOP), or while its machine is paused or migrated. So input
that arrived in the meantime is read before a deadline expires.

`WallClock` returns seconds since the epoch, for times that cross processes, such as those in the
journal's events. The system's clock may be set while the process runs. `WallClock` detects such a
step by comparison with the awake clock, and leaves it out of the age of earlier times.

Both clocks must be read about once a second (`READ_EVERY_S`) to detect stops and steps between two
readings. `rtprov.tap` does that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

READ_EVERY_S = 1.0
# A running process reads the clock more often than this, however busy it is. So a longer gap means
# that it was stopped. A shorter stop is not detected, and counts as time that passed.
LONGEST_GAP_S = 3.0
# A smaller difference between the two clocks comes from an interrupted reading, or from NTP's slow
# correction.
SMALLEST_STEP_S = 1.0
MAX_STEPS = 100


class AwakeClock:
    """Counts the seconds in which this process ran, from `start`.

    `monotonic` returns seconds from any origin (`time.monotonic`). `start` is the clock's first
    reading. With seconds since the epoch as `start`, readings are close to the wall clock's and can
    be compared with those of an earlier process.
    """

    def __init__(self, monotonic: Callable[[], float], start: float = 0.0) -> None:
        self._monotonic = monotonic
        self._last = monotonic()
        self._now = start
        self.stopped_s = 0.0
        """How many seconds the process did not run, in total."""

    def seconds(self) -> float:
        """Return the present time in seconds. It never decreases."""
        now = self._monotonic()
        passed_s, self._last = now - self._last, now
        if passed_s > LONGEST_GAP_S:
            self.stopped_s += passed_s
        elif passed_s > 0:
            self._now += passed_s
        return self._now


@attrs.frozen
class Step:
    """One step of the system's clock, of `size_s` seconds (positive if forward).

    `before` is what the system's clock would have shown without the step, in seconds since the
    epoch. `at` is the time of the awake clock.
    """

    at: float
    before: float
    size_s: float


class WallClock:
    """Returns seconds since the epoch, and the age of earlier times.

    `wall` returns seconds since the epoch (`time.time`), `awake` the seconds of the process's awake
    clock.
    """

    def __init__(self, wall: Callable[[], float], awake: Callable[[], float]) -> None:
        self._wall = wall
        self._awake = awake
        self._last = wall(), awake()
        self.steps: deque[Step] = deque(maxlen=MAX_STEPS)

    def __call__(self) -> float:
        """Return seconds since the epoch, as the system's clock shows them now."""
        now, awake = self._wall(), self._awake()
        before, last_awake = self._last
        self._last = now, awake
        expected = before + awake - last_awake
        if abs(now - expected) >= SMALLEST_STEP_S:
            self.steps.append(Step(awake, expected, now - expected))
        return now

    def age_s(self, at: float) -> float:
        """Return how many seconds have passed since the time `at`, at least 0; steps do not count.

        A time that the clock has shown twice, before and after it was set back, counts as the later
        one. A time that it has never shown, because it was set forward, is older than the step.
        """
        upto, ran_s, skipped_s = self(), 0.0, 0.0
        if at > upto:
            return 0.0
        for step in reversed(self.steps):
            since = step.before + step.size_s  # after this step, the clock ran from here to `upto`
            if since <= at <= upto:
                return ran_s + upto - at
            ran_s += upto - since
            if step.before < at < since and not skipped_s:
                skipped_s = ran_s + since - at
            upto = step.before
        return ran_s + upto - at if at <= upto else skipped_s

    def without_jumps(self, window_s: float) -> float:
        """Return seconds since the epoch, minus the forward steps of the last `window_s` seconds.

        Measured against this time, a timestamp from before such a step is older than `window_s`
        only if that much time has really passed.
        """
        now = self()
        recent = self._awake() - window_s
        return now - sum(
            step.size_s for step in self.steps if step.size_s > 0 and step.at >= recent
        )
