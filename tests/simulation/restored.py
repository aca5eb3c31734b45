"""What the checks know about a restored backup, and which violations it excuses, by task.

- Tasks whose requests are not in the backup are *lost*: they may be unknown, until a POST that
  began after the restore is answered 200 with their id.
- Tasks in the backup that made progress after it are *set back*: they may be called again and may
  end again, perhaps with another status. They are never unknown, and they end.
- All other tasks follow all rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, evolve, field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rtprov.model import State
    from tests.simulation.orders import Order, Task


@define(eq=False)
class Restores:
    """The restored backups. `count` is their number. `lost` and `set_back` give for each task the
    final states that it had.
    """

    count: int = 0
    lost: dict[str, set[State]] = field(factory=dict)
    set_back: dict[str, set[State]] = field(factory=dict)
    _saved: dict[str, Task] = field(factory=dict)

    def save(self, tasks: Iterable[Task]) -> None:
        """A backup is made."""
        self._saved = {task.task_id: evolve(task) for task in tasks if task.requested}

    def restore(self, tasks: Iterable[Task], orders: Iterable[Order]) -> None:
        """The backup is restored: reset what is known of tasks from the disk, and what clients were
        told of the tasks that changed.
        """
        self.count += 1
        for task in tasks:
            saved = self._saved.get(task.task_id)
            ends = set() if task.finished is None else {task.finished}
            if saved is None and task.requested:
                self.lost.setdefault(task.task_id, set()).update(ends)
                task.requested, task.order, task.finished, task.started = False, None, None, 0
            elif saved is not None and _went_on(task, saved):
                self.set_back.setdefault(task.task_id, set()).update(ends)
                task.finished, task.started = saved.finished, saved.started
        for order in orders:
            task_id = order.task_id or (order.key.task_id if order.key is not None else None)
            if self.excuses(task_id):
                order.lost = task_id in self.lost
                order.final, order.refused, order.too_late = None, False, False

    def excuses(self, task_id: str | None) -> bool:
        """Return whether this task may break the rules for tasks."""
        return task_id in self.lost or task_id in self.set_back

    def ends_before(self, task_id: str) -> set[State]:
        """Return the final states that a front end, or a worker that kept running, may still report
        for the task.
        """
        return self.lost.get(task_id, set()) | self.set_back.get(task_id, set())


def _went_on(task: Task, saved: Task) -> bool:
    return (task.started, task.finished, task.calls) != (saved.started, saved.finished, saved.calls)
