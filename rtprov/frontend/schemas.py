"""The JSON that front end and clients exchange, beside a task's request body and the error
envelope: what requests say in their head, and how a task is shown. `rtprov.frontend.openapi`
describes the same types."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

import msgspec
from msgspec import Meta

from rtprov.model import Attempt, Details, Phase, State, Waiting

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339, in UTC, to the millisecond: such texts sort like what they mean."""


class AttemptDocument(msgspec.Struct, rename="camel"):
    """One call to the equipment service. `error` tells why it did not get there.

    `nextAttemptAt` is when the next call is due, told of the last one while that is to come; null
    also where a service in trouble keeps it back."""

    number: int
    started_at: Time | None
    ended_at: Time | None
    error: str | None
    next_attempt_at: Time | None


class WaitingDocument(msgspec.Struct, rename="camel"):
    """What keeps a task from being sent.

    ``device``: an earlier task of it. ``service``: it is or was out of reach. ``concurrency``:
    there is no free slot. ``key``: the worker has not the key that the task is sealed with."""

    reason: Waiting
    tasks_ahead: int


class TaskDocument(msgspec.Struct, rename="camel"):
    """A task. Times are UTC; those that are not known, or have not come yet, are null.

    `phase` is null once the task has ended. `expectedFinishAt` is an estimate, null also while the
    equipment service is in trouble. `caller` says whose POST made the task, `acceptedBy` which
    front end process accepted it. `campaign`, `retryOf` and `retriedAs` are null in this version.
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
    """A task was accepted."""

    code: int
    task_id: str


class Envelope(msgspec.Struct):
    """What every error looks like, and every answer that has nothing more to say. `code` is the
    HTTP status, 204 while a task runs.
    """

    code: int
    message: str


class Problem(msgspec.Struct):
    """The same for who asks for ``application/problem+json`` (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class TaskAnswer(msgspec.Struct):
    """One task."""

    code: int
    task: TaskDocument


class TasksAnswer(msgspec.Struct):
    """A page of a device's tasks, newest first. `next` is where the page behind it is; null where
    there is none.
    """

    code: int
    tasks: list[TaskDocument]
    next: str | None


def task_document(details: Details) -> TaskDocument:
    """A task as clients see it."""
    waits_for = (
        None if details.waits_for is None else WaitingDocument(details.waits_for, details.ahead)
    )
    return TaskDocument(
        task_id=details.task_id,
        equipment_id=details.equipment_id,
        state=details.state,
        accepted_at=_time(details.requested_at),
        started_at=_time(details.started_at),
        finished_at=_time(details.finished_at),
        expected_finish_at=_time(details.expected_at),
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
        _time(attempt.started_at),
        _time(attempt.ended_at),
        attempt.error,
        _time(attempt.retry_at),
    )


def _time(at: float | None) -> str | None:
    if at is None:
        return None
    return (
        datetime.fromtimestamp(at, timezone.utc)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
