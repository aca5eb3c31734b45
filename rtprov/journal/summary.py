"""A shard in numbers, for operators. Everything is read from counters; no task is walked over."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from rtprov.reports import EndedCounts, ShardSummary

if TYPE_CHECKING:
    from rtprov.journal.store import Store
    from rtprov.model import State

# The estimate is a range of this width; wider until the duration of a call is known.
SPREAD = 0.15
FIRST_SPREAD = 0.5
MAX_PAUSES = 100  # of the tasks that wait for their next attempt, so many are looked at


def summarise(store: Store, process: str, now: float) -> ShardSummary:
    """Return the summary of a shard at `now`, in seconds since the epoch.

    `process` is this process's name in the journal. The cost does not depend on the number of
    tasks.
    """
    backlog, ends, equipment = store.backlog, store.ends, store.equipment
    oldest = next(backlog.waiting_from(0), None)
    low_s, high_s = _seconds_left(store, now)
    return ShardSummary(
        process=process,
        now=now,
        waiting=backlog.waiting,
        calling=len(backlog.calling),
        retrying=len(backlog.retrying),
        last_minute=_counts(ends.last_minute(now)),
        last_hour=_counts(ends.last_hour(now)),
        last_day=_counts(ends.last_day(now)),
        oldest_waiting_at=None if oldest is None else oldest.at,
        low_s=low_s,
        high_s=high_s,
        equipment=equipment.state,
        equipment_since=equipment.since,
        last_error=equipment.last_error,
        typical_call_s=backlog.typical_s,
        active=None if backlog.active is None else backlog.active.by,
        concurrency=backlog.concurrency,
    )


def _counts(by_state: dict[State, int]) -> EndedCounts:
    return EndedCounts(**{state.value: count for state, count in by_state.items()})


def _seconds_left(store: Store, now: float) -> tuple[float | None, float | None]:
    """Return the least and the most seconds until all open tasks have ended; None if no estimate is
    possible, because A is in trouble or tasks wait for their keys.
    """
    backlog = store.backlog
    if not backlog.open:
        return 0.0, 0.0
    if backlog.trouble or backlog.withheld.waiting:
        return None, None
    ends = [store.forecast(now).end_of_all()]
    for record in islice(reversed(backlog.retrying), MAX_PAUSES):
        last = record.last_attempt()
        if last is not None and last.retry_at is not None:
            ends.append(last.retry_at + backlog.typical_s)
    left_s = max(0.0, max(ends) - now)
    spread = SPREAD if backlog.learned else FIRST_SPREAD
    return left_s * (1 - spread), left_s * (1 + spread)
