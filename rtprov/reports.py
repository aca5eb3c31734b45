"""What operators are told: summaries of shards, and searches for tasks. All classes are values.

Times are seconds since the epoch (UTC), as floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from rtprov.intervals import Interval
from rtprov.model import Details, EquipmentState, Phase, State

OPEN_PHASES = frozenset(phase.value for phase in Phase)
_OPEN = OPEN_PHASES | {State.RUNNING.value}
STATES = (*(state.value for state in State), *(phase.value for phase in Phase))
"""The values of `TaskFilter.states`: those of `State`, and of `Phase` for running tasks."""


@attrs.frozen(kw_only=True)
class TaskFilter:
    """Which tasks are searched for. All conditions must hold; None and () are no condition.

    Of the values of one condition, one must fit. `states` are values of `STATES`. The four times
    limit the acceptance and the end: tasks from the time `…_after` on, and before the time
    `…_before`.

    Later versions may add conditions; they must have the default None or (). Workers of earlier
    versions ignore those that they do not know (`task_ids`).
    """

    states: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    campaigns: tuple[str, ...] = ()
    equipment_ids: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()
    accepted_after: float | None = None
    accepted_before: float | None = None
    ended_after: float | None = None
    ended_before: float | None = None

    @property
    def open_only(self) -> bool:
        """Whether no ended task can match."""
        return bool(self.states) and _OPEN.issuperset(self.states)


@attrs.frozen(order=True)
class Cursor:
    """A position in the order of all tasks: by acceptance, then by id."""

    at: float
    task_id: str


@attrs.frozen
class FoundTask:
    """A task that was found, and the time by which it is sorted.

    The time is that of the task's acceptance, or of its first known event.
    """

    at: float
    details: Details

    @property
    def cursor(self) -> Cursor:
        """The task's position."""
        return Cursor(self.at, self.details.task_id)


@attrs.frozen
class FoundTasks:
    """A part of the answer to a search: the newest tasks, newest first.

    `upto` is the position up to which was searched, including that position; None if all older
    tasks were searched, too. `covered` are the times from which all ends are known; None if the
    shard has no history.
    """

    tasks: Sequence[FoundTask]
    upto: Cursor | None = None
    covered: Sequence[Interval] | None = None


def merge_found(parts: Iterable[FoundTasks], limit: int) -> FoundTasks:
    """Return the newest tasks of several answers to one search, at most `limit`, each only once.

    Of two forms of one task, that of the earlier part is returned. `covered` is left out.
    """
    by_position: dict[Cursor, FoundTask] = {}
    reached: list[Cursor] = []
    for part in parts:
        for task in part.tasks:
            by_position.setdefault(task.cursor, task)
        reached += [] if part.upto is None else [part.upto]
    upto = max(reached, default=None)
    # A part has not searched beyond its position, so older tasks of other parts may not be next.
    known = [position for position in by_position if upto is None or position >= upto]
    known.sort(reverse=True)
    if len(known) > limit:
        known, upto = known[:limit], known[limit - 1]
    return FoundTasks([by_position[position] for position in known], upto)


@attrs.frozen
class ReasonCounts:
    """A part of the answer to the question how many tasks ended with which reason; `upto` is that
    of `FoundTasks`.
    """

    counts: dict[str, int]
    upto: Cursor | None = None


@attrs.frozen
class ReplicaCoverage:
    """The worker that answers a question: its name in the journal, and from which times it knows
    all ends. `history` says that this is more than what it has in memory.
    """

    process: str
    covered: Sequence[Interval]
    history: bool = False


@attrs.frozen
class HistoryCounts:
    """How many ended tasks of one worker's history have which reason, by the UTC day of their ends.

    `whole` is False if time was over before all were counted.
    """

    days: dict[str, dict[str, int]]
    whole: bool = True


@attrs.frozen
class ShardReasons:
    """How many tasks of a shard ended with which reason; `covered` is that of `FoundTasks`.

    `whole` is False if time was over before all were counted.
    """

    counts: dict[str, int]
    whole: bool = True
    covered: Sequence[Interval] | None = None


@attrs.frozen
class EndedCounts:
    """How many tasks of a shard have ended within a time, by state."""

    completed: int = 0
    failed: int = 0
    not_found: int = 0
    cancelled: int = 0


@attrs.frozen(kw_only=True)
class ShardSummary:
    """A shard in numbers, as one replica knows it at the time `now`.

    `process` is the process that answers. `active` is the shard's active worker, as the journal
    says. `low_s` and `high_s` are the least and the most seconds until all open tasks have ended;
    both are None if no estimate is possible. `equipment_since` is the time since which `equipment`
    has the present state, None if it is not known.

    Later versions may add fields; they must have a default.
    """

    process: str
    now: float
    waiting: int
    calling: int
    retrying: int
    last_minute: EndedCounts
    last_hour: EndedCounts
    last_day: EndedCounts
    oldest_waiting_at: float | None
    low_s: float | None
    high_s: float | None
    equipment: EquipmentState
    equipment_since: float | None
    last_error: str | None
    typical_call_s: float
    active: str | None
    concurrency: int

    @property
    def open(self) -> int:
        """How many tasks have not ended."""
        return self.waiting + self.calling + self.retrying
