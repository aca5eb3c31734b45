"""Search one day file, newest first, in steps of bounded time.

A step reads the tasks of an index that are next. Where an index cannot select them, because the
filter is for the time of the end, a step examines a bounded number of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtprov.history.kinds import select
from rtprov.history.rows import COLUMNS, TABLES, key_of, task_of
from rtprov.reports import Cursor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtprov.history.day_file import DayFile
    from rtprov.history.kinds import Selection
    from rtprov.messaging.topology import Shard
    from rtprov.reports import FoundTask, TaskFilter

MAX_EXAMINED = 10_000  # tasks in one step
MAX_MERGED = 64  # kinds; over more of them, all tasks are examined
_OLDER = "(at, id) < (?, ?)"


class Scan:
    """A search in one file for the tasks of `shard` that `wanted` selects, older than `start`.

    `tasks` are those that were found and not yet used, the newest last. `upto` is the position up
    to which was searched; None at the end.
    """

    def __init__(self, file: DayFile, shard: Shard, wanted: TaskFilter, start: Cursor) -> None:
        self.tasks: list[FoundTask] = []
        self.upto: Cursor | None = start
        self._query = file.connection.execute
        self._selection = select(file.kinds(), shard, wanted)
        self._ids = [bytes.fromhex(each) for each in wanted.task_ids]
        self._equipment = wanted.equipment_ids
        self._all: list[tuple[str, Sequence[Any]]] = []  # conditions of all statements
        self._partly = self._conditions(wanted)
        if self._equipment:
            self._all.append(_one_of("equipment", self._equipment))
        if not self._selection.numbers or wanted.campaigns:
            self.upto = None

    def _conditions(self, wanted: TaskFilter) -> bool:
        """Set the conditions. Return whether an index does not select by all of them."""
        if wanted.accepted_after is not None:
            self._all.append(("at >= ?", [wanted.accepted_after]))
        partly = []
        if wanted.ended_after is not None:
            partly.append(("finished_at >= ?", [wanted.ended_after]))
        if wanted.ended_before is not None:
            partly.append(("finished_at < ?", [wanted.ended_before]))
        shard = self._selection.of_shard
        if shard is not None:
            partly.append(("in_shard(equipment, ?) = ?", [shard.count, shard.index]))
        self._all += partly
        return bool(partly)

    def step(self, limit: int) -> None:
        """Find at most `limit` (from 1) further tasks."""
        assert self.upto is not None
        older = (_OLDER, key_of(self.upto))
        numbers = self._selection.numbers
        few = bool(self._ids or self._equipment)
        kinds = [] if self._selection.all else [_one_of("kind", numbers)]
        lowest: Cursor | None = None
        if self._ids:
            rows = self._rows("task_id", [_one_of("id", self._ids), *kinds, older], limit)
        elif self._equipment:
            rows = self._rows("task_equipment", [*kinds, older], limit)
        elif not self._partly and not kinds:
            rows = self._rows(None, [older], limit)
        elif not self._partly and len(numbers) <= MAX_MERGED:
            rows = self._of_each(numbers, older, limit)
        else:
            lowest = self._lowest(older)
            above = [] if lowest is None else [("(at, id) >= (?, ?)", key_of(lowest))]
            rows = self._rows(None, [*kinds, older, *above], limit)
        self.tasks = [task_of(row) for row in reversed(rows)]
        if len(rows) == limit:
            self.upto = self.tasks[0].cursor
        else:
            self.upto = None if few else lowest

    def _lowest(self, older: tuple[str, Sequence[Any]]) -> Cursor | None:
        """Return the position of the last task that a step examines, None if that is the end."""
        found = self._query(
            f"SELECT at, id FROM task NOT INDEXED WHERE {older[0]}"
            f" ORDER BY at DESC, id DESC LIMIT 1 OFFSET {MAX_EXAMINED - 1}",
            older[1],
        ).fetchone()
        return None if found is None else Cursor(found[0], found[1].hex())

    def _of_each(
        self, numbers: Sequence[int], older: tuple[str, Sequence[Any]], limit: int
    ) -> list[tuple[Any, ...]]:
        """Return the next tasks of these kinds; only the next ones of each kind are read."""
        conditions, values = _joined([older, *self._all])
        one = (
            f"SELECT * FROM (SELECT at, id FROM task INDEXED BY task_kind WHERE kind = ?"
            f" AND {conditions} ORDER BY at DESC, id DESC LIMIT {limit})"
        )
        keys = " UNION ALL ".join([one] * len(numbers))
        return self._query(
            f"SELECT {COLUMNS} FROM ({keys} ORDER BY 1 DESC, 2 DESC LIMIT {limit}) AS next"
            f" JOIN task ON task.at = next.at AND task.id = next.id"
            f" {TABLES.removeprefix('task ')} ORDER BY task.at DESC, task.id DESC",
            [value for number in numbers for value in (number, *values)],
        ).fetchall()

    def _rows(
        self, index: str | None, conditions: Sequence[tuple[str, Sequence[Any]]], limit: int
    ) -> list[tuple[Any, ...]]:
        text, values = _joined([*conditions, *self._all])
        use = "NOT INDEXED" if index is None else f"INDEXED BY {index}"
        return self._query(
            f"SELECT {COLUMNS} FROM {TABLES.replace('task', f'task {use}', 1)} WHERE {text}"
            f" ORDER BY at DESC, id DESC LIMIT {limit}",
            values,
        ).fetchall()


def _one_of(column: str, values: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    return f"{column} IN ({', '.join('?' * len(values))})", values


def _joined(conditions: Sequence[tuple[str, Sequence[Any]]]) -> tuple[str, list[Any]]:
    """Return the conditions as SQL, and their values."""
    text = " AND ".join(condition for condition, _ in conditions)
    return text, [value for _, values in conditions for value in values]


def reasons(file: DayFile, shard: Shard, wanted: TaskFilter, whole_day: bool) -> dict[str, int]:
    """Count the tasks of `shard` in a file that `wanted` selects, by reason.

    `whole_day` says that the filter selects all times of the file.
    """
    kinds = file.kinds()
    selection = select(kinds, shard, wanted)
    counts: dict[str, int] = {}
    if not selection.numbers or wanted.campaigns:
        return counts
    by_number = {each.number: each for each in kinds}
    few = wanted.equipment_ids or wanted.task_ids
    if whole_day and selection.of_shard is None and not few:
        counted = [(number, by_number[number].tasks) for number in selection.numbers]
    else:
        counted = _counted(file, selection, wanted)
    for number, count in counted:
        reason = by_number[number].reason
        if reason is not None and count:
            counts[reason] = counts.get(reason, 0) + count
    return counts


def _counted(file: DayFile, selection: Selection, wanted: TaskFilter) -> list[tuple[int, int]]:
    conditions: list[tuple[str, Sequence[Any]]] = [_one_of("kind", selection.numbers)]
    for text, value in (
        ("at >= ?", wanted.accepted_after),
        ("at < ?", wanted.accepted_before),
        ("finished_at >= ?", wanted.ended_after),
        ("finished_at < ?", wanted.ended_before),
    ):
        if value is not None:
            conditions.append((text, [value]))
    if wanted.equipment_ids:
        conditions.append(_one_of("equipment", wanted.equipment_ids))
    if wanted.task_ids:
        conditions.append(_one_of("id", [bytes.fromhex(each) for each in wanted.task_ids]))
    if selection.of_shard is not None:
        shard = selection.of_shard
        conditions.append(("in_shard(equipment, ?) = ?", [shard.count, shard.index]))
    text, values = _joined(conditions)
    return file.connection.execute(
        f"SELECT kind, count(*) FROM task WHERE {text} GROUP BY kind", values
    ).fetchall()
