"""The decision whether service A is called for a job, made from values alone."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtprov.journal.task_view import TaskView


class Step(Enum):
    """What a worker does next for a job."""

    ABANDON = auto()
    """Leave the job: another worker may be the active one now."""
    BARRIER = auto()
    """Wait for a journal barrier, then decide again."""
    APPEND = auto()
    """Append the message to the journal, which does not have it, then decide again."""
    SKIP = auto()
    """Make no call: the task has ended, or the message is not its order."""
    CALL = auto()
    """A call may begin."""


def next_step(view: TaskView, *, may_begin: bool, needs_barrier: bool, appended: bool) -> Step:
    """Decide what to do next for a job.

    `view` is what this process's replica knows of the task. `may_begin` says that the broker treats
    this worker as the active one, `needs_barrier` that the replica may not have all that the
    journal has of the task. `appended` is True if the worker has already appended the message to
    the journal. If the replica does not know the task even then, the message cannot be an order.
    """
    if not may_begin:
        return Step.ABANDON
    if needs_barrier:
        return Step.BARRIER
    if view.needs_no_call is None and not appended:
        return Step.APPEND
    return Step.CALL if view.needs_no_call is False else Step.SKIP
