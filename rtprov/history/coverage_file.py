"""From which times the history of a shard has all ends: intervals, in a small SQLite file.

All calls block.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rtprov.intervals import Interval

FILE = "coverage.sqlite3"
APPLICATION_ID = 0x72747063  # "rtpc", in the header of the file
VERSION = 1


class CoverageFile:
    """The open file. Methods raise `sqlite3.Error`."""

    def __init__(self, directory: Path) -> None:
        """Open the file, and create it if it is missing. Raises OSError or `sqlite3.Error`."""
        path = directory / FILE
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = connection = sqlite3.connect(
            path, timeout=1.0, isolation_level=None, check_same_thread=False
        )
        try:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if tables and (application, version) != (APPLICATION_ID, VERSION):
                raise sqlite3.DatabaseError(
                    f"{FILE} is of another program, or of another version of rtprov (format"
                    f" {version}, not {VERSION})"
                )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if not tables:
                connection.executescript(
                    "BEGIN IMMEDIATE; CREATE TABLE interval (shard TEXT NOT NULL,"
                    " since REAL NOT NULL, upto REAL NOT NULL, PRIMARY KEY (shard, since))"
                    f" WITHOUT ROWID; PRAGMA application_id = {APPLICATION_ID};"
                    f" PRAGMA user_version = {VERSION}; COMMIT"
                )
        except BaseException:
            connection.close()
            raise

    def load(self) -> dict[str, list[Interval]]:
        """Return the intervals of each shard, in order."""
        found: dict[str, list[Interval]] = {}
        for shard, since, upto in self._connection.execute("SELECT * FROM interval ORDER BY since"):
            found.setdefault(shard, []).append((since, upto))
        return found

    def save(self, intervals: Iterable[tuple[str, Interval]]) -> None:
        """Store intervals of shards. One with the same beginning is replaced."""
        query = self._connection.execute
        query("BEGIN IMMEDIATE")
        try:
            for shard, (since, upto) in intervals:
                query("INSERT OR REPLACE INTO interval VALUES (?, ?, ?)", (shard, since, upto))
            query("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                query("ROLLBACK")
            raise

    def forget(self, before: float) -> None:
        """Remove the intervals that ended before this time."""
        self._connection.execute("DELETE FROM interval WHERE upto < ?", (before,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
