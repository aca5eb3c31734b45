"""The worker of one shard: takes tasks from the work queue, calls A for each, and puts the outcome into the journal.

The way of one task here: a *delivery* becomes a *job*; the job waits in its device's lane until it is the head; then, attempt by attempt,
it passes the gate that all shards of the process share, calls A, and pauses where A was out of reach. Its final state is appended
to the journal, confirmed, and only then is the delivery acknowledged and the lane left.

When the connection to the broker is lost, all deliveries die. Jobs that have begun nothing are forgotten: the broker delivers them again,
in order, to whoever is the active consumer then. A job whose call to A is under way goes on, and so does one that pauses; when its message
comes back here, the job *adopts* it. A job never begins another call while it has no live delivery, and a redelivered task is judged first,
behind the journal's barrier: if it has finished elsewhere, it is only acknowledged.

The same judgement finds the tasks that were cancelled, and of the messages of one ``Idempotency-Key`` the one that is the order. A call
begins only once the own replica has seen its `Started`: the journal's order decides whether a cancellation came before.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from rtprov.amqp.consumer import consume
from rtprov.errors import BrokerError, EquipmentSilent, EquipmentUnreachable, NoAnswer, OutOfPatience, SealError, UndecodableMessage
from rtprov.jobs import BARRIER_RETRY_S, Arrivals, Job, key_of
from rtprov.lanes import Lanes
from rtprov.model import Finished, Postponed, Requested, Started, State
from rtprov.quarantine import GIVE_UP_AFTER
from rtprov.wire import decode_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.protocol import AmqpConnection
    from rtprov.amqp.topology import Shard
    from rtprov.gate import Admission, Gate
    from rtprov.interfaces import Delivery, Equipment, Journal, Sealer
    from rtprov.quarantine import Quarantine
    from rtprov.store import Store

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# The broker gives up on a delivery that is held for 30 minutes; one held this long is returned, and adopted when it comes back.
RENEW_AFTER_S = 1200.0
RENEW_LOOK_S = 60.0
RENEWAL_S = 10.0
MAX_REASON = 200


def retry_pause_s(attempt: int, rng: random.Random) -> float:
    """The pause after attempt number `attempt` (from 1) found A out of reach: doubling from 1 to 60 s, jittered down to a half."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 16))
    return longest * (0.5 + rng.random() / 2)


class _Abandoned(Exception):
    """The job has no live delivery and may not begin a call: its message is on its way to whoever is active now."""


class _Deadly(Exception):
    """One worker after another has died in the task's calls."""


