"""The broker's storage in a SQLite file: collects changes in batches, which one thread writes.

While one batch is being written, the next is collected. So all changes in that time share one
transaction and one `fsync`, however many they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtprov.broker.storage.database import MAX_QUEUE_ID, Batch, Database, row_id, row_of
from rtprov.broker.storage.database_file import FILE
from rtprov.broker.storage.interface import Record, Recovered, StoredExchange, ignore_trouble
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")

RETRY_S = 1.0
CONGESTED_BYTES = 32 * 1024 * 1024
TIDY_EVERY_S = 10.0


class SqliteStorage:
    """Implements `rtprov.broker.storage.interface.Storage` with a SQLite file in `directory`.

    `run` calls a function in the writer thread, one call at a time and in order. Its Deferred fires
    with the result, or fails with the error. `open_database` opens the database; tests replace it.

    If the file cannot be written, for example because the disk is full, the batch is tried again
    every second. Nothing is confirmed and nothing is lost in that time.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        directory: Path,
        run: Callable[..., Deferred[Any]],
        clock: IReactorTime,
        open_database: Callable[[Path], Database] = Database.open,
    ) -> None:
        self.on_trouble: Callable[[str | None], None] = ignore_trouble
        self._database = open_database(directory)
        self._directory = directory
        self._run = run
        self._clock = clock
        self._ids = dict(self._database.queue_ids())
        self._last_id = max(self._ids.values(), default=0)
        self._batch = Batch()
        self._waiters: list[Deferred[None]] = []
        self._writing: Batch | None = None
        self._written: list[Deferred[None]] = []
        self.trouble: str | None = None
        """Why the file cannot be written now, None if it can."""
        self.commits = 0
        """How many transactions were written."""
        self._tidied_at = clock.seconds()
        self._tidying: Deferred[None] | None = None
        self._closed = False
        # Pauses before a read is tried again; used as an ordered set.
        self._pauses: dict[Deferred[None], None] = {}

    @property
    def congested(self) -> bool:
        return (
            self._batch.size + (self._writing.size if self._writing is not None else 0)
            > CONGESTED_BYTES
        )

    @property
    def file_bytes(self) -> int:
        """The size of the database and its write-ahead log."""
        files = (self._directory / FILE, self._directory / f"{FILE}-wal")
        return sum(file.stat().st_size for file in files if file.exists())

    def recover(self) -> Recovered:
        """Return the durable exchanges and queues.

        Blocks. Called before the broker serves clients.
        """
        return self._database.recover()

    # Changes, recorded by the engine.

    def exchange_declared(self, exchange: StoredExchange) -> None:
        self._record(
            "INSERT INTO exchange VALUES (?, ?, ?, ?)",
            exchange.name,
            exchange.kind,
            exchange.auto_delete,
            exchange.internal,
        )

    def exchange_deleted(self, name: str) -> None:
        self._record("DELETE FROM exchange WHERE name = ?", name)
        self._record("DELETE FROM binding WHERE exchange = ?", name)

    def queue_declared(self, name: str, arguments: Mapping[str, Any], auto_delete: bool) -> None:
        if self._last_id + 1 >= MAX_QUEUE_ID:
            raise AmqpError(506, "RESOURCE_ERROR - the broker's file has no queue id left")
        self._last_id += 1
        self._ids[name] = self._last_id
        text = msgspec.json.encode(arguments).decode()
        self._record(
            "INSERT INTO queue VALUES (?, ?, ?, ?, -1)", self._last_id, name, text, auto_delete
        )

    def queue_deleted(self, name: str) -> None:
        queue_id = self._ids.pop(name)
        self._record("DELETE FROM queue WHERE id = ?", queue_id)
        self._record("DELETE FROM binding WHERE queue = ?", queue_id)
        self._batch.ranges.append((row_id(queue_id, 0), row_id(queue_id + 1, 0) - 1))

    def bound(self, queue: str, exchange: str, routing_key: str) -> None:
        self._record(
            "INSERT OR IGNORE INTO binding VALUES (?, ?, ?)",
            self._ids[queue],
            exchange,
            routing_key,
        )

    def unbound(self, queue: str, exchange: str, routing_key: str) -> None:
        if queue in self._ids:
            self._record(
                "DELETE FROM binding WHERE queue = ? AND exchange = ? AND routing_key = ?",
                self._ids[queue],
                exchange,
                routing_key,
            )

    def _record(self, statement: str, *values: object) -> None:
        self._batch.statements.append((statement, values))

    def added(self, queue: str, record: Record) -> None:
        row = row_of(self._ids[queue], record)
        self._batch.added[row[0]] = row
        self._batch.size += record.size

    def removed(self, queue: str, position: int) -> None:
        row = row_id(self._ids[queue], position)
        if self._batch.added.pop(row, None) is None:
            self._batch.removed.append(row)

    def purged(self, queue: str, first: int, last: int) -> None:
        queue_id = self._ids[queue]
        self._batch.ranges.append((row_id(queue_id, first), row_id(queue_id, last)))

    def handed_out(self, queue: str, position: int) -> None:
        self._batch.handed_out[self._ids[queue]] = position

    def handed_out_again(self, queue: str, position: int, deliveries: int) -> None:
        self._batch.handed_out_again[row_id(self._ids[queue], position)] = deliveries

    # Reading. It runs in the writer thread too, after all changes recorded before.

    def load(self, queue: str, after: int, upto: int) -> Deferred[Sequence[Record]]:
        return self._after_commit(self._read, self._database.load, self._ids[queue], after, upto)

    def position_at(self, stream: str, time: float) -> Deferred[int | None]:
        return self._after_commit(self._read, self._database.position_at, self._ids[stream], time)

    def trim(self, stream: str, before: float) -> Deferred[int | None]:
        return self._after_commit(self._run, self._database.trim, self._ids[stream], before)

    def _after_commit(self, run: Callable[..., Awaitable[T]], *arguments: Any) -> Deferred[T]:
        # The engine checks `called` of this Deferred. If it comes from a coroutine, `called` is
        # True only once the result is there. A chained Deferred sets it earlier.
        return Deferred.fromCoroutine(self._run_after_commit(run, *arguments))

    async def _run_after_commit(self, run: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        await self.commit()
        if self._closed:
            await Deferred()
        return await run(*arguments)

    async def _read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Read, and try again every second until it succeeds.

        Only the queue whose page is read waits.
        """
        logged = False
        while True:
            try:
                result: T = await self._run(function, *arguments)
            except Exception as error:  # also a row that cannot be decoded
                if not logged:
                    self._log.critical(
                        "{folder}: cannot be read: {error}; trying again every second",
                        folder=self._directory,
                        error=error,
                    )
                    logged = True
                await self._pause()
            else:
                return result

    async def _pause(self) -> None:
        """Wait until a read is to be tried again.

        If the storage is closed before or during the pause, wait for ever.
        """
        if self._closed:
            await Deferred()
        pause: Deferred[None] = deferLater(self._clock, RETRY_S)
        self._pauses[pause] = None
        try:
            await pause
        except CancelledError:
            await Deferred()
        finally:
            self._pauses.pop(pause, None)

    # Writing.

    def commit(self) -> Deferred[None]:
        if self._closed:
            # Nothing can be written any more, so code that waits for this commit must not run.
            return Deferred()
        if not self._batch.empty:
            waiter: Deferred[None] = Deferred()
            self._waiters.append(waiter)
            if self._writing is None:
                self._write_next()
            return waiter
        if self._writing is None:
            return succeed(None)
        waiter = Deferred()
        self._written.append(waiter)
        return waiter

    def _write_next(self) -> None:
        self._writing, self._batch = self._batch, Batch()
        self._written, self._waiters = self._waiters, []
        writing = Deferred.fromCoroutine(self._write(self._writing))
        writing.addErrback(
            lambda reason: self._log.failure(
                "{folder}: the writer of the broker's state has stopped; nothing is confirmed until"
                " the broker is restarted",
                reason,
                folder=self._directory,
            )
        )

    async def _write(self, batch: Batch) -> None:
        while True:
            try:
                await self._run(self._database.write, batch)
            # Any error: the commits that wait for this batch must not wait for ever.
            except Exception as error:
                if not isinstance(error, sqlite3.Error) and self.trouble is None:
                    self._log.failure(
                        "{folder}: unexpected error while writing; trying again every second",
                        folder=self._directory,
                    )
                self._report(str(error) or type(error).__name__)
                await deferLater(self._clock, RETRY_S)
            else:
                break
        self.commits += 1
        self._report(None)
        self._schedule_tidying()
        waiters, self._written, self._writing = self._written, [], None
        # Their changes may have cancelled each other: a message was added, and has expired.
        if self._batch.empty:
            waiters += self._waiters
            self._waiters = []
        elif self._waiters:
            self._write_next()
        for waiter in waiters:
            waiter.callback(None)

    def _report(self, trouble: str | None) -> None:
        """Log and report the start of a write problem, and its end, once each."""
        if (trouble is None) == (self.trouble is None):
            return
        self.trouble = trouble
        if trouble is None:
            self._log.info("{folder}: can be written again", folder=self._directory)
        else:
            self._log.critical(
                "{folder}: cannot be written: {error}; publishers wait",
                folder=self._directory,
                error=trouble,
            )
        self.on_trouble(trouble)

    # Freeing space in the file, in small steps, so that other work can run in between.

    def _schedule_tidying(self) -> None:
        now = self._clock.seconds()
        if self._tidying is None and not self._closed and now - self._tidied_at >= TIDY_EVERY_S:
            self._tidied_at = now
            self._tidying = Deferred.fromCoroutine(self._tidy())
            self._tidying.addErrback(
                lambda reason: self._log.failure(
                    "{folder}: could not return free space to the file system; trying again later",
                    reason,
                    folder=self._directory,
                )
            )

    async def _tidy(self) -> None:
        try:
            while not self._closed and await self._run(self._database.give_back_space):
                pass
        finally:
            self._tidying = None

    def probe(self) -> Deferred[None]:
        """Check that the file can be written, with a write that changes nothing.

        The Deferred fires once the write is on disk. It fails with `sqlite3.Error` or OSError if
        the file cannot be written.
        """
        if self._closed or self.trouble is not None:
            return fail(OSError(self.trouble or "closed"))
        return self._run(self._database.touch)

    def close(self) -> Deferred[None]:
        written = self.commit()
        self._closed = True
        for pause in list(self._pauses):
            pause.cancel()
        return written.addCallback(lambda _: self._run(self._database.close))
