"""Estimate when open tasks end. The estimates are for clients; no decision of rtprov uses them.

`rtprov.journal.schedule` predicts when the tasks are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtprov.journal.schedule import Schedule, end_of_call

if TYPE_CHECKING:
    from rtprov.journal.backlog import Backlog
    from rtprov.journal.record import Record

PLAN_VALID_S = 1.0  # how long a schedule is used
STALE_FOR_S = 0.1  # how long it is used after a call that it did not predict
FEW = 200  # with so few waiting tasks, a new schedule is cheap


class Forecaster:
    """Makes the forecasts of `backlog`.

    Forecasts within one second share a schedule, unless calls begin that it did not predict.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._schedule: Schedule | None = None
        backlog.on_call = self._see_call
        backlog.on_caller = self._see_caller

    def _see_call(self, number: int) -> None:
        if self._schedule is not None and number not in self._schedule.planned:
            self._schedule.stale = True

    def _see_caller(self) -> None:
        if self._schedule is not None:
            self._schedule.stale = True

    def at(self, now: float) -> Forecast:
        """Return the forecast at `now`, in seconds since the epoch."""
        schedule = self._schedule
        if schedule is None or not self._may_serve(schedule, now):
            schedule = self._schedule = Schedule(self._backlog, now)
        return Forecast(self._backlog, schedule, now)

    def _may_serve(self, schedule: Schedule, now: float) -> bool:
        if schedule.slots != self._backlog.concurrency or (
            schedule.stale and self._backlog.waiting <= FEW
        ):
            return False
        return 0 <= now - schedule.now < (STALE_FOR_S if schedule.stale else PLAN_VALID_S)


class Forecast:
    """Estimates of the ends of tasks at `now` (seconds since the epoch), from one schedule."""

    def __init__(self, backlog: Backlog, schedule: Schedule, now: float) -> None:
        self._backlog = backlog
        self._schedule = schedule
        self._now = now
        self._call_s = schedule.call_s
        self._heads: dict[str, float] = {}

    def end_of(self, record: Record, ahead: int | None = None) -> float | None:
        """Return when the task may end, in seconds since the epoch.

        Returns None while A is in trouble, unless the task's call is running. `ahead` is the number
        of open tasks of its device that come before it. If it is None, it is taken from the
        backlog, which also counts tasks that were cancelled since.
        """
        if record in self._backlog.calling:
            return end_of_call(record, self._now, self._backlog.typical_s)
        return None if self._backlog.trouble else self._end_of_other(record, ahead)

    def end_of_all(self) -> float:
        """Return when all open tasks may have ended, in seconds since the epoch.

        The result means nothing while A is in trouble.
        """
        backlog, now = self._backlog, self._now
        ends = [now]
        if backlog.waiting or backlog.retrying:
            ends.append(self._schedule.end_of_all())
        if backlog.calling:
            ends.append(end_of_call(next(reversed(backlog.calling)), now, self._call_s))
        return max(ends)

    def _end_of_other(self, record: Record, ahead: int | None = None) -> float:
        """Estimate the end of a task whose call is not running."""
        last = record.last_attempt()
        if last is not None or record.turn is None:
            due = self._now if last is None or last.retry_at is None else last.retry_at
            return max(self._now, due, self._schedule.retried_at(record)) + self._call_s
        begins = max(self._now, self._schedule.begins_at(record.turn.number))
        head = self._backlog.lanes[record.equipment_id].head
        if head is not record and head.turn is not None:
            ahead = record.turn.place - head.turn.place if ahead is None else ahead
            begins = max(begins, self._end_of_head(head) + (ahead - 1) * self._call_s)
        return begins + self._call_s

    def _end_of_head(self, head: Record) -> float:
        """Estimate the end of a device's first open task. All its other tasks need the result."""
        if head.equipment_id not in self._heads:
            calling = head in self._backlog.calling
            self._heads[head.equipment_id] = (
                end_of_call(head, self._now, self._call_s) if calling else self._end_of_other(head)
            )
        return self._heads[head.equipment_id]
