"""What a shard's store tells operators; see `rtprov.interfaces.TaskReports`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtprov.journal.search import Search
from rtprov.journal.summary import summarise
from rtprov.reports import FoundTask, ReplicaCoverage

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtprov.journal.record import Record
    from rtprov.journal.store import Store
    from rtprov.reports import Cursor, FoundTasks, ReasonCounts, ShardSummary, TaskFilter


class StoreReports:
    """The implementation of `rtprov.interfaces.TaskReports` on a store.

    `process_id` is this process's name in the journal.
    """

    def __init__(self, store: Store, process_id: str) -> None:
        self._store = store
        self._process_id = process_id
        self._ended: Callable[[str], None] = lambda task_id: None

    def replica(self, now: float) -> ReplicaCoverage:
        """See `rtprov.interfaces.TaskReports.replica`."""
        return ReplicaCoverage(self._process_id, [(now - self._store.retention_s, now)])

    def summary(self, now: float) -> ShardSummary:
        """See `rtprov.interfaces.TaskReports.summary`."""
        return summarise(self._store, self._process_id, now)

    def search(
        self,
        wanted: TaskFilter,
        before: Cursor | None,
        limit: int,
        now: float,
        out_of_time: Callable[[], bool],
    ) -> FoundTasks:
        """See `rtprov.interfaces.TaskReports.search`."""
        return Search(self._store, wanted, before, out_of_time).tasks(limit, now)

    def reasons(
        self, wanted: TaskFilter, before: Cursor | None, out_of_time: Callable[[], bool]
    ) -> ReasonCounts:
        """See `rtprov.interfaces.TaskReports.reasons`."""
        return Search(self._store, wanted, before, out_of_time).reasons()

    def found(self, task_id: str, now: float) -> FoundTask | None:
        """See `rtprov.interfaces.TaskReports.found`."""
        record = self._store.record(task_id)
        return None if record is None else FoundTask(record.at, self._store.describe(record, now))

    def on_end(self, ended: Callable[[str], None]) -> None:
        """See `rtprov.interfaces.TaskReports.on_end`."""
        self._ended = ended
        self._store.on_end.append(self._saw_end)

    def _saw_end(self, record: Record) -> None:
        active = self._store.backlog.active
        if active is not None and active.by == self._process_id:
            self._ended(record.task_id)
