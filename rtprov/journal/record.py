"""What is kept of one task, and its place among those of its device."""

from __future__ import annotations

import attrs

from rtprov.model import Attempt, State

KEY_SLACK_S = 3600.0  # front ends send no order for a key while its record is there
# its message may still wait for its turn, and must not be taken for an order that nobody has
# cancelled
CANCELLED_SLACK_S = 604800.0
KEPT_ATTEMPTS = 10  # of a task that runs


@attrs.frozen
class Origin:
    """Whose POST made a task, which process took it, and the id of the key that sealed it. Very
    many tasks share one.
    """

    caller: str | None = None
    accepted_by: str | None = None
    key: str | None = None


NO_ORIGIN = Origin()


@attrs.define(eq=False)
class Turn:
    """An open task's `number` among all of its shard, and its `place` among those of its device
    since that had none open.
    """

    number: int
    place: int


@attrs.define(eq=False, weakref_slot=False)
class Record:
    """`task_id` is the very string that is the record's key, so that everything else that needs it
    shares it.

    `log` has the attempts one by one, where there was more to tell of them than when the first one
    began. `begun_by` is the process that makes the latest one, while that has no end; `crash_count`
    counts the attempts without an end that another process followed up. `earlier` and `later` are
    the device's tasks before and after this one. `turn` is the task's place in the backlog while it
    is open."""

    task_id: str
    equipment_id: str
    state: State = State.RUNNING
    requested_at: float | None = None
    first_started_at: float | None = None
    finished_at: float = 0.0
    attempts: int = 0
    crash_count: int = 0
    begun_by: str | None = None
    reason: str | None = None
    fingerprint: str | None = None
    origin: Origin = NO_ORIGIN
    turn: Turn | None = None
    log: tuple[Attempt, ...] | None = None
    earlier: Record | None = None
    later: Record | None = None

    def __lt__(self, other: Record) -> bool:
        return self.forgotten_at < other.forgotten_at

    @property
    def forgotten_at(self) -> float:
        """When it may be forgotten, but for the retention."""
        if self.state is State.CANCELLED:
            return self.finished_at + CANCELLED_SLACK_S
        return self.finished_at if self.fingerprint is None else self.finished_at + KEY_SLACK_S

    def last_attempt(self) -> Attempt | None:
        if self.log:
            return self.log[-1]
        return Attempt(self.attempts, self.first_started_at) if self.attempts else None

    def add(self, attempt: Attempt) -> None:
        """Put an attempt behind those before it, or in the place of the last one where that has the
        same number.
        """
        known = self.log or tuple(filter(None, [self.last_attempt()]))
        if known and known[-1].number == attempt.number:
            known = known[:-1]
        self.log = (*known, attempt)[-KEPT_ATTEMPTS:]
