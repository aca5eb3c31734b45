"""Repetition of a job that failed because of an internal error, with growing pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtprov.backoff import backoff_s
from rtprov.worker.attempts import Abandoned, TooManyCrashes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from twisted.internet.interfaces import IReactorTime

    from rtprov.worker.attempts import Attempts
    from rtprov.worker.job import Job

_log = Logger()

# The pauses double; together they are about two minutes.
MAX_FAILURES = 10
FIRST_FAILURE_PAUSE_S = 0.5
LONGEST_FAILURE_PAUSE_S = 30.0


def failure_pause_s(failures: int) -> float:
    """Return the pause after a job has failed `failures` times (from 1), in seconds."""
    return backoff_s(failures, first_s=FIRST_FAILURE_PAUSE_S, longest_s=LONGEST_FAILURE_PAUSE_S)


class TooManyFailures(Exception):
    """The job has failed `MAX_FAILURES` times because of internal errors."""


async def repeated(
    job: Job,
    carry_out: Callable[[Job], Coroutine[Any, Any, None]],
    *,
    attempts: Attempts,
    clock: IReactorTime,
) -> None:
    """Carry a job out, again after an internal error, up to `MAX_FAILURES` times.

    The job keeps its delivery and its lane meanwhile; brokers count returned deliveries in
    different ways. Raises `Abandoned`, `TooManyCrashes`, `TooManyFailures`.
    """
    while True:
        try:
            await carry_out(job)
            return
        except (Abandoned, TooManyCrashes, CancelledError):
            raise
        except Exception:
            job.failures += 1
            text = "task {task_id}: the worker failed, run {n} of {most}"
            _log.failure(text, task_id=job.task.task_id, n=job.failures, most=MAX_FAILURES)
        job.calling = False
        if attempts.draining:
            raise Abandoned
        if job.failures >= MAX_FAILURES:
            raise TooManyFailures
        job.needs_barrier = job.pausing = True
        await deferLater(clock, failure_pause_s(job.failures))
        job.pausing = False
