"""The folder of a history: a file for each UTC day, and one that says what they cover.

All calls block. After `Folder` is created, one thread makes all of them.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
from collections import OrderedDict
from datetime import datetime, timezone
from itertools import groupby
from math import inf
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

from rtprov.errors import TemporarilyUnavailable, refusal
from rtprov.history.coverage_file import CoverageFile
from rtprov.history.day_file import MAX_ADDED, DayFile, Extent
from rtprov.intervals import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rtprov.messaging.topology import Shard
    from rtprov.reports import FoundTask, TaskFilter

DAY_S = 86400.0
LOCK = "lock"
MAX_OPEN = 32  # files of earlier days that stay open for searches
MAX_WRITTEN = 2  # files that stay open for writing: today's, and yesterday's
_NAME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})\.sqlite3")


def day_of(at: float) -> str:
    """Return the UTC day of a time (seconds since the epoch), such as 2026-11-29."""
    return datetime.fromtimestamp(at, timezone.utc).date().isoformat()


def times_of(day: str) -> Interval:
    """Return when a UTC day begins and ends, in seconds since the epoch."""
    begin = datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp()
    return begin, begin + DAY_S


class Folder:
    """The open folder of a history; `coverage` is what its file said when it was opened.

    Methods raise `sqlite3.Error` or OSError.
    """

    _log = Logger()

    def __init__(self, directory: Path) -> None:
        """Open the folder, and create it if it is missing.

        Raises `ConfigurationError`, or `TemporarilyUnavailable` if another worker uses it.
        """
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise refusal(
                f"{directory}: cannot keep the history here: {error.strerror}", error
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._coverage = CoverageFile(directory)
            self.coverage = self._coverage.load()
            self._days = {
                match[1]
                for match in (_NAME.fullmatch(each.name) for each in directory.iterdir())
                if match
            }
        except BlockingIOError:
            os.close(self._lock)
            raise TemporarilyUnavailable(
                f"{directory}: another worker keeps its history here; give each worker its own"
                " --history"
            ) from None
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise refusal(f"{directory}: cannot be used as history: {error}", error) from None
        self._written: OrderedDict[str, DayFile] = OrderedDict()
        self._read: OrderedDict[str, DayFile] = OrderedDict()
        self._extents: dict[str, Extent] = {}
        self.damaged: set[str] = set()
        """The days whose files cannot be used."""

    # Writing.

    def write(
        self, tasks: Sequence[tuple[Shard, FoundTask]], covered: Sequence[tuple[str, Interval]]
    ) -> None:
        """Add tasks that have ended. Then store the latest intervals of shards, `covered`."""
        ordered = sorted(tasks, key=_day)
        for day, of_day in groupby(ordered, key=_day):
            rows = list(of_day)
            file = self._writing(day)
            for start in range(0, len(rows), MAX_ADDED):
                file.add(rows[start : start + MAX_ADDED])
            self._extents.pop(day, None)
        self._coverage.save(covered)

    def _writing(self, day: str) -> DayFile:
        file = self._written.get(day)
        if file is None:
            self._close(self._read, day)
            try:
                file = self._written[day] = DayFile.open(self._path(day))
            except sqlite3.Error as error:
                raise type(error)(f"{self._path(day).name}: {error}") from None
            self._days.add(day)
            self.damaged.discard(day)
        self._written.move_to_end(day)
        while len(self._written) > MAX_WRITTEN:
            self._close(self._written, next(iter(self._written)))
        return file

    def remove_before(self, at: float) -> int:
        """Remove the files of the days that ended before this time; return their number.

        Files that could not be read are tried again after this.
        """
        for day in self.damaged:
            self._extents.pop(day, None)
        self.damaged.clear()
        old = [day for day in self._days if times_of(day)[1] <= at]
        for day in old:
            self._close(self._written, day)
            self._close(self._read, day)
            for end in ("", "-wal", "-shm", "-journal"):
                path = self._path(day)
                path.with_name(path.name + end).unlink(missing_ok=True)
            self._days.discard(day)
            self._extents.pop(day, None)
        self._coverage.forget(at)
        return len(old)

    def close(self) -> None:
        """Close all files."""
        for files in (self._written, self._read):
            for day in list(files):
                self._close(files, day)
        self._coverage.close()
        os.close(self._lock)

    def _close(self, files: OrderedDict[str, DayFile], day: str) -> None:
        file = files.pop(day, None)
        if file is not None:
            try:
                file.close()
            except sqlite3.Error as error:
                # Its log is applied when it is opened again.
                self._log.warn(
                    "{file}: could not be closed in order: {error}",
                    file=self._path(day),
                    error=error,
                )

    def _path(self, day: str) -> Path:
        return self._directory / f"{day}.sqlite3"

    # Reading.

    def matching(self, wanted: TaskFilter) -> list[tuple[str, Extent]]:
        """Return the days whose files may have tasks that `wanted` selects, the one with the latest
        acceptance first. They have at least one task.
        """
        first = -inf if wanted.ended_after is None else wanted.ended_after
        last = inf if wanted.ended_before is None else wanted.ended_before
        after = -inf if wanted.accepted_after is None else wanted.accepted_after
        before = inf if wanted.accepted_before is None else wanted.accepted_before
        found = []
        for day in self._days:
            begin, end = times_of(day)
            # A task ends after its acceptance, but for the clocks of two processes.
            if end <= max(first, after - DAY_S) or begin >= last:
                continue
            extent = self._extent(day)
            if extent.first is None or extent.last is None:
                continue
            if extent.first < before and extent.last >= after:
                found.append((day, extent))
        return sorted(found, key=lambda each: (each[1].last, each[0]), reverse=True)

    def _extent(self, day: str) -> Extent:
        extent = self._extents.get(day)
        if extent is None:
            file = self.file(day)
            extent = self._extents[day] = Extent() if file is None else file.extent()
        return extent

    def file(self, day: str) -> DayFile | None:
        """Return the open file of a day; None if it cannot be used, which is logged once."""
        file = self._written.get(day) or self._read.get(day)
        if file is None and day not in self.damaged:
            try:
                file = self._read[day] = DayFile.read(self._path(day))
            except sqlite3.Error as error:
                self.mark_damaged(day, error)
                return None
        if day in self._read:
            self._read.move_to_end(day)
            while len(self._read) > MAX_OPEN:
                self._close(self._read, next(iter(self._read)))
        return file

    def mark_damaged(self, day: str, error: sqlite3.Error) -> None:
        """A file cannot be read: leave it out from now on."""
        self._close(self._read, day)
        self._extents[day] = Extent()
        self.damaged.add(day)
        self._log.error(
            "{file}: this day of the history cannot be read, and is left out of searches: {error}",
            file=self._path(day),
            error=error,
        )


def narrowed(wanted: TaskFilter, day: str, extent: Extent) -> TaskFilter:
    """Return the filter without the times that all tasks of a day fulfil."""
    begin, end = times_of(day)
    if wanted.ended_after is not None and wanted.ended_after <= begin:
        wanted = attrs.evolve(wanted, ended_after=None)
    if wanted.ended_before is not None and wanted.ended_before >= end:
        wanted = attrs.evolve(wanted, ended_before=None)
    if wanted.accepted_after is not None and wanted.accepted_after <= (extent.first or -inf):
        wanted = attrs.evolve(wanted, accepted_after=None)
    if wanted.accepted_before is not None and wanted.accepted_before > (extent.last or inf):
        wanted = attrs.evolve(wanted, accepted_before=None)
    return wanted


def _day(task: tuple[Shard, FoundTask]) -> str:
    return day_of(task[1].details.finished_at or 0.0)
