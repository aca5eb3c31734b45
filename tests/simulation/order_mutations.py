"""Mutations of what the journal decides: idempotency keys and cancellations. See `mutations`."""

from __future__ import annotations

from itertools import count
from typing import Any

from twisted.internet.defer import Deferred

from rtprov.errors import NoAnswer, TaskNotFound, TooLate
from rtprov.frontend import submission as orders
from rtprov.frontend.submission import TaskSubmission
from rtprov.journal.store import Store
from rtprov.model import Cancelled, Details, Finished, Started, State
from rtprov.queries.directory import TaskQueryClient
from rtprov.worker.attempts import Abandoned, Attempts
from tests.simulation.mutation import mutation
from tests.support.fakes import PlainSealer

# The front end.


async def _may_be_cancelled(self: Any, task_id: str, equipment_id: str) -> bool:
    """Raises `TaskNotFound`, `TooLate`."""
    known = await self._directory.details(task_id, equipment_id, barrier=True)
    if known is None:
        raise TaskNotFound
    if known.state is not State.CANCELLED and (
        known.state is not State.RUNNING or known.attempt_count
    ):
        raise TooLate
    return known.state is State.RUNNING


@mutation("a cancellation is answered before it is journalled", TaskSubmission, "cancel")
async def _cancel_and_forget(self: Any, task_id: str, equipment_id: str, *_: Any) -> None:
    if await _may_be_cancelled(self, task_id, equipment_id):
        self._tasks.cancel(task_id, equipment_id, self._wall_clock()).addErrback(lambda _: None)


@mutation("a cancellation counts once it is confirmed", TaskSubmission, "cancel")
async def _cancel_and_hope(self: Any, task_id: str, equipment_id: str, *_: Any) -> None:
    if await _may_be_cancelled(self, task_id, equipment_id):
        await self._tasks.cancel(task_id, equipment_id, self._wall_clock())


_details = TaskQueryClient.details


@mutation("what the journal decided is asked without a barrier", TaskQueryClient, "details")
def _at_once(
    self: Any, task_id: str, equipment_id: str, *, barrier: bool
) -> Deferred[Details | None]:
    return _details(self, task_id, equipment_id, barrier=False)


@mutation("fingerprints are ignored", PlainSealer, "matches")
def _any_body(self: Any, fingerprint: str, task_id: str, body: bytes) -> bool:
    return True


_numbers = count()


@mutation("a key gives another task id each time", orders, "keyed_task_id")
def _another_id(equipment_id: str, key: str) -> str:
    return f"1de0{next(_numbers):028x}"


# The worker.


@mutation("a worker starts without looking for a cancellation", Attempts, "_attempt")
async def _start_blindly(self: Any, job: Any, permit: Any) -> tuple[State, str] | None:
    task = job.task
    if not await self._may_call(job):
        return None
    body = self._open(job)
    job.attempt = max(job.attempt, self._store.attempts(task.task_id)) + 1
    await self._journal.append(
        Started(task.task_id, task.equipment_id, self._wall_clock(), job.attempt)
    )
    if not job.may_begin:
        raise Abandoned
    job.calling = True
    if job.attempt == 1:
        job.patience_from = self._clock.seconds()
    try:
        outcome: tuple[State, str] = await self._equipment.configure(task, body)
    except NoAnswer as error:
        permit.outage(task.equipment_id, error)
        raise
    permit.answered()
    return outcome


# The store.


_needs_no_call = Store.needs_no_call


@mutation("both bodies of a key are called", Store, "needs_no_call")
def _over_by_body(
    self: Any, task_id: str, fingerprint: str | None, accepted_at: float
) -> bool | None:
    """Treat a task as ended only if its body is the same."""
    record = self._records.get(task_id)
    if record is not None and record.fingerprint != fingerprint:
        return False
    return _needs_no_call(self, task_id, fingerprint, accepted_at)


@mutation("a key's last body counts", Store, "_request")
def _request(self: Any, record: Any, event: Any) -> None:
    record.requested_at, record.fingerprint = event.at, event.fingerprint


_apply = Store.apply


@mutation("a cancellation counts after the start", Store, "apply")
def _apply_cancelled(self: Any, event: Any) -> None:
    if isinstance(event, Cancelled):
        event = Finished(event.task_id, event.equipment_id, event.at, State.CANCELLED, "cancelled")
    _apply(self, event)
