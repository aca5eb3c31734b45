"""Mutations of how a process handles time: suspensions of the process, and steps of the system
clock. See `mutations`.
"""

from __future__ import annotations

from typing import Any

from rtprov.clocks import AwakeClock
from rtprov.worker.attempts import Attempts
from tests.simulation.mutation import mutation

_seconds = AwakeClock.seconds


@mutation("deadlines run on while a process is stopped", AwakeClock, "seconds")
def _count_stops(self: Any) -> float:
    before = self.stopped_s
    now: float = _seconds(self)
    self._now += self.stopped_s - before
    return now + float(self.stopped_s - before)


@mutation("patience runs on the wall clock", Attempts, "_left_s")
def _left_by_the_wall(self: Any, job: Any) -> float:
    first_started_at = self._store.first_started_at(job.task.task_id)
    now = self._wall_clock()
    return float(
        (now if first_started_at is None else first_started_at)
        + self._patience_s
        - job.waited_s
        - now
    )
