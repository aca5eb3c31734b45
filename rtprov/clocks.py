"""Time that can be trusted: deadlines that no clock step and no pause of the process ends, and
wall-clock times that tell their age.

`AwakeClock` is the clock that every deadline in a process runs on. It is monotonic, and it stands
still while the process does not run: stopped (SIGSTOP), or on a machine that is paused or migrated.
What arrived meanwhile is therefore read before any deadline is judged.

`WallClock` gives seconds since the epoch, for what crosses processes: the journal's events. The
system's clock may be set while the process runs. `WallClock` notices such a step by comparing it
with the awake clock, and does not count it in the age of an earlier time.

Both must be read about once a second (`READ_EVERY_S`) to notice what happens between two readings;
`rtprov.tap` sees to that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

READ_EVERY_S = 1.0
# Longer than a reading is ever late in a process that runs, however busy; a shorter stop counts as
# time that has passed.
LONGEST_GAP_S = 3.0
# A smaller difference between the two clocks is a reading that was interrupted, or NTP's slow
# correction.
SMALLEST_STEP_S = 1.0
MAX_STEPS = 100


class AwakeClock:
    """Seconds in which this process ran, on top of `start`.

    `monotonic` gives seconds from any origin (`time.monotonic`). `start` is what the clock shows at
    first; with the seconds since the epoch there, its readings are near the wall clock's and can be
    compared with those of an earlier process."""

    def __init__(self, monotonic: Callable[[], float], start: float = 0.0) -> None:
        self._monotonic = monotonic
        self._last = monotonic()
        self._now = start
        self.stopped_s = 0.0
        """For how many seconds in all the process did not run."""

    def seconds(self) -> float:
        """The present time. It never goes back."""
        now = self._monotonic()
        passed_s, self._last = now - self._last, now
        if passed_s > LONGEST_GAP_S:
            self.stopped_s += passed_s
        elif passed_s > 0:
            self._now += passed_s
        return self._now


@attrs.frozen
class Step:
    """The system's clock was set by `size_s` seconds, forward if positive, when it showed `before`
    and the awake clock `at`.
    """

    at: float
    before: float
    size_s: float


class WallClock:
    """Seconds since the epoch, and how long ago a time was.

    `wall` gives seconds since the epoch (`time.time`), `awake` the process's awake clock in
    seconds."""

    def __init__(self, wall: Callable[[], float], awake: Callable[[], float]) -> None:
        self._wall = wall
        self._awake = awake
        self._last = wall(), awake()
        self.steps: deque[Step] = deque(maxlen=MAX_STEPS)

    def __call__(self) -> float:
        """Seconds since the epoch, as the system's clock shows them now."""
        now, awake = self._wall(), self._awake()
        before, last_awake = self._last
        self._last = now, awake
        expected = before + awake - last_awake
        if abs(now - expected) >= SMALLEST_STEP_S:
            self.steps.append(Step(awake, expected, now - expected))
        return now

    def age_s(self, at: float) -> float:
        """How many seconds ago the clock showed `at`, without the steps that it made since; at
        least 0.

        A time that the clock has shown twice, before and after it was set back, counts as the later
        one."""
        age_s = self() - at
        for step in self.steps:
            if at <= min(step.before, step.before + step.size_s):
                age_s -= step.size_s
        return max(0.0, age_s)

    def without_jumps(self, window_s: float) -> float:
        """Seconds since the epoch, less the steps forward of the last `window_s` seconds.

        What was noted down before such a step is not older than `window_s` by this time unless that
        time has really passed."""
        now = self()
        recent = self._awake() - window_s
        return now - sum(
            step.size_s for step in self.steps if step.size_s > 0 and step.at >= recent
        )
