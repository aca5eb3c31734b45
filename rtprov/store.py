"""What this process knows of its shard's tasks: a pure, idempotent fold over the journal's events.

The first `Finished` of a task wins for ever; whatever comes after it, again or out of order, changes nothing. Times are the events' own.
"""

from __future__ import annotations

from collections import deque

import attrs

from rtprov.model import Event, Finished, Requested, Started, State


@attrs.define(eq=False)
class _Record:
    equipment_id: str
    state: State = State.RUNNING
    first_started_at: float | None = None
    attempts: int = 0


class Store:
    """`retention_s` is how long, in seconds, a finished task can still be asked about; a task that has not finished is never forgotten."""

    def __init__(self, retention_s: float) -> None:
        self._retention_s = retention_s
        self._records: dict[str, _Record] = {}
        self._finished: deque[tuple[float, str]] = deque()  # in the order the events came, nearly that of their times

    def __len__(self) -> int:
        return len(self._records)

    def apply(self, event: Event) -> None:
        """Take the journal's next event. One for an unknown task makes it known: its beginning may have left the journal."""
        if isinstance(event, Requested):
            self._record(event)
        elif isinstance(event, Started):
            record = self._record(event)
            record.attempts = max(record.attempts, event.attempt)
            if record.first_started_at is None or event.at < record.first_started_at:
                record.first_started_at = event.at
        elif isinstance(event, Finished):
            record = self._record(event)
            if not record.state.final:
                record.state = event.state
                self._finished.append((event.at, event.task_id))

    def _record(self, event: Requested | Started | Finished) -> _Record:
        record = self._records.get(event.task_id)
        if record is None:
            record = self._records[event.task_id] = _Record(event.equipment_id)
        return record

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

        Costs as much as is forgotten. An event from a clock that runs ahead holds back those behind it by no more than it is ahead.
        """
        limit = now - self._retention_s
        forgotten = 0
        while self._finished and self._finished[0][0] < limit:
            _, task_id = self._finished.popleft()
            del self._records[task_id]
            forgotten += 1
        return forgotten
