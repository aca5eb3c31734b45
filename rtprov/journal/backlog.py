"""The open tasks of a shard in their order, the running calls, and how long calls take.

`rtprov.journal.forecast` estimates from this when tasks end. `rtprov.worker.read_ahead` finds
tasks here that wait while their callers have slots to spare. The cost of an event does not depend
on the number of open tasks. Waiting tasks are kept in blocks by their number, so that the tasks
before a given one can be counted block by block. This module does no I/O.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from statistics import median
from typing import TYPE_CHECKING

from attrs import define

from rtprov.journal.record import Turn
from rtprov.journal.withheld import WithheldTasks
from rtprov.model import EquipmentState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtprov.journal.record import Origin, Record
    from rtprov.model import Active

BLOCK = 512
FIRST_GUESS_S = 60.0  # the assumed duration of a call, until one has ended
LONGEST_CALL_S = 1530.0
KEPT_CALLS = 101


@define(eq=False)
class Lane:
    """A device's open tasks: `head` is the first one, `next_place` the place of the next one."""

    head: Record
    next_place: int = 0


class CallerShare:
    """The tasks of one caller that were never called, by urgency and number."""

    def __init__(self) -> None:
        self._by_urgency: dict[int, dict[int, Record]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_urgency)

    def add(self, number: int, record: Record) -> None:
        tasks = self._by_urgency.get(record.origin.urgency)
        if tasks is None:
            tasks = self._by_urgency[record.origin.urgency] = {}
        tasks[number] = record

    def remove(self, number: int, record: Record) -> None:
        tasks = self._by_urgency[record.origin.urgency]
        del tasks[number]
        if not tasks:
            del self._by_urgency[record.origin.urgency]

    def usual(self) -> bool:
        """Return whether all tasks have the same urgency."""
        return len(self._by_urgency) < 2

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the tasks in the order in which they are called."""
        for urgency in sorted(self._by_urgency):
            yield from self._by_urgency[urgency].values()


class Backlog:
    """The open tasks of one shard.

    `concurrency` is used until an `Active` event says how many calls the active worker may run.
    `worker_backlogs` is the list of the backlogs of all shards of this process; this one is added
    to it. Call each method after the record was changed. A record is in the backlog from `add` to
    `end`.
    """

    def __init__(self, concurrency: int, worker_backlogs: list[Backlog] | None = None) -> None:
        self.worker_backlogs = [] if worker_backlogs is None else worker_backlogs
        self.worker_backlogs.append(self)
        self.active: Active | None = None
        self.withheld = WithheldTasks()  # those that wait for their keys take no slot
        self.lanes: dict[str, Lane] = {}  # by device
        self.calling: dict[Record, None] = {}  # an ordered set; the oldest call first
        self.retrying: dict[Record, None] = {}  # an ordered set
        self.waiting = 0  # number of tasks that were never called
        self.open = 0
        self._concurrency = concurrency
        self._blocks: dict[int, dict[int, Record]] = {}  # the waiting tasks, by number
        self.next_number = 0  # the number of tasks so far, and so the number of the next one
        self.shares: dict[str | None, CallerShare] = {}  # by caller
        # Called with the number of a task when its call begins.
        self.on_call: Callable[[int], None] = lambda number: None
        # Called when a caller's first waiting task comes.
        self.on_caller: Callable[[], None] = lambda: None
        self._durations: deque[float] = deque(maxlen=KEPT_CALLS)
        self._typical_s: float | None = FIRST_GUESS_S

    # Changes.

    def add(self, record: Record) -> None:
        """Add a new task, which waits."""
        lane, number = self.lanes.get(record.equipment_id), self.next_number
        if lane is None:
            lane = self.lanes[record.equipment_id] = Lane(record)
        block = self._blocks.get(number // BLOCK)
        if block is None:
            block = self._blocks[number // BLOCK] = {}
        block[number] = record
        self._join_share(number, record)
        record.turn = Turn(number, lane.next_place)
        self.next_number += 1
        lane.next_place += 1
        self.waiting += 1
        self.open += 1

    def set_origin(self, record: Record, origin: Origin) -> None:
        """Change where an open task comes from."""
        if record.origin is origin:
            return
        number = record.turn.number if record.turn is not None else -1
        waits = number in self._blocks.get(number // BLOCK, ())
        if waits:
            self._leave_share(number, record)
        record.origin = origin
        if waits:
            self._join_share(number, record)

    def _join_share(self, number: int, record: Record) -> None:
        share = self.shares.get(record.origin.caller)
        if share is None:
            share = self.shares[record.origin.caller] = CallerShare()
            self.on_caller()
        share.add(number, record)

    def _leave_share(self, number: int, record: Record) -> None:
        share = self.shares[record.origin.caller]
        share.remove(number, record)
        if not share:
            del self.shares[record.origin.caller]

    def call(self, record: Record) -> None:
        """A call for the task began."""
        self._remove_waiting(record)
        assert record.turn is not None
        self.on_call(record.turn.number)
        self.calling.pop(record, None)  # a worker may have died in an earlier call
        self.calling[record] = None
        self.retrying.pop(record, None)

    def pause(self, record: Record) -> None:
        """The task's call did not reach A; the task waits for its next attempt."""
        self._remove_waiting(record)
        self.calling.pop(record, None)
        self.retrying[record] = None

    def end(self, record: Record, took_s: float | None) -> None:
        """Remove a task that ended.

        `took_s` is the duration of its last call in seconds, None if there was no call.
        """
        self._remove_waiting(record)
        self.calling.pop(record, None)
        self.retrying.pop(record, None)
        record.turn = None
        self.open -= 1
        lane, head = self.lanes[record.equipment_id], None
        if lane.head is record:
            head = record.later
            while head is not None and head.turn is None:
                head = head.later
            if head is None:
                del self.lanes[record.equipment_id]
            else:
                lane.head = head
        if took_s is not None:
            self._durations.append(min(max(took_s, 0.0), LONGEST_CALL_S))
            self._typical_s = None

    def _remove_waiting(self, record: Record) -> None:
        assert record.turn is not None
        number = record.turn.number // BLOCK
        block = self._blocks.get(number)
        if block is not None and block.pop(record.turn.number, None) is not None:
            self.waiting -= 1
            self._leave_share(record.turn.number, record)
            if not block:
                del self._blocks[number]

    # Queries.

    @property
    def typical_s(self) -> float:
        """The typical duration of a call in seconds: the median of the latest calls."""
        if self._typical_s is None:
            self._typical_s = median(self._durations)
        return self._typical_s

    @property
    def learned(self) -> bool:
        """Whether a call has ended, so that `typical_s` is no guess."""
        return bool(self._durations)

    @property
    def concurrency(self) -> int:
        """How many calls the active worker runs at once, over all its shards.

        If its rate of calls is limited, that may be fewer than it has slots.
        """
        if self.active is None:
            return self._concurrency
        if self.active.per_second is None:
            return self.active.concurrency
        at_once = ceil(self.active.per_second * self.typical_s)
        return max(1, min(self.active.concurrency, at_once))

    @property
    def trouble(self) -> bool:
        """Whether the circuit breaker of the active worker is not closed."""
        return self.active is not None and self.active.equipment is not EquipmentState.CLOSED

    def siblings(self) -> list[Backlog]:
        """Return the backlogs of all shards with the same active worker, including this one."""
        by = None if self.active is None else self.active.by
        return [
            each
            for each in self.worker_backlogs
            if (None if each.active is None else each.active.by) == by
        ]

    @property
    def waiting_for_slots(self) -> int:
        """About how many tasks wait only for a slot. Tasks that wait for their key are not counted,
        but later tasks of the same devices are.
        """
        return max(0, self.waiting - self.withheld.waiting)

    def waiting_before(self, number: int) -> int:
        """Return the number of waiting tasks that came before the task with this number."""
        count = 0
        for block_number, block in self._blocks.items():
            if (block_number + 1) * BLOCK <= number:
                count += len(block)
            else:
                count += (
                    sum(1 for each in block if each < number)
                    if block_number * BLOCK < number
                    else 0
                )
                break
        return count

    def waiting_from(self, number: int) -> Iterator[Record]:
        """Yield the waiting tasks in their order, beginning with this number."""
        for block_number, block in self._blocks.items():
            if (block_number + 1) * BLOCK > number:
                for each, record in block.items():
                    if each >= number:
                        yield record
