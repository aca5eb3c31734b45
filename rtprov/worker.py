"""The worker of one shard: takes tasks from the work queue, has A called for each, and puts the outcome into the journal.

The way of one task here: a *delivery* becomes a *job*; the job waits in its device's lane until it is the head; then, attempt by attempt,
it passes the gate that all shards of the process share, calls A, and pauses where A was out of reach (`rtprov.attempts`). Its final state
is appended to the journal, confirmed, and only then is the delivery acknowledged and the lane left.

When the connection to the broker is lost, all deliveries die. Jobs that have begun nothing are forgotten: the broker delivers them again,
in order, to whoever is the active consumer then. A job whose call to A is under way goes on, and so does one that pauses; when its message
comes back here, the job *adopts* it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from rtprov.amqp.consumer import consume
from rtprov.attempts import Abandoned, Deadly
from rtprov.errors import UndecodableMessage
from rtprov.jobs import Arrivals, Job, key_of
from rtprov.lanes import Lanes
from rtprov.model import Finished
from rtprov.wire import decode_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.protocol import AmqpConnection
    from rtprov.amqp.topology import Shard
    from rtprov.attempts import Attempts
    from rtprov.interfaces import Delivery, Journal
    from rtprov.store import Store

# The broker gives up on a delivery that is held for 30 minutes; one held this long is returned, and adopted when it comes back.
RENEW_AFTER_S = 1200.0
RENEW_LOOK_S = 60.0
# A run that fails for an error of ours is repeated, after pauses that double: two minutes in all.
MAX_FAILURES = 10
FIRST_FAILURE_PAUSE_S = 0.5
LONGEST_FAILURE_PAUSE_S = 30.0


def failure_pause_s(failures: int) -> float:
    """The pause after a task's run has failed for the `failures`-th time (from 1)."""
    return min(LONGEST_FAILURE_PAUSE_S, FIRST_FAILURE_PAUSE_S * 2.0 ** (failures - 1))


class Broken(Exception):
    """The task's run has failed `MAX_FAILURES` times for an error of ours."""


class ShardWorker:
    """A session of the worker's connection: attach it after the shard's journal.

    `attempts` carries its jobs out. `window` is the prefetch, how many tasks may be held here, waiting ones included (1 to 65535).
    `wall_clock` gives seconds since the epoch for events. `on_delivery` is called for each task that the broker hands out.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        store: Store,
        journal: Journal,
        attempts: Attempts,
        window: int,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        on_delivery: Callable[[], None] = lambda: None,
    ) -> None:
        self._shard = shard
        self._store = store
        self._journal = journal
        self._attempts = attempts
        self._window = window
        self._clock = clock
        self._wall_clock = wall_clock
        self._handed_out = on_delivery
        self._jobs: dict[str, Job] = {}
        self._lanes: Lanes[Job] = Lanes()
        self._next: deque[Job] = deque()
        self._starting = False
        self._arrivals = Arrivals(queue=shard.work, store=store, journal=journal, clock=clock, enter=self._enter)
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
        if self._attempts.draining:
            return  # unsettled, it goes back to the broker with the connection
        self._handed_out()
        try:
            task = decode_task(delivery.body)
        except UndecodableMessage as error:
            self._log.error("{queue}: a message that is no task goes to the dead letters: {error}", queue=self._shard.work, error=error)
            delivery.nack(requeue=False)
            return
        except Exception:  # whatever a message does to us, it must not cost the connection, and all other tasks a delivery
            self._log.failure("{queue}: a message that cannot be decoded goes to the dead letters", queue=self._shard.work)
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
        job.turn = self._attempts.next_turn()
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
        """In a loop: hundreds may wait for a device, have nothing to do, and end as they begin, without nesting their calls."""
        self._next.append(job)
        if self._starting:
            return
        self._starting = True
        try:
            while self._next:
                self._begin(self._next.popleft())
        finally:
            self._starting = False

    def _begin(self, job: Job) -> None:
        running = job.running = Deferred.fromCoroutine(self._run(job))
        running.addErrback(self._not_finished, job)
        running.addCallback(self._leave, job)
        running.addErrback(lambda reason: self._log.failure("{queue}: a lane does not go on", reason, queue=self._shard.work))

    def _not_finished(self, reason: Failure, job: Job) -> None:
        if reason.check(Deadly):
            deaths = self._store.deaths(job.task.task_id)
            self._log.error("task {task_id} goes to the dead letters: {n} workers died in its calls", task_id=job.task.task_id, n=deaths)
            job.delivery.nack(requeue=False)
        elif reason.check(Broken):
            n = job.failures
            self._log.error("task {task_id} goes to the dead letters: the worker failed {n} times", task_id=job.task.task_id, n=n)
            job.delivery.nack(requeue=False)
        elif not reason.check(Abandoned, CancelledError):
            self._log.failure("task {task_id} goes to the dead letters: the worker failed", reason, task_id=job.task.task_id)
            job.delivery.nack(requeue=False)

    def _leave(self, _: None, job: Job) -> None:
        job.running = None
        del self._jobs[job.key]
        successor = self._lanes.leave(job.task.equipment_id)
        if successor is not None and not self._attempts.draining:
            self._start(successor)

    async def _run(self, job: Job) -> None:
        """Carry a job out, again and again if it fails for an error of ours.

        It keeps its delivery and its lane meanwhile: what a returned delivery counts for differs from one broker to the next. Raises
        `Abandoned`, `Deadly`, `Broken`.
        """
        while True:
            try:
                await self._carry_out(job)
                return
            except (Abandoned, Deadly, CancelledError):
                raise
            except Exception:
                job.failures += 1
                text = "task {task_id}: the worker failed, run {n} of {most}"
                self._log.failure(text, task_id=job.task.task_id, n=job.failures, most=MAX_FAILURES)
            job.calling = False
            if self._attempts.draining:
                raise Abandoned
            if job.failures >= MAX_FAILURES:
                raise Broken
            job.unjudged = job.pausing = True
            await deferLater(self._clock, failure_pause_s(job.failures))
            job.pausing = False

    async def _carry_out(self, job: Job) -> None:
        outcome = await self._attempts.outcome(job)
        if outcome is not None:
            task, (state, reason) = job.task, outcome
            job.calling = True
            await self._journal.append(Finished(task.task_id, task.equipment_id, self._wall_clock(), state, reason))
        job.delivery.ack()

    # The end.

    async def drain(self, deadline_s: float) -> None:
        """Begin no further call; done when the running ones have ended, or been cancelled after `deadline_s`.

        The consumer stays registered meanwhile: if it went, a standby would get the next task of a device whose call still runs here. What
        is held unsettled goes back to the broker, in order, when the connection closes.
        """
        self._attempts.draining = True
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
