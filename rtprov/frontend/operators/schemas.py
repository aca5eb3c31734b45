"""The JSON documents for operators: the summary, searches and failures.

`rtprov.frontend.openapi` describes these types; their docstrings are part of the OpenAPI document,
so clients read them.
"""

from __future__ import annotations

import msgspec

from rtprov.frontend.schemas import TaskDocument, Time
from rtprov.model import EquipmentState


class OpenTasksDocument(msgspec.Struct):
    """How many tasks have not ended, by phase."""

    waiting: int
    calling: int
    retrying: int


class EndedDocument(msgspec.Struct):
    """How many tasks have ended within a time, by state."""

    completed: int
    failed: int
    not_found: int
    cancelled: int


class EndedLatelyDocument(msgspec.Struct, rename="camel"):
    """How many tasks have ended lately. The minute is exact to a second, the others to a minute."""

    last_minute: EndedDocument
    last_hour: EndedDocument
    last_day: EndedDocument


class SecondsDocument(msgspec.Struct):
    """A range of seconds."""

    low: int
    high: int


class EquipmentDocument(msgspec.Struct, rename="camel"):
    """The equipment service, as the workers see it.

    `state` is `closed` (it answers), `open` (it does not answer; one call at a time is made as a
    probe) or `half_open` (it answers again; the number of calls grows). `since` is when this state
    began. `lastError` says why the latest call did not reach the service, null once it has
    recovered. `typicalCallSeconds` is the median of the latest calls; 60 until the first has ended.
    """

    state: EquipmentState
    since: Time | None
    last_error: str | None
    typical_call_seconds: float


class ShardDocument(msgspec.Struct):
    """One shard. `backlog` is how many tasks wait, `active` the worker process that carries tasks
    out (null if it does not answer), `standbys` the other workers that answer, and `concurrency`
    how many calls the active worker runs at most. Unknown numbers are null.
    """

    shard: str
    backlog: int | None
    active: str | None
    standbys: list[str]
    concurrency: int | None


class BrokerDocument(msgspec.Struct):
    """The front end's connection to the broker; `blocked` while the broker takes no messages."""

    connected: bool
    blocked: bool


class SummaryDocument(msgspec.Struct, rename="camel"):
    """The system in numbers.

    `oldestWaitingSeconds` is how long the oldest task that was never sent has waited, null if none.
    `etaSeconds` estimates when all open tasks have ended. It is null with a reason: `paused`,
    `equipment` (the equipment service is in trouble) or `no worker`. It is null without a reason
    while tasks wait for their sealing keys. `parked` is the number of parked letters, null if
    that is not known. `incomplete` names the shards of which no worker answers; their last known
    numbers are used.
    """

    tasks: OpenTasksDocument
    ended: EndedLatelyDocument
    oldest_waiting_seconds: float | None
    eta_seconds: SecondsDocument | None
    eta_reason: str | None
    equipment: EquipmentDocument
    dispatch: str
    shards: list[ShardDocument]
    parked: int | None
    broker: BrokerDocument
    incomplete: list[str]


class SummaryAnswer(msgspec.Struct):
    """The answer with the summary."""

    code: int
    summary: SummaryDocument


class FoundAnswer(msgspec.Struct):
    """One page of tasks of all devices, newest first.

    `next` is the URL of the next page, or null on the last page. `incomplete` names what is
    missing: the shards of which no worker answered, and times of a shard that no live worker's
    history covers.
    """

    code: int
    tasks: list[TaskDocument]
    next: str | None
    incomplete: list[str]


class FailureDocument(msgspec.Struct):
    """How many tasks ended with one reason."""

    reason: str
    count: int


class FailuresAnswer(msgspec.Struct):
    """Failed tasks by reason, the most frequent first. `incomplete` is that of a page of tasks."""

    code: int
    failures: list[FailureDocument]
    incomplete: list[str]
