"""The predicted order in which the waiting tasks of a worker are called.

A task may be called if its device has no earlier open task. When a slot is free, the active worker
calls one of the caller with the fewest running calls; among those, the most urgent, then the oldest
one. So later tasks of the same caller and urgency never delay earlier ones. `Schedule` simulates
these calls in *rounds*. In a round, each slot makes one call. If all calls take the same time, the
result is exact. If the rate of calls is limited, a round lasts as long as its calls need to begin.

A task that was called without success waits for its next attempt. When that is due, the task gets
a slot after the tasks that are waiting at that time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from rtprov.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtprov.journal.backlog import Backlog
    from rtprov.journal.record import Record

MAX_PLANNED = 2000  # tasks in a schedule; about as many as a worker holds
MAX_KEYLESS = 20_000  # tasks that take no slot, because they wait for their keys


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
        rate = None if backlog.active is None else backlog.active.per_second
        self._round_s = self.call_s if rate is None else max(self.call_s, self.slots / rate)
        self.stale = False
        self._next = 0  # the number of the next task to be added
        self.planned: dict[int, int] = {}  # by task number: its position, counted in slots
        # `_due`: the tasks that wait for their next attempt, and its time, the earliest first.
        # `_retries`: the positions of those that have one already.
        self._due = self._next_attempts()
        self._retries: dict[Record, int] = {}
        self._keyless: list[int] = []  # the numbers of the tasks that have no place
        self._held: set[str] = set()  # the devices of those tasks
        self._used: dict[int, int] = {}  # by round: how many slots are in use
        self._full = 0  # the first round that is not full
        self._lanes: dict[str, int] = {}  # by device: the first round for its next task
        under_way = sorted(
            (
                (end_of_call(record, now, self.call_s), record)
                for each in backlog.siblings()
                for record in each.calling
            ),
            key=itemgetter(0),
        )
        self._running = [record.origin.caller for _, record in under_way]
        self._free_at = [now] * (self.slots - len(under_way)) + [end for end, _ in under_way]
        if len(backlog.shares) > 1 or not all(each.usual() for each in backlog.shares.values()):
            self._plan_shares()

    def begins_at(self, number: int) -> float:
        """Return when the task with this number gets a slot.

        A number that no task has yet is placed after all waiting tasks.
        """
        self._plan()
        backlog = self._backlog
        before = backlog.waiting_before(number) - bisect_left(self._keyless, number)
        place = self.planned.get(number)
        if place is None:
            place = self._full * self.slots + self._used.get(self._full, 0)
            if before > len(self.planned):
                # assume that the tasks after the schedule use slots at the same rate
                place = max(place, before * place // max(1, len(self.planned)))
        elsewhere = sum(
            each.waiting_for_slots for each in backlog.siblings() if each is not backlog
        )
        # Assume that the same share of tasks came earlier in the worker's other shards as in this
        # one. They use the slots that this shard leaves free.
        if elsewhere:
            earlier = int(
                elsewhere * min(1.0, (before + 1) / max(1, backlog.waiting - len(self._keyless)))
            )
            place += max(0, earlier - (place - before))
        return self._begin_of(place)

    def retried_at(self, record: Record) -> float:
        """Return when a task that waits for its next attempt gets a slot."""
        self._plan()
        place = self._retries.get(record)
        return self.begins_at(self._backlog.next_number) if place is None else self._begin_of(place)

    def _begin_of(self, place: int) -> float:
        rounds, slot = divmod(place, self.slots)
        return self._free_at[slot] + rounds * self._round_s

    def end_of_all(self) -> float:
        """Return when the last waiting task ends. A device with many tasks needs more time than the
        slots do, because its tasks run one after the other.
        """
        self._plan()
        backlog = self._backlog
        rounds = max(self._lanes.values(), default=0)
        end = self.now
        if rounds:
            used = self._used.get(rounds - 1, self.slots)
            end = self._begin_of((rounds - 1) * self.slots + used - 1) + self.call_s
        others = any(each.waiting for each in backlog.siblings() if each is not backlog)
        if others or backlog.waiting > len(self.planned) + len(self._keyless):
            end = max(end, self.begins_at(backlog.next_number) + self.call_s)
        return end

    def _plan(self) -> None:
        self._plan_waiting()
        self._plan_retries(math.inf)

    def _plan_waiting(self) -> None:
        if len(self.planned) >= MAX_PLANNED or len(self._keyless) >= MAX_KEYLESS:
            return
        for record in self._backlog.waiting_from(self._next):
            assert record.turn is not None
            self._next = record.turn.number + 1
            self._plan_one(record)
            if len(self.planned) == MAX_PLANNED or len(self._keyless) == MAX_KEYLESS:
                return

    def _plan_one(self, record: Record) -> bool:
        """Give the task a place. Return False if it takes none, because it waits for its key."""
        assert record.turn is not None
        if self._due:
            self._plan_retries(min(self.now, record.at))
        if self._is_held(record):
            insort(self._keyless, record.turn.number)
            return False
        self.planned[record.turn.number] = self._place(record.equipment_id)
        return True

    def _plan_shares(self) -> None:
        """Plan the tasks that wait now, as `FairQueue` shares the slots among callers."""
        queue: FairQueue[tuple[str | None, Iterator[Record]]] = FairQueue()
        # By slot: the caller of the call that ends there next.
        slots: deque[tuple[str | None, ...]] = deque()
        slots += [()] * (self.slots - len(self._running))
        slots += [(caller,) for caller in self._running[: self.slots]]
        for caller in self._running[: self.slots]:
            queue.began(caller)
        shares = islice(self._backlog.shares.items(), MAX_PLANNED)
        for order, (caller, share) in enumerate(shares):
            queue.add(caller, (caller, iter(share)), 0, order)
        while len(queue) and len(self.planned) < MAX_PLANNED and len(self._keyless) < MAX_KEYLESS:
            for caller in slots[0]:
                queue.ended(caller)
            slots[0] = ()
            caller, tasks = queue.pop()
            record = next(tasks, None)
            if record is not None:
                queue.add(caller, (caller, tasks), 0, 0)
            if record is not None and self._plan_one(record):
                slots.popleft()
                slots.append((caller,))
            else:
                queue.ended(caller)
        self._next = self._backlog.next_number

    def _next_attempts(self) -> deque[tuple[float, Record]]:
        due = [
            (last.retry_at, record)
            for record in islice(self._backlog.retrying, MAX_PLANNED)
            if (last := record.last_attempt()) is not None and last.retry_at is not None
        ]
        return deque(sorted(due, key=itemgetter(0)))

    def _plan_retries(self, upto: float) -> None:
        """Give places to the tasks whose next attempts are due up to this time."""
        while self._due and self._due[0][0] <= upto:
            at, record = self._due.popleft()
            if not self._is_held(record):
                first = int(max(0.0, at - self.now) / self._round_s) if self._round_s else 0
                self._retries[record] = self._take(record.equipment_id, first)

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
        return self._take(
            equipment_id, self._first_round(equipment_id) if round_ is None else round_
        )

    def _take(self, equipment_id: str, first_round: int) -> int:
        """Take a slot for a call in this round, or in the first one after it with a free slot."""
        round_ = max(first_round, self._full)
        while self._used.get(round_, 0) >= self.slots:
            round_ += 1
        used = self._used.get(round_, 0)
        self._used[round_] = used + 1
        self._lanes[equipment_id] = max(round_ + 1, self._lanes.get(equipment_id, 0))
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
        return 1 + max(0, int((last.retry_at - self.now) / self._round_s)) if self._round_s else 1


def end_of_call(record: Record, now: float, call_s: float) -> float:
    """Estimate when a running call ends, if a call takes `call_s` seconds.

    A call that is late is expected to last as long again as it is late.
    """
    last = record.last_attempt()
    started_at = None if last is None else last.started_at
    end = (now if started_at is None else started_at) + call_s
    return end if end >= now else now + (now - end)
