"""What every storage does, and what the one on SQLite does beyond it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pamqp.commands import Basic
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import encode_header
from rtprov.broker import storage as storage_module
from rtprov.broker.database import Database
from rtprov.broker.messages import Message
from rtprov.broker.sqlite import CONGESTED_BYTES, RETRY_S, TIDY_EVERY_S, SqliteStorage
from rtprov.broker.storage import MemoryStorage, Record, Storage, StoredExchange

if TYPE_CHECKING:
    _Case = SynchronousTestCase
else:
    _Case = object


def message(body: bytes) -> Message:
    properties = Basic.Properties(delivery_mode=2, headers={"имя": "ключ"})
    return Message("exchange", "ключ", properties, encode_header(properties, len(body)), body)


def record(position: int, body: bytes = b"", *, time: float = 0.0, expires_at: float | None = None) -> Record:
    return Record(position, time, message(body or b"%d" % position), expires_at)


class StorageContract(_Case):
    """One queue, ``q``."""

    storage: Storage

    def make(self) -> Storage:
        raise NotImplementedError

    def setUp(self) -> None:
        self.storage = self.make()
        self.storage.queue_declared("q", {"x-queue-type": "quorum"}, False)

    def add(self, *positions: int) -> None:
        for position in positions:
            self.storage.added("q", record(position, time=float(position)))

    def load(self, after: int = -1, upto: int = 1_000_000) -> list[int]:
        return [each.position for each in self.successResultOf(self.storage.load("q", after, upto))]

    def test_messages_come_back_as_they_were(self) -> None:
        """A message is loaded with all that it was stored with."""
        stored = Record(7, 1.5, message("пароль".encode()), 99.5)
        self.storage.added("q", stored)
        (loaded,) = self.successResultOf(self.storage.load("q", 6, 7))
        self.assertEqual(loaded, stored)

    def test_load_a_range(self) -> None:
        """Only positions over `after` and up to `upto` are loaded, in order, whatever lies between them."""
        self.add(1, 2, 5, 6, 9)
        self.assertEqual(self.load(), [1, 2, 5, 6, 9])
        self.assertEqual(self.load(2, 6), [5, 6])
        self.assertEqual(self.load(9), [])

    def test_what_is_settled_is_gone(self) -> None:
        """Removed and purged messages are not loaded, whether they were committed before or not."""
        self.add(1, 2, 3, 4, 5)
        self.storage.removed("q", 1)
        self.successResultOf(self.storage.commit())
        self.storage.removed("q", 2)
        self.storage.purged("q", 4, 5)
        self.add(6)
        self.assertEqual(self.load(), [3, 6])

    def test_pages_are_short(self) -> None:
        """A page ends after 1,000 messages."""
        count = storage_module.PAGE_MESSAGES
        self.add(*range(1, count + 11))
        self.assertEqual(self.load(), list(range(1, count + 1)))
        self.assertEqual(self.load(count), list(range(count + 1, count + 11)))

    def test_pages_are_small(self) -> None:
        """A page ends with the message that brings it over 4 MiB; a larger message is a page of its own."""
        for position in range(1, 5):
            self.storage.added("q", record(position, bytes(storage_module.PAGE_BYTES // 2)))
        self.storage.added("q", record(5, bytes(storage_module.PAGE_BYTES + 1)))
        self.assertEqual([self.load(), self.load(2), self.load(4)], [[1, 2], [3, 4], [5]])

    def test_queues_know_nothing_of_one_another(self) -> None:
        """Equal positions in two queues are different messages; a deleted queue that is declared again is empty."""
        self.storage.queue_declared("other", {}, False)
        self.add(1, 2)
        self.storage.added("other", record(1, b"other"))
        self.storage.queue_deleted("q")
        self.storage.queue_declared("q", {}, False)
        self.assertEqual(self.load(), [])
        (loaded,) = self.successResultOf(self.storage.load("other", 0, 9))
        self.assertEqual(loaded.message.body, b"other")

    def test_position_at(self) -> None:
        """The first message of a time or later is found; None where all are older."""
        self.add(1, 2, 5)
        found = [self.successResultOf(self.storage.position_at("q", time)) for time in (0.0, 2.0, 2.5, 5.1)]
        self.assertEqual(found, [1, 2, 5, None])

    def test_trim(self) -> None:
        """Old messages go, the newest never; the answer is the first position left."""
        self.assertIsNone(self.successResultOf(self.storage.trim("q", 10.0)))
        self.add(1, 2, 3)
        self.assertEqual(self.successResultOf(self.storage.trim("q", 2.0)), 2)
        self.assertEqual(self.load(), [2, 3])
        self.assertEqual(self.successResultOf(self.storage.trim("q", 10.0)), 3)
        self.assertEqual(self.load(), [3])


class Memory(StorageContract, SynchronousTestCase):
    def make(self) -> Storage:
        return MemoryStorage()


class Writer:
    """Stands in for the writer thread: calls at once, or, `held`, one at a time when the test says so."""

    def __init__(self) -> None:
        self.held = False
        self.calls: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def run(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if not self.held:
            return maybeDeferred(function, *arguments)
        done: Deferred[Any] = Deferred()
        self.calls.append((done, lambda: function(*arguments)))
        return done

    def step(self) -> None:
        done, call = self.calls.pop(0)
        maybeDeferred(call).chainDeferred(done)


class SqliteCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.writer = Writer()
        self.directory = Path(self.mktemp())
        self.closed: list[SqliteStorage] = []

    def open(self) -> SqliteStorage:
        storage = SqliteStorage(directory=self.directory, run=self.writer.run, clock=self.clock)
        self.addCleanup(self.close, storage)
        return storage

    def close(self, storage: SqliteStorage) -> None:
        self.writer.held = False
        if storage not in self.closed:
            storage.close()

    def reopen(self, storage: SqliteStorage) -> SqliteStorage:
        """Close in good order, and open again."""
        self.successResultOf(storage.close())
        self.closed.append(storage)
        return self.open()


class Sqlite(StorageContract, SqliteCase):
    def setUp(self) -> None:
        SqliteCase.setUp(self)
        StorageContract.setUp(self)

    def make(self) -> Storage:
        return self.open()


class Recovery(SqliteCase):
    def test_exchanges_queues_and_bindings(self) -> None:
        """All that was declared is found again, with its flags; what was deleted is not."""
        storage = self.open()
        exchanges = [StoredExchange("first", "topic", True, False), StoredExchange("second", "direct", False, True)]
        for exchange in [*exchanges, StoredExchange("gone", "fanout", False, False)]:
            storage.exchange_declared(exchange)
        storage.queue_declared("q", {"x-queue-type": "quorum", "x-delivery-limit": 20}, True)
        storage.queue_declared("gone", {}, False)
        for exchange_name, key in (("first", "a"), ("first", "b"), ("first", "a"), ("gone", "c")):
            storage.bound("q", exchange_name, key)
        storage.unbound("q", "first", "b")
        storage.exchange_deleted("gone")
        storage.queue_deleted("gone")
        recovered = self.reopen(storage).recover()
        self.assertCountEqual(recovered.exchanges, exchanges)
        (queue,) = recovered.queues
        self.assertEqual((queue.name, queue.arguments, queue.auto_delete), ("q", {"x-queue-type": "quorum", "x-delivery-limit": 20}, True))
        self.assertEqual(queue.bindings, (("first", "a"),))

    def test_messages(self) -> None:
        """What was not settled is there, in order, with what was told of its deliveries, and how far it may have been handed out."""
        storage = self.open()
        storage.queue_declared("q", {}, False)
        for position in range(1, 7):
            storage.added("q", record(position))
        storage.removed("q", 1)
        storage.handed_out("q", 4)
        storage.redelivered("q", 3, 5)
        storage.returned("q", 4, 6)
        for _ in range(2):
            storage = self.reopen(storage)
            (queue,) = storage.recover().queues
            self.assertEqual((queue.count, queue.first, queue.last, queue.handed_out), (5, 2, 6, 4))
            loaded = self.successResultOf(storage.load("q", 1, 6))
            self.assertEqual([(each.position, each.deliveries) for each in loaded], [(2, 0), (3, 5), (4, 6), (5, 0), (6, 0)])
            self.assertEqual([each.position for each in loaded if each.waits], [4])

    def test_an_empty_queue_goes_on_behind_what_it_has_handed_out(self) -> None:
        """Positions are not used again, though no message is left to tell of them."""
        storage = self.open()
        storage.queue_declared("q", {}, False)
        storage.added("q", record(1))
        storage.handed_out("q", 1)
        storage.commit()
        storage.removed("q", 1)
        (queue,) = self.reopen(storage).recover().queues
        self.assertEqual((queue.count, queue.first, queue.last, queue.handed_out), (0, 2, 1, 1))

    def test_a_queue_declared_after_a_restart(self) -> None:
        """A new queue gets an id of its own."""
        storage = self.open()
        storage.queue_declared("old", {}, False)
        storage.added("old", record(1, b"old"))
        storage = self.reopen(storage)
        storage.queue_declared("new", {}, False)
        storage.added("new", record(1, b"new"))
        bodies = [self.successResultOf(storage.load(name, 0, 9))[0].message.body for name in ("old", "new")]
        self.assertEqual(bodies, [b"old", b"new"])


class GroupCommit(SqliteCase):
    def setUp(self) -> None:
        super().setUp()
        self.storage = self.open()
        self.storage.queue_declared("q", {}, False)
        self.successResultOf(self.storage.commit())
        self.writer.held = True

    def test_what_comes_during_a_write_shares_the_next(self) -> None:
        """While one transaction is being written, all further commits wait for one other."""
        self.storage.added("q", record(1))
        first = self.storage.commit()
        later = []
        for position in (2, 3, 4):
            self.storage.added("q", record(position))
            later.append(self.storage.commit())
        self.assertEqual(len(self.writer.calls), 1)
        self.writer.step()
        self.successResultOf(first)
        for commit in later:
            self.assertNoResult(commit)
        self.assertEqual(len(self.writer.calls), 1)
        self.writer.step()
        for commit in later:
            self.successResultOf(commit)

    def test_nothing_new_waits_for_what_is_under_way(self) -> None:
        """A commit with nothing of its own fires once everything told before it is written."""
        self.storage.added("q", record(1))
        first, second = self.storage.commit(), self.storage.commit()
        self.assertNoResult(second)
        self.writer.step()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.storage.commit())
        self.assertEqual(self.writer.calls, [])

    def test_reading_is_behind_writing(self) -> None:
        """A page is read after all that was told before it has been written."""
        self.storage.added("q", record(1))
        self.storage.commit()
        self.storage.added("q", record(2))
        page = self.storage.load("q", 0, 9)
        for _ in range(3):
            self.assertNoResult(page)
            self.writer.step()
        self.assertEqual([each.position for each in self.successResultOf(page)], [1, 2])

    def test_added_and_removed_in_one_batch(self) -> None:
        """A message that is settled before its transaction is written costs the file nothing."""
        self.storage.added("q", record(1))
        self.storage.removed("q", 1)
        self.successResultOf(self.storage.commit())
        self.assertEqual(self.writer.calls, [])

    def test_added_and_removed_while_another_is_written(self) -> None:
        """Where all that a commit was for has been taken back before its turn, it fires with the one before it."""
        self.storage.added("q", record(1))
        first = self.storage.commit()
        self.storage.added("q", record(2))
        second = self.storage.commit()
        self.storage.removed("q", 2)
        self.writer.step()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.writer.calls, [])

    def test_congestion(self) -> None:
        """More than 32 MiB that wait to be written are a congestion, until they are."""
        self.assertFalse(self.storage.congested)
        self.storage.added("q", record(1, bytes(CONGESTED_BYTES)))
        self.storage.commit()
        self.assertTrue(self.storage.congested)
        self.writer.step()
        self.assertFalse(self.storage.congested)


class Closing(SqliteCase):
    def test_a_read_that_is_overtaken(self) -> None:
        """What waited to be read when the file is closed is not read any more, and nothing is said of it."""
        storage = self.open()
        storage.queue_declared("q", {}, False)
        storage.added("q", record(1))
        self.successResultOf(storage.commit())
        self.writer.held = True
        storage.added("q", record(2))
        storage.commit()
        storage.added("q", record(3))
        page = storage.load("q", 0, 9)
        storage.removed("q", 3)
        closed = storage.close()
        self.closed.append(storage)
        with capturedLogs() as events:
            while self.writer.calls:
                self.writer.step()
        self.successResultOf(closed)
        self.assertNoResult(page)
        self.assertEqual((events, self.clock.getDelayedCalls()), ([], []))

    def test_nothing_is_written_any_more(self) -> None:
        """What a page that came late sets off when the broker has stopped writes nothing, fails nothing and leaves no timer."""
        storage = self.open()
        storage.queue_declared("q", {}, False)
        storage.added("q", record(1))
        self.successResultOf(storage.commit())
        self.writer.held = True
        page = storage.load("q", 0, 9)
        closed = storage.close()
        self.closed.append(storage)
        late: list[Deferred[Any]] = []

        def on_page(_: object) -> None:
            storage.removed("q", 1)
            late.extend([storage.commit(), storage.load("q", 1, 9)])

        page.addCallback(on_page)
        while self.writer.calls:
            self.writer.step()
        self.successResultOf(closed)
        for each in late:
            self.assertNoResult(each)
        self.assertEqual((len(late), self.clock.getDelayedCalls()), (2, []))


TOLD = (LogLevel.critical, LogLevel.info)


class Tidying(SqliteCase):
    def test_space_is_given_back_now_and_then(self) -> None:
        """With the first commit after a while, free space is given back in pieces between which other work has its turn."""
        storage = self.open()
        storage.queue_declared("q", {}, False)
        for position in range(1, 7000):
            storage.added("q", record(position, bytes(4000)))
        storage.commit()
        storage.purged("q", 1, 7000)
        storage.commit()
        self.clock.advance(TIDY_EVERY_S)
        self.writer.held = True
        storage.added("q", record(7001))
        storage.commit()
        page = storage.load("q", 0, 9000)
        while not page.called:
            self.writer.step()
        self.assertTrue(self.writer.calls, "the page waited until all was tidy")
        while self.writer.calls:
            self.writer.step()
        self.writer.held = False
        self.successResultOf(storage.close())
        self.closed.append(storage)
        self.assertLess((self.directory / "broker.sqlite3").stat().st_size, 5000 * 4096)


class Trouble(SqliteCase):
    def test_a_full_disk(self) -> None:
        """While the file cannot grow, commits wait and trouble is told once; then all of it is written, and the end of trouble told."""
        storage = self.open()
        with capturedLogs() as events:
            self.fill_and_make_room(storage)
        self.assertEqual([(event["log_level"], event["folder"]) for event in events], [(level, self.directory) for level in TOLD])

    def fill_and_make_room(self, storage: SqliteStorage) -> None:
        told: list[str | None] = []
        storage.on_trouble = told.append
        storage.queue_declared("q", {}, False)
        self.successResultOf(storage.commit())
        (pages,) = self.sql(storage, "PRAGMA page_count").fetchone()
        self.sql(storage, f"PRAGMA max_page_count = {pages}")
        storage.added("q", record(1, bytes(50_000)))
        first = storage.commit()
        storage.added("q", record(2))
        second = storage.commit()
        self.clock.advance(RETRY_S)
        self.clock.advance(RETRY_S)
        self.assertNoResult(first)
        self.assertEqual(told, ["database or disk is full"])
        self.sql(storage, "PRAGMA max_page_count = 100000")
        self.clock.advance(RETRY_S)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(told, ["database or disk is full", None])
        loaded = self.successResultOf(storage.load("q", 0, 9))
        self.assertEqual([each.position for each in loaded], [1, 2])

    def test_reading(self) -> None:
        """What cannot be read is read again each second, until it can; that it cannot is logged once."""
        storage = self.open()
        storage.queue_declared("q", {}, False)
        storage.added("q", record(1))
        self.successResultOf(storage.commit())
        self.sql(storage, "ALTER TABLE message RENAME TO elsewhere")
        with capturedLogs() as events:
            page = storage.load("q", 0, 9)
            self.clock.advance(RETRY_S)
            self.clock.advance(RETRY_S)
            self.assertNoResult(page)
            self.sql(storage, "ALTER TABLE elsewhere RENAME TO message")
            self.clock.advance(RETRY_S)
        self.assertEqual([each.position for each in self.successResultOf(page)], [1])
        self.assertEqual([(event["log_level"], event["folder"]) for event in events], [(LogLevel.critical, self.directory)])

    def test_a_row_that_makes_no_sense(self) -> None:
        """It is as what cannot be read: tried again each second, and told once."""
        storage = self.open()
        storage.queue_declared("q", {}, False)
        storage.added("q", record(1))
        self.successResultOf(storage.commit())
        self.sql(storage, "UPDATE message SET header = x'00'")
        with capturedLogs() as events:
            page = storage.load("q", 0, 9)
            self.clock.advance(RETRY_S)
            self.clock.advance(RETRY_S)
        self.assertNoResult(page)
        self.assertEqual(len(events), 1)
        self.sql(storage, "DELETE FROM message")
        self.clock.advance(RETRY_S)
        self.assertEqual(self.successResultOf(page), [])

    def sql(self, storage: SqliteStorage, statement: str) -> sqlite3.Cursor:
        database: Database = storage._database
        return database._connection.execute(statement)
