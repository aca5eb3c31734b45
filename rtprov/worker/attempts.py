"""The way of one job through a worker: judged, admitted, called, attempt by attempt, until it has
an outcome.

No call begins unless the broker takes this worker for the active one: the job has a live delivery,
or its message was put back into the queue over a channel that still stands. What was delivered
before, or ordered more than once, is judged first, behind the journal's barrier: if it has ended
elsewhere, or is not the order, there is nothing to call for. A task whose sealing key is not at
hand waits for it in its lane, before it asks for a place among the calls. A call begins only once
the own replica has seen its `Started`: the journal's order decides whether a cancellation came
before."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from twisted.internet.task import deferLater
from twisted.logger import Logger

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
from rtprov.model import Postponed, Started, State, Withheld
from rtprov.worker.job import Job
from rtprov.worker.quarantine import GIVE_UP_AFTER, SUSPECT_AFTER
from rtprov.worker.redeliveries import BARRIER_RETRY_S

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.clocks import WallClock
    from rtprov.interfaces import Equipment, Journal, Sealer
    from rtprov.journal.store import Store
    from rtprov.worker.call_limiter import CallLimiter, Permit
    from rtprov.worker.missing_keys import MissingKeys
    from rtprov.worker.quarantine import Quarantine

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
SHORTAGE_PAUSE_S = 1.0
MAX_REASON = 200


def retry_pause_s(attempt: int, rng: random.Random) -> float:
    """The pause after attempt number `attempt` (from 1) found A out of reach: doubling from 1 to 60
    s, jittered down to a half.
    """
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 16))
    return longest * (0.5 + rng.random() / 2)


class Abandoned(Exception):
    """The job may not begin a call: the broker has its message, and gives it to the worker that is
    active now.
    """


class Deadly(Exception):
    """One worker after another has died in the task's calls."""


