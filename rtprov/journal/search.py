"""Search a store's tasks, newest first, in pieces of bounded time.

The tasks are examined by the index that leaves the fewest of them. Each piece continues where the
last one stopped, so the store may change between two pieces.
"""

from __future__ import annotations

from collections import Counter
from heapq import merge
from itertools import chain, islice
from typing import TYPE_CHECKING

from rtprov.model import Phase, State
from rtprov.reports import OPEN_PHASES, Cursor, FoundTask, FoundTasks, ReasonCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rtprov.journal.indexes import Group
    from rtprov.journal.record import Record
    from rtprov.journal.sorted_records import SortedRecords
    from rtprov.journal.store import Store
    from rtprov.reports import TaskFilter

MAX_EXAMINED = 10_000  # tasks in one piece
LOOK_EVERY = 16  # tasks between two looks at the time
# At most so many candidates are sorted: tasks of devices, running calls, or tasks that ended in a
# range of time. If there are more, the lists of the indexes are merged.
MAX_SORTED = 2_000
MAX_MERGED = 64  # groups; over more of them, all tasks are examined

NEWEST = Cursor(float("inf"), "")


class Search:
    """One search in `store` for the tasks of `wanted`, older than `before`.

    `out_of_time` is asked from time to time whether the piece must end.
    """

    def __init__(
        self,
        store: Store,
        wanted: TaskFilter,
        before: Cursor | None,
        out_of_time: Callable[[], bool],
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._start = before or NEWEST
        if wanted.accepted_before is not None:
            self._start = min(self._start, Cursor(wanted.accepted_before, ""))
        self._out_of_time = out_of_time
        self._upto: Cursor | None = None
        self._states = frozenset(
            State.RUNNING if name in OPEN_PHASES else State(name) for name in wanted.states
        )
        self._phases = OPEN_PHASES.intersection(wanted.states)
        if State.RUNNING.value in wanted.states:
            self._phases = OPEN_PHASES

    def tasks(self, limit: int, now: float) -> FoundTasks:
        """Return at most `limit` (from 1) tasks, as they are at `now`."""
        found: list[FoundTask] = []
        for record in self._examined():
            if self._matches(record):
                found.append(FoundTask(record.at, self._store.describe(record, now)))
                if len(found) == limit:
                    self._upto = found[-1].cursor
                    break
        return FoundTasks(found, self._upto)

    def reasons(self) -> ReasonCounts:
        """Count the tasks that have ended, by reason."""
        wanted, indexes = self._wanted, self._store.indexes
        of_each = wanted.equipment_ids or wanted.task_ids or wanted.campaigns or bool(indexes.mixed)
        counts: Counter[str] = Counter()
        if of_each or wanted.ended_after is not None or wanted.ended_before is not None:
            for record in self._examined():
                if record.reason is not None and self._matches(record):
                    counts[record.reason] += 1
            return ReasonCounts(counts, self._upto)
        for key, group in indexes.groups.items():
            if key[1] is not None and self._has(key):
                count = group.count_before(self._start.at, self._start.task_id)
                if wanted.accepted_after is not None:
                    count -= group.count_before(wanted.accepted_after, "")
                counts[key[1]] += max(0, count)
        return ReasonCounts(+counts)

    def _examined(self) -> Iterator[Record]:
        """Yield tasks until the piece ends. Set `_upto` if others are left."""
        oldest = self._wanted.accepted_after
        for count, record in enumerate(self._candidates(), 1):
            if oldest is not None and record.at < oldest:
                return
            yield record
            if count == MAX_EXAMINED or (count % LOOK_EVERY == 0 and self._out_of_time()):
                self._upto = Cursor(record.at, record.task_id)
                return

    def _candidates(self) -> Iterator[Record]:
        """Return tasks older than the start, newest first, among which are all that match."""
        wanted, few = self._wanted, self._few()
        if wanted.campaigns:
            return iter(())  # there are no campaigns yet
        if few is not None:
            start = (self._start.at, self._start.task_id)
            older = [record for record in few if _position(record) < start]
            return iter(sorted(older, key=_position, reverse=True))
        lists = self._lists()
        return merge(
            *(each.before(self._start.at, self._start.task_id) for each in lists),
            key=_position,
            reverse=True,
        )

    def _few(self) -> list[Record] | None:
        """Return the candidates, unsorted, if an index has only a few of them."""
        wanted, store, backlog = self._wanted, self._store, self._store.backlog
        few: Iterable[Record] | None = None
        if wanted.task_ids:
            few = filter(None, map(store.record, wanted.task_ids))
        elif wanted.equipment_ids:
            few = chain.from_iterable(map(store.records_of, wanted.equipment_ids))
        elif self._states == {State.RUNNING} and Phase.WAITING.value not in self._phases:
            few = (each for phase in (backlog.calling, backlog.retrying) for each in phase)
        elif wanted.ended_after is not None or wanted.ended_before is not None:
            first, last = wanted.ended_after or 0.0, wanted.ended_before or float("inf")
            if store.indexes.ended_between(first, last) <= MAX_SORTED:
                few = store.indexes.ended_from(first, last)
        if few is None:
            return None
        found = list(islice(few, MAX_SORTED + 1))
        return found if len(found) <= MAX_SORTED else None

    def _lists(self) -> list[SortedRecords]:
        """Return the index's lists to examine."""
        indexes = self._store.indexes
        groups = [group for key, group in indexes.groups.items() if self._has(key)]
        if len(groups) > MAX_MERGED:
            return [indexes.accepted]
        return [*groups, indexes.mixed]

    def _has(self, group: Group) -> bool:
        """Whether tasks of this group may match."""
        (state, reason, caller), wanted = group, self._wanted
        return (
            (not self._states or state in self._states)
            and (not wanted.reasons or reason in wanted.reasons)
            and (not wanted.callers or caller in wanted.callers)
        )

    def _matches(self, record: Record) -> bool:
        wanted, state = self._wanted, record.state
        if self._states and state not in self._states:
            return False
        if self._states and state is State.RUNNING and self._phase(record) not in self._phases:
            return False
        if wanted.ended_after is not None or wanted.ended_before is not None:
            if not state.final:
                return False
            if wanted.ended_after is not None and record.finished_at < wanted.ended_after:
                return False
            if wanted.ended_before is not None and record.finished_at >= wanted.ended_before:
                return False
        return (
            (not wanted.reasons or record.reason in wanted.reasons)
            and (not wanted.callers or record.origin.caller in wanted.callers)
            and (not wanted.equipment_ids or record.equipment_id in wanted.equipment_ids)
            and (not wanted.task_ids or record.task_id in wanted.task_ids)
        )

    def _phase(self, record: Record) -> str:
        if record in self._store.backlog.calling:
            return Phase.CALLING.value
        retrying = record in self._store.backlog.retrying
        return Phase.RETRYING.value if retrying else Phase.WAITING.value


def _position(record: Record) -> tuple[float, str]:
    return record.at, record.task_id
