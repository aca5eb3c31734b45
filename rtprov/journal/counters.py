"""Counters of the tasks that have ended lately, kept up to date by the fold."""

from __future__ import annotations

from rtprov.model import State

FINAL_STATES = tuple(state for state in State if state.final)
MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0

_PLACE = {state: place for place, state in enumerate(FINAL_STATES)}


class _Ring:
    """Counts by state in buckets of `bucket_s` seconds; `count` buckets are kept.

    A bucket is a list: its number since the epoch, and a count for each of `FINAL_STATES`.
    """

    def __init__(self, bucket_s: float, count: int) -> None:
        self._bucket_s = bucket_s
        self._buckets = [[-1, *(0 for _ in FINAL_STATES)] for _ in range(count)]
        self._latest = self._buckets[0]

    def add(self, place: int, at: float) -> None:
        number = int(at // self._bucket_s)
        if self._latest[0] == number:
            self._latest[1 + place] += 1
            return
        bucket = self._buckets[number % len(self._buckets)]
        if bucket[0] < number:
            bucket[:] = [number, *(0 for _ in FINAL_STATES)]
        if bucket[0] == number:  # else the end is older than all that is kept
            bucket[1 + place] += 1
            self._latest = bucket

    def totals(self, now: float, within_s: float) -> dict[State, int]:
        """Sum the bucket of `now` and those before it, `within_s` seconds in all."""
        newest = int(now // self._bucket_s)
        oldest = newest - round(within_s / self._bucket_s)
        counts = [0] * len(FINAL_STATES)
        for bucket in self._buckets:
            # The clock of the worker that ended a task may be ahead.
            if bucket[0] > oldest:
                for place in range(len(counts)):
                    counts[place] += bucket[1 + place]
        return dict(zip(FINAL_STATES, counts, strict=True))


class EndCounts:
    """How many tasks have ended within the last minute, hour and day, by state.

    The minute is exact to a second, the hour and the day to a minute. The size does not depend on
    the number of tasks.
    """

    def __init__(self) -> None:
        self._seconds = _Ring(1.0, 60)
        self._minutes = _Ring(60.0, 1440)

    def add(self, state: State, at: float) -> None:
        """Count a task that ended in this state at the time `at`, in seconds since the epoch."""
        place = _PLACE[state]
        self._seconds.add(place, at)
        self._minutes.add(place, at)

    def last_minute(self, now: float) -> dict[State, int]:
        """Return the counts of the minute before `now`."""
        return self._seconds.totals(now, MINUTE_S)

    def last_hour(self, now: float) -> dict[State, int]:
        """Return the counts of the hour before `now`."""
        return self._minutes.totals(now, HOUR_S)

    def last_day(self, now: float) -> dict[State, int]:
        """Return the counts of the day before `now`."""
        return self._minutes.totals(now, DAY_S)
