"""Read and write the embedded broker's SQLite file, with blocking calls.

`rtprov.broker.storage.sqlite` calls this code in the writer thread.
`rtprov.broker.storage.database_file` opens the file.

The row id of a message is one integer made of the queue's id and the message's position. The
messages of a queue are therefore stored together and in order, and need no index.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
import msgspec

from rtprov.amqp.codec import decode_header
from rtprov.broker.messages import Message
from rtprov.broker.storage.database_file import VERSION, open_file
from rtprov.broker.storage.interface import (
    PAGE_BYTES,
    PAGE_MESSAGES,
    Record,
    Recovered,
    StoredExchange,
    StoredQueue,
)

POSITION_BITS = 44
MAX_QUEUE_ID = 1 << (62 - POSITION_BITS)
TRIM_ROWS = 20_000  # messages deleted at once at most, because other work waits meanwhile
SPARE_PAGES = 4096  # free pages that are kept in the file for new messages
TIDY_PAGES = 1024  # free pages returned to the file system at once at most
STATEMENT_ROWS = 100  # messages that one statement adds or removes at most
STATEMENT_BYTES = 256 * 1024  # bytes that one statement adds; a longer message is added alone

Row = tuple[int, float, "float | None", int, str, str, bytes, bytes]


def row_id(queue_id: int, position: int) -> int:
    """Return the row id of a queue's message. Position -1 is before the first message."""
    return (queue_id << POSITION_BITS) + position


def row_of(queue_id: int, record: Record) -> Row:
    """Return the row of a message."""
    message = record.message
    return (
        row_id(queue_id, record.position),
        record.time,
        record.expires_at,
        record.deliveries,
        message.exchange,
        message.routing_key,
        message.header,
        message.body,
    )


@attrs.define(eq=False)
class Batch:
    """The changes of one transaction.

    They are made in this order: `statements`, messages `added`, `removed` and delivered
    (`handed_out_again`, `handed_out`), and at last the deletion of `ranges`. `size` is about the
    number of bytes added.
    """

    statements: list[tuple[str, tuple[Any, ...]]] = attrs.Factory(list)
    added: dict[int, Row] = attrs.Factory(dict)
    removed: list[int] = attrs.Factory(list)
    handed_out_again: dict[int, int] = attrs.Factory(dict)
    handed_out: dict[int, int] = attrs.Factory(dict)
    ranges: list[tuple[int, int]] = attrs.Factory(list)
    size: int = 0

    @property
    def empty(self) -> bool:
        return not (
            self.statements
            or self.added
            or self.removed
            or self.handed_out_again
            or self.handed_out
            or self.ranges
        )


