"""Search the files of a history, newest first, in pieces of bounded time.

A file has the tasks that *ended* on its day, but a search lists tasks by their *acceptance*. So the
files are merged: a file takes part from its latest acceptance on. Files that cannot match are not
opened.
"""

from __future__ import annotations

import sqlite3
from math import inf, nextafter
from typing import TYPE_CHECKING

from rtprov.history.folder import narrowed
from rtprov.history.scan import Scan, reasons
from rtprov.reports import Cursor, FoundTasks, HistoryCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtprov.history.day_file import Extent
    from rtprov.history.folder import Folder
    from rtprov.messaging.topology import Shard
    from rtprov.reports import FoundTask, TaskFilter

_NEWEST = Cursor(inf, "")


class HistorySearch:
    """One piece of a search for the tasks of `shard` that `wanted` selects, older than `before`.

    `out_of_time` is asked from time to time whether the piece must end.
    """

    def __init__(
        self,
        folder: Folder,
        shard: Shard,
        wanted: TaskFilter,
        before: Cursor | None,
        out_of_time: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._shard = shard
        self._wanted = wanted
        self._out_of_time = out_of_time
        self._start = before or _NEWEST
        if wanted.accepted_before is not None:
            self._start = min(self._start, Cursor(wanted.accepted_before, ""))
        # Files that were not opened yet; the one with the latest acceptance last.
        self._files: list[tuple[str, Extent]] = []
        self._scans: list[tuple[str, Scan]] = []

    def tasks(self, limit: int) -> FoundTasks:
        """Return at most `limit` (from 1) tasks. Raises `sqlite3.Error` or OSError."""
        self._files = self._folder.matching(self._wanted)[::-1]
        found: list[FoundTask] = []
        while len(found) < limit:
            upto = self._next_position()
            scan = max(
                (each for _, each in self._scans if each.tasks),
                key=lambda each: each.tasks[-1].cursor,
                default=None,
            )
            if scan is not None and (upto is None or scan.tasks[-1].cursor > upto):
                found.append(scan.tasks.pop())
            elif upto is None:
                return FoundTasks(found)
            elif (
                self._out_of_time() and (position := self._position(upto, found, scan)) is not None
            ):
                return FoundTasks(found, position)
            else:
                self._read_on(upto, limit - len(found))
        return FoundTasks(found, found[-1].cursor)

    def _position(
        self, upto: Cursor, found: Sequence[FoundTask], next_scan: Scan | None
    ) -> Cursor | None:
        """Return where the next piece goes on; None if that is where this one has begun.

        Tasks that were read, and not returned, are found again.
        """
        if next_scan is not None:
            upto = max(upto, _above(next_scan.tasks[-1].at))
        position = min(found[-1].cursor if found else self._start, upto)
        return position if position < self._start else None

    def _next_position(self) -> Cursor | None:
        """Return the position up to which all files were searched, None if nothing is left."""
        positions = [
            scan.upto for _, scan in self._scans if scan.upto is not None and not scan.tasks
        ]
        if self._files:
            positions.append(min(self._start, _above(self._files[-1][1].last or 0.0)))
        return max(positions, default=None)

    def _read_on(self, upto: Cursor, limit: int) -> None:
        """Open the next file, or make a step in the one that is searched up to `upto`."""
        for day, scan in self._scans:
            if scan.upto == upto and not scan.tasks:
                self._step(day, scan, limit)
                return
        day, extent = self._files.pop()
        if (extent.first or 0.0) > self._start.at:
            return
        file = self._folder.file(day)
        if file is None:
            return
        try:
            scan = Scan(file, self._shard, narrowed(self._wanted, day, extent), self._start)
        except sqlite3.DatabaseError as error:
            self._spoil(day, error)
            return
        self._scans.append((day, scan))
        if scan.upto is not None:
            self._step(day, scan, limit)

    def _step(self, day: str, scan: Scan, limit: int) -> None:
        try:
            scan.step(limit)
        except sqlite3.DatabaseError as error:
            self._spoil(day, error)
            scan.upto, scan.tasks = None, []

    def _spoil(self, day: str, error: sqlite3.DatabaseError) -> None:
        if isinstance(error, sqlite3.OperationalError):
            raise error  # not the file's fault, such as a lack of memory
        self._folder.mark_damaged(day, error)


def count(
    folder: Folder, shard: Shard, wanted: TaskFilter, out_of_time: Callable[[], bool]
) -> HistoryCounts:
    """Count the tasks of `shard` that `wanted` selects, by day and reason.

    Raises `sqlite3.Error` or OSError.
    """
    days: dict[str, dict[str, int]] = {}
    for day, extent in folder.matching(wanted):
        file = folder.file(day)
        if file is None:
            continue
        narrow = narrowed(wanted, day, extent)
        times = (
            narrow.accepted_after,
            narrow.accepted_before,
            narrow.ended_after,
            narrow.ended_before,
        )
        found = reasons(file, shard, narrow, all(each is None for each in times))
        if found:
            days[day] = found
        if out_of_time():
            return HistoryCounts(days, False)
    return HistoryCounts(days)


def _above(at: float) -> Cursor:
    """Return a position that is newer than all tasks of this time of acceptance."""
    return Cursor(nextafter(at, inf), "0" * 32)
