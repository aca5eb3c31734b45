"""The data model: tasks, their states, and the events of a shard's journal.

All classes are values. Times are seconds since the epoch (UTC), as floats.
"""

from __future__ import annotations

import enum
import re
from hashlib import sha256
from zlib import crc32

import attrs

# The first digits of each task id made from an Idempotency-Key. A random id may begin so, too.
KEYED = "1de0"
# Of tasks without a priority, and of the least urgent ones (RFC 9218 §4.1).
DEFAULT_URGENCY, LEAST_URGENCY = 3, 7

_EQUIPMENT_ID = re.compile(r"[a-zA-Z0-9]{6,}")
_TASK_ID = re.compile(r"[0-9a-f]{32}")


def is_equipment_id(text: str) -> bool:
    """Return whether `text` is a valid equipment id: a full match of ``[a-zA-Z0-9]{6,}``."""
    return _EQUIPMENT_ID.fullmatch(text) is not None


def is_task_id(text: str) -> bool:
    """Return whether `text` has the form of a task id: 32 lower-case hexadecimal digits."""
    return _TASK_ID.fullmatch(text) is not None


def keyed_task_id(equipment_id: str, key: str) -> str:
    """Return the id of the task with this ``Idempotency-Key``, the same in every process.

    `key` is ASCII. An equipment id has no NUL, so different pairs are never hashed as the same
    text.
    """
    return (
        KEYED
        + sha256(f"rtprov.task\0{equipment_id}\0{key}".encode("ascii")).hexdigest()[
            : 32 - len(KEYED)
        ]
    )


# How long after the end of the retention an ``Idempotency-Key`` may begin a new task. Half of the
# time for which it is kept beyond the retention: replicas agree if their clocks differ by less.
NEW_TASK_AFTER_S = 1800.0


def time_of_event(now: float, requested_at: float | None, fingerprint: str | None) -> float:
    """Return the time to write into an event of a task, in seconds since the epoch.

    It is `now`, unless the front end that accepted the task has a clock that is far ahead. The
    event of a task with an ``Idempotency-Key`` is at most `NEW_TASK_AFTER_S` earlier than its
    request; else it would count as one of an earlier task with the same key.
    """
    if requested_at is None or fingerprint is None:
        return now
    return max(now, requested_at - NEW_TASK_AFTER_S)


def may_be_reused(task_id: str) -> bool:
    """Return whether a later task may get the same id.

    That is true of all ids made from an ``Idempotency-Key``: the client may use the key again after
    its task is forgotten.
    """
    return task_id.startswith(KEYED)


def shard_of(equipment_id: str, shards: int) -> int:
    """Return the shard of all tasks of this equipment, 0 to `shards` - 1."""
    return crc32(equipment_id.encode()) % shards


class State(enum.Enum):
    """The state of a task. Each task ends in exactly one of the final states."""

    RUNNING = "running"  # queued, running, or waiting for the next attempt
    COMPLETED = "completed"  # A configured the equipment
    FAILED = "failed"  # A failed, did not answer in time, or could not be reached for too long
    NOT_FOUND = "not_found"  # A does not know the equipment
    CANCELLED = "cancelled"  # cancelled before the first call to A

    @property
    def final(self) -> bool:
        """Whether a task in this state can no longer change."""
        return self is not State.RUNNING


@attrs.frozen
class Task:
    """One accepted request: the message that a worker gets from the work queue.

    `timeout_s` is the client's ``timeoutInSeconds``, 1 to 1500. `sealed` is the request's body,
    encrypted by `rtprov.security.sealer`.

    `fingerprint` is set if the client sent an ``Idempotency-Key`` (see `rtprov.interfaces.Sealer`).
    Then several messages may have the same task id; the task has the body of the first one in the
    journal.

    `caller` is the client whose POST created the task. `accepted_by` is the process that accepted
    it. `key` is the id of the key that sealed the body. These three are None if an earlier version
    accepted the task. `urgency` is the task's place among those of its caller, 0 (first) to 7
    (RFC 9218 §4.1).

    `traceparent` is the W3C trace context. It is a header of the message, not a part of it.
    """

    task_id: str
    equipment_id: str
    timeout_s: int
    accepted_at: float
    sealed: str = attrs.field(repr=lambda _: "<sealed>")
    fingerprint: str | None = None
    caller: str | None = attrs.field(default=None, kw_only=True)
    accepted_by: str | None = attrs.field(default=None, kw_only=True)
    key: str | None = attrs.field(default=None, kw_only=True)
    urgency: int = attrs.field(default=DEFAULT_URGENCY, kw_only=True)
    traceparent: str | None = attrs.field(default=None, kw_only=True, eq=False)


@attrs.frozen
class Copied:
    """A mark on an event that was written to the journal again, at time `at`.

    The broker deletes old events, so workers write the events of open tasks again. `place` is the
    offset of the task's first event. The copy replaces all events of the task up to the offset
    `upto`.
    """

    at: float
    place: int
    upto: int


