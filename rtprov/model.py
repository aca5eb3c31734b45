"""What rtprov talks about: tasks, their states, and the events that make up a journal.

All are values. Times are seconds since the epoch (UTC), as floats.
"""

from __future__ import annotations

import enum
import re
from zlib import crc32

import attrs

_EQUIPMENT_ID = re.compile(r"[a-zA-Z0-9]{6,}")
_TASK_ID = re.compile(r"[0-9a-f]{32}")


def is_equipment_id(text: str) -> bool:
    """Tell whether `text` can name equipment: a full match of ``[a-zA-Z0-9]{6,}``."""
    return _EQUIPMENT_ID.fullmatch(text) is not None


def is_task_id(text: str) -> bool:
    """Tell whether `text` has the form of a task id: 32 lower-case hexadecimal digits."""
    return _TASK_ID.fullmatch(text) is not None


def shard_of(equipment_id: str, shards: int) -> int:
    """The shard, 0 to `shards` - 1, that all tasks of this equipment belong to."""
    return crc32(equipment_id.encode()) % shards


class State(enum.Enum):
    """Where a task stands. A task ends in exactly one of the final states."""

    RUNNING = "running"  # queued, running, or waiting to be retried
    COMPLETED = "completed"  # A configured the equipment
    FAILED = "failed"  # A failed, gave no answer in time, or stayed out of reach
    NOT_FOUND = "not_found"  # A does not know the equipment

    @property
    def final(self) -> bool:
        """Whether a task in this state never changes again."""
        return self is not State.RUNNING


@attrs.frozen
class Task:
    """One accepted request, on its way to service A.

    `timeout_s` is the client's ``timeoutInSeconds`` (1 to 1500), `sealed` the request's body as `rtprov.seal` made it.
    """

    task_id: str
    equipment_id: str
    timeout_s: int
    accepted_at: float
    sealed: str = attrs.field(repr=lambda _: "<sealed>")


@attrs.frozen
class Requested:
    """The front end accepted a task. (The same message, with the sealed body, is the worker's order.)"""

    task_id: str
    equipment_id: str
    at: float


@attrs.frozen
class Started:
    """A worker calls A; `attempt` counts from 1."""

    task_id: str
    equipment_id: str
    at: float
    attempt: int


@attrs.frozen
class Finished:
    """A task ended. `state` is final; `reason` is for the operator and holds no parameter."""

    task_id: str
    equipment_id: str
    at: float
    state: State
    reason: str


@attrs.frozen
class Marker:
    """A barrier's mark: whoever has seen it has seen all that was confirmed before it was published."""

    marker_id: str


@attrs.frozen
class Unrecognised:
    """An event of a kind that a newer version made: carried, never fatal."""

    kind: str


Event = Requested | Started | Finished | Marker | Unrecognised
