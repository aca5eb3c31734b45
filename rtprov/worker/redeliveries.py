"""New jobs before they enter their lanes: they wait until the journal shows their tasks' places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtprov.errors import BrokerError
from rtprov.worker.copies import copied_at
from rtprov.worker.pace import for_each

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.interfaces import Journal
    from rtprov.journal.open_tasks import OpenTasks
    from rtprov.journal.store import Store
    from rtprov.worker.job import Job

BARRIER_RETRY_S = 1.0
EXPECTED_WITHIN_S = 1.0  # by then the replica has normally seen the request of a delivered task
CLOCKS_DIFFER_S = 900.0  # the largest difference of two machines' clocks that is tolerated
AT_ONCE = 50


class Redeliveries:
    """The jobs of one work queue, `queue`, that have not entered their lanes.

    The job of a message that is delivered for the first time waits until the replica has seen its
    request, which takes milliseconds. The job of a redelivered message or a copy waits for a
    barrier, since its task may have ended elsewhere; so does one that waits for more than a second.

    If the journal does not have the task after the barrier, the message is appended to it. Then
    the jobs are passed to `enter`, in the journal's order. Two kinds of jobs are passed to `forget`
    instead. If the message is a copy, and its task has ended so long ago that the journal has
    dropped it, the message is acknowledged. If the message is not a journal event, it goes to the
    dead letters.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        queue: str,
        store: Store,
        open_tasks: OpenTasks,
        journal: Journal,
        clock: IReactorTime,
        enter: Callable[[Job], None],
        forget: Callable[[Job], None],
    ) -> None:
        self._queue = queue
        self._store = store
        self._open_tasks = open_tasks
        self._journal = journal
        self._clock = clock
        self._enter = enter
        self._forget = forget
        self._expected: dict[str, Job] = {}  # by task id
        self._looking: IDelayedCall | None = None
        self._jobs: list[Job] = []
        self._judging: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._jobs) + len(self._expected)

    def expect(self, job: Job) -> None:
        """Let the job enter its lane as soon as the replica has seen its request; at once if it has
        seen it already.
        """
        if self._known(job):
            self._enter(job)
        elif job.task.task_id in self._expected:  # another body with the same key
            self.add(job)
        else:
            self._expected[job.task.task_id] = job
            if self._looking is None:
                self._looking = self._clock.callLater(EXPECTED_WITHIN_S, self._look)

    def on_request_seen(self, task_id: str) -> None:
        """Call this when the replica has applied an event of this task."""
        job = self._expected.pop(task_id, None)
        if job is not None:
            self.expect(job)

    def _look(self) -> None:
        """Pass the jobs that have waited for a second or more to `add`."""
        self._looking = None
        expected, self._expected = self._expected, {}
        for job in expected.values():
            self.add(job)

    def add(self, job: Job) -> None:
        """Let the job enter its lane after a barrier, when the store knows its task's state."""
        self._jobs.append(job)
        if self._judging is None:
            judging = Deferred.fromCoroutine(self._enter_in_order())
            if not judging.called:
                self._judging = judging
            judging.addErrback(self._on_failure)

    def forget(self) -> list[Job]:
        """Remove all jobs and return them: none of them enters its lane."""
        jobs = [*self._jobs, *self._expected.values()]
        self._jobs, self._expected = [], {}
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        judging, self._judging = self._judging, None
        if judging is not None:
            judging.cancel()
        return jobs

    async def _enter_in_order(self) -> None:
        while self._jobs:
            judged = list(self._jobs)
            try:
                await self._judge(judged)
            except BrokerError:
                await deferLater(self._clock, BARRIER_RETRY_S)
                continue
            self._jobs = self._jobs[len(judged) :]
            places = self._store.places(job.task.task_id for job in judged)
            for job in sorted(judged, key=lambda job: places.get(job.task.task_id, math.inf)):
                job.needs_barrier = False
                self._release(job)
        self._judging = None

    async def _judge(self, jobs: list[Job]) -> None:
        """Wait for a barrier, and append the messages that the journal lacks.

        Raises `BrokerError`.
        """
        await self._journal.barrier()
        unknown = [job for job in jobs if not self._known(job) and not self._ended_long_ago(job)]
        if not unknown:
            return
        self._log.warn(
            "{queue}: the journal lacks {n} tasks that the queue has; adding them",
            queue=self._queue,
            n=len(unknown),
        )

        async def add(job: Job) -> None:
            await self._journal.append_message(job.delivery.body)

        await for_each(unknown, add, at_once=AT_ONCE)
        await self._journal.barrier()

    def _release(self, job: Job) -> None:
        if self._known(job):
            self._enter(job)
            return
        if self._ended_long_ago(job):
            job.delivery.ack()
        else:
            task_id = job.task.task_id
            self._log.error(
                "{queue}: task {task_id} goes to the dead letters: its message is not a journal"
                " event",
                queue=self._queue,
                task_id=task_id,
            )
            job.delivery.nack(requeue=False)
        self._forget(job)

    def _known(self, job: Job) -> bool:
        """Return whether the replica knows the job's task: it has seen the task's request, or no
        call is to be made for the message.
        """
        task = job.task
        needs_no_call = self._store.needs_no_call(task.task_id, task.fingerprint, task.accepted_at)
        if needs_no_call is not False:
            return needs_no_call is True
        known = self._open_tasks.get(task.task_id)
        return known is not None and known.request is not None

    def _ended_long_ago(self, job: Job) -> bool:
        """Return whether the task has ended so long ago that the journal has dropped it.

        It was open when its message was copied. The journal reaches back to that time and does not
        have the task.
        """
        copied_at_, began_at = copied_at(job.delivery), self._open_tasks.began_at
        if (
            copied_at_ is None
            or began_at is None
            or self._store.state(job.task.task_id) is not None
        ):
            return False
        return copied_at_ > began_at + CLOCKS_DIFFER_S

    def _on_failure(self, reason: Failure) -> None:
        self._judging = None
        if not reason.check(CancelledError):
            self._log.failure(
                "{queue}: could not check redelivered messages; they stay unsettled until the"
                " connection is closed",
                reason,
                queue=self._queue,
            )
