"""The JSON documents that the front end sends: receipts, errors, tasks and lists of tasks.

A task's request body is in `rtprov.order_body`. `rtprov.frontend.openapi` describes these
types; their docstrings are part of the OpenAPI document, so clients read them.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

import msgspec
from msgspec import Meta

from rtprov.model import Attempt, Details, Phase, State, Waiting

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""A time as in RFC 3339, in UTC with milliseconds. Such texts sort in the order of time."""


class AttemptDocument(msgspec.Struct, rename="camel"):
    """One call to the equipment service.

    `error` says why the call did not reach the service; it is null if it did. `nextAttemptAt` is
    the time of the next call. It is set only in the latest attempt, and only until that time. It is
    null while calls are held back because the service cannot be reached.
    """

    number: int
    started_at: Time | None
    ended_at: Time | None
    error: str | None
    next_attempt_at: Time | None


class WaitingDocument(msgspec.Struct, rename="camel"):
    """What a waiting task waits for, and how many tasks come before it.

    `reason` is `device` (an earlier task of the same device has not ended), `service` (the
    equipment service cannot be reached, or could not be reached in the last attempt), `concurrency`
    (all call slots are in use) or `key` (the worker does not have the key that sealed the task's
    body). `tasksAhead` counts the earlier tasks of the same device.
    """

    reason: Waiting
    tasks_ahead: int


class TaskDocument(msgspec.Struct, rename="camel"):
    """A task. Times are UTC; a time that is not known, or not known yet, is null.

    `phase` is null once the task has ended. `expectedFinishAt` is an estimate; it is null if no
    estimate is possible, for example while the equipment service cannot be reached. `caller` is the
    client whose POST created the task. `acceptedBy` is the front end process that accepted it.
    `campaign`, `retryOf` and `retriedAs` are always null in this version.
    """

    task_id: str
    equipment_id: str
    state: State
    accepted_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    expected_finish_at: Time | None
    reason: str | None
    waits_for: WaitingDocument | None
    attempt_count: int
    attempts: list[AttemptDocument]
    phase: Phase | None
    caller: str | None
    accepted_by: str | None
    campaign: str | None = None
    retry_of: str | None = None
    retried_as: str | None = None


class Receipt(msgspec.Struct, rename="camel"):
    """The answer to a POST whose task was accepted."""

    code: int
    task_id: str


class Envelope(msgspec.Struct):
    """The form of every error, and of every answer that has only a message.

    `code` is the HTTP status, or 204 while a task is running.
    """

    code: int
    message: str


class Problem(msgspec.Struct):
    """An error for clients that request `application/problem+json` (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class TaskAnswer(msgspec.Struct):
    """The answer with one task."""

    code: int
    task: TaskDocument


class TasksAnswer(msgspec.Struct):
    """One page of a device's tasks, newest first.

    `next` is the URL of the next page, or null on the last page.
    """

    code: int
    tasks: list[TaskDocument]
    next: str | None


def task_document(details: Details) -> TaskDocument:
    """Convert a task's details to the document that clients get."""
    waits_for = (
        None if details.waits_for is None else WaitingDocument(details.waits_for, details.ahead)
    )
    return TaskDocument(
        task_id=details.task_id,
        equipment_id=details.equipment_id,
        state=details.state,
        accepted_at=time_text(details.requested_at),
        started_at=time_text(details.started_at),
        finished_at=time_text(details.finished_at),
        expected_finish_at=time_text(details.expected_at),
        reason=details.reason,
        waits_for=waits_for,
        attempt_count=details.attempt_count,
        attempts=[_attempt(attempt) for attempt in details.attempts],
        phase=details.phase,
        caller=details.caller,
        accepted_by=details.accepted_by,
    )


def _attempt(attempt: Attempt) -> AttemptDocument:
    return AttemptDocument(
        attempt.number,
        time_text(attempt.started_at),
        time_text(attempt.ended_at),
        attempt.error,
        time_text(attempt.retry_at),
    )


def time_text(at: float | None) -> str | None:
    """Return a time in seconds since the epoch as a `Time`; None for None, and for a time outside
    the years 1 to 9999.
    """
    if at is None:
        return None
    try:
        time = datetime.fromtimestamp(at, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
