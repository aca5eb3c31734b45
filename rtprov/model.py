"""What rtprov talks about: tasks, their states, and the events that make up a journal.

All are values. Times are seconds since the epoch (UTC), as floats.
"""

from __future__ import annotations

import enum
import re
from hashlib import sha256
from zlib import crc32

import attrs

KEYED = "1de0"  # how ids that come from keys begin, and a few others by chance

_EQUIPMENT_ID = re.compile(r"[a-zA-Z0-9]{6,}")
_TASK_ID = re.compile(r"[0-9a-f]{32}")


def is_equipment_id(text: str) -> bool:
    """Tell whether `text` can name equipment: a full match of ``[a-zA-Z0-9]{6,}``."""
    return _EQUIPMENT_ID.fullmatch(text) is not None


def is_task_id(text: str) -> bool:
    """Tell whether `text` has the form of a task id: 32 lower-case hexadecimal digits."""
    return _TASK_ID.fullmatch(text) is not None


def keyed_task_id(equipment_id: str, key: str) -> str:
    """The id of the task that was ordered for this equipment with this ``Idempotency-Key``, whoever
    computes it.

    `key` is ASCII. An equipment id holds no NUL, so no two pairs make the same text.
    """
    return (
        KEYED
        + sha256(f"rtprov.task\0{equipment_id}\0{key}".encode("ascii")).hexdigest()[
            : 32 - len(KEYED)
        ]
    )


def may_come_again(task_id: str) -> bool:
    """Whether the id may be another task's one day, its key being used again after it was
    forgotten: true of all that have a key.
    """
    return task_id.startswith(KEYED)


def shard_of(equipment_id: str, shards: int) -> int:
    """The shard, 0 to `shards` - 1, that all tasks of this equipment belong to."""
    return crc32(equipment_id.encode()) % shards


class State(enum.Enum):
    """Where a task stands. A task ends in exactly one of the final states."""

    RUNNING = "running"  # queued, running, or waiting to be retried
    COMPLETED = "completed"  # A configured the equipment
    FAILED = "failed"  # A failed, gave no answer in time, or stayed out of reach
    NOT_FOUND = "not_found"  # A does not know the equipment
    CANCELLED = "cancelled"  # called off before its first call to A

    @property
    def final(self) -> bool:
        """Whether a task in this state never changes again."""
        return self is not State.RUNNING


@attrs.frozen
class Task:
    """One accepted request, on its way to service A.

    `timeout_s` is the client's ``timeoutInSeconds`` (1 to 1500), `sealed` the request's body as
    `rtprov.security.sealer` made it. `fingerprint` is the body's (see `rtprov.interfaces.Sealer`)
    where the client gave an ``Idempotency-Key``: several messages may then be one task's, and only
    the one whose body came first is its order. `caller` names the client whose POST made the task,
    `accepted_by` the process that took it; both are None where an earlier version took it. So is
    `key`, the id of the key that sealed the body."""

    task_id: str
    equipment_id: str
    timeout_s: int
    accepted_at: float
    sealed: str = attrs.field(repr=lambda _: "<sealed>")
    fingerprint: str | None = None
    caller: str | None = attrs.field(default=None, kw_only=True)
    accepted_by: str | None = attrs.field(default=None, kw_only=True)
    key: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Copied:
    """An event was written again, at `at`, before the journal forgets it. `place` is the offset of
    its task's first event.

    All that the journal said of the task up to the offset `upto` was written again with it.
    """

    at: float
    place: int
    upto: int


@attrs.frozen
class Requested:
    """The front end accepted a task. (The same message, with the sealed body, is the worker's
    order.)

    `fingerprint`, `caller`, `accepted_by` and `key` are `Task`'s. Of several such events of one
    task the first counts. With `whole` the message is a worker's order: it has the sealed body."""

    task_id: str
    equipment_id: str
    at: float
    fingerprint: str | None = None
    caller: str | None = attrs.field(default=None, kw_only=True)
    accepted_by: str | None = attrs.field(default=None, kw_only=True)
    key: str | None = attrs.field(default=None, kw_only=True)
    whole: bool = attrs.field(default=False, kw_only=True, eq=False)
    copied: Copied | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Started:
    """A worker calls A; `attempt` counts from 1. `by` names the worker's process, where its version
    says so.
    """

    task_id: str
    equipment_id: str
    at: float
    attempt: int
    by: str | None = None


