"""When tasks that have not ended may end: a guess for clients, by which nothing is decided.

The active worker calls first the task that came first, as soon as there is a free slot and no
earlier task of its device is open; so what comes later delays nothing. `Schedule` plays that
forward in *rounds*, in each of which every slot is used once. With calls that all take the same
time, that is exact."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtprov.journal.backlog import Backlog
    from rtprov.journal.record import Record

MOST_PLAYED = 2000  # tasks; about as many as a worker holds
MOST_PASSED = 20_000  # tasks that take no slot, since they wait for their keys
PLAYED_FOR_S = 1.0
STALE_FOR_S = 0.1
FEW = 200  # tasks that wait, with which it is cheap to play again


class Schedule:
    """Where the tasks of `backlog` that wait will come, as it looks at `now`, in seconds since the
    epoch. What comes later is added.

    Tasks that wait for their sealing keys, and those of their devices behind them, have no place.
    """

    def __init__(self, backlog: Backlog, now: float) -> None:
        self._backlog = backlog
        self.now = now
        self.slots = backlog.concurrency
        self.call_s = backlog.typical_s
        self.stale = False
        self._next = 0  # the number from which on tasks have not been played
        self.played: dict[int, int] = {}  # by number: how many uses of slots come before
        self._passed: list[int] = []  # the numbers of those that have no place
        self._held: set[str] = set()  # their devices
        self._used: dict[int, int] = {}  # by round: how many slots
        self._full = 0  # all rounds before are full
        self._lanes: dict[str, int] = {}  # by device: the first round for its next task
        under_way = [
            end_of_call(record, now, self.call_s)
            for each in backlog.siblings()
            for record in each.calling
        ]
        self._free_at = [now] * (self.slots - len(under_way)) + sorted(under_way)

    def begins_at(self, number: int) -> float:
        """When the task of this number gets its slot, or one that comes behind all that wait."""
        self._play()
        backlog = self._backlog
        before = backlog.waiting_before(number) - bisect_left(self._passed, number)
        place = self.played.get(number)
        if place is None:
            place = self._full * self.slots + self._used.get(self._full, 0)
            if before > len(self.played):
                # things go on as in what was played
                place = max(place, before * place // max(1, len(self.played)))
        elsewhere = sum(each.able for each in backlog.siblings() if each is not backlog)
        # in the worker's other shards as many came earlier as did here; they take what slots this
        # one leaves
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
        """A device's first task that waits may have to wait for one that is tried again; for one
        that is called, it is the first round.
        """
        last = self._backlog.lanes[equipment_id].head.last_attempt()
        if last is None or last.retry_at is None:
            return 0
        return 1 + max(0, int((last.retry_at - self.now) / self.call_s)) if self.call_s else 1


class Forecaster:
    """Makes the forecasts of `backlog`. Those of one second share a schedule, unless calls begin
    that it did not foresee.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._schedule: Schedule | None = None
        backlog.on_call = self._see_call

    def _see_call(self, number: int) -> None:
        if self._schedule is not None and number not in self._schedule.played:
            self._schedule.stale = True

    def at(self, now: float) -> Forecast:
        """What to expect at `now`, in seconds since the epoch."""
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
    """What `backlog` lets expect at `now`, in seconds since the epoch, by a schedule of about that
    time.
    """

    def __init__(self, backlog: Backlog, schedule: Schedule, now: float) -> None:
        self._backlog = backlog
        self._schedule = schedule
        self._now = now
        self._call_s = schedule.call_s
        self._heads: dict[str, float] = {}

    def end_of(self, record: Record, ahead: int | None = None) -> float | None:
        """When the task may end; None where that cannot be said, since A is in trouble and the task
        needs a call to come.

        `ahead` open tasks of its device come before it; without it, the cancelled ones among them
        count, too."""
        if record in self._backlog.calling:
            return end_of_call(record, self._now, self._backlog.typical_s)
        return None if self._backlog.trouble else self._end_of_other(record, ahead)

    def _end_of_other(self, record: Record, ahead: int | None = None) -> float:
        """Of a task whose call does not run."""
        last = record.last_attempt()
        # it goes to the end of the queue once its pause is over
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
        """Of the first open task of a device: the same for all behind it."""
        if head.equipment_id not in self._heads:
            calling = head in self._backlog.calling
            self._heads[head.equipment_id] = (
                end_of_call(head, self._now, self._call_s) if calling else self._end_of_other(head)
            )
        return self._heads[head.equipment_id]


def end_of_call(record: Record, now: float, call_s: float) -> float:
    """When a call that runs may end, if one takes `call_s`."""
    last = record.last_attempt()
    started_at = None if last is None else last.started_at
    return max(now, (now if started_at is None else started_at) + call_s)
