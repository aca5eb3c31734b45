"""Accept and cancel tasks for clients.

A POST without an ``Idempotency-Key`` is published to the broker and answered after the confirm. A
POST with a key and a cancellation depend on the task's history, so they take more steps:

1. The front end asks a replica what it knows of the task.
2. If a message is needed, it is published to the journal, and confirmed by the broker.
3. The front end asks a replica again. The replica first passes its barrier, so it has read the
   message, and all messages before it.

The journal has one order of events for all replicas. So all front ends get the same result, even if
several of them published messages for one task, or if a process crashed in between.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from rtprov.errors import (
    BrokerError,
    BrokerUnavailable,
    KeyGone,
    KeyReused,
    NoReply,
    NotYours,
    NoWorker,
    Overloaded,
    TaskNotFound,
    TooLate,
    Unconfirmed,
    Undecided,
    Unroutable,
)
from rtprov.frontend.audit import (
    ACCEPTED,
    CANCELLED,
    CANCELLED_ALREADY,
    PERHAPS_ACCEPTED,
    REPEATED,
    audited,
    note,
    note_cancellation,
)
from rtprov.metrics.counting import Counts
from rtprov.model import (
    DEFAULT_URGENCY,
    Details,
    State,
    Task,
    keyed_task_id,
    time_of_event,
)
from rtprov.security.tokens import Role
from rtprov.tracing.spans import NO_SPANS, Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtprov.frontend.deadline import Deadlines
    from rtprov.http.admission import Caller
    from rtprov.interfaces import Sealer, TaskQueries, TaskSink


class TaskSubmission:
    """Accepts and cancels tasks for clients.

    `new_task_id` returns unguessable task ids, `wall_clock` seconds since the epoch. `process_id`
    names this process in the journal. `accepted` counts the tasks by their callers.
    """

    def __init__(
        self,
        *,
        tasks: TaskSink,
        directory: TaskQueries,
        sealer: Sealer,
        deadlines: Deadlines,
        new_task_id: Callable[[], str],
        wall_clock: Callable[[], float],
        process_id: str | None = None,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._tasks = tasks
        self._directory = directory
        self._sealer = sealer
        self._deadlines = deadlines
        self._new_task_id = new_task_id
        self._wall_clock = wall_clock
        self._process_id = process_id
        self._spans = spans
        # orders with a key: their tasks, and when they came
        self._under_way: set[tuple[str, float]] = set()
        self.accepted = Counts()

    async def submit(
        self,
        equipment_id: str,
        timeout_s: int,
        body: bytes,
        caller: str,
        urgency: int = DEFAULT_URGENCY,
        traceparent: str | None = None,
        *,
        deadline: float,
    ) -> str:
        """Accept a task for `caller`; return its id once the broker has confirmed it.

        `urgency` is that of `Task`. `traceparent` is the request's, None if it has no valid one.
        `deadline` is the clock's time by which the request must be answered.

        Raises `Unconfirmed` if the confirm does not come in time, and the errors of
        `TaskSink.submit`.
        """
        task_id = self._new_task_id()
        with (
            self._spans.span("POST", traceparent, task_id) as post,
            self._spans.span("publish", post, task_id) as publish,
        ):
            now = self._wall_clock()
            task = self._task(
                task_id, equipment_id, timeout_s, body, caller, now, urgency, traceparent=publish
            )
            try:
                await self._deadlines.limit(
                    audited(self._tasks.submit(task), task, caller), deadline
                )
            except TimeoutError:
                raise Unconfirmed("The broker did not confirm the task in time") from None
        self.accepted.add(caller)
        return task_id

    async def submit_idempotent(
        self,
        equipment_id: str,
        timeout_s: int,
        body: bytes,
        key: str,
        caller: str,
        urgency: int = DEFAULT_URGENCY,
        traceparent: str | None = None,
        *,
        deadline: float,
    ) -> str:
        """Return the id of the task with this ``Idempotency-Key``; accept the task if it is new.

        `traceparent` is the request's, None if it has no valid one. `deadline` is the clock's time
        by which the request must be answered.

        Raises `KeyReused` if the task was accepted with another body, `KeyGone` if the bodies
        cannot be compared, `Undecided` if a message was sent and its effect is not known, and the
        errors of `TaskQueries` and `TaskSink` if no message was sent.
        """
        task_id = keyed_task_id(equipment_id, key)
        fingerprint = self._sealer.fingerprint(task_id, body)
        with (
            self._unique_time(task_id) as now,
            self._spans.span("POST", traceparent, task_id) as post,
            self._spans.span("publish", post, task_id) as publish,
        ):
            task = self._task(
                task_id,
                equipment_id,
                timeout_s,
                body,
                caller,
                now,
                urgency,
                fingerprint,
                traceparent=publish,
            )
            known = await self._submit_if_needed(task, body, caller, deadline)
        if not self._has_body(known, task_id, body):
            if known.key is not None and known.key not in self._sealer.key_ids:
                raise KeyGone(known.key)
            raise KeyReused
        return task_id

    async def _submit_if_needed(
        self, task: Task, body: bytes, caller: str, deadline: float
    ) -> Details:
        """Return what the journal has of the task; publish `task` first if the journal needs it.

        What was published leaves a line in the audit trail.
        """
        task_id, equipment_id = task.task_id, task.equipment_id
        known = await self._ask(task_id, equipment_id, deadline, barrier=False)
        if known is not None:
            if not (_not_begun(known) and self._has_body(known, task_id, body)):
                return known
            # The message may have reached the journal alone; a second one does no harm. It has
            # the fingerprint of the first one, which an older sealing key may have made.
            task = evolve(task, fingerprint=known.fingerprint)
        try:
            await self._publish(self._tasks.submit(task), deadline)
            known = await self._ask_after_publish(task_id, equipment_id, deadline)
        except (Undecided, CancelledError):
            note(task, caller, PERHAPS_ACCEPTED)
            raise
        if self._has_body(known, task_id, body):
            if self._is_first(task, known):
                self.accepted.add(caller)
                note(task, caller, ACCEPTED)
            else:
                note(task, caller, REPEATED)
        return known

    def _is_first(self, task: Task, known: Details) -> bool:
        """Whether the journal has this request before all others of its task.

        Workers of earlier versions do not report who accepted it.
        """
        here = known.accepted_by in (self._process_id, None)
        return here and known.requested_at == task.accepted_at

    @contextmanager
    def _unique_time(self, task_id: str) -> Iterator[float]:
        """The time of a request with a key, in seconds since the epoch.

        Requests of one task that are handled at once have different times, so that the journal
        shows which of them came first.
        """
        now = self._wall_clock()
        while (task_id, now) in self._under_way:
            now = math.nextafter(now, math.inf)
        self._under_way.add((task_id, now))
        try:
            yield now
        finally:
            self._under_way.remove((task_id, now))

    async def cancel(
        self, task_id: str, equipment_id: str, caller: Caller, why: str | None, deadline: float
    ) -> None:
        """Cancel a task for `caller`, who gives the reason `why`, by the clock's time `deadline`.

        Returns once the journal has the cancellation before the task's first call to A.

        Raises `TaskNotFound`, `NotYours`, `TooLate`, `Undecided` if the cancellation was sent and
        its effect is not known, and the errors of `TaskQueries` and `TaskSink` if it was not sent.
        An audit line gives the outcome.
        """
        audit = partial(
            note_cancellation,
            task_id=task_id,
            equipment_id=equipment_id,
            caller=caller.name,
            why=why,
        )
        known = await self._ask(task_id, equipment_id, deadline, barrier=False)
        if known is None:
            known = await self._ask(task_id, equipment_id, deadline, barrier=True)
        if known is None:
            raise TaskNotFound
        if caller.role < Role.OPERATE and known.caller not in (None, caller.name):
            raise NotYours(str(caller.role))
        at = None
        if _not_begun(known):
            at = time_of_event(self._wall_clock(), known.requested_at, known.fingerprint)
            try:
                cancelled = self._tasks.cancel(task_id, equipment_id, at)
                await self._publish(cancelled, deadline)
                known = await self._ask_after_publish(task_id, equipment_id, deadline)
            except (Undecided, CancelledError):
                audit("perhaps cancelled")
                raise
        if _not_begun(known):
            audit("not cancelled, the worker is of an earlier version")
            raise NoWorker("The worker is of an earlier version, which cannot cancel tasks")
        if known.state is not State.CANCELLED:
            audit("not cancelled, too late")
            raise TooLate
        # The first cancellation in the journal counts, and its time is the task's end.
        first = at is not None and known.finished_at in (at, None)
        audit(CANCELLED if first else CANCELLED_ALREADY)

    def _task(
        self,
        task_id: str,
        equipment_id: str,
        timeout_s: int,
        body: bytes,
        caller: str,
        now: float,
        urgency: int,
        fingerprint: str | None = None,
        *,
        traceparent: str | None,
    ) -> Task:
        return Task(
            task_id,
            equipment_id,
            timeout_s,
            now,
            self._sealer.seal(body),
            fingerprint,
            caller=caller,
            accepted_by=self._process_id,
            key=self._sealer.key_id,
            urgency=urgency,
            traceparent=traceparent,
        )

    def _has_body(self, known: Details, task_id: str, body: bytes) -> bool:
        """Return whether the task was accepted with this body."""
        return known.fingerprint is not None and self._sealer.matches(
            known.fingerprint, task_id, body
        )

    # The steps of a request; all of them have its deadline.

    async def _ask(
        self, task_id: str, equipment_id: str, deadline: float, *, barrier: bool
    ) -> Details | None:
        """Ask a replica for the task. Raises `NoWorker` and `BrokerError`."""
        asked = self._directory.details(task_id, equipment_id, barrier=barrier)
        try:
            return await self._deadlines.limit(asked, deadline)
        except TimeoutError:
            raise NoReply("The worker did not answer in time") from None

    async def _publish(self, published: Deferred[None], deadline: float) -> None:
        """Wait until the broker confirms the message.

        Raises `Undecided` if the message may be in the journal, and another error if it is not.
        """
        try:
            await self._deadlines.limit(published, deadline)
        except (BrokerUnavailable, Overloaded, Unroutable):
            raise
        except (BrokerError, TimeoutError):
            raise Undecided from None

    async def _ask_after_publish(self, task_id: str, equipment_id: str, deadline: float) -> Details:
        """Ask what the journal says, now that it has the message.

        Raises `Undecided` and `TaskNotFound`.
        """
        try:
            known = await self._ask(task_id, equipment_id, deadline, barrier=True)
        except (BrokerError, NoWorker):
            raise Undecided from None
        if known is None:
            raise TaskNotFound
        return known


def _not_begun(known: Details) -> bool:
    """Return whether the task has not ended and was never sent to A."""
    return known.state is State.RUNNING and not known.attempt_count
