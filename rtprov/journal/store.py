"""What this process knows of its shard's tasks: a pure, idempotent fold over the journal's events.

The first end of a task, a `Finished` or a `Cancelled` that came before any `Started`, wins for
ever; whatever comes after it, again or out of order, changes nothing. Times are the events' own.

A task with an ``Idempotency-Key`` has an id that comes again with the key. Its record is kept an
hour longer than others, and a `Requested` that comes more than half an hour behind the retention
begins a new task. The events' times alone decide that, not when a replica forgot: all replicas
agree, and so does one that reads the journal again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush

import attrs

from rtprov.journal.backlog import Backlog
from rtprov.journal.describe import describe
from rtprov.journal.forecast import Forecaster
from rtprov.journal.record import NO_ORIGIN, Origin, Record
from rtprov.model import (
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
    Withheld,
)

# half of `KEY_SLACK_S`: what is a new task is clear wherever clocks differ by less than that
NEW_TASK_AFTER_S = 1800.0
KEPT_ATTEMPTS_AT_END = 3
MAX_SHARED_TEXTS = 1000
ASSUMED_CONCURRENCY = 500


class Store:
    """`retention_s` is how long, in seconds, a finished task can still be asked about; a task that
    has not finished is never forgotten.

    `backlog` keeps account of those.
    """

    def __init__(self, retention_s: float, backlog: Backlog | None = None) -> None:
        self._retention_s = retention_s
        self.backlog = Backlog(ASSUMED_CONCURRENCY) if backlog is None else backlog
        self._forecaster = Forecaster(self.backlog)
        self._records: dict[str, Record] = {}
        self._newest: dict[str, Record] = {}  # by equipment
        # A heap. Events come nearly in the order of their times, where a push costs next to
        # nothing; and a writer whose clock runs ahead keeps its own tasks longer, not everybody's.
        self._finished: list[Record] = []
        self._withheld = self.backlog.withheld
        self._texts: dict[str, str] = {}  # reasons are few, and told of very many tasks
        self._origins: dict[tuple[str | None, ...], Origin] = {}  # and so are callers

    def __len__(self) -> int:
        return len(self._records)

    def apply(self, event: Event) -> None:
        """Take the journal's next event. One for an unknown task makes it known: its beginning may
        have left the journal.
        """
        if isinstance(event, Active):
            self.backlog.active = event
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
            record = self._add(event.task_id, event.equipment_id)
        elif record.state.final or self._stale(record, event.at):
            return
        if isinstance(event, Requested):
            self._request(record, event)
        elif isinstance(event, Started):
            self._start(record, event)
        elif isinstance(event, Postponed):
            self._postpone(record, event)
        elif isinstance(event, Withheld):
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
            and at > record.finished_at + self._retention_s + NEW_TASK_AFTER_S
        )

    def _stale(self, record: Record, at: float) -> bool:
        """Whether an event is one of the task that had the same key before, read again."""
        begun_at = record.requested_at if record.fingerprint is not None else None
        return begun_at is not None and at < begun_at - self._retention_s - NEW_TASK_AFTER_S

    def _add(self, task_id: str, equipment_id: str) -> Record:
        newest = self._newest.get(equipment_id)
        if newest is not None:
            equipment_id = newest.equipment_id
        record = self._records[task_id] = self._newest[equipment_id] = Record(
            task_id, equipment_id, earlier=newest
        )
        if newest is not None:
            newest.later = record
        self.backlog.add(record)
        return record

    def _request(self, record: Record, event: Requested) -> None:
        # what was copied is the one that came first
        if record.requested_at is None or event.copied is not None:
            record.requested_at = event.at
            record.fingerprint = event.fingerprint
            record.origin = self._origin(event)

    def _start(self, record: Record, event: Started) -> None:
        if event.attempt > record.attempts:
            if record.attempts:
                record.add(Attempt(event.attempt, event.at))
                self._withheld.end(record.task_id, event.at)
            else:  # patience begins now: what the task has waited before does not count
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

    def _end(self, record: Record, at: float, state: State, reason: str) -> None:
        last = record.last_attempt()
        began_at = None if last is None or last.ended_at is not None else last.started_at
        self.backlog.end(record, None if began_at is None else at - began_at)
        record.state, record.finished_at, record.reason = state, at, self._shared(reason)
        if record.log is not None:
            record.log = record.log[-KEPT_ATTEMPTS_AT_END:]
        heappush(self._finished, record)
        self._withheld.forget(record.task_id)

    def _origin(self, event: Requested) -> Origin:
        known = (event.caller, event.accepted_by, event.key)
        origin = self._origins.get(known)
        if origin is None:
            if len(self._origins) >= MAX_SHARED_TEXTS:
                self._origins.clear()
            origin = self._origins[known] = Origin(*known) if any(known) else NO_ORIGIN
        return origin

    def _shared(self, text: str) -> str:
        if len(self._texts) >= MAX_SHARED_TEXTS:
            self._texts.clear()
        return self._texts.setdefault(text, text)

    # What can be asked.

    def lookup(self, task_id: str, equipment_id: str) -> State | None:
        """The task's state, or None where no such task of this equipment is known."""
        record = self._records.get(task_id)
        return record.state if record is not None and record.equipment_id == equipment_id else None

    def finished(self, task_id: str) -> bool:
        """Whether the task is known to have ended."""
        record = self._records.get(task_id)
        return record is not None and record.state.final

    def state(self, task_id: str) -> State | None:
        """The task's state, whatever its equipment; None where it is not known."""
        record = self._records.get(task_id)
        return None if record is None else record.state

    def record(self, task_id: str) -> Record | None:
        """All that is kept of the task."""
        return self._records.get(task_id)

    def records(self) -> Iterator[Record]:
        """All tasks. The store must not change meanwhile."""
        return iter(self._records.values())

    def places(self, task_ids: Iterable[str]) -> dict[str, int]:
        """The places of these tasks in the rows of their devices, which is the journal's order; a
        task that is not known has none.
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
        """When the task's first attempt began, in seconds since the epoch; None where none is
        known.
        """
        record = self._records.get(task_id)
        return record.first_started_at if record is not None else None

    def attempts(self, task_id: str) -> int:
        """How many attempts are known to have begun."""
        record = self._records.get(task_id)
        return record.attempts if record is not None else 0

    def crash_count(self, task_id: str) -> int:
        """How many processes have begun to call for the task and were followed by another one
        before they had told of an end.
        """
        record = self._records.get(task_id)
        return record.crash_count if record is not None else 0

    def caller(self, task_id: str) -> str | None:
        """Whose POST made the task; None where the journal does not say."""
        record = self._records.get(task_id)
        return record.origin.caller if record is not None else None

    def withheld(self, task_id: str) -> bool:
        """Whether the task waits for its key, as far as the journal tells."""
        return self._withheld.waits(task_id)

    def withheld_s(self, task_id: str, now: float) -> float:
        """For how many seconds, until `now` (seconds since the epoch), the task has waited for its
        key: its patience stood still.
        """
        return self._withheld.seconds(task_id, now)

    def over(self, task_id: str, fingerprint: str | None, accepted_at: float) -> bool | None:
        """Whether nothing is to be done for a task's message: the task has ended, or is another
        message's, with another body.

        None where the journal has not told (yet) of the task, or which of the messages with its
        ``Idempotency-Key`` is its order."""
        record = self._records.get(task_id)
        if fingerprint is None:
            return None if record is None else record.state.final
        if record is None or self._begins_anew(record, fingerprint, accepted_at):
            return None
        if record.state.final:
            return True
        return None if record.fingerprint is None else record.fingerprint != fingerprint

    def details(self, task_id: str, equipment_id: str | None, now: float) -> Details | None:
        """All that is known of the task, of whatever equipment where None is given, at `now`
        (seconds since the epoch).
        """
        record = self._records.get(task_id)
        if record is None or equipment_id not in (None, record.equipment_id):
            return None
        return describe([record], self.backlog, self._withheld, self._forecaster.at(now), now)[0]

    def tasks_of(
        self, equipment_id: str, before: str | None, limit: int, now: float
    ) -> list[Details]:
        """The device's tasks, newest first, at most `limit`: those before the task `before`, or
        from the newest.

        "New" is by the journal's order. None are before a task that is not known, or is another
        device's."""
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

    def expire(self, now: float, keep: Callable[[str], bool] = lambda task_id: False) -> int:
        """Forget the tasks that finished more than the retention before `now` (seconds since the
        epoch), but for those to `keep`; return how many.

        Costs in proportion to what is forgotten, whatever else is kept (but for the logarithm of a
        heap)."""
        limit = now - self._retention_s
        forgotten = 0
        kept: list[Record] = []
        while self._finished and self._finished[0].forgotten_at < limit:
            record = heappop(self._finished)
            if self._records.get(record.task_id) is not record:
                continue
            if keep(record.task_id):
                kept.append(record)
                continue
            self._forget(record)
            forgotten += 1
        for record in kept:
            heappush(self._finished, record)
        return forgotten

    def _forget(self, record: Record) -> None:
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
