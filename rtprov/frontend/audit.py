"""The audit trail: one log line for each accepted task, each cancellation request, and each
log-in and log-out of a browser.

The lines have the log namespace ``rtprov.audit``. Refused requests are logged there, too, by
`rtprov.http`. No line holds a parameter of a task or a token.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtprov.errors import Unconfirmed
from rtprov.tracing.traceparent import trace_id

if TYPE_CHECKING:
    from rtprov.model import Task

# The outcomes of a POST: a new task; perhaps a new task, because the confirm was lost; the task of
# an earlier POST with the same key.
ACCEPTED, PERHAPS_ACCEPTED, REPEATED = "accepted", "perhaps accepted", "repeated"

# Outcomes of a DELETE: this one has cancelled the task, or an earlier one had.
CANCELLED, CANCELLED_ALREADY = "cancelled", "was cancelled already"

_log = Logger(namespace="rtprov.audit")


def audited(submitted: Deferred[None], task: Task, caller: str) -> Deferred[None]:
    """Write the audit line of `task` when `submitted` fires; return `submitted`.

    `caller` names the client that sent the task. If it is not known whether the task was accepted
    (the broker's confirm was lost, or the client closed the connection first), the line says
    "perhaps accepted". If the task was certainly not accepted, no line is written.
    """

    def on_accepted(_: None) -> None:
        note(task, caller, ACCEPTED)

    def on_failed(reason: Failure) -> Failure:
        if reason.check(Unconfirmed, CancelledError):
            note(task, caller, PERHAPS_ACCEPTED)
        return reason

    return submitted.addCallbacks(on_accepted, on_failed)


def note(task: Task, caller: str, outcome: str) -> None:
    """Write the audit line of a POST.

    `outcome` is `ACCEPTED`, `PERHAPS_ACCEPTED` or `REPEATED`. A task has at most one line that
    begins with `ACCEPTED`.
    """
    when = datetime.fromtimestamp(task.accepted_at, timezone.utc).isoformat(timespec="milliseconds")
    _log.info(
        # One field instead of five: the logger's formatting takes more time than the rest of it.
        "{line}",
        line=f"{outcome}: task {task.task_id} for {task.equipment_id} from {caller} at {when}",
        event=f"task.{outcome.replace(' ', '_')}",
        trace=None if task.traceparent is None else trace_id(task.traceparent),
        outcome=outcome,
        task_id=task.task_id,
        equipment_id=task.equipment_id,
        caller=caller,
        when=when,
    )


def note_session(outcome: str, caller: str) -> None:
    """Write the audit line of a browser's log-in or log-out; `outcome` is how the line begins."""
    _log.info(
        "{outcome}: {caller}, by a browser",
        event=f"session.{outcome.replace(' ', '_')}",
        outcome=outcome,
        caller=caller,
    )


def note_cancellation(
    outcome: str, task_id: str, equipment_id: str, caller: str, why: str | None
) -> None:
    """Write the audit line of a request to cancel a task.

    `outcome` is the first word or words of the line. `why` is the reason that the client gave.
    """
    because = "" if why is None else f", reason: {why}"
    _log.info(
        "{outcome}: task {task_id} for {equipment_id}, {by} {caller}{because}",
        event="task.cancel_asked",
        reason=why,
        outcome=outcome,
        task_id=task_id,
        equipment_id=equipment_id,
        caller=caller,
        because=because,
        by="asked by" if outcome == CANCELLED_ALREADY else "by",
    )
