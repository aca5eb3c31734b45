"""The audit trail: a line of the log, under ``rtprov.audit``, for each task that is accepted, each
cancellation, and each request that is refused for who sends it. Never a parameter, nor a token."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtprov.errors import Unconfirmed

if TYPE_CHECKING:
    from rtprov.model import Task

# What a POST comes to: a task, a task of which nobody can tell yet, the task of an earlier POST
# with the same key.
ACCEPTED, PERHAPS_ACCEPTED, REPEATED = "accepted", "perhaps accepted", "repeated"

_log = Logger(namespace="rtprov.audit")


def audited(submitted: Deferred[None], task: Task, caller: str) -> Deferred[None]:
    """Write the line once `submitted` fires; `caller` says who sent the task.

    Where nobody knows whether the task was accepted, since the broker's answer was lost or the
    client did not wait for it, the line says "perhaps". A task that was certainly not accepted
    leaves none."""

    def on_accepted(_: None) -> None:
        note(task, caller, ACCEPTED)

    def on_failed(reason: Failure) -> Failure:
        if reason.check(Unconfirmed, CancelledError):
            note(task, caller, PERHAPS_ACCEPTED)
        return reason

    return submitted.addCallbacks(on_accepted, on_failed)


def note(task: Task, caller: str, outcome: str) -> None:
    """Write the line of a POST; `outcome` begins it. A task has one line that begins with
    `ACCEPTED`, at most.
    """
    when = datetime.fromtimestamp(task.accepted_at, timezone.utc).isoformat(timespec="milliseconds")
    _log.info(
        "{outcome}: task {task_id} for {equipment_id} from {caller} at {when}",
        outcome=outcome,
        task_id=task.task_id,
        equipment_id=task.equipment_id,
        caller=caller,
        when=when,
    )


def note_cancellation(
    outcome: str, task_id: str, equipment_id: str, caller: str, why: str | None
) -> None:
    """Write the line of a request to cancel a task; `outcome` begins it."""
    because = "" if why is None else f", who says: {why}"
    _log.info(
        "{outcome}: task {task_id} for {equipment_id}, by {caller}{because}",
        outcome=outcome,
        task_id=task_id,
        equipment_id=equipment_id,
        caller=caller,
        because=because,
    )
