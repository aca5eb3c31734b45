"""What clients are told of a task: its history, what it waits for, and a guess when it may end. A courtesy: nothing is decided by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from rtprov.model import Attempt, Details, State, Waiting

if TYPE_CHECKING:
    from rtprov.record import Record

MOST_BEFORE = 500
LONGEST_WALK = 1000


def describe(record: Record, now: float, typical_s: float) -> Details:
    """All that is known of the task at `now` (seconds since the epoch), where a call takes `typical_s`."""
    ended, last = record.state.final, record.last_attempt()
    ahead, first = (0, last) if ended or last is not None else _before(record)
    return Details(
        task_id=record.task_id,
        equipment_id=record.equipment_id,
        state=record.state,
        requested_at=record.requested_at,
        started_at=record.first_started_at,
        finished_at=record.finished_at if ended else None,
        reason=record.reason,
        attempt_count=record.attempts,
        attempts=_attempts(record, last),
        waits_for=None if ended else _waits_for(last, ahead),
        ahead=ahead,
        expected_at=None if ended else _end_of(first, now, typical_s) + ahead * typical_s,
        fingerprint=record.fingerprint,
    )


def _before(record: Record) -> tuple[int, Attempt | None]:
    """How many of the device's tasks are to end before this one begins, and what the first of them is at.

    They run in order, so nothing waits behind one that has ended but for the cancelled. No more than `MOST_BEFORE` are counted, nor more
    than `LONGEST_WALK` looked at.
    """
    count, first = 0, record
    earlier = record.earlier
    for _ in range(LONGEST_WALK):
        if earlier is None or count == MOST_BEFORE or earlier.state not in (State.RUNNING, State.CANCELLED):
            break
        if earlier.state is State.RUNNING:
            count, first = count + 1, earlier
        earlier = earlier.earlier
    return count, first.last_attempt()


def _end_of(attempt: Attempt | None, now: float, typical_s: float) -> float:
    """When the task that is at this attempt may end: with its call that runs, with its next one, or, None, with one that begins now."""
    if attempt is None:
        return now + typical_s
    if attempt.ended_at is None:
        return max(now, (attempt.started_at or now) + typical_s)
    return max(now, attempt.retry_at or now) + typical_s


def _attempts(record: Record, last: Attempt | None) -> tuple[Attempt, ...]:
    """A task's end is that of its last attempt, too."""
    if last is None:
        return ()
    if record.state.final and last.ended_at is None:
        error = None if record.state is State.COMPLETED else record.reason
        last = attrs.evolve(last, ended_at=record.finished_at, error=error)
    return (*(record.log or ())[:-1], last)


def _waits_for(last: Attempt | None, ahead: int) -> Waiting | None:
    if last is None:
        return Waiting.DEVICE if ahead else Waiting.CONCURRENCY
    return None if last.ended_at is None else Waiting.SERVICE
