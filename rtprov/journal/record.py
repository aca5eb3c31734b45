"""The record of one task in the store, linked to the other tasks of its device."""

from __future__ import annotations

import attrs

from rtprov.model import DEFAULT_URGENCY, Attempt, State

# Records are kept longer than the retention in two cases. With an Idempotency-Key: front ends send
# no new task for a key while the store has its record.
KEY_SLACK_S = 3600.0
# Cancelled: the task's message may still be in the work queue. Without the record, it would be run.
CANCELLED_SLACK_S = 604800.0
KEPT_ATTEMPTS = 10  # per open task


@attrs.frozen
class Origin:
    """Where a task comes from: its caller, the process that accepted it, its sealing key's id, and
    its urgency.

    Tasks with the same values share one object.
    """

    caller: str | None = None
    accepted_by: str | None = None
    key: str | None = None
    urgency: int = DEFAULT_URGENCY


NO_ORIGIN = Origin()


@attrs.define(eq=False)
class Turn:
    """The two positions of an open task.

    `number` is its position among all tasks of the shard. `place` is its position among the tasks
    of its device. Places are counted from 0 again after the device had no open task.
    """

    number: int
    place: int


@attrs.define(eq=False, weakref_slot=False)
class Record:
    """What the store knows of one task.

    `task_id` is the same string object as the record's key in the store, to save memory. `log` has
    the attempts; it is None as long as only the start of the first one is known. `begun_by` is the
    worker process that makes the latest attempt; it is None once that attempt has ended.
    `crash_count` is the number of attempts that were begun by a process and never ended, because
    another process took over. `earlier` and `later` are the neighbouring tasks of the device.
    `turn` is the task's position in the backlog, None once the task has ended. `at` is the time by
    which the task is sorted in lists: that of its acceptance, or that of its first known event.
    """

    task_id: str
    equipment_id: str
    at: float
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

    @property
    def slack_s(self) -> float:
        """How much longer than the retention the task is kept, in seconds: one of three values."""
        if self.state is State.CANCELLED:
            return CANCELLED_SLACK_S
        return 0.0 if self.fingerprint is None else KEY_SLACK_S

    @property
    def retention_begins_at(self) -> float:
        """When the retention begins: the end, and `slack_s`; in seconds since the epoch."""
        return self.finished_at + self.slack_s

    def last_attempt(self) -> Attempt | None:
        """Return the latest attempt, None if there was none."""
        if self.log:
            return self.log[-1]
        return Attempt(self.attempts, self.first_started_at) if self.attempts else None

    def add(self, attempt: Attempt) -> None:
        """Append an attempt, or replace the last one if it has the same number."""
        known = self.log or tuple(filter(None, [self.last_attempt()]))
        if known and known[-1].number == attempt.number:
            known = known[:-1]
        self.log = (*known, attempt)[-KEPT_ATTEMPTS:]
