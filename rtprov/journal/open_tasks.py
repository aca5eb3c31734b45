"""The open tasks of a shard, their order in the journal, and the offsets of their events.

The journal's order decides which task of a device comes first. The order of the messages in the
work queue does not matter, since messages may be replaced, returned or lost. The *offset* of an
event is its position in the journal. A broker deletes old events, so workers copy the events of
open tasks to the journal's end from time to time. The *place* of a task is the offset of its first
event. A copy has the place in it, so the task keeps it. This module does no I/O.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter
from typing import TYPE_CHECKING

from attrs import define, field

from rtprov.messaging.markers import JOURNAL_SPAN
from rtprov.model import Cancelled, Finished, Requested, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from rtprov.model import TaskEvent

KEPT_FIRST, KEPT_LAST = 20, 180  # how many offsets of a task's events are kept

_place = attrgetter("place")


@define(eq=False)
class OpenTask:
    """An open task: its `place` among all tasks of the shard, and the `offsets` of its events.

    `request` is the offset of the message with the sealed body, None if it is not known.
    `written_at` is when the oldest event that is still needed was written, in seconds since the
    epoch. `missed` is how often the task was found to be in no queue.
    """

    task_id: str
    equipment_id: str
    place: int
    written_at: float
    offsets: list[int] = field(factory=list)
    request: int | None = None
    missed: int = 0


@define(eq=False)
class CancelledTask:
    """A cancelled task whose message may still be in a queue.

    Until the message has left the queue, the journal must keep the cancellation. Without it, a
    worker would call A for the message.
    """

    task_id: str
    place: int
    offset: int
    written_at: float


class OpenTasks:
    """The open tasks of one shard. Call `on_event` with each event of the journal, after the store.

    `ends_to_repeat` has the ended tasks for which the journal has an event after the end. The end
    of such a task must be written again. Otherwise the broker would delete the end before that
    event, and a worker that starts then would consider the task open. `began_at` is when the oldest
    known event of the journal was written.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, OpenTask] = {}
        self._lanes: dict[str, list[OpenTask]] = {}  # by device, by place
        self.cancelled: dict[str, CancelledTask] = {}
        self.ends_to_repeat: dict[str, None] = {}  # an ordered set
        self.began_at: float | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._tasks

    def __iter__(self) -> Iterator[OpenTask]:
        return iter(self._tasks.values())

    def get(self, task_id: str) -> OpenTask | None:
        """Return the task if it is open, else None."""
        return self._tasks.get(task_id)

    # The order.

    def is_first_of_device(self, task_id: str, equipment_id: str) -> bool:
        """Return whether all earlier tasks of this device have ended.

        Returns True for a task that is not open.
        """
        lane = self._lanes.get(equipment_id)
        return lane is None or lane[0].task_id == task_id or task_id not in self._tasks

    def first_of_device(self, equipment_id: str) -> OpenTask | None:
        """Return the open task of a device that comes before its others, None if it has none."""
        lane = self._lanes.get(equipment_id)
        return None if lane is None else lane[0]

    def place_in_lane(self, task: OpenTask) -> int:
        """Return the number of open tasks of the device that come before this one."""
        return bisect_left(self._lanes[task.equipment_id], task.place, key=_place)

    # Events.

    def on_event(self, event: TaskEvent, offset: int, state: State | None) -> None:
        """Apply the journal's event at `offset`.

        `state` is the state of its task after the store has applied the event.
        """
        copied = event.copied if isinstance(event, (Requested, Cancelled)) else None
        written_at = event.at if copied is None else copied.at
        if self.began_at is None:
            self.began_at = written_at
        if state is None or state.final:
            self._saw_ended(event, offset, written_at, state)
            return
        task = self._tasks.get(event.task_id)
        if task is None:
            task = self._add(OpenTask(event.task_id, event.equipment_id, offset, written_at))
        if isinstance(event, Requested):
            self._saw_request(task, event, offset)
        else:
            task.offsets.append(offset)
            if len(task.offsets) > KEPT_FIRST + KEPT_LAST:
                del task.offsets[KEPT_FIRST]

    def _saw_request(self, task: OpenTask, event: Requested, offset: int) -> None:
        copied = event.copied
        if copied is not None:
            self._move(task, copied.place)
            task.written_at = copied.at
            task.offsets = [offset, *(each for each in task.offsets if each > copied.upto)]
        elif task.request is None:
            task.offsets.append(offset)
        if event.whole and (task.request is None or copied is not None):
            task.request = offset

    def _saw_ended(
        self, event: TaskEvent, offset: int, written_at: float, state: State | None
    ) -> None:
        task = self._tasks.pop(event.task_id, None)
        if task is not None:
            self._leave_lane(task)
        if isinstance(event, Cancelled) and state is State.CANCELLED:
            known = task or self.cancelled.get(event.task_id)
            place = offset if known is None else known.place
            place = place if event.copied is None else event.copied.place
            self.cancelled[event.task_id] = CancelledTask(event.task_id, place, offset, written_at)
        if isinstance(event, (Finished, Cancelled)):
            self.ends_to_repeat.pop(event.task_id, None)
        elif task is None:
            self.ends_to_repeat[event.task_id] = None

    def _add(self, task: OpenTask) -> OpenTask:
        self._tasks[task.task_id] = task
        insort(self._lanes.setdefault(task.equipment_id, []), task, key=_place)
        return task

    def _move(self, task: OpenTask, place: int) -> None:
        if place != task.place:
            self._leave_lane(task)
            task.place = place
            self._add(task)

    def _leave_lane(self, task: OpenTask) -> None:
        lane = self._lanes[task.equipment_id]
        if len(lane) == 1:
            del self._lanes[task.equipment_id]
        else:
            lane.remove(task)

    def journal_lost(self) -> None:
        """The broker has lost the journal, and a new one begins at offset 0.

        All known tasks keep their order, and come before those of the new journal.
        """
        for task in self._tasks.values():
            task.place -= JOURNAL_SPAN
            task.offsets.clear()
            task.request = None
        for cancelled in self.cancelled.values():
            cancelled.place -= JOURNAL_SPAN

    # Messages.

    def missing(self, before: int, held: Collection[str]) -> list[OpenTask]:
        """Return the open tasks with a place below `before` that are not in `held`, by place."""
        found = [
            task
            for task in self._tasks.values()
            if task.place < before and task.task_id not in held
        ]
        return sorted(found, key=_place)

    def any_missing(self, before: int, held: Collection[str]) -> bool:
        """Return whether the message of an open or cancelled task may be missing.

        Only tasks with a place below `before` that are not in `held` count.
        """
        tasks: Iterable[OpenTask | CancelledTask]
        for tasks in (self._tasks.values(), self.cancelled.values()):
            if any(task.place < before and task.task_id not in held for task in tasks):
                return True
        return False

    def messages_gone(self, before: int, held: Collection[str]) -> None:
        """Forget the cancelled tasks with a place below `before` that are not in `held`.

        No queue has their messages any more.
        """
        for task in [
            task
            for task in self.cancelled.values()
            if task.place < before and task.task_id not in held
        ]:
            del self.cancelled[task.task_id]
