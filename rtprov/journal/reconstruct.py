"""Make events again from a task's record, for a journal that has lost them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtprov.model import Cancelled, Copied, Finished, Postponed, Requested, Started, State

if TYPE_CHECKING:
    from rtprov.journal.record import Record
    from rtprov.model import TaskEvent


def events_of(record: Record, copied: Copied | None = None) -> list[TaskEvent]:
    """Return the events of a task, in their order.

    `copied` is the mark for the `Requested` event; it is None if the task has ended.
    """
    events: list[TaskEvent] = []
    if record.requested_at is not None:
        events.append(
            Requested(
                record.task_id,
                record.equipment_id,
                record.requested_at,
                record.fingerprint,
                caller=record.origin.caller,
                accepted_by=record.origin.accepted_by,
                key=record.origin.key,
                urgency=record.origin.urgency,
                copied=copied,
            )
        )
    if not record.state.final:
        events += _attempts(record)
    end = end_of(record)
    return events if end is None else [*events, end]


def end_of(record: Record) -> Finished | Cancelled | None:
    """Return the event that ended the task, None if it is open."""
    if not record.state.final:
        return None
    if record.state is State.CANCELLED:
        return Cancelled(record.task_id, record.equipment_id, record.finished_at)
    return Finished(
        record.task_id, record.equipment_id, record.finished_at, record.state, record.reason or ""
    )


def _attempts(record: Record) -> list[TaskEvent]:
    """Return the events of the first attempt, from which patience counts, and of the latest one."""
    last = record.last_attempt()
    events: list[TaskEvent] = []
    if last is None:
        return events
    if record.first_started_at is not None and last.number > 1:
        events.append(Started(record.task_id, record.equipment_id, record.first_started_at, 1))
    if last.started_at is not None:
        events.append(
            Started(
                record.task_id, record.equipment_id, last.started_at, last.number, record.begun_by
            )
        )
    if last.ended_at is not None:
        error, until = last.error or "", last.retry_at or last.ended_at
        events.append(
            Postponed(record.task_id, record.equipment_id, last.ended_at, last.number, error, until)
        )
    return events