class Database:
    """An open database. Use `Database.open`.

    Methods raise `sqlite3.Error`. A failed transaction is rolled back.
    """

    def __init__(self, connection: sqlite3.Connection, lock: int) -> None:
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, directory: Path) -> Database:
        """Open the database in `directory`. Create both if missing.

        Raises `ConfigurationError` or `TemporarilyUnavailable`, as `open_file` does.
        """
        return cls(*open_file(directory))

    def close(self) -> None:
        """Close the file and release its lock."""
        self._connection.close()
        os.close(self._lock)

    def touch(self) -> None:
        """Write the format version again, to check that the file is writable."""
        self._connection.execute(f"PRAGMA user_version = {VERSION}")

    # Reading.

    def recover(self) -> Recovered:
        """Return the exchanges and queues, without messages. Changes nothing."""
        query = self._connection.execute
        queues = []
        for queue_id, name, text, auto_delete, handed_out in query(
            "SELECT * FROM queue ORDER BY id"
        ).fetchall():
            bounds = row_id(queue_id, 0), row_id(queue_id + 1, 0) - 1
            count, first, last = query(
                "SELECT count(*), min(id), max(id) FROM message WHERE id BETWEEN ? AND ?", bounds
            ).fetchone()
            bindings = query(
                "SELECT exchange, routing_key FROM binding WHERE queue = ?", (queue_id,)
            ).fetchall()
            start = handed_out + 1 if first is None else first - bounds[0]
            end = handed_out if last is None else max(last - bounds[0], 0)
            arguments = msgspec.json.decode(text)
            queues.append(
                StoredQueue(
                    name,
                    arguments,
                    bool(auto_delete),
                    tuple(bindings),
                    count,
                    start,
                    end,
                    handed_out,
                )
            )
        exchanges = [
            StoredExchange(name, kind, bool(gone), bool(internal))
            for name, kind, gone, internal in query("SELECT * FROM exchange")
        ]
        return Recovered(exchanges, queues)

    def queue_ids(self) -> Mapping[str, int]:
        """Return the ids of the durable queues, by name."""
        return dict(self._connection.execute("SELECT name, id FROM queue"))

    def load(self, queue_id: int, after: int, upto: int) -> Sequence[Record]:
        """See `rtprov.broker.storage.interface.Storage.load`."""
        bounds = row_id(queue_id, after), row_id(queue_id, upto)
        page: list[Record] = []
        size = 0
        with closing(
            self._connection.execute(
                "SELECT * FROM message WHERE id > ? AND id <= ? ORDER BY id", bounds
            )
        ) as cursor:
            for row in cursor:
                record = _record(row)
                page.append(record)
                size += record.size
                if len(page) >= PAGE_MESSAGES or size >= PAGE_BYTES:
                    break
        return page

    def position_at(self, queue_id: int, time: float) -> int | None:
        """See `rtprov.broker.storage.interface.Storage.position_at`."""
        found = self._connection.execute(
            "SELECT id FROM message WHERE id >= ? AND id < ? AND time >= ? ORDER BY id LIMIT 1",
            (row_id(queue_id, 0), row_id(queue_id + 1, 0), time),
        ).fetchone()
        return None if found is None else _position(found[0])

    # Writing.

    def write(self, batch: Batch) -> None:
        """Write a batch in one transaction."""
        steps = list(_statements(batch))
        query = self._connection.execute
        # One statement is a transaction by itself (https://www.sqlite.org/lang_transaction.html).
        if len(steps) == 1:
            query(*steps[0])
            return
        query("BEGIN IMMEDIATE")
        try:
            for statement, values in steps:
                query(statement, values)
            query("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                query("ROLLBACK")
            raise

    def trim(self, queue_id: int, before: float) -> int | None:
        """Delete at most `TRIM_ROWS` old messages.

        See `rtprov.broker.storage.interface.Storage.trim`.
        """
        query = self._connection.execute
        low, high = row_id(queue_id, 0), row_id(queue_id + 1, 0) - 1
        first, last = query(
            "SELECT min(id), max(id) FROM message WHERE id BETWEEN ? AND ?", (low, high)
        ).fetchone()
        if first is None:
            return None
        end = min(last, first + TRIM_ROWS)
        kept = query(
            "SELECT id FROM message WHERE id BETWEEN ? AND ? AND time >= ? ORDER BY id LIMIT 1",
            (first, end, before),
        ).fetchone()
        cut = end if kept is None else kept[0]
        query("DELETE FROM message WHERE id >= ? AND id < ?", (first, cut))
        return _position(cut)

    def give_back_space(self) -> bool:
        """Return some free pages of the file to the file system.

        Return True if there are more free pages to return.
        """
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if free > SPARE_PAGES:
            # The pragma needs one step for each page; `execute` would run only the first.
            self._connection.executescript(
                f"PRAGMA incremental_vacuum({min(TIDY_PAGES, free - SPARE_PAGES)})"
            )
        return bool(free > SPARE_PAGES + TIDY_PAGES)


def _statements(batch: Batch) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield the statements of a batch, with their values.

    Each statement releases Python's global interpreter lock, and may wait long to get it back. So
    one statement adds or removes many messages.
    """
    yield from batch.statements
    for rows in _in_lists(batch.added.values()):
        yield (
            _many("INSERT INTO message VALUES %s", "(?, ?, ?, ?, ?, ?, ?, ?)", len(rows)),
            list(chain.from_iterable(rows)),
        )
    for start in range(0, len(batch.removed), STATEMENT_ROWS):
        ids = batch.removed[start : start + STATEMENT_ROWS]
        yield _many("DELETE FROM message WHERE id IN (%s)", "?", len(ids)), ids
    for identity, count in batch.handed_out_again.items():
        yield "UPDATE message SET deliveries = ? WHERE id = ?", (count, identity)
    for identity, upto in batch.handed_out.items():
        yield "UPDATE queue SET handed_out = ? WHERE id = ?", (upto, identity)
    for bounds in batch.ranges:
        yield "DELETE FROM message WHERE id BETWEEN ? AND ?", bounds


def _in_lists(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in lists, each for one statement."""
    piece: list[Row] = []
    size = 0
    for row in rows:
        row_size = len(row[-2]) + len(row[-1])
        if piece and (len(piece) == STATEMENT_ROWS or size + row_size > STATEMENT_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += row_size
    if piece:
        yield piece


@cache
def _many(statement: str, item: str, count: int) -> str:
    return statement % ", ".join([item] * count)


def _position(row: int) -> int:
    return row & ((1 << POSITION_BITS) - 1)


def _record(row: Row) -> Record:
    identity, time, expires_at, deliveries, exchange, routing_key, header, body = row
    message = Message(exchange, routing_key, decode_header(header).properties, header, body)
    return Record(_position(identity), time, message, expires_at, deliveries)