@attrs.frozen
class Requested:
    """The front end accepted a task. The worker gets the same message, with the sealed body.

    `fingerprint`, `caller`, `accepted_by`, `key` and `urgency` are those of `Task`. If a task has
    several such events, the first one counts. `whole` tells whether the message includes the sealed
    body, so that a worker can run the task from it.
    """

    task_id: str
    equipment_id: str
    at: float
    fingerprint: str | None = None
    caller: str | None = attrs.field(default=None, kw_only=True)
    accepted_by: str | None = attrs.field(default=None, kw_only=True)
    key: str | None = attrs.field(default=None, kw_only=True)
    urgency: int = attrs.field(default=DEFAULT_URGENCY, kw_only=True)
    whole: bool = attrs.field(default=False, kw_only=True, eq=False)
    copied: Copied | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Started:
    """A worker begins a call to A. `attempt` counts from 1.

    `by` identifies the worker's process. It is None if the worker's version does not write it.
    """

    task_id: str
    equipment_id: str
    at: float
    attempt: int
    by: str | None = None


@attrs.frozen
class Postponed:
    """Attempt `attempt` did not reach A; the next one is made at `until` or later.

    `reason` is for the operator and contains no parameter of the task.
    """

    task_id: str
    equipment_id: str
    at: float
    attempt: int
    reason: str
    until: float


@attrs.frozen
class Withheld:
    """The worker does not have the key that sealed the task's body, so the task waits for the key.

    With `over`, the worker has got the key and the task goes on. A `Started` also ends the wait.
    `key` is the key's id, None if the task's message has none.
    """

    task_id: str
    equipment_id: str
    at: float
    key: str | None = None
    over: bool = False


@attrs.frozen
class Cancelled:
    """A client cancelled the task.

    The event counts only if it comes before the task's first `Started` in the journal.
    """

    task_id: str
    equipment_id: str
    at: float
    copied: Copied | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Finished:
    """A task ended. `state` is a final state.

    `reason` is for the operator and contains no parameter of the task.
    """

    task_id: str
    equipment_id: str
    at: float
    state: State
    reason: str


class EquipmentState(enum.Enum):
    """The state of a worker's circuit breaker for service A."""

    CLOSED = "closed"  # A answers
    OPEN = "open"  # A does not answer; one call at a time is made as a probe
    HALF_OPEN = "half_open"  # A answers again; the number of calls grows step by step


@attrs.frozen
class Active:
    """A worker process became the active one of its shard, or reports its state again.

    `by` identifies the process, as in `Started`. It runs at most `concurrency` calls at once, over
    all its shards. `equipment` is the state of its circuit breaker. The event is written when the
    process becomes active, when `equipment` changes, and from time to time while tasks are open.
    `per_second` is how many calls may begin in a second, None for no limit.
    """

    by: str
    at: float
    concurrency: int
    equipment: EquipmentState
    per_second: float | None = None


@attrs.frozen
class Marker:
    """The marker of a barrier.

    A replica that has read the marker has read every event that was confirmed before the marker was
    published.
    """

    marker_id: str


@attrs.frozen
class Unrecognised:
    """An event of a kind that this version does not know. Such events are ignored."""

    kind: str


TaskEvent = Requested | Started | Postponed | Withheld | Cancelled | Finished
Event = TaskEvent | Active | Marker | Unrecognised


class Waiting(enum.Enum):
    """The reason why a task is not being sent to A."""

    DEVICE = "device"  # an earlier task of the same device has not ended
    SERVICE = "service"  # A cannot be reached, or could not be reached at the last attempt
    CONCURRENCY = "concurrency"  # no worker has a free slot
    KEY = "key"  # the worker does not have the key that sealed the body

    @classmethod
    def _missing_(cls, value: object) -> Waiting:
        """Map a reason that a later version added to the nearest known one."""
        return cls.CONCURRENCY


class Phase(enum.Enum):
    """The phase of a task that has not ended."""

    WAITING = "waiting"  # no call to A has begun
    CALLING = "calling"  # a call to A is running
    RETRYING = "retrying"  # a call did not reach A; the task waits for the next attempt

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        """Map a phase that a later version added to the nearest known one."""
        return cls.WAITING


@attrs.frozen
class Attempt:
    """One call to A.

    `error` says why the call did not reach A, `retry_at` is the time of the next attempt. Both are
    None while the call runs.
    """

    number: int
    started_at: float | None
    ended_at: float | None = None
    error: str | None = None
    retry_at: float | None = None


@attrs.frozen
class Details:
    """All that is known about a task.

    `attempts` has only the latest attempts; `attempt_count` is the number of all. `reason` says why
    the task ended. `waits_for` says what the task waits for, `ahead` how many open tasks of its
    device come before it. `expected_at` is the estimated time of its end, None if the task has
    ended or no estimate is possible. `phase` is None if the task has ended. `fingerprint`,
    `caller`, `accepted_by` and `key` are those of `Task`.

    Workers of earlier versions do not send the fields that have a default.
    """

    task_id: str
    equipment_id: str
    state: State
    requested_at: float | None
    started_at: float | None
    finished_at: float | None
    reason: str | None
    attempt_count: int
    attempts: tuple[Attempt, ...]
    waits_for: Waiting | None
    ahead: int
    expected_at: float | None
    fingerprint: str | None
    phase: Phase | None = None
    caller: str | None = None
    accepted_by: str | None = None
    key: str | None = None
