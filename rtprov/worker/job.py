"""What a worker holds of a task: a job; and how jobs whose task the journal may know more of get
into their lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from rtprov.interfaces import Delivery
    from rtprov.model import Task


@define(eq=False)
class Job:
    """One task in this worker. Its sealed body, which may be large, is held once: `task` is without
    it, `delivery` has it.
    """

    task: Task
    delivery: Delivery
    taken_at: float
    needs_barrier: bool
    turn: int | None = None  # when it came here; None once it has had its first turn here
    attempt: int = 0
    waited_s: float = 0.0  # for an A in trouble, before the first attempt
    # for its sealing key, since the first attempt; None until that is looked up
    withheld_s: float | None = None
    # for want of files or ports of this machine, within attempts: costs no patience
    shortage_s: float = 0.0
    # when its first attempt began, by the clock of this process; None before it
    patience_from: float | None = None
    calling: bool = False  # a call to A is under way, or its outcome waits for the journal
    pausing: bool = False  # A was out of reach, and is called again after a while
    failures: int = 0  # how often its run has failed for an error of ours
    renewing: bool = False  # a copy of its message is being put into the queue
    released: bool = False  # the copy is there, and the delivery was acknowledged
    running: Deferred[None] | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """What tells it from other jobs. Two bodies that came with one ``Idempotency-Key`` are two
        jobs, until they are judged.
        """
        return key_of(self.task)

    @property
    def entitled(self) -> bool:
        """Whether a call may begin: the broker takes this worker for the active one, and holds the
        task's message, here or in the queue."""
        return self.delivery.live or (self.released and self.delivery.standing)

    def adopt(self, delivery: Delivery, now: float) -> None:
        """Go on with the same message's next delivery. Another worker may have had it in between:
        it is to be judged again.
        """
        self.delivery, self.taken_at, self.needs_barrier, self.renewing, self.released = (
            delivery,
            now,
            True,
            False,
            False,
        )


def key_of(task: Task) -> str:
    """The key of a task's job."""
    return task.task_id + (task.fingerprint or "")
