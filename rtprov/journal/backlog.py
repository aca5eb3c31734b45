"""A shard's open tasks in the order in which they came: who is before whom, what is called, and how
long calls take. Pure bookkeeping.

`rtprov.journal.forecast` reckons from it when a task may end. Each event costs the same however
many tasks are open. Tasks that wait are kept in blocks by their number, so that those before one of
them are counted block by block."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import TYPE_CHECKING

from attrs import define

from rtprov.journal.record import Turn
from rtprov.journal.withheld import WithheldTasks
from rtprov.model import EquipmentState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtprov.journal.record import Record
    from rtprov.model import Active

BLOCK = 512
FIRST_GUESS_S = 60.0  # how long a call takes, until one has ended
LONGEST_CALL_S = 1530.0
KEPT_CALLS = 101


@define(eq=False)
class Lane:
    """A device's open tasks: the first of them, and the place of the next one to come."""

    head: Record
    next_place: int = 0


class Backlog:
    """`concurrency` is assumed until a worker has said which it has. `worker_backlogs` are the backlogs of
    all shards of this process.

    Call each method once the record has been changed accordingly. A record is kept here from `add`
    to `end`."""

    def __init__(self, concurrency: int, worker_backlogs: list[Backlog] | None = None) -> None:
        self.worker_backlogs = [] if worker_backlogs is None else worker_backlogs
        self.worker_backlogs.append(self)
        self.active: Active | None = None
        self.withheld = WithheldTasks()  # those that wait for their keys take no slot
        self.lanes: dict[str, Lane] = {}  # by device
        self.calling: dict[Record, None] = {}  # in the order in which the calls began
        self.waiting = 0  # tasks that were never called
        self.open = 0
        self._concurrency = concurrency
        self._blocks: dict[int, dict[int, Record]] = {}  # what waits, by number
        self.came = 0  # how many tasks; the number of the next one
        # called with the number of a task whose call begins
        self.on_call: Callable[[int], None] = lambda number: None
        self._durations: deque[float] = deque(maxlen=KEPT_CALLS)
        self._typical_s: float | None = FIRST_GUESS_S

    # What happens to tasks.

    def add(self, record: Record) -> None:
        """A task became known, and waits."""
        lane, number = self.lanes.get(record.equipment_id), self.came
        if lane is None:
            lane = self.lanes[record.equipment_id] = Lane(record)
        block = self._blocks.get(number // BLOCK)
        if block is None:
            block = self._blocks[number // BLOCK] = {}
        block[number] = record
        record.turn = Turn(number, lane.next_place)
        self.came += 1
        lane.next_place += 1
        self.waiting += 1
        self.open += 1

    def call(self, record: Record) -> None:
        """A call for it began."""
        self._wait_no_longer(record)
        assert record.turn is not None
        self.on_call(record.turn.number)
        self.calling.pop(record, None)  # the one before died with its worker
        self.calling[record] = None

    def pause(self, record: Record) -> None:
        """Its call did not reach A; it is called again later."""
        self._wait_no_longer(record)
        self.calling.pop(record, None)

    def end(self, record: Record, took_s: float | None) -> None:
        """It ended, after a call of `took_s` seconds if there was one."""
        self._wait_no_longer(record)
        self.calling.pop(record, None)
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

    def _wait_no_longer(self, record: Record) -> None:
        assert record.turn is not None
        number = record.turn.number // BLOCK
        block = self._blocks.get(number)
        if block is not None and block.pop(record.turn.number, None) is not None:
            self.waiting -= 1
            if not block:
                del self._blocks[number]

    # What can be asked.

    @property
    def typical_s(self) -> float:
        """How long a call takes: the median of the latest that ended."""
        if self._typical_s is None:
            self._typical_s = median(self._durations)
        return self._typical_s

    @property
    def concurrency(self) -> int:
        """How many calls the active worker may have under way, all its shards together."""
        return self._concurrency if self.active is None else self.active.concurrency

    @property
    def trouble(self) -> bool:
        """Whether the active worker's circuit breaker keeps calls back."""
        return self.active is not None and self.active.equipment is not EquipmentState.CLOSED

    def siblings(self) -> list[Backlog]:
        """This backlog, and those of the other shards whose calls the same worker makes."""
        by = None if self.active is None else self.active.by
        return [
            each
            for each in self.worker_backlogs
            if (None if each.active is None else each.active.by) == by
        ]

    @property
    def able(self) -> int:
        """How many tasks wait that may be called when there is a slot: about, since the tasks
        behind those without a key count.
        """
        return max(0, self.waiting - self.withheld.waiting)

    def waiting_before(self, number: int) -> int:
        """How many tasks wait that came before the task of this number."""
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
        """The tasks that wait, in their order, from the one of this number on."""
        for block_number, block in self._blocks.items():
            if (block_number + 1) * BLOCK > number:
                for each, record in block.items():
                    if each >= number:
                        yield record
