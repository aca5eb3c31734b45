"""The indexes of a store: its tasks by acceptance, by end, and by state, reason and caller.

A task is in three lists of about 9 bytes each: all tasks by acceptance, its *group* by acceptance,
and the ended tasks by their ends. A group has the tasks with the same state, reason and caller, so
each filter for these selects whole groups. A task changes its group only once, when it ends.
"""

from __future__ import annotations

from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING

from rtprov.journal.sorted_records import SortedRecords
from rtprov.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtprov.journal.record import Record

# A list of its own for a single task would take 300 bytes, so further groups share one list.
MAX_GROUPS = 1000

_accepted_at = attrgetter("at")
_finished_at = attrgetter("finished_at")


Group = tuple[State, str | None, str | None]
"""What the tasks of a group have in common: state, reason (None while they are open), caller."""


def _group_of(record: Record) -> Group:
    return record.state, record.reason, record.origin.caller


class Indexes:
    """The indexes of one store.

    Call `remove` before, and `add` after a change of a record's `at`, state, reason or origin.

    `accepted` has all tasks. `groups` has those that are in a list of their group, `mixed` the
    others. `ended` has the ended tasks by `Record.slack_s`, each in the order of their ends.
    """

    def __init__(self) -> None:
        self.accepted = SortedRecords(_accepted_at)
        self.groups: dict[Group, SortedRecords] = {}
        self.mixed = SortedRecords(_accepted_at)
        self.ended: dict[float, SortedRecords] = {}

    def add(self, record: Record) -> None:
        """Add a task."""
        self.accepted.add(record)
        self._add_to_group(record)
        if record.state.final:
            self._add_to_ended(record)

    def remove(self, record: Record) -> None:
        """Remove a task."""
        self.accepted.discard(record)
        self.leave_group(record)
        if record.state.final:
            self.ended[record.slack_s].discard(record)

    def leave_group(self, record: Record) -> None:
        """Remove an open task from its group, because it ends; call `end` after the change."""
        key = _group_of(record)
        group = self.groups.get(key)
        if group is None or not group.discard(record):
            self.mixed.discard(record)
        elif not group:
            del self.groups[key]

    def end(self, record: Record) -> None:
        """Add a task that has ended to its new group and to the ended ones."""
        self._add_to_group(record)
        self._add_to_ended(record)

    def _add_to_ended(self, record: Record) -> None:
        ended = self.ended.get(record.slack_s)
        if ended is None:
            ended = self.ended[record.slack_s] = SortedRecords(_finished_at)
        ended.add(record)

    def _add_to_group(self, record: Record) -> None:
        key = _group_of(record)
        group = self.groups.get(key)
        if group is None:
            if len(self.groups) >= MAX_GROUPS:
                self.mixed.add(record)
                return
            group = self.groups[key] = SortedRecords(_accepted_at)
        group.add(record)

    def due(self, limit: float) -> Iterator[Record]:
        """Yield the ended tasks whose `Record.retention_begins_at` is before `limit`, in seconds
        since the epoch. They must not change during the iteration.
        """
        for ended in self.ended.values():
            for record in ended.oldest():
                if record.retention_begins_at >= limit:
                    break
                yield record

    def ended_between(self, after: float, before: float) -> int:
        """Return how many tasks ended at `after` or later, but before `before`."""
        return sum(
            each.count_before(before, "") - each.count_before(after, "")
            for each in self.ended.values()
        )

    def ended_from(self, after: float, before: float) -> Iterator[Record]:
        """Yield the tasks that ended at `after` or later, but before `before`."""
        for ended in self.ended.values():
            for record in ended.before(before, ""):
                if record.finished_at < after:
                    break
                yield record

    def ended_before(self, before: tuple[float, str]) -> Iterator[Record]:
        """Yield the ended tasks before this time of end and id, the latest first. They must not
        change during the iteration.
        """
        return merge(
            *(each.before(*before) for each in self.ended.values()), key=_end, reverse=True
        )


def _end(record: Record) -> tuple[float, str]:
    return record.finished_at, record.task_id
