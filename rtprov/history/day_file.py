"""One day of the history: a SQLite file with the tasks that ended on that UTC day.

All calls block. `rtprov.history.folder` makes them, in its thread.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any

from attrs import define

from rtprov.history.kinds import Kind, in_shard
from rtprov.history.rows import INSERT, SCHEMA, VERSION, row_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rtprov.messaging.topology import Shard
    from rtprov.reports import FoundTask

APPLICATION_ID = 0x72747068  # "rtph", in the header of the file
MAX_ADDED = 1000  # rows in one transaction


@define(eq=False)
class Extent:
    """The first and the last time of acceptance in a file; None if the file has no task."""

    first: float | None = None
    last: float | None = None


class DayFile:
    """An open file. Methods raise `sqlite3.Error`.

    Use `open` for the days that are written, and `read` for earlier ones.
    """

    def __init__(self, connection: sqlite3.Connection, writable: bool) -> None:
        self.connection = connection
        self.writable = writable
        connection.create_function("in_shard", 2, in_shard, deterministic=True)

    @classmethod
    def open(cls, path: Path) -> DayFile:
        """Open the file for reading and writing. Create it, readable by its owner only, if it is
        missing. Raises OSError or `sqlite3.Error`.
        """
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(
            path, timeout=1.0, isolation_level=None, check_same_thread=False
        )
        try:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables:
                _check(connection)  # before anything is changed
            connection.execute("PRAGMA journal_mode = WAL")
            # After a crash of the machine, the last rows may be missing: the journal has them.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA journal_size_limit = 16777216")
            if not tables:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                    f" PRAGMA user_version = {VERSION}; COMMIT"
                )
        except BaseException:
            connection.close()
            raise
        return cls(connection, True)

    @classmethod
    def read(cls, path: Path) -> DayFile:
        """Open the file for reading only. Raises `sqlite3.Error`."""
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=1.0,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _check(connection)
        except BaseException:
            connection.close()
            raise
        return cls(connection, False)

    def close(self) -> None:
        """Close the file. A file that was written gets no further log files beside it."""
        try:
            if self.writable:
                self.connection.execute("PRAGMA journal_mode = DELETE")
        finally:
            self.connection.close()

    def extent(self) -> Extent:
        """Return the times of acceptance of the first and the last task."""
        first, last = self.connection.execute("SELECT min(at), max(at) FROM task").fetchone()
        return Extent(first, last)

    def kinds(self) -> list[Kind]:
        """Return all kinds of tasks in the file."""
        return [
            Kind(*row)
            for row in self.connection.execute(
                "SELECT number, shard, shards, state, reason, caller, tasks FROM kind"
            )
        ]

    def add(self, tasks: Sequence[tuple[Shard, FoundTask]]) -> None:
        """Add tasks in one transaction. Those that are in the file are left out."""
        query = self.connection.execute
        query("BEGIN IMMEDIATE")
        try:
            _Adding(self.connection).add(tasks)
            query("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                query("ROLLBACK")
            raise


class _Adding:
    """One transaction that adds tasks."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._query = connection.execute
        self._kinds: dict[tuple[Any, ...], int] = {}
        self._processes: dict[str, int] = {}

    def add(self, tasks: Sequence[tuple[Shard, FoundTask]]) -> None:
        added: dict[int, int] = {}
        for shard, task in tasks:
            kind = self._kind(shard, task)
            row = row_of(task, kind, self._process(task.details.accepted_by))
            added[kind] = added.get(kind, 0) + self._query(INSERT, row).rowcount
        for kind, count in added.items():
            self._query("UPDATE kind SET tasks = tasks + ? WHERE number = ?", (count, kind))

    def _kind(self, shard: Shard, task: FoundTask) -> int:
        details = task.details
        key = (shard.index, shard.count, details.state.value, details.reason, details.caller)
        number = self._kinds.get(key)
        if number is None:
            number = self._kinds[key] = self._number(
                "SELECT number FROM kind WHERE shard = ? AND shards = ? AND state = ?"
                " AND reason IS ? AND caller IS ?",
                "INSERT INTO kind VALUES (NULL, ?, ?, ?, ?, ?, 0)",
                key,
            )
        return number

    def _process(self, name: str | None) -> int | None:
        if name is None:
            return None
        number = self._processes.get(name)
        if number is None:
            number = self._processes[name] = self._number(
                "SELECT number FROM process WHERE name = ?",
                "INSERT INTO process VALUES (NULL, ?)",
                (name,),
            )
        return number

    def _number(self, find: str, insert: str, key: tuple[Any, ...]) -> int:
        known = self._query(find, key).fetchone()
        if known is not None:
            return int(known[0])
        return int(self._query(insert, key).lastrowid or 0)


def _check(connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (application, version) != (APPLICATION_ID, VERSION):
        raise sqlite3.DatabaseError(
            "not a history file of this version of rtprov"
            f" (application {application:#x}, format {version}, not {VERSION})"
        )
