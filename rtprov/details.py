"""What clients are told of a task: its history, what it waits for, and a guess when it may end. A courtesy: nothing is decided by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from rtprov.model import Attempt, Details, State, Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtprov.record import Record

MOST_BEFORE = 500
LONGEST_WALK = 1000


def describe(row: Sequence[Record], now: float, typical_s: float) -> list[Details]:
    """All that is known at `now` (seconds since the epoch) of a device's neighbouring tasks, newest first; a call takes `typical_s`."""
    found: list[Details] = []
    ahead, head = _before(row[-1]) if row else (0, None)
    for record in reversed(row):
        found.append(_describe(record, min(ahead, MOST_BEFORE), head, now, typical_s))
        if record.state is State.RUNNING:
            ahead, head = ahead + 1, head or record
        elif record.state is not State.CANCELLED:
            ahead, head = 0, None
    return found[::-1]


def _describe(record: Record, ahead: int, head: Record | None, now: float, typical_s: float) -> Details:
    """`ahead` tasks are to end before this one begins if it has not, of which `head` is the first."""
    ended, last = record.state.final, record.last_attempt()
    if ended or last is not None:
        ahead, head = 0, record
    first = None if head is None else head.last_attempt()
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


def _before(record: Record) -> tuple[int, Record | None]:
    """How many of the device's tasks are to end before this one, and the first of them.

    They run in order, so nothing waits behind one that has ended but for the cancelled. No more than `MOST_BEFORE` are counted, nor more
    than `LONGEST_WALK` looked at.
    """
    count, head, earlier = 0, None, record.earlier
    for _ in range(LONGEST_WALK):
        if earlier is None or count == MOST_BEFORE or earlier.state not in (State.RUNNING, State.CANCELLED):
            break
        if earlier.state is State.RUNNING:
            count, head = count + 1, earlier
        earlier = earlier.earlier
    return count, head


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
