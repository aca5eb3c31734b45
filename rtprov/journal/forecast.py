"""Estimate when open tasks end. The estimates are for clients; no decision of rtprov uses them.

A task may be called if its device has no earlier open task. When a slot is free, the active worker
calls the oldest of these tasks. So later tasks never delay earlier ones. `Schedule` simulates these
calls in *rounds*. In a round, each slot makes one call. If all calls take the same time, the result
is exact.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtprov.journal.backlog import Backlog
    from rtprov.journal.record import Record

MOST_PLAYED = 2000  # tasks in a schedule; about as many as a worker holds
MOST_PASSED = 20_000  # tasks that take no slot, because they wait for their keys
PLAYED_FOR_S = 1.0  # how long a schedule is used
STALE_FOR_S = 0.1  # how long it is used after a call that it did not predict
FEW = 200  # with so few waiting tasks, a new schedule is cheap


class Schedule:
    """The predicted order of the waiting tasks of `backlog`, made at the time `now`.

    `now` is seconds since the epoch. Tasks that come later are added when a forecast needs them.
    Tasks that wait for their sealing keys get no slot, and neither do later tasks of the same
    devices.
    """

    def __init__(self, backlog: Backlog, now: float) -> None:
        self._backlog = backlog
        self.now = now
        self.slots = backlog.concurrency
        self.call_s = backlog.typical_s
        self.stale = False
        self._next = 0  # the number of the next task to be added
        self.played: dict[int, int] = {}  # by task number: its position, counted in slots
        self._passed: list[int] = []  # the numbers of the tasks that have no place
        self._held: set[str] = set()  # the devices of those tasks
        self._used: dict[int, int] = {}  # by round: how many slots are in use
        self._full = 0  # the first round that is not full
        self._lanes: dict[str, int] = {}  # by device: the first round for its next task
        under_way = [
            end_of_call(record, now, self.call_s)
            for each in backlog.siblings()
            for record in each.calling
        ]
        self._free_at = [now] * (self.slots - len(under_way)) + sorted(under_way)

    def begins_at(self, number: int) -> float:
        """Return when the task with this number gets a slot.

        A number that no task has yet is placed after all waiting tasks.
        """
        self._play()
        backlog = self._backlog
        before = backlog.waiting_before(number) - bisect_left(self._passed, number)
        place = self.played.get(number)
        if place is None:
            place = self._full * self.slots + self._used.get(self._full, 0)
            if before > len(self.played):
                # assume that the tasks after the schedule use slots at the same rate
                place = max(place, before * place // max(1, len(self.played)))
        elsewhere = sum(
            each.waiting_for_slots for each in backlog.siblings() if each is not backlog
        )
        # Assume that the same share of tasks came earlier in the worker's other shards as in this
        # one. They use the slots that this shard leaves free.
        if elsewhere:
            earlier = int(
                elsewhere * min(1.0, (before + 1) / max(1, backlog.waiting - len(self._passed)))
            )
            place += max(0, earlier - (place - before))
        rounds, slot = divmod(place, self.slots)
        return self._free_at[slot] + rounds * self.call_s

    def _play(self) -> None:
        if len(self.played) >= MOST_PLAYED or len(self._passed) >= MOST_PASSED:
            return
        for record in self._backlog.waiting_from(self._next):
            assert record.turn is not None
            self._next = record.turn.number + 1
            if self._is_held(record):
                self._passed.append(record.turn.number)
            else:
                self.played[record.turn.number] = self._place(record.equipment_id)
            if len(self.played) == MOST_PLAYED or len(self._passed) == MOST_PASSED:
                return

    def _is_held(self, record: Record) -> bool:
        withheld = self._backlog.withheld
        if not withheld.waiting:
            return False
        device = record.equipment_id
        if device not in self._held and (
            withheld.holds(record) or withheld.holds(self._backlog.lanes[device].head)
        ):
            self._held.add(device)
        return device in self._held

    def _place(self, equipment_id: str) -> int:
        round_ = self._lanes.get(equipment_id)
        if round_ is None:
            round_ = self._first_round(equipment_id)
        round_ = max(round_, self._full)
        while self._used.get(round_, 0) >= self.slots:
            round_ += 1
        used = self._used.get(round_, 0)
        self._used[round_] = used + 1
        self._lanes[equipment_id] = round_ + 1
        while self._used.get(self._full, 0) >= self.slots:
            del self._used[self._full]
            self._full += 1
        return round_ * self.slots + used

    def _first_round(self, equipment_id: str) -> int:
        """Return the first round for a device's first waiting task.

        If a call for an earlier task of the device is running, this is round 0, in which the call's
        slot becomes free. If an earlier task waits for its next attempt, this is the round
        after that attempt.
        """
        last = self._backlog.lanes[equipment_id].head.last_attempt()
        if last is None or last.retry_at is None:
            return 0
        return 1 + max(0, int((last.retry_at - self.now) / self.call_s)) if self.call_s else 1


class Forecaster:
    """Makes the forecasts of `backlog`.

    Forecasts within one second share a schedule, unless calls begin that it did not predict.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._schedule: Schedule | None = None
        backlog.on_call = self._see_call

    def _see_call(self, number: int) -> None:
        if self._schedule is not None and number not in self._schedule.played:
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
        return 0 <= now - schedule.now < (STALE_FOR_S if schedule.stale else PLAYED_FOR_S)


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

    def all_end_s(self) -> float | None:
        """Return in how many seconds all open tasks may have ended, None while A is in trouble."""
        backlog, now = self._backlog, self._now
        if backlog.trouble:
            return None
        last = max((end_of_call(each, now, self._call_s) for each in backlog.calling), default=now)
        if len(backlog.calling) < backlog.open:
            last = max(last, now, self._schedule.begins_at(backlog.came - 1)) + self._call_s
        return last - now

    def _end_of_other(self, record: Record, ahead: int | None = None) -> float:
        """Estimate the end of a task whose call is not running."""
        last = record.last_attempt()
        # After its pause, the task goes to the end of the queue.
        if last is not None or record.turn is None:
            due = self._now if last is None or last.retry_at is None else last.retry_at
            return max(self._now, due, self._schedule.begins_at(self._backlog.came)) + self._call_s
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


def end_of_call(record: Record, now: float, call_s: float) -> float:
    """Estimate when a running call ends, if a call takes `call_s` seconds."""
    last = record.last_attempt()
    started_at = None if last is None else last.started_at
    return max(now, (now if started_at is None else started_at) + call_s)
