"""Renewal of deliveries that are held for long, before the broker's consumer timeout.

RabbitMQ closes the channel of a consumer that holds a delivery for 30 minutes, and counts that
against the queue's delivery limit. A returned delivery counts too. So the worker publishes a copy
of the message to the end of the queue. The broker counts the copy's deliveries from zero. Once the
copy is confirmed, the worker acknowledges the old delivery. The job continues all the time, and
adopts the copy when it is delivered. So a task may wait for any time, and waiting tasks do not use
up the consumer's prefetch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.errors import BrokerError
from rtprov.worker.pace import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.journal.open_tasks import OpenTasks
    from rtprov.worker.copies import WorkQueue
    from rtprov.worker.job import Job

RENEW_AFTER_S = 1200.0
RENEW_LOOK_S = 60.0
AT_ONCE = 100
# Tasks may wait here while their messages are back in the queue: up to MOST_HELD times the prefetch
# window, and up to twice that if they are among the NEXT_TASKS first open tasks of their device.
# Tasks beyond that are forgotten until their messages are delivered again.
MOST_HELD = 4
NEXT_TASKS = 10


class Renewals:
    """Renews the deliveries of `jobs`, which it checks every minute between `start` and `stop`.

    `window` is the prefetch, the largest number of unsettled deliveries. `forget` is called with
    each renewed job that exceeds the limit of waiting tasks. `name` is the queue's.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        name: str,
        queue: WorkQueue,
        jobs: Mapping[str, Job],
        open_tasks: OpenTasks,
        window: int,
        forget: Callable[[Job], None],
        clock: IReactorTime,
    ) -> None:
        self._name = name
        self._queue = queue
        self._jobs = jobs
        self._open_tasks = open_tasks
        self._window = window
        self._forget = forget
        self._clock = clock
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._renewing: Deferred[None] | None = None

    def start(self) -> None:
        """Start checking: the channel is open."""
        looking = self._looking.start(RENEW_LOOK_S, now=False)
        looking.addErrback(
            lambda reason: self._log.failure(
                "{queue}: deliveries are no longer renewed; the broker may take them back",
                reason,
                queue=self._name,
            )
        )

    def stop(self) -> None:
        """Stop checking: the channel is closed, and its deliveries cannot be settled."""
        if self._looking.running:
            self._looking.stop()
        if self._renewing is not None:
            self._renewing.cancel()

    def _look(self) -> None:
        overdue = self._clock.seconds() - RENEW_AFTER_S
        jobs = [job for job in self._jobs.values() if job.taken_at <= overdue and job.delivery.live]
        if not jobs or self._renewing is not None:
            return
        renewing = Deferred.fromCoroutine(for_each(jobs, self._renew, at_once=AT_ONCE))
        if not renewing.called:
            self._renewing = renewing
        renewing.addBoth(self._done)

    def _done(self, result: Failure | None) -> None:
        self._renewing = None
        if result is not None and not result.check(CancelledError):
            self._log.failure(
                "{queue}: could not renew deliveries; trying again in {pause_s:.0f} s",
                result,
                queue=self._name,
                pause_s=RENEW_LOOK_S,
            )

    async def _renew(self, job: Job) -> None:
        delivery = job.delivery
        if not delivery.live:
            return
        job.renewing = True
        try:
            await self._queue.put(job.task.task_id, delivery.body, delivery.headers)
        except BrokerError:
            return  # the queue may have the copy or not: the next check tries again
        finally:
            renewing, job.renewing = job.renewing, False
        if renewing and job.delivery is delivery and delivery.live:
            delivery.ack()
            job.released = True
            if not (job.calling or job.pausing) and self._exceeds_limit(job):
                self._forget(job)

    def _exceeds_limit(self, job: Job) -> bool:
        """Return whether so many tasks wait here that this one is to be forgotten until its message
        is delivered again.
        """
        held, task = len(self._jobs) / self._window, self._open_tasks.get(job.task.task_id)
        if held <= MOST_HELD or task is None:
            return False
        return held > 2 * MOST_HELD or self._open_tasks.place_in_lane(task) >= NEXT_TASKS