@attrs.frozen
class Postponed:
    """Attempt `attempt` did not reach A, for `reason`, which holds no parameter; the next one is
    made at `until` or later.
    """

    task_id: str
    equipment_id: str
    at: float
    attempt: int
    reason: str
    until: float


@attrs.frozen
class Withheld:
    """The worker has not the key that the task is sealed with: it waits for it. With `over` it has
    the key, and the task goes on.

    `key` is the key's id, None where the task's message has none. A `Started` ends the wait, too.
    """

    task_id: str
    equipment_id: str
    at: float
    key: str | None = None
    over: bool = False


@attrs.frozen
class Cancelled:
    """A client calls the task off. It counts only where the journal has it before the task's first
    `Started`.
    """

    task_id: str
    equipment_id: str
    at: float
    copied: Copied | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Finished:
    """A task ended. `state` is final; `reason` is for the operator and holds no parameter."""

    task_id: str
    equipment_id: str
    at: float
    state: State
    reason: str


class EquipmentState(enum.Enum):
    """How service A looks to the worker that calls it: the state of its circuit breaker."""

    CLOSED = "closed"  # it answers
    OPEN = "open"  # it does not: one call at a time probes
    HALF_OPEN = "half_open"  # it answers again, and gets more calls step by step


@attrs.frozen
class Active:
    """A worker process is its shard's active one: it may have `concurrency` calls under way, all
    its shards together, and so it sees A.

    `by` names the process as `Started.by` does. Said when it becomes active, when `equipment`
    changes, and now and then while tasks are open."""

    by: str
    at: float
    concurrency: int
    equipment: EquipmentState


@attrs.frozen
class Marker:
    """A barrier's mark: whoever has seen it has seen all that was confirmed before it was
    published.
    """

    marker_id: str


@attrs.frozen
class Unrecognised:
    """An event of a kind that a newer version made: carried, never fatal."""

    kind: str


TaskEvent = Requested | Started | Postponed | Withheld | Cancelled | Finished
Event = TaskEvent | Active | Marker | Unrecognised


class Waiting(enum.Enum):
    """What keeps a task from being called."""

    DEVICE = "device"  # an earlier task of the same device
    SERVICE = "service"  # A, which is or was out of reach
    CONCURRENCY = "concurrency"  # a worker with a free slot
    KEY = "key"  # the key that its body is sealed with

    @classmethod
    def _missing_(cls, value: object) -> Waiting:
        """A reason that a later version has added."""
        return cls.CONCURRENCY


class Phase(enum.Enum):
    """What happens to a task that has not ended."""

    WAITING = "waiting"  # it was never sent to A
    CALLING = "calling"  # a call to A is under way
    RETRYING = "retrying"  # a call did not reach A; another one will be made

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        """A phase that a later version has added."""
        return cls.WAITING


@attrs.frozen
class Attempt:
    """One call to A. `error` tells why A was not reached, `retry_at` when the next attempt is due;
    both None while the call runs.
    """

    number: int
    started_at: float | None
    ended_at: float | None = None
    error: str | None = None
    retry_at: float | None = None


@attrs.frozen
class Details:
    """All that is known of a task. Of its attempts the latest are kept; `attempt_count` counts them
    all.

    `reason` says why it ended so. `expected_at` is an estimate of its end, None where it has ended,
    or where nothing can be said. `fingerprint`, `caller`, `accepted_by` and `key` are `Task`'s;
    `phase` is None once the task has ended. What has a default is not told by workers of earlier
    versions."""

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
