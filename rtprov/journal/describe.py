"""Build the details of tasks for clients: history, what the task waits for, and its estimated end.

The results are for information only; no decision of rtprov uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from rtprov.model import Attempt, Details, Phase, State, Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtprov.journal.backlog import Backlog
    from rtprov.journal.forecast import Forecast
    from rtprov.journal.record import Record
    from rtprov.journal.withheld import WithheldTasks

MOST_BEFORE = 500
LONGEST_WALK = 1000


def describe(
    row: Sequence[Record], backlog: Backlog, withheld: WithheldTasks, forecast: Forecast, now: float
) -> list[Details]:
    """Return the details of neighbouring tasks of one device, newest first, as in `row`.

    `backlog` has the open tasks, `withheld` those that wait for their keys, and `forecast`
    estimates when tasks end. `now` is seconds since the epoch.
    """
    found: list[Details] = []
    before = _before(row[-1]) if row else []
    ahead, keyless = len(before), any(map(withheld.holds, before))
    for record in reversed(row):
        open_ = record.state is State.RUNNING
        keyless = keyless or (open_ and withheld.holds(record))
        found.append(_describe(record, min(ahead, MOST_BEFORE), keyless, backlog, forecast, now))
        if open_:
            ahead += 1
        elif record.state is not State.CANCELLED:
            ahead, keyless = 0, False
    return found[::-1]


def describe_ended(record: Record) -> Details:
    """Return the details of a task that has ended."""
    return Details(
        task_id=record.task_id,
        equipment_id=record.equipment_id,
        state=record.state,
        requested_at=record.requested_at,
        started_at=record.first_started_at,
        finished_at=record.finished_at,
        reason=record.reason,
        attempt_count=record.attempts,
        attempts=_attempts(record, record.last_attempt(), record.finished_at),
        waits_for=None,
        ahead=0,
        expected_at=None,
        fingerprint=record.fingerprint,
        phase=None,
        caller=record.origin.caller,
        accepted_by=record.origin.accepted_by,
        key=record.origin.key,
    )


def _describe(
    record: Record,
    ahead: int,
    keyless: bool,
    backlog: Backlog,
    forecast: Forecast,
    now: float,
) -> Details:
    """`ahead` is the number of the device's tasks that must end before this one begins.

    With `keyless`, the key of one of them, or of this one, is missing.
    """
    if record.state.final:
        return describe_ended(record)
    last = record.last_attempt()
    if last is not None:
        ahead = 0
    phase = _phase(last)
    return Details(
        task_id=record.task_id,
        equipment_id=record.equipment_id,
        state=record.state,
        requested_at=record.requested_at,
        started_at=record.first_started_at,
        finished_at=None,
        reason=None,
        attempt_count=record.attempts,
        attempts=_attempts(record, last, now),
        waits_for=Waiting.KEY
        if keyless and not ahead
        else _waits_for(record, phase, ahead, backlog),
        ahead=ahead,
        expected_at=None
        if keyless
        else forecast.end_of(record, ahead if ahead < MOST_BEFORE else None),
        fingerprint=record.fingerprint,
        phase=phase,
        caller=record.origin.caller,
        accepted_by=record.origin.accepted_by,
        key=record.origin.key,
    )


def _before(record: Record) -> list[Record]:
    """Return the tasks of the device that must end before this one begins, newest first.

    A device's tasks run in order. So if an earlier task has ended, all tasks before it have, too,
    unless that task was cancelled. At most `MOST_BEFORE` are returned; at most `LONGEST_WALK`
    tasks are looked at.
    """
    found: list[Record] = []
    earlier = record.earlier
    for _ in range(LONGEST_WALK):
        if (
            earlier is None
            or len(found) == MOST_BEFORE
            or earlier.state not in (State.RUNNING, State.CANCELLED)
        ):
            break
        if earlier.state is State.RUNNING:
            found.append(earlier)
        earlier = earlier.earlier
    return found


def _phase(last: Attempt | None) -> Phase:
    """Return the phase of an open task; `last` is its latest attempt."""
    if last is None:
        return Phase.WAITING
    return Phase.CALLING if last.ended_at is None else Phase.RETRYING


def _attempts(record: Record, last: Attempt | None, now: float) -> tuple[Attempt, ...]:
    """Return the attempts of a task, as clients see them.

    If the task has ended, its last attempt ended with it. `retry_at` is kept only in the last
    attempt, and only if it is in the future.
    """
    if last is None:
        return ()
    if record.state.final and last.ended_at is None:
        error = None if record.state is State.COMPLETED else record.reason
        last = attrs.evolve(last, ended_at=record.finished_at, error=error)
    due = last.retry_at is not None and last.retry_at > now and not record.state.final
    earlier = [attrs.evolve(each, retry_at=None) for each in (record.log or ())[:-1]]
    return (*earlier, last if due else attrs.evolve(last, retry_at=None))


def _waits_for(record: Record, phase: Phase, ahead: int, backlog: Backlog) -> Waiting | None:
    """Return what the task waits for.

    While A is in trouble, all tasks wait for A, except tasks of a device for which a call is
    running.
    """
    if phase is Phase.CALLING:
        return None
    if phase is Phase.RETRYING:
        return Waiting.SERVICE
    if ahead and (
        not backlog.trouble or backlog.lanes[record.equipment_id].head in backlog.calling
    ):
        return Waiting.DEVICE
    return Waiting.SERVICE if backlog.trouble else Waiting.CONCURRENCY