class ShardWorker:
    """A session of the worker's connection: attach it after the shard's journal.

    `gate` lets the calls of this process through to A, `quarantine` those that may kill it; the journal knows it as `process_id`.
    `window` is the prefetch, how many tasks may be held here, waiting ones
    included (1 to 65535). `wall_clock` gives seconds since the epoch for events. `patience_s` is how long a task whose calls do not reach A
    is tried, counted from its first attempt.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        store: Store,
        journal: Journal,
        equipment: Equipment,
        sealer: Sealer,
        gate: Gate,
        quarantine: Quarantine,
        process_id: str,
        window: int,
        patience_s: float,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._shard = shard
        self._store = store
        self._journal = journal
        self._equipment = equipment
        self._sealer = sealer
        self._gate = gate
        self._quarantine = quarantine
        self._process_id = process_id
        self._window = window
        self._patience_s = patience_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng
        self._jobs: dict[str, Job] = {}
        self._lanes: Lanes[Job] = Lanes()
        self._arrivals = Arrivals(queue=shard.work, store=store, journal=journal, clock=clock, enter=self._enter)
        self._draining = False
        self._renewal = LoopingCall(self._renew)
        self._renewal.clock = clock

    @property
    def held(self) -> int:
        """How many tasks this worker holds, waiting ones included."""
        return len(self._jobs)

    @property
    def calling(self) -> int:
        """How many calls to A are under way or wait for their outcome to be journalled."""
        return sum(job.calling for job in self._jobs.values())

    # The session.

    async def attach(self, connection: AmqpConnection) -> None:
        """Consume the work queue: at once as its active consumer, or as the standby of another worker. Raises `BrokerError`."""
        channel = await connection.open_channel()
        await consume(channel, self._shard.work, self._on_delivery, prefetch=self._window)
        renewing = self._renewal.start(RENEW_LOOK_S, now=False)
        renewing.addErrback(lambda reason: self._log.failure("{queue}: deliveries are no longer renewed", reason, queue=self._shard.work))

    def detach(self) -> None:
        """The connection is gone: forget the jobs that neither call nor pause; the others learn of it at their next step."""
        if self._renewal.running:
            self._renewal.stop()
        self._send_away_arriving()
        for job in self._lanes.drop_waiting():
            del self._jobs[job.key]
        for job in list(self._jobs.values()):
            job.renewing = False
            if job.running is not None and not (job.calling or job.pausing):
                job.running.cancel()

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._draining:
            return  # unsettled, it goes back to the broker with the connection
        try:
            task = decode_task(delivery.body)
        except UndecodableMessage as error:
            self._log.error("{queue}: a message that is no task goes to the dead letters: {error}", queue=self._shard.work, error=error)
            delivery.nack(requeue=False)
            return
        job = self._jobs.get(key_of(task))
        if job is not None:
            if job.delivery.live:
                delivery.ack()  # the same order, sent twice
            else:
                job.adopt(delivery, self._clock.seconds())
            return
        unjudged = delivery.redelivered or task.fingerprint is not None
        job = Job(evolve(task, sealed=""), delivery, self._clock.seconds(), unjudged)
        self._jobs[job.key] = job
        if delivery.redelivered or self._arrivals:
            self._arrivals.add(job)
        else:
            self._enter(job)

    def _enter(self, job: Job) -> None:
        if self._lanes.enter(job.task.equipment_id, job):
            self._start(job)

    def _send_away_arriving(self) -> None:
        """Forget what has entered no lane yet: the broker has it, or will have it back."""
        for job in self._arrivals.forget():
            del self._jobs[job.key]

    def _renew(self) -> None:
        overdue = self._clock.seconds() - RENEW_AFTER_S
        for job in self._jobs.values():
            if job.taken_at <= overdue and job.delivery.live:
                job.renewing = True
                job.delivery.nack(requeue=True)

    # One job.

    def _start(self, job: Job) -> None:
        job.running = Deferred.fromCoroutine(self._run(job))
        job.running.addErrback(self._not_finished, job)
        job.running.addCallback(self._leave, job)

    def _not_finished(self, reason: Failure, job: Job) -> None:
        if reason.check(_Deadly):
            deaths = self._store.deaths(job.task.task_id)
            self._log.error("task {task_id} goes to the dead letters: {n} workers died in its calls", task_id=job.task.task_id, n=deaths)
            job.delivery.nack(requeue=False)
        elif not reason.check(_Abandoned, CancelledError):
            self._log.failure("task {task_id}: the worker failed; the broker will deliver it again", reason, task_id=job.task.task_id)
            job.delivery.nack(requeue=True)

    def _leave(self, _: None, job: Job) -> None:
        job.running = None
        del self._jobs[job.key]
        successor = self._lanes.leave(job.task.equipment_id)
        if successor is not None and not self._draining:
            self._start(successor)

    async def _run(self, job: Job) -> None:
        outcome = await self._provision(job)
        if outcome is not None:
            task, (state, reason) = job.task, outcome
            job.calling = True
            if state is State.FAILED:
                self._log.info("task {task_id} has failed: {reason}", task_id=task.task_id, reason=reason)
            await self._journal.append(Finished(task.task_id, task.equipment_id, self._wall_clock(), state, reason))
        job.delivery.ack()

    async def _provision(self, job: Job) -> tuple[State, str] | None:
        """Call A until it has answered or patience is over; None where there is nothing to call for. Raises `_Abandoned`."""
        while True:
            try:
                return await self._admitted(job)
            except EquipmentUnreachable as error:
                unreachable = error
            except OutOfPatience as error:
                return None if await self._over(job) else (State.FAILED, str(error))
            except (EquipmentSilent, SealError) as error:
                return State.FAILED, str(error)
            pause_s = self._pause_s(job, unreachable.retry_after_s)
            if pause_s is None:
                return State.FAILED, f"out of patience: {unreachable}"
            job.calling = False
            if self._draining:
                raise _Abandoned
            job.pausing = True
            await self._pause(job, pause_s, str(unreachable))
            job.pausing = False
            await self._require_delivery(job)

    async def _pause(self, job: Job, pause_s: float, reason: str) -> None:
        resume_at = self._clock.seconds() + pause_s
        task, now = job.task, self._wall_clock()
        await self._journal.append(Postponed(task.task_id, task.equipment_id, now, job.attempt, reason[:MAX_REASON], now + pause_s))
        await deferLater(self._clock, max(0.0, resume_at - self._clock.seconds()))

    async def _over(self, job: Job) -> bool:
        """Whether there is nothing to call for: the task has ended, or the message is not its order.

        When this returns, the job has a live delivery. Raises `_Abandoned` where it has none.
        """
        task = job.task
        await self._judge(job)
        over = self._store.over(task.task_id, task.fingerprint, task.accepted_at)
        if over is None:  # the broker gave it to us, and to the journal not yet, or never
            await self._journal.append(Requested(task.task_id, task.equipment_id, task.accepted_at, task.fingerprint))
            job.unjudged = True
            await self._judge(job)
            over = self._store.over(task.task_id, task.fingerprint, task.accepted_at)
        return over is not False

    async def _judge(self, job: Job) -> None:
        """Only behind the barrier does the store know what became of a task that was delivered before, or ordered more than once."""
        await self._require_delivery(job)
        while job.unjudged:
            job.unjudged = False
            try:
                await self._journal.barrier()
            except BrokerError:
                job.unjudged = True
                await deferLater(self._clock, BARRIER_RETRY_S)
            await self._require_delivery(job)

    async def _require_delivery(self, job: Job) -> None:
        """Raise `_Abandoned` where the job's delivery is dead; one that was returned for renewal is given time to come back."""
        deadline = self._clock.seconds() + RENEWAL_S
        while not job.delivery.live:
            if not job.renewing or self._clock.seconds() >= deadline:
                raise _Abandoned
            await deferLater(self._clock, RENEWAL_S / 20)

    async def _admitted(self, job: Job) -> tuple[State, str] | None:
        """One attempt, once quarantine and gate let it through. Raises `OutOfPatience` where they do not, and what `_attempt` raises."""
        deaths = self._store.deaths(job.task.task_id)
        if deaths >= GIVE_UP_AFTER:
            raise _Deadly
        await self._quarantine.enter(deaths)
        try:
            admission = await self._gate.enter(self._left_s(job))
            if not self._store.attempts(job.task.task_id):
                job.waited_s = admission.waited_s
            try:
                return await self._attempt(job, admission)
            finally:
                admission.end()
        finally:
            self._quarantine.leave(deaths)

    async def _attempt(self, job: Job, admission: Admission) -> tuple[State, str] | None:
        """One call to A; None where there is nothing to call for. Raises `NoAnswer`, `SealError`, `_Abandoned`."""
        task = job.task
        if await self._over(job):
            return None
        body = self._sealer.open(decode_task(job.delivery.body).sealed)
        job.attempt = max(job.attempt, self._store.attempts(task.task_id)) + 1
        await self._journal.append(Started(task.task_id, task.equipment_id, self._wall_clock(), job.attempt, self._process_id))
        if self._store.attempts(task.task_id) < job.attempt:
            job.unjudged = True  # our own copy of it is still to come, and before it perhaps a cancellation
        if await self._over(job):  # the delivery may have been renewed meanwhile
            return None
        job.calling = True
        if job.attempt == 1:
            job.first_called_at = self._wall_clock()  # the journal's time is when the broker was first asked to write it down
        try:
            outcome = await self._equipment.configure(task, body)
        except NoAnswer as error:
            admission.outage(task.equipment_id, error)
            raise
        admission.answered()
        return outcome

    def _left_s(self, job: Job) -> float:
        """What is left of the task's patience, which begins with its first attempt, or with its wait for one while A is in trouble."""
        first = self._store.first_started_at(job.task.task_id) if job.first_called_at is None else job.first_called_at
        now = self._wall_clock()
        return (now if first is None else first) + self._patience_s - job.waited_s - now

    def _pause_s(self, job: Job, retry_after_s: float | None) -> float | None:
        """How long to wait for the next attempt; None when patience is over. The last attempt is made at patience's very end."""
        left_s = self._left_s(job)
        if left_s <= 0 or (retry_after_s is not None and retry_after_s > left_s):
            return None
        return min(left_s, max(retry_pause_s(job.attempt, self._rng), retry_after_s or 0.0))

    # The end.

    async def drain(self, deadline_s: float) -> None:
        """Begin no further call; done when the running ones have ended, or been cancelled after `deadline_s`.

        The consumer stays registered meanwhile: if it went, a standby would get the next task of a device whose call still runs here. What
        is held unsettled goes back to the broker, in order, when the connection closes.
        """
        self._draining = True
        self._send_away_arriving()
        for job in list(self._jobs.values()):
            if job.running is not None and not job.calling:
                job.running.cancel()
        running = [job.running for job in self._jobs.values() if job.running is not None]
        if running:
            self._log.info(
                "{queue}: draining {calls} calls to A, up to {seconds:.0f} s; a second signal cuts them short",
                queue=self._shard.work,
                calls=len(running),
                seconds=deadline_s,
            )
        done = DeferredList(running)
        timer = self._clock.callLater(deadline_s, self._cut_short, running)
        await done
        if timer.active():
            timer.cancel()

    def _cut_short(self, running: list[Deferred[None]]) -> None:
        self._log.warn("{queue}: cutting calls short; the broker will have these tasks called again", queue=self._shard.work)
        for each in running:
            each.cancel()
