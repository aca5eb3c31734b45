"""What this process knows of its shard's tasks: a pure, idempotent fold over the journal's events.

The first `Finished` of a task wins for ever; whatever comes after it, again or out of order, changes nothing. Times are the events' own.
"""

from __future__ import annotations

from heapq import heappop, heappush

import attrs

from rtprov.model import Event, Finished, Requested, Started, State


@attrs.define(eq=False, weakref_slot=False)
class _Record:
    """`task_id` is the very string that is the record's key, so that everything else that needs it shares it."""

    task_id: str
    equipment_id: str
    state: State = State.RUNNING
    first_started_at: float | None = None
    attempts: int = 0


class Store:
    """`retention_s` is how long, in seconds, a finished task can still be asked about; a task that has not finished is never forgotten."""

    def __init__(self, retention_s: float) -> None:
        self._retention_s = retention_s
        self._records: dict[str, _Record] = {}
        # A heap of (when it finished, task id). Events come nearly in the order of their times, where a push costs next to nothing; and a
        # writer whose clock runs ahead keeps its own tasks longer, not everybody's.
        self._finished: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._records)

    def apply(self, event: Event) -> None:
        """Take the journal's next event. One for an unknown task makes it known: its beginning may have left the journal."""
        if not isinstance(event, (Requested, Started, Finished)):
            return
        record = self._records.get(event.task_id)
        if record is None:
            record = self._records[event.task_id] = _Record(event.task_id, event.equipment_id)
        elif record.state.final:
            return
        if isinstance(event, Started):
            record.attempts = max(record.attempts, event.attempt)
            if record.first_started_at is None or event.at < record.first_started_at:
                record.first_started_at = event.at
        elif isinstance(event, Finished):
            record.state = event.state
            heappush(self._finished, (event.at, record.task_id))

    def lookup(self, task_id: str, equipment_id: str) -> State | None:
        """The task's state, or None where no such task of this equipment is known."""
        record = self._records.get(task_id)
        return record.state if record is not None and record.equipment_id == equipment_id else None

    def finished(self, task_id: str) -> bool:
        """Whether the task is known to have ended."""
        record = self._records.get(task_id)
        return record is not None and record.state.final

    def first_started_at(self, task_id: str) -> float | None:
        """When the task's first attempt began, in seconds since the epoch; None where none is known."""
        record = self._records.get(task_id)
        return record.first_started_at if record is not None else None

    def attempts(self, task_id: str) -> int:
        """How many attempts are known to have begun."""
        record = self._records.get(task_id)
        return record.attempts if record is not None else 0

    def expire(self, now: float) -> int:
        """Forget the tasks that finished more than the retention before `now` (seconds since the epoch); return how many.

        Costs in proportion to what is forgotten, whatever else is kept (but for the logarithm of a heap).
        """
        limit = now - self._retention_s
        forgotten = 0
        while self._finished and self._finished[0][0] < limit:
            _, task_id = heappop(self._finished)
            del self._records[task_id]
            forgotten += 1
        return forgotten
