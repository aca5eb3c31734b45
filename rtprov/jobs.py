"""What a worker holds of a task: a job; and how jobs that come back get into their order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtprov.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.interfaces import Delivery, Journal
    from rtprov.model import Task
    from rtprov.store import Store

BARRIER_RETRY_S = 1.0


@define(eq=False)
class Job:
    """One task in this worker. Its sealed body, which may be large, is held once: `task` is without it, `delivery` has it."""

    task: Task
    delivery: Delivery
    taken_at: float
    unjudged: bool
    turn: int | None = None  # when it came here; None once it has had its first turn here
    attempt: int = 0
    waited_s: float = 0.0  # for an A in trouble, before the first attempt
    withheld_s: float | None = None  # for its sealing key, since the first attempt; None until that is looked up
    shortage_s: float = 0.0  # for want of files or ports of this machine, within attempts: costs no patience
    patience_from: float | None = None  # when its first attempt began, by the clock of this process; None before it
    calling: bool = False  # a call to A is under way, or its outcome waits for the journal
    pausing: bool = False  # A was out of reach, and is called again after a while
    failures: int = 0  # how often its run has failed for an error of ours
    renewing: bool = False  # the delivery was returned on purpose and is to come back
    running: Deferred[None] | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """What tells it from other jobs. Two bodies that came with one ``Idempotency-Key`` are two jobs, until they are judged."""
        return key_of(self.task)

    def adopt(self, delivery: Delivery, now: float) -> None:
        """Go on with the same message's next delivery. Another worker may have had it in between: it is to be judged again."""
        self.delivery, self.taken_at, self.unjudged, self.renewing = delivery, now, True, False


def key_of(task: Task) -> str:
    """The key of a task's job."""
    return task.task_id + (task.fingerprint or "")


class Arrivals:
    """Jobs that have come back, and those that came behind them, before they enter their lanes.

    What comes back may come in another order than that of the POSTs; the journal has that, behind the barrier all of it. `enter` is called
    with each job, in the journal's order.
    """

    _log = Logger()

    def __init__(self, *, queue: str, store: Store, journal: Journal, clock: IReactorTime, enter: Callable[[Job], None]) -> None:
        self._queue = queue
        self._store = store
        self._journal = journal
        self._clock = clock
        self._enter = enter
        self._jobs: list[Job] = []
        self._sorting: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """It enters its lane once the journal has told its place."""
        self._jobs.append(job)
        if self._sorting is None:
            sorting = Deferred.fromCoroutine(self._enter_in_order())
            if not sorting.called:
                self._sorting = sorting
            sorting.addErrback(self._unsorted)

    def forget(self) -> list[Job]:
        """None of them enters its lane; return them."""
        jobs, self._jobs = self._jobs, []
        sorting, self._sorting = self._sorting, None
        if sorting is not None:
            sorting.cancel()
        return jobs

    async def _enter_in_order(self) -> None:
        while True:
            judged = list(self._jobs)
            try:
                await self._journal.barrier()
                break
            except BrokerError:
                await deferLater(self._clock, BARRIER_RETRY_S)
        for job in judged:
            job.unjudged = False
        self._sorting = None
        jobs, self._jobs = self._jobs, []
        places = self._store.places(job.task.task_id for job in jobs)
        for job in sorted(jobs, key=lambda job: places.get(job.task.task_id, math.inf)):
            self._enter(job)

    def _unsorted(self, reason: Failure) -> None:
        self._sorting = None
        if not reason.check(CancelledError):
            self._log.failure("{queue}: what has come back stays where it is", reason, queue=self._queue)
