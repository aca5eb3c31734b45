"""The calls to service A for one job, attempt by attempt, until its task has an outcome.

Before a call begins, these conditions hold:

- The broker treats this worker as the active consumer: the job's delivery is live, or its message
  was put back into the queue over a channel that is still open.
- The task is still open and the message is its order. For a message that was delivered before, or
  whose ``Idempotency-Key`` came more than once, this is checked after a journal barrier.
- The sealing key is in the key file. A task without its key waits in its device's lane and uses no
  call permit.
- This process's replica has seen the attempt's `Started` event, so the order of the journal decides
  whether a cancellation came first.
- Few other calls have begun in the same turn of the reactor.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtprov.backoff import jittered_backoff_s
from rtprov.errors import (
    BrokerError,
    EquipmentSilent,
    EquipmentUnreachable,
    KeyMissing,
    NoAnswer,
    OutOfPatience,
    OutOfResources,
    SealError,
)
from rtprov.messaging.event_messages import decode_task
from rtprov.metrics.counting import CALLS_S, Histograms
from rtprov.model import Postponed, Started, State, Withheld
from rtprov.tracing.spans import NO_SPANS, Spans
from rtprov.worker.decision import Step, next_step
from rtprov.worker.job import Job
from rtprov.worker.quarantine import GIVE_UP_AFTER, SUSPECT_AFTER
from rtprov.worker.redeliveries import BARRIER_RETRY_S
from rtprov.worker.started_events import StartedEvents

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.clocks import WallClock
    from rtprov.interfaces import Equipment, Journal, Sealer
    from rtprov.journal.store import Store
    from rtprov.journal.task_view import TaskView
    from rtprov.worker.call_limiter import CallLimiter, Permit
    from rtprov.worker.missing_keys import MissingKeys
    from rtprov.worker.pace import Pace
    from rtprov.worker.quarantine import Quarantine

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
SHORTAGE_PAUSE_S = 1.0
MAX_REASON = 200


def retry_pause_s(attempt: int, rng: random.Random) -> float:
    """Return the pause after attempt number `attempt` (from 1) could not reach A, in seconds.

    It doubles from 1 s to 60 s; `rng` reduces it by up to a half.
    """
    return jittered_backoff_s(attempt, rng, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)


class Abandoned(Exception):
    """The job must not begin a call. The broker delivers its message again, to the worker that is
    active then.
    """


class TooManyCrashes(Exception):
    """Too many workers have died during the task's calls; it is not called again."""