class Attempts:
    """Carries out the jobs of one shard.

    `gate` lets the calls of this process through to A, `quarantine` those that may kill it;
    `missing_keys` holds its tasks that wait for their keys; the journal knows it as `process_id`.
    `patience_s` is how long a task whose calls do not reach A is tried, counted from its first
    attempt. It runs on `clock`; `wall_clock` gives the times of events, and the age of a first
    attempt that another process made. With `draining`, an attempt that did not reach A is not
    followed by another."""

    _log = Logger()

    def __init__(
        self,
        *,
        store: Store,
        journal: Journal,
        equipment: Equipment,
        sealer: Sealer,
        missing_keys: MissingKeys,
        gate: CallLimiter,
        quarantine: Quarantine,
        process_id: str,
        patience_s: float,
        clock: IReactorTime,
        wall_clock: WallClock,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._journal = journal
        self._equipment = equipment
        self._sealer = sealer
        self._missing_keys = missing_keys
        self._gate = gate
        self._quarantine = quarantine
        self._process_id = process_id
        self._patience_s = patience_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng
        self.draining = False

    def next_turn(self) -> int:
        """A turn at the gate, later than all before it."""
        return self._gate.next_turn()

    async def outcome(self, job: Job) -> tuple[State, str] | None:
        """Call A until it has answered or patience is over; None where there is nothing to call
        for. Raises `Abandoned`, `Deadly`.
        """
        while True:
            try:
                if not await self._has_key(job):
                    return None
                return await self._admitted(job)
            except KeyMissing:
                continue  # it went while the task waited for its turn
            except EquipmentUnreachable as error:
                unreachable = error
            except OutOfPatience as error:
                return None if await self._over(job) else (State.FAILED, str(error))
            except EquipmentSilent as error:
                return State.FAILED, str(error)
            except SealError as error:
                self._log.error(
                    "task {task_id} cannot be carried out: {error}",
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
            await self._require_delivery(job)

    async def _pause(self, job: Job, pause_s: float, reason: str) -> None:
        resume_at = self._clock.seconds() + pause_s
        task, now = job.task, self._wall_clock()
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
        """Wait until the job's sealing key is at hand; False where there is nothing to call for any
        more. Raises `Abandoned`.
        """
        task, began = job.task, self._clock.seconds()
        told = self._store.withheld(task.task_id)
        if job.withheld_s is None:
            attempted = self._store.attempts(task.task_id) > 0
            job.withheld_s = (
                self._store.withheld_s(task.task_id, self._wall_clock()) if attempted else 0.0
            )
        while not self._can_open(job):
            if await self._over(job):
                return False
            if not told:
                await self._journal.append(
                    Withheld(task.task_id, task.equipment_id, self._wall_clock(), task.key)
                )
                told = True
            elif not self._can_open(job):
                told = await self._missing_keys.come(task.task_id, task.key)
        if self._store.attempts(task.task_id):
            job.withheld_s += self._clock.seconds() - began
        if told or self._store.withheld(task.task_id):
            await self._journal.append(
                Withheld(task.task_id, task.equipment_id, self._wall_clock(), task.key, over=True)
            )
        return True

    def _can_open(self, job: Job) -> bool:
        """Whether the job's key is at hand; a message that does not name its key must be tried."""
        if job.task.key is not None:
            return job.task.key in self._sealer.key_ids
        try:
            self._open(job)
        except KeyMissing:
            return False
        return True

    def _open(self, job: Job) -> bytes:
        """The body. Raises `KeyMissing`, `SealError`."""
        return self._sealer.open(decode_task(job.delivery.body).sealed, job.task.key)

    async def _over(self, job: Job) -> bool:
        """Whether there is nothing to call for: the task has ended, or the message is not its
        order.

        When this returns, a call may begin. Raises `Abandoned` where it may not.
        """
        task = job.task
        await self._judge(job)
        over = self._store.over(task.task_id, task.fingerprint, task.accepted_at)
        if over is None:  # the broker gave it to us, and to the journal not yet, or never
            await self._journal.append_message(job.delivery.body)
            job.needs_barrier = True
            await self._judge(job)
            over = self._store.over(task.task_id, task.fingerprint, task.accepted_at)
        return over is not False

    async def _judge(self, job: Job) -> None:
        """Only behind the barrier does the store know what became of a task that was delivered
        before, or ordered more than once.
        """
        await self._require_delivery(job)
        while job.needs_barrier:
            job.needs_barrier = False
            try:
                await self._journal.barrier()
            except BrokerError:
                job.needs_barrier = True
                await deferLater(self._clock, BARRIER_RETRY_S)
            await self._require_delivery(job)

    async def _require_delivery(self, job: Job) -> None:
        """Raise `Abandoned` where the broker does not take this worker for the active one any
        more.
        """
        if not job.entitled:
            raise Abandoned

    async def _admitted(self, job: Job) -> tuple[State, str] | None:
        """One attempt, once quarantine and gate let it through; None where there is nothing to call
        for.

        Raises `OutOfPatience` where they do not, and what `_attempt` raises.
        """
        if self._store.crash_count(job.task.task_id) >= SUSPECT_AFTER and await self._over(job):
            # it has ended elsewhere: no reason to wait beside those that may kill, nor to be given
            # up
            return None
        crash_count = self._store.crash_count(job.task.task_id)
        if crash_count >= GIVE_UP_AFTER:
            raise Deadly
        await self._quarantine.enter(crash_count)
        try:
            # one that is tried again comes last, or it would have all probes of an open breaker
            turn, job.turn = job.turn, None
            permit = await self._gate.enter(self._left_s(job), turn)
            if not self._store.attempts(job.task.task_id):
                job.waited_s = permit.waited_s
            try:
                return await self._attempt(job, permit)
            finally:
                permit.end()
        finally:
            self._quarantine.leave(crash_count)

    async def _attempt(self, job: Job, permit: Permit) -> tuple[State, str] | None:
        """One call to A; None where there is nothing to call for. Raises `NoAnswer`, `SealError`,
        `Abandoned`.
        """
        task = job.task
        if await self._over(job):
            return None
        body = self._open(job)
        job.attempt = max(job.attempt, self._store.attempts(task.task_id)) + 1
        await self._journal.append(
            Started(
                task.task_id, task.equipment_id, self._wall_clock(), job.attempt, self._process_id
            )
        )
        if self._store.attempts(task.task_id) < job.attempt:
            # our own copy of it is still to come, and before it perhaps a cancellation
            job.needs_barrier = True
        if await self._over(job):  # the delivery may have been renewed meanwhile
            return None
        if job.attempt == 1:
            # the journal's time is when the broker was first asked to write it down
            job.patience_from = self._clock.seconds()
        try:
            outcome = await self._call(job, body)
        except NoAnswer as error:
            permit.outage(task.equipment_id, error)
            raise
        if outcome is not None:
            permit.answered()
        return outcome

    async def _call(self, job: Job, body: bytes) -> tuple[State, str] | None:
        """Call A, once this machine has what a call takes; None where there is nothing to call for
        by then.

        The wait keeps its place among the calls, and costs neither an attempt nor patience. Raises
        `NoAnswer`, `Abandoned`."""
        while True:
            job.calling, began_at = True, self._clock.seconds()
            try:
                return await self._equipment.configure(job.task, body)
            except OutOfResources:
                job.calling = False
            if self.draining:
                raise Abandoned
            await deferLater(self._clock, SHORTAGE_PAUSE_S)
            job.shortage_s += self._clock.seconds() - began_at
            if await self._over(job):
                return None

    def _left_s(self, job: Job) -> float:
        """What is left of the task's patience, which begins with its first attempt, or with its
        wait for one while A is in trouble.

        It stands still while the task waits for its key.
        """
        now = self._clock.seconds()
        if job.patience_from is None:
            first_started_at = self._store.first_started_at(job.task.task_id)
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
        """How long to wait for the next attempt; None when patience is over. The last attempt is
        made at patience's very end.
        """
        left_s = self._left_s(job)
        if left_s <= 0 or (retry_after_s is not None and retry_after_s > left_s):
            return None
        return min(left_s, max(retry_pause_s(job.attempt, self._rng), retry_after_s or 0.0))
