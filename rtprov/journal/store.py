"""The state of all tasks of a shard, computed from the journal's events.

The store is a pure, idempotent fold. The first end of a task counts: a `Finished`, or a `Cancelled`
before any `Started`. Repeated events, and events after the end, change nothing. All times come from
the events.

An id made from an ``Idempotency-Key`` may be used again. Its record is kept an hour longer than
others. A `Requested` that comes more than half an hour after the end of the retention begins a new
task. Only the times of the events decide that, not the time at which a replica forgot the record.
So all replicas have the same state, even a replica that has just replayed the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from rtprov.journal.backlog import Backlog
from rtprov.journal.counters import EndCounts
from rtprov.journal.describe import describe
from rtprov.journal.equipment_log import EquipmentLog
from rtprov.journal.forecast import Forecast, Forecaster
from rtprov.journal.indexes import Indexes
from rtprov.journal.record import NO_ORIGIN, Origin, Record
from rtprov.journal.task_view import TaskView
from rtprov.model import (
    NEW_TASK_AFTER_S,
    Active,
    Attempt,
    Cancelled,
    Details,
    Event,
    Finished,
    Postponed,
    Requested,
    Started,
    State,
    TaskEvent,
    Withheld,
    time_of_event,
)

KEPT_ATTEMPTS_AT_END = 3
MAX_SHARED_TEXTS = 1000
ASSUMED_CONCURRENCY = 500
_ANSWERED = (State.COMPLETED, State.NOT_FOUND)  # only an answer of A ends a task in these states


class Store:
    """The tasks of one shard.

    A task that has ended is kept for `retention_s` seconds; an open task is never forgotten.
    `backlog` is kept up to date with the open tasks, `indexes` with all tasks, and `ends` with the
    numbers of ends.
    """

    def __init__(self, retention_s: float, backlog: Backlog | None = None) -> None:
        self.retention_s = retention_s
        self.backlog = Backlog(ASSUMED_CONCURRENCY) if backlog is None else backlog
        self._forecaster = Forecaster(self.backlog)
        self._records: dict[str, Record] = {}
        self._newest: dict[str, Record] = {}  # by equipment
        self.indexes = Indexes()
        self.ends = EndCounts()
        self.equipment = EquipmentLog()
        # Called with the record of each task that ends, once.
        self.on_end: list[Callable[[Record], None]] = []
        self._withheld = self.backlog.withheld
        # There are few different reasons and origins, so the records share them.
        self._texts: dict[str, str] = {}
        self._origins: dict[tuple[str | None, str | None, str | None, int], Origin] = {}

    def __len__(self) -> int:
        return len(self._records)

    def apply(self, event: Event) -> None:
        """Apply the journal's next event.

        An event of an unknown task creates its record, because the first events of the task may
        have been deleted from the journal.
        """
        if isinstance(event, Active):
            self.backlog.active = event
            self.equipment.reported(event)
        if not isinstance(event, (Requested, Started, Postponed, Withheld, Cancelled, Finished)):
            return
        record = self._records.get(event.task_id)
        if (
            record is not None
            and isinstance(event, Requested)
            and self._begins_anew(record, event.fingerprint, event.at)
        ):
            self._forget(record)
            record = None
        if record is None:
            record = self._add(event)
        elif record.state.final or self._stale(record, event.at):
            return
        if isinstance(event, Requested):
            self._request(record, event)
        elif isinstance(event, Started):
            self._start(record, event)
        elif isinstance(event, Postponed):
            self._postpone(record, event)
        elif isinstance(event, Withheld):
            if record.first_started_at is None or event.at > record.first_started_at:
                # An event from before the first call is a repetition: that wait does not count.
                self._withheld.apply(event)
        elif isinstance(event, Finished):
            self._end(record, event.at, event.state, event.reason)
        elif not record.attempts:
            self._end(record, event.at, State.CANCELLED, "cancelled by a client")

    def _begins_anew(self, record: Record, fingerprint: str | None, at: float) -> bool:
        keyed = record.fingerprint is not None and fingerprint is not None
        return (
            keyed
            and record.state.final
            and at > record.finished_at + self.retention_s + NEW_TASK_AFTER_S
        )

    def _stale(self, record: Record, at: float) -> bool:
        """Return whether the event belongs to an earlier task with the same ``Idempotency-Key``."""
        begun_at = record.requested_at if record.fingerprint is not None else None
        return begun_at is not None and at < begun_at - self.retention_s - NEW_TASK_AFTER_S

    def _add(self, event: TaskEvent) -> Record:
        task_id, equipment_id = event.task_id, event.equipment_id
        origin = self._origin(event) if isinstance(event, Requested) else NO_ORIGIN
        newest = self._newest.get(equipment_id)
        if newest is not None:
            equipment_id = newest.equipment_id
        record = self._records[task_id] = self._newest[equipment_id] = Record(
            task_id, equipment_id, event.at, origin=origin, earlier=newest
        )
        if newest is not None:
            newest.later = record
        self.backlog.add(record)
        if isinstance(event, Requested):
            self._note_request(record, event)
        self.indexes.add(record)
        return record

    def _request(self, record: Record, event: Requested) -> None:
        # A copy is always one of the first request.
        if record.requested_at is None or event.copied is not None:
            self.indexes.remove(record)
            self._note_request(record, event)
            self.indexes.add(record)

    def _note_request(self, record: Record, event: Requested) -> None:
        record.requested_at = record.at = event.at
        record.fingerprint = event.fingerprint
        self.backlog.set_origin(record, self._origin(event))

    def _start(self, record: Record, event: Started) -> None:
        if event.attempt > record.attempts:
            if record.attempts:
                record.add(Attempt(event.attempt, event.at))
                self._withheld.end(record.task_id, event.at)
            else:  # patience begins now, so earlier waits for the key do not count
                self._withheld.forget(record.task_id)
            record.attempts = event.attempt
            self._note_process(record, event.by)
            self.backlog.call(record)
        if record.first_started_at is None or event.at < record.first_started_at:
            record.first_started_at = event.at

    def _note_process(self, record: Record, by: str | None) -> None:
        if record.begun_by is not None and by != record.begun_by:
            record.crash_count += 1
        record.begun_by = None if by is None else self._shared(by)

    def _postpone(self, record: Record, event: Postponed) -> None:
        last = record.last_attempt()
        if last is None or event.attempt > last.number:
            last = Attempt(event.attempt, None)
        if event.attempt == last.number and last.ended_at is None:
            record.add(
                attrs.evolve(
                    last, ended_at=event.at, error=self._shared(event.reason), retry_at=event.until
                )
            )
            record.attempts = last.number
            record.begun_by = None
            self.backlog.pause(record)
            self.equipment.failed(event)

    def _end(self, record: Record, at: float, state: State, reason: str) -> None:
        last = record.last_attempt()
        began_at = None if last is None or last.ended_at is not None else last.started_at
        self.backlog.end(record, None if began_at is None else at - began_at)
        self.indexes.leave_group(record)
        record.state, record.finished_at, record.reason = state, at, self._shared(reason)
        if record.log is not None:
            record.log = record.log[-KEPT_ATTEMPTS_AT_END:]
        self.indexes.end(record)
        self.ends.add(state, at)
        if state in _ANSWERED:
            self.equipment.answered()
        self._withheld.forget(record.task_id)
        for ended in self.on_end:
            ended(record)

    def _origin(self, event: Requested) -> Origin:
        known = (event.caller, event.accepted_by, event.key, event.urgency)
        origin = self._origins.get(known)
        if origin is None:
            if len(self._origins) >= MAX_SHARED_TEXTS:
                self._origins.clear()
            origin = self._origins[known] = Origin(*known)
        return origin

    def _shared(self, text: str) -> str:
        if len(self._texts) >= MAX_SHARED_TEXTS:
            self._texts.clear()
        return self._texts.setdefault(text, text)

    # Queries.

    def lookup(self, task_id: str, equipment_id: str) -> State | None:
        """Return the task's state, or None if no such task of this equipment is known."""
        record = self._records.get(task_id)
        return record.state if record is not None and record.equipment_id == equipment_id else None

    def finished(self, task_id: str) -> bool:
        """Return whether the task is known and has ended."""
        record = self._records.get(task_id)
        return record is not None and record.state.final

    def state(self, task_id: str) -> State | None:
        """Return the task's state, whatever its equipment, or None if it is not known."""
        record = self._records.get(task_id)
        return None if record is None else record.state

    def record(self, task_id: str) -> Record | None:
        """Return the task's record, or None if it is not known."""
        return self._records.get(task_id)

    def records(self) -> Iterator[Record]:
        """Iterate over all records. The store must not change during the iteration."""
        return iter(self._records.values())

    def places(self, task_ids: Iterable[str]) -> dict[str, int]:
        """Return a number for each of these tasks; within a device, they give the journal's order.

        Unknown tasks are left out.
        """
        wanted: dict[str, set[str]] = {}
        for task_id in task_ids:
            record = self._records.get(task_id)
            if record is not None:
                wanted.setdefault(record.equipment_id, set()).add(task_id)
        places: dict[str, int] = {}
        for equipment_id, missing in wanted.items():
            place, record = 0, self._newest.get(equipment_id)
            while missing and record is not None:
                if record.task_id in missing:
                    missing.remove(record.task_id)
                    places[record.task_id] = place
                place, record = place - 1, record.earlier
        return places

    def first_started_at(self, task_id: str) -> float | None:
        """Return when the first attempt began, in seconds since the epoch, or None."""
        record = self._records.get(task_id)
        return record.first_started_at if record is not None else None

    def attempts(self, task_id: str) -> int:
        """Return the number of attempts that are known to have begun."""
        record = self._records.get(task_id)
        return record.attempts if record is not None else 0

    def crash_count(self, task_id: str) -> int:
        """Return how many processes stopped in a call for this task.

        That is the number of attempts without an end after which another process took over.
        """
        record = self._records.get(task_id)
        return record.crash_count if record is not None else 0

    def caller(self, task_id: str) -> str | None:
        """Return the client whose POST created the task, or None if it is not known."""
        record = self._records.get(task_id)
        return record.origin.caller if record is not None else None

    def event_time(self, task_id: str, now: float) -> float:
        """Return the time for an event of a task that is written now. See `time_of_event`."""
        record = self._records.get(task_id)
        if record is None:
            return now
        return time_of_event(now, record.requested_at, record.fingerprint)

    def withheld(self, task_id: str) -> bool:
        """Return whether the task waits for its sealing key."""
        return self._withheld.waits(task_id)

    def withheld_s(self, task_id: str, now: float) -> float:
        """Return for how many seconds the task has waited for its sealing key, up to `now`.

        `now` is seconds since the epoch. During this time the task's patience does not run.
        """
        return self._withheld.seconds(task_id, now)

    def needs_no_call(
        self, task_id: str, fingerprint: str | None, accepted_at: float
    ) -> bool | None:
        """Return whether no call is to be made for a message of a task.

        That is so if the task has ended, or if the task has the body of another message.
        `fingerprint` and `accepted_at` are those of the message. Returns None if the journal does
        not yet have the task, or does not yet tell which of the messages with this
        ``Idempotency-Key`` is the first one.
        """
        record = self._records.get(task_id)
        if fingerprint is None:
            return None if record is None else record.state.final
        if record is None or self._begins_anew(record, fingerprint, accepted_at):
            return None
        if record.state.final:
            return True
        return None if record.fingerprint is None else record.fingerprint != fingerprint

    def view(self, task_id: str, fingerprint: str | None, accepted_at: float) -> TaskView:
        """Return what is known of a task, for a decision about one of its messages; `fingerprint`
        and `accepted_at` are the message's.
        """
        needs_no_call = self.needs_no_call(task_id, fingerprint, accepted_at)
        record = self._records.get(task_id)
        if record is None:
            return TaskView(needs_no_call)
        return TaskView(
            needs_no_call,
            record.attempts,
            record.crash_count,
            record.first_started_at,
            self._withheld.waits(task_id),
        )

    def details(self, task_id: str, equipment_id: str | None, now: float) -> Details | None:
        """Return the details of a task at `now` (seconds since the epoch), None if it is unknown.

        If `equipment_id` is given, the task must be one of this equipment.
        """
        record = self._records.get(task_id)
        if record is None or equipment_id not in (None, record.equipment_id):
            return None
        return describe([record], self.backlog, self._withheld, self._forecaster.at(now), now)[0]

    def tasks_of(
        self, equipment_id: str, before: str | None, limit: int, now: float
    ) -> list[Details]:
        """Return the details of at most `limit` tasks of a device, newest first.

        If `before` is the id of a task, only older tasks are returned; none if that task is unknown
        or belongs to another device. The order is the journal's.
        """
        if before is None:
            record = self._newest.get(equipment_id)
        else:
            known = self._records.get(before)
            record = (
                known.earlier if known is not None and known.equipment_id == equipment_id else None
            )
        row: list[Record] = []
        while record is not None and len(row) < limit:
            row.append(record)
            record = record.earlier
        return describe(row, self.backlog, self._withheld, self._forecaster.at(now), now)

    def records_of(self, equipment_id: str) -> Iterator[Record]:
        """Yield the tasks of a device, newest first in the journal's order."""
        record = self._newest.get(equipment_id)
        while record is not None:
            yield record
            record = record.earlier

    def describe(self, record: Record, now: float) -> Details:
        """Return the details of a task at `now`, in seconds since the epoch."""
        forecast = self._forecaster.at(now)
        return describe([record], self.backlog, self._withheld, forecast, now)[0]

    def forecast(self, now: float) -> Forecast:
        """Return estimates of the ends of open tasks at `now`, in seconds since the epoch."""
        return self._forecaster.at(now)

    def expire(self, now: float, keep: Callable[[str], bool] = lambda task_id: False) -> int:
        """Forget the tasks whose retention is over at `now`; return their number.

        `now` is seconds since the epoch. Tasks for which `keep` returns True stay. The cost depends
        on the number of tasks that are forgotten (and the logarithm of all).
        """
        due = [
            record
            for record in self.indexes.due(now - self.retention_s)
            if not keep(record.task_id)
        ]
        for record in due:
            self._forget(record)
        return len(due)

    def _forget(self, record: Record) -> None:
        self.indexes.remove(record)
        del self._records[record.task_id]
        earlier, later = record.earlier, record.later
        record.earlier = record.later = None
        if earlier is not None:
            earlier.later = later
        if later is not None:
            later.earlier = earlier
        elif earlier is not None:
            self._newest[record.equipment_id] = earlier
        else:
            del self._newest[record.equipment_id]