class Attempts:
    """Carries out the jobs of one shard.

    `call_limiter` limits the calls of this process, `quarantine` those of tasks during whose calls
    workers have died. `pace` limits how many calls begin in one turn of the reactor.
    `missing_keys` holds the tasks that wait for their sealing keys. `process_id` is this process's
    name in the journal. `patience_s` is how long, in seconds, a task is retried while its calls do
    not reach A. It counts from the first attempt, and is measured by `clock`.
    `wall_clock` gives the times of events. If another process made the first attempt,
    `wall_clock` also gives the age of that attempt. While `draining` is true, an attempt that did
    not reach A is not retried.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        store: Store,
        journal: Journal,
        equipment: Equipment,
        sealer: Sealer,
        missing_keys: MissingKeys,
        call_limiter: CallLimiter,
        quarantine: Quarantine,
        pace: Pace,
        process_id: str,
        patience_s: float,
        clock: IReactorTime,
        wall_clock: WallClock,
        rng: random.Random,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._store = store
        self._journal = journal
        self._equipment = equipment
        self._sealer = sealer
        self._missing_keys = missing_keys
        self._call_limiter = call_limiter
        self._quarantine = quarantine
        self._pace = pace
        self._started_events = StartedEvents(clock)
        self._process_id = process_id
        self._patience_s = patience_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng
        self._spans = spans
        self.draining = False
        self.call_seconds = Histograms(CALLS_S)
        """How long calls took, by what came of them."""

    def next_turn(self) -> int:
        """Return a turn for `CallLimiter.enter`, later than all turns before it."""
        return self._call_limiter.next_turn()

    def on_started(self, event: Started) -> None:
        """Call this when the replica has applied the event."""
        self._started_events.on_started(event)

    async def outcome(self, job: Job) -> tuple[State, str] | None:
        """Call A until it has answered or patience is over.

        Return the task's final state and the reason; None if no call is to be made, because the
        task has ended or the message is not its order. Raises `Abandoned`, `TooManyCrashes`.
        """
        while True:
            try:
                if not await self._has_key(job):
                    return None
                return await self._admitted(job)
            except KeyMissing:
                continue  # the key was removed while the task waited for its turn
            except EquipmentUnreachable as error:
                unreachable = error
            except OutOfPatience as error:
                return (State.FAILED, str(error)) if await self._may_call(job) else None
            except EquipmentSilent as error:
                return State.FAILED, str(error)
            except SealError as error:
                self._log.error(
                    "task {task_id} has failed: its order cannot be opened: {error}",
                    task_id=job.task.task_id,
                    error=error,
                )
                return State.FAILED, str(error)
            pause_s = self._pause_s(job, unreachable.retry_after_s)
            if pause_s is None:
                return State.FAILED, f"out of patience: {unreachable}"
            job.calling = False
            if self.draining:
                raise Abandoned
            job.pausing = True
            await self._pause(job, pause_s, str(unreachable))
            job.pausing = False
            if not job.may_begin:
                raise Abandoned

    async def _pause(self, job: Job, pause_s: float, reason: str) -> None:
        resume_at = self._clock.seconds() + pause_s
        task, now = job.task, self._event_time(job)
        await self._journal.append(
            Postponed(
                task.task_id,
                task.equipment_id,
                now,
                job.attempt,
                reason[:MAX_REASON],
                now + pause_s,
            )
        )
        await deferLater(self._clock, max(0.0, resume_at - self._clock.seconds()))

    async def _has_key(self, job: Job) -> bool:
        """Wait until the job's sealing key is in the key file. Return False if no call is to be
        made. Raises `Abandoned`.
        """
        task, began, view = job.task, self._clock.seconds(), self._view(job)
        journalled = view.withheld
        if job.withheld_s is None:
            job.withheld_s = (
                self._store.withheld_s(task.task_id, self._wall_clock()) if view.attempts else 0.0
            )
        if not journalled and self._can_open(job):
            return True
        while not self._can_open(job):
            if not await self._may_call(job):
                return False
            if not journalled:
                await self._journal.append(
                    Withheld(task.task_id, task.equipment_id, self._event_time(job), task.key)
                )
                journalled = True
            elif not self._can_open(job):
                journalled = await self._missing_keys.wait_for(task.task_id, task.key)
        view = self._view(job)
        if view.attempts:
            job.withheld_s += self._clock.seconds() - began
        if journalled or view.withheld:
            await self._journal.append(
                Withheld(
                    task.task_id, task.equipment_id, self._event_time(job), task.key, over=True
                )
            )
        return True

    def _can_open(self, job: Job) -> bool:
        """Return whether the job's key is in the key file. If the message does not name its key,
        all keys are tried.
        """
        if job.task.key is not None:
            return job.task.key in self._sealer.key_ids
        try:
            self._open(job)
        except KeyMissing:
            return False
        return True

    def _open(self, job: Job) -> bytes:
        """Return the order's body in plain text. Raises `KeyMissing`, `SealError`.

        The message is decoded a second time here, after its delivery. The alternative is a second
        copy of each sealed body in memory, for as long as the job waits.
        """
        return self._sealer.open(decode_task(job.delivery.body).sealed, job.task.key)

    def _event_time(self, job: Job) -> float:
        """Return the time for an event of the job's task."""
        return self._store.event_time(job.task.task_id, self._wall_clock())

    def _view(self, job: Job) -> TaskView:
        """Return what the replica knows of the job's task now."""
        task = job.task
        return self._store.view(task.task_id, task.fingerprint, task.accepted_at)

    async def _may_call(self, job: Job) -> bool:
        """Find out whether a call may begin. If necessary, wait for a barrier first, or append the
        message to a journal that does not have it.

        Return False if the task has ended, or the message is not its order. Raises `Abandoned`.
        """
        appended = False
        while True:
            step = next_step(
                self._view(job),
                may_begin=job.may_begin,
                needs_barrier=job.needs_barrier,
                appended=appended,
            )
            if step is Step.BARRIER:
                await self._barrier(job)
            elif step is Step.APPEND:
                await self._journal.append_message(job.delivery.body)
                job.needs_barrier = appended = True
            elif step is Step.ABANDON:
                raise Abandoned
            else:
                return step is Step.CALL

    async def _barrier(self, job: Job) -> None:
        """Wait for a journal barrier. If the broker fails, wait for a second; the job still needs
        the barrier then.
        """
        job.needs_barrier = False
        try:
            await self._journal.barrier()
        except BrokerError:
            job.needs_barrier = True
            await deferLater(self._clock, BARRIER_RETRY_S)

    async def _admitted(self, job: Job) -> tuple[State, str] | None:
        """Make one attempt as soon as the quarantine and the call limiter permit it. Return None if
        no call is to be made.

        Raises `OutOfPatience` if the permit takes too long, `TooManyCrashes`, and what `_attempt`
        raises.
        """
        crash_count = self._view(job).crash_count
        if crash_count >= SUSPECT_AFTER:
            if not await self._may_call(job):
                # It has ended elsewhere: it need not wait for the quarantine, nor be given up.
                return None
            crash_count = self._view(job).crash_count
        if crash_count >= GIVE_UP_AFTER:
            raise TooManyCrashes
        await self._quarantine.enter(crash_count)
        try:
            # A retried task goes to the end of the queue; otherwise the same task would make all
            # probes of an open breaker.
            turn, job.turn = job.turn, None
            permit = await self._call_limiter.enter(
                self._left_s(job), turn, job.task.caller, job.task.urgency
            )
            if not self._view(job).attempts:
                job.waited_s = permit.waited_s
            try:
                return await self._attempt(job, permit)
            finally:
                permit.end()
        finally:
            self._quarantine.leave(crash_count)

    async def _attempt(self, job: Job, permit: Permit) -> tuple[State, str] | None:
        """Append `Started` and call A; return None if no call is to be made.

        Raises `NoAnswer`, `SealError`, `Abandoned`.
        """
        task = job.task
        if not await self._may_call(job):
            return None
        body = self._open(job)
        job.attempt = max(job.attempt, self._view(job).attempts) + 1
        await self._journal.append(
            Started(
                task.task_id,
                task.equipment_id,
                self._event_time(job),
                job.attempt,
                self._process_id,
            )
        )
        view = self._view(job)
        if view.attempts < job.attempt and not view.needs_no_call:
            # The replica has not seen the event yet. A cancellation may come before it.
            seen = await self._started_events.expect(task.task_id, job.attempt)
            if not seen:
                job.needs_barrier = True
        await self._pace.turn()
        if not await self._may_call(job):  # the delivery may have been renewed meanwhile
            return None
        if job.attempt == 1:
            # The event's time is earlier: the append may have taken long.
            job.patience_from = self._clock.seconds()
            with self._spans.span(
                "queue", task.traceparent, task.task_id, began_at=task.accepted_at
            ) as traceparent:
                job.task = evolve(task, traceparent=traceparent)
        try:
            outcome = await self._call(job, body)
        except NoAnswer as error:
            permit.outage(task.equipment_id, error)
            raise
        if outcome is not None:
            permit.answered()
        return outcome

    async def _call(self, job: Job, body: bytes) -> tuple[State, str] | None:
        """Call A; return None if no call is to be made any more.

        While this machine lacks files or ports for a connection, wait and try again. That wait
        keeps the permit, and counts neither as an attempt nor against the task's patience. Raises
        `NoAnswer`, `Abandoned`."""
        while True:
            job.calling, began_at = True, self._clock.seconds()
            try:
                with self._spans.span(
                    "call", job.task.traceparent, job.task.task_id
                ) as traceparent:
                    task = evolve(job.task, traceparent=traceparent)
                    state, reason = await self._equipment.configure(task, body)
            except OutOfResources:
                job.calling = False
            except NoAnswer as error:
                outcome = "silent" if isinstance(error, EquipmentSilent) else "unreachable"
                self.call_seconds.observe(outcome, self._clock.seconds() - began_at)
                raise
            else:
                self.call_seconds.observe(state.value, self._clock.seconds() - began_at)
                return state, reason
            if self.draining:
                raise Abandoned
            await deferLater(self._clock, SHORTAGE_PAUSE_S)
            job.shortage_s += self._clock.seconds() - began_at
            if not await self._may_call(job):
                return None

    def _left_s(self, job: Job) -> float:
        """Return what is left of the task's patience, in seconds.

        Patience begins with the first attempt, or when the first attempt has to wait because A is
        in trouble. It does not run while the task waits for its sealing key or this machine lacks
        resources.
        """
        now = self._clock.seconds()
        if job.patience_from is None:
            first_started_at = self._view(job).first_started_at
            if first_started_at is None:
                return self._patience_s + job.shortage_s - job.waited_s
            job.patience_from = now - self._wall_clock.age_s(first_started_at)
        return (
            job.patience_from
            + self._patience_s
            + job.shortage_s
            + (job.withheld_s or 0.0)
            - job.waited_s
            - now
        )

    def _pause_s(self, job: Job, retry_after_s: float | None) -> float | None:
        """Return the seconds until the next attempt, or None if patience is over.

        The last attempt is made exactly when patience ends.
        """
        left_s = self._left_s(job)
        if left_s <= 0 or (retry_after_s is not None and retry_after_s > left_s):
            return None
        return min(left_s, max(retry_pause_s(job.attempt, self._rng), retry_after_s or 0.0))
