"""The embedded broker's disk: the real storage code on an in-memory database, whose writer is slow
and stops when its broker dies.

Committed data survives the broker. Data that was waiting for the writer is lost. A batch that was
being written when the broker died may or may not be there, as on a real disk.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rtprov.broker.storage.database import Batch, Database, row_id
from rtprov.broker.storage.database_file import SCHEMA
from rtprov.broker.storage.sqlite import SqliteStorage
from tests.simulation.clock import Role, WorldClock


class Disk(Database):
    """The database that survives the broker. `on_written` is called with each batch right after it
    is committed. While `full` is true, writing fails. `slow_s` is the longest additional time of a
    call.

    Reading takes up to `reading_s` seconds longer.
    """

    def __init__(self, on_written: Callable[[Batch], None]) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.executescript(SCHEMA)
        super().__init__(connection, -1)
        self._on_written = on_written
        self.full = False
        self.slow_s = 0.0
        self.reading_s = 0.0

    def write(self, batch: Batch) -> None:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        super().write(batch)
        self._on_written(batch)

    def messages(self, queue_id: int) -> int:
        """Return how many messages are stored for a queue."""
        bounds = row_id(queue_id, 0), row_id(queue_id + 1, 0) - 1
        (count,) = self._connection.execute(
            "SELECT count(*) FROM message WHERE id BETWEEN ? AND ?", bounds
        ).fetchone()
        return int(count)

    def close(self) -> None:
        """Do nothing: the next broker process uses the same database."""

    def save(self) -> sqlite3.Connection:
        """Return a copy of the present contents, like a snapshot of a file system."""
        copy = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.backup(copy)
        return copy

    def restore(self, copy: sqlite3.Connection) -> None:
        """Replace the contents by a copy. No broker may be running."""
        copy.backup(self._connection)

    def destroy(self) -> None:
        """Close the database at the end of the run."""
        self._connection.close()


class SimulatedStorage(SqliteStorage):
    """A broker's access to the disk, for as long as `role` lives."""

    def __init__(self, disk: Disk, *, role: Role, world: WorldClock, rng: random.Random) -> None:
        self._disk = disk
        self._role = role
        self._world = world
        self._disk_rng = rng
        self._free_at = 0.0
        self._under_way: list[tuple[Callable[..., Any], tuple[Any, ...], Deferred[Any]]] = []
        super().__init__(
            directory=Path("disk"),
            run=self._run_later,
            clock=role.clock,
            open_database=lambda _: disk,
        )

    def _run_later(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Stand in for the writer thread: run one call at a time, each a little later."""
        result: Deferred[Any] = Deferred()
        rng = self._disk_rng
        takes_s = (
            0.0005
            + rng.random() * 0.02
            + (rng.random() * 0.5 if rng.random() < 0.05 else 0.0)
            + self._disk.slow_s * rng.random()
        )
        if function == self._disk.load:
            takes_s += rng.random() * self._disk.reading_s
        self._free_at = max(self._free_at, self._world.now) + takes_s
        self._under_way.append((function, arguments, result))
        self._world.call_later(self._role, self._free_at - self._world.now, self._carry_out)
        return result

    def _carry_out(self) -> None:
        function, arguments, result = self._under_way.pop(0)
        try:
            value = function(*arguments)
        except Exception:
            # A real answer comes from another thread, so it is an event of its own here.
            self._world.call_later(self._role, 0, result.errback, Failure())
        else:
            self._world.call_later(self._role, 0, result.callback, value)

    def die(self) -> None:
        """Stop with the broker. The batch that is being written is sometimes completed."""
        if self._under_way and self._disk_rng.random() < 0.5 and not self._disk.full:
            function, arguments, _ = self._under_way[0]
            if function == self._disk.write:
                function(*arguments)
