"""A job: one task as a worker holds it, with its delivery and the progress of its attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rtprov.interfaces import Delivery
    from rtprov.model import Task


@define(eq=False)
class Job:
    """One task in this worker.

    The sealed body may be large and is held only once, in `delivery`; `task` is without it.
    `taken_at` is when the delivery came, by the process's clock. `needs_barrier` is True if the
    journal may have events of the task that this process's replica has not read. Then no call
    begins before a barrier.
    """

    task: Task
    delivery: Delivery
    taken_at: float
    needs_barrier: bool
    turn: int | None = None  # its turn for a call permit; None after the first permit here
    attempt: int = 0
    waited_s: float = 0.0  # wait while A was in trouble, before the first attempt
    # Wait for the sealing key since the first attempt; None until it was read from the store.
    withheld_s: float | None = None
    # Wait for files or ports of this machine during attempts. It does not count against patience.
    shortage_s: float = 0.0
    # When the first attempt began, by the process's clock; None before that.
    patience_from: float | None = None
    calling: bool = False  # a call to A is under way, or its outcome is being journalled
    pausing: bool = False  # A could not be reached; the next attempt comes after a pause
    failures: int = 0  # how often the job has failed because of an internal error
    renewing: bool = False  # a copy of its message is being published to the queue
    released: bool = False  # the copy is confirmed, and the delivery acknowledged
    running: Deferred[None] | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """The job's key in the worker. Two messages with the same ``Idempotency-Key`` and different
        bodies are two jobs until the journal shows which one is the order.
        """
        return key_of(self.task)

    @property
    def may_begin(self) -> bool:
        """Whether a call may begin: the broker treats this worker as the active one, and still has
        the task's message, as an unsettled delivery or in the queue.
        """
        return self.delivery.live or (self.released and self.delivery.channel_open)

    def adopt(self, delivery: Delivery, now: float) -> None:
        """Continue with the next delivery of the same message.

        Another worker may have had the message in between, so a barrier is needed again.
        """
        self.delivery, self.taken_at, self.needs_barrier, self.renewing, self.released = (
            delivery,
            now,
            True,
            False,
            False,
        )


@define(eq=False)
class UndeliveredMessage:
    """The message of a task that is still in the queue. Implements `rtprov.interfaces.Delivery`.

    It cannot be settled. `channel_open` returns whether the channel is open on which the worker
    consumes the queue.
    """

    body: bytes
    headers: Mapping[str, object]
    _channel_open: Callable[[], bool] = field(repr=False)
    redelivered: bool = False
    live: bool = False

    @property
    def channel_open(self) -> bool:
        return self._channel_open()

    def ack(self) -> None:
        """Do nothing: the message is acknowledged when it is delivered."""

    def nack(self, *, requeue: bool) -> None:
        """Do nothing: the message is judged again when it is delivered."""


def key_of(task: Task) -> str:
    """Return the key of a task's job; see `Job.key`."""
    return task.task_id + (task.fingerprint or "")
