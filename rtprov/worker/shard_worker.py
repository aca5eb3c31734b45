"""The worker of one shard: consumes the work queue, calls A for each task, journals the outcome.

A *delivery* becomes a *job*. The job waits in its device's lane until it is the head. Then
`rtprov.worker.attempts` calls A, and retries with pauses while A cannot be reached. The final state
is appended to the journal; when that is confirmed, the delivery is acknowledged and the job leaves
the lane.

The journal decides the order of a device's tasks: a task begins when all earlier tasks of the
device have ended, in this process or in another one.

When the connection to the broker is lost, its deliveries cannot be settled any more. Jobs that have
begun nothing are forgotten: the broker delivers their messages again to the worker that is active
then. A job continues if its call to A is under way, or if it is in a pause between attempts. When
the job's message is delivered to this worker again, the job *adopts* the new delivery.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from rtprov.amqp.client.consumer import consume
from rtprov.errors import UndecodableMessage
from rtprov.messaging.event_messages import decode_task
from rtprov.messaging.markers import decode_census
from rtprov.model import Active, Cancelled, Finished, Marker, Requested, Started, Unrecognised
from rtprov.tracing.traceparent import trace_id, traceparent_in
from rtprov.worker.attempts import Abandoned, TooManyCrashes
from rtprov.worker.copies import copied_at
from rtprov.worker.device_queues import DeviceQueues
from rtprov.worker.job import Job, UndeliveredMessage, key_of
from rtprov.worker.redeliveries import Redeliveries
from rtprov.worker.renewals import Renewals
from rtprov.worker.run_failures import TooManyFailures, repeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.interfaces import Delivery, Journal
    from rtprov.journal.open_tasks import OpenTasks
    from rtprov.journal.store import Store
    from rtprov.messaging.topology import Shard
    from rtprov.model import Event, Task
    from rtprov.worker.attempts import Attempts
    from rtprov.worker.copies import WorkQueue


class ShardWorker:
    """Carries out the tasks of one shard's work queue.

    A session of the worker's connection: attach it after the shard's journal. `attempts` makes the
    calls to A. `window` is the prefetch (1 to 65535); tasks whose messages are back in the queue do
    not count. `queue` publishes copies of messages that are held for long. Call `on_event` with
    each of the journal's events after `store` and `open_tasks` have applied it. `on_delivery` is
    called for each delivery, `on_marker` with the id of each census marker, `on_change` when a task
    or its delivery came, or a task was left. `wall_clock` gives seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        store: Store,
        open_tasks: OpenTasks,
        journal: Journal,
        queue: WorkQueue,
        attempts: Attempts,
        window: int,
        on_marker: Callable[[str], None],
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        on_delivery: Callable[[], None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._shard = shard
        self._store = store
        self._open_tasks = open_tasks
        self._journal = journal
        self._queue = queue
        self._attempts = attempts
        self._window = window
        self._on_marker = on_marker
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_any_delivery = on_delivery
        self._on_change = on_change
        self.jobs: dict[str, Job] = {}
        self._channel: AmqpChannel | None = None
        # Whether the first delivery on this channel has not been judged yet. Until then, another
        # worker may have called A for tasks that were never delivered to it.
        self._fresh = False
        self._lanes: DeviceQueues[Job] = DeviceQueues(self._may_become_head)
        self._next: deque[Job] = deque()
        self._starting = False
        self._redeliveries = Redeliveries(
            queue=shard.work,
            store=store,
            open_tasks=open_tasks,
            journal=journal,
            clock=clock,
            enter=self._enter,
            forget=self._forget,
        )
        self._renewals = Renewals(
            name=shard.work,
            queue=queue,
            jobs=self.jobs,
            open_tasks=open_tasks,
            window=window,
            forget=self._forget_waiting,
            clock=clock,
        )

    @property
    def held(self) -> int:
        """How many tasks this worker holds, waiting ones included."""
        return len(self.jobs)

    @property
    def calling(self) -> int:
        """How many calls to A are under way or wait for their outcome to be journalled."""
        return sum(job.calling for job in self.jobs.values())

    def held_tasks(self) -> set[str]:
        """Return the ids of the tasks that this worker holds."""
        return {job.task.task_id for job in self.jobs.values()}

    def trace(self, task_id: str, fingerprint: str | None) -> str | None:
        """Return the trace id of a task that this worker holds, else None."""
        job = self.jobs.get(task_id + (fingerprint or ""))
        traceparent = None if job is None else job.task.traceparent
        return None if traceparent is None else trace_id(traceparent)

    def messages(self) -> dict[str, bytes]:
        """Return the messages of the open tasks that this worker holds, by task id. If several
        messages have the same id, the one that is the task's order is returned.
        """
        needs_no_call = self._store.needs_no_call
        return {
            job.task.task_id: job.delivery.body
            for job in self.jobs.values()
            if not needs_no_call(job.task.task_id, job.task.fingerprint, job.task.accepted_at)
        }

    # The session.

    async def attach(self, connection: AmqpConnection) -> None:
        """Consume the work queue, as its active consumer or as a standby. Raises `BrokerError`."""
        channel = self._channel = await connection.open_channel()
        self._fresh = True
        await consume(channel, self._shard.work, self._on_delivery, prefetch=self._window)
        self._renewals.start()

    def detach(self) -> None:
        """The connection is closed: forget the jobs that neither call A nor pause. The others
        notice it at their next step.
        """
        self._renewals.stop()
        self._forget_arriving()
        for job in self._lanes.drop_waiting():
            del self.jobs[job.key]
        for job in list(self.jobs.values()):
            if job.running is not None and not (job.calling or job.pausing):
                job.running.cancel()

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._attempts.draining:
            return  # it stays unsettled: the broker requeues it when the connection is closed
        self._on_any_delivery()
        try:
            task = decode_task(delivery.body)
        except UndecodableMessage as error:
            self._on_no_task(delivery, error)
            return
        # No message may close the connection: that would count as a delivery of all other tasks.
        except Exception:
            self._log.failure(
                "{queue}: could not decode a message because of an internal error; it goes to the"
                " dead letters",
                queue=self._shard.work,
            )
            delivery.nack(requeue=False)
            return
        self._queue.delivered(task.task_id)
        job = self.jobs.get(key_of(task))
        if job is None:
            self._add_job(task, delivery)
        elif job.delivery.live and not job.renewing:
            delivery.ack()  # the same order was published twice
        else:
            job.delivery.ack()  # one of the two deliveries is enough
            job.adopt(delivery, self._clock.seconds())
        self._on_change()

    def take(self, order: Delivery) -> None:
        """Make a job of a task whose message is in the queue, but was not delivered yet. `order` is
        the message as the journal has it.

        Call this only while the broker treats this worker as the active consumer.
        """
        task, channel = decode_task(order.body), self._channel
        if channel is None or self._attempts.draining or key_of(task) in self.jobs:
            return
        borrowed = UndeliveredMessage(order.body, order.headers, lambda: not channel.closed)
        job = Job(evolve(task, sealed=""), borrowed, self._clock.seconds(), True, released=True)
        self.jobs[job.key] = job
        self._redeliveries.expect(job)

    def _on_no_task(self, delivery: Delivery, error: UndecodableMessage) -> None:
        marker_id = decode_census(delivery.body)
        if marker_id is None:
            self._log.error(
                "{queue}: a message that is not a task goes to the dead letters: {error}",
                queue=self._shard.work,
                error=error,
            )
            delivery.nack(requeue=False)
        else:
            delivery.ack()
            self._on_marker(marker_id)

    def _add_job(self, task: Task, delivery: Delivery) -> None:
        again = delivery.redelivered or self._fresh or copied_at(delivery) is not None
        job = Job(
            evolve(task, sealed="", traceparent=traceparent_in(delivery.headers, task.task_id)),
            delivery,
            self._clock.seconds(),
            again or task.fingerprint is not None,
        )
        self.jobs[job.key] = job
        if again:
            self._redeliveries.add(job)
        else:
            self._redeliveries.expect(job)

    def _may_become_head(self, job: Job) -> bool:
        return self._open_tasks.is_first_of_device(job.task.task_id, job.task.equipment_id)

    def _enter(self, job: Job) -> None:
        self._fresh = False
        job.turn = self._attempts.next_turn()
        if self._lanes.enter(job.task.equipment_id, job):
            self._start(job)

    def _forget(self, job: Job) -> None:
        del self.jobs[job.key]

    def on_event(self, event: Event) -> None:
        """Call this when the replica has applied an event. Jobs may enter their lanes, or become
        heads, because of it.
        """
        if isinstance(event, (Active, Marker, Unrecognised)) or not self.jobs:
            return
        self._redeliveries.on_request_seen(event.task_id)
        if isinstance(event, Requested):
            self._on_change()
        if isinstance(event, Started):
            self._attempts.on_started(event)
        if isinstance(event, (Cancelled, Finished)) and not self._attempts.draining:
            successor = self._lanes.wake(event.equipment_id)
            if successor is not None:
                self._start(successor)

    def _forget_arriving(self) -> None:
        """Forget the jobs that are in no lane yet; the broker delivers their messages again."""
        for job in self._redeliveries.forget():
            del self.jobs[job.key]

    def _forget_waiting(self, job: Job) -> None:
        """Forget a job that neither calls A nor pauses, and whose message is back in the queue."""
        if job.running is not None:
            job.running.cancel()
        elif self._lanes.drop(job.task.equipment_id, job):
            self._forget(job)

    # One job.

    def _start(self, job: Job) -> None:
        """Begin a job that is the head of its lane.

        A nested call only adds the job to the queue of the outer call's loop. So hundreds of jobs
        of one device that have nothing to do, and end at once, cause no deep recursion.
        """
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
        running = job.running = Deferred.fromCoroutine(
            repeated(job, self._carry_out, attempts=self._attempts, clock=self._clock)
        )
        running.addErrback(self._not_finished, job)
        running.addCallback(self._leave, job)
        running.addErrback(
            lambda reason: self._log.failure(
                "{queue}: could not begin the next task of device {equipment_id}",
                reason,
                queue=self._shard.work,
                equipment_id=job.task.equipment_id,
            )
        )

    def _not_finished(self, reason: Failure, job: Job) -> None:
        if reason.check(TooManyCrashes):
            crash_count = self._store.crash_count(job.task.task_id)
            self._log.error(
                "task {task_id} goes to the dead letters: {n} workers died during its calls",
                task_id=job.task.task_id,
                n=crash_count,
            )
            job.delivery.nack(requeue=False)
        elif reason.check(TooManyFailures):
            n = job.failures
            self._log.error(
                "task {task_id} goes to the dead letters: the worker failed {n} times",
                task_id=job.task.task_id,
                n=n,
            )
            job.delivery.nack(requeue=False)
        elif not reason.check(Abandoned, CancelledError):
            self._log.failure(
                "task {task_id} goes to the dead letters: internal error in the worker",
                reason,
                task_id=job.task.task_id,
            )
            job.delivery.nack(requeue=False)

    def _leave(self, _: None, job: Job) -> None:
        job.running = None
        del self.jobs[job.key]
        self._on_change()
        successor = self._lanes.leave(job.task.equipment_id)
        if successor is not None and not self._attempts.draining:
            self._start(successor)

    async def _carry_out(self, job: Job) -> None:
        outcome = await self._attempts.outcome(job)
        if outcome is not None:
            task, (state, reason) = job.task, outcome
            job.calling = True
            at = self._store.event_time(task.task_id, self._wall_clock())
            await self._journal.append(Finished(task.task_id, task.equipment_id, at, state, reason))
        job.delivery.ack()

    # Stopping.

    async def drain(self, deadline_s: float) -> None:
        """Begin no further call. Return when the calls under way have ended, or were cancelled
        after `deadline_s` seconds.

        The consumer stays registered meanwhile: without it, a standby would get the next task of a
        device whose call still runs here. The broker requeues unsettled deliveries, in order, when
        the connection is closed."""
        self._attempts.draining = True
        self._forget_arriving()
        for job in list(self.jobs.values()):
            if job.running is not None and not job.calling:
                job.running.cancel()
        running = [job.running for job in self.jobs.values() if job.running is not None]
        if running:
            self._log.info(
                "{queue}: draining {calls} calls to A, for up to {seconds:.0f} s; a second signal"
                " cancels them",
                queue=self._shard.work,
                calls=len(running),
                seconds=deadline_s,
            )
        done = DeferredList(running)
        timer = self._clock.callLater(deadline_s, self._cancel_calls, running)
        await done
        if timer.active():
            timer.cancel()

    def _cancel_calls(self, running: list[Deferred[None]]) -> None:
        self._log.warn(
            "{queue}: cancelling the calls that are still running; the next active worker calls A"
            " for their tasks again",
            queue=self._shard.work,
        )
        for each in running:
            each.cancel()
