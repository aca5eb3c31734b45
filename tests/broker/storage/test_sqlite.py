"""The storage on SQLite beyond the contract: recovery, transactions, errors, and closing."""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs

from rtprov.broker.storage.database import Batch, Database
from rtprov.broker.storage.interface import StoredExchange
from rtprov.broker.storage.sqlite import CONGESTED_BYTES, RETRY_S, TIDY_EVERY_S, SqliteStorage
from tests.support.storage_cases import SqliteCase, record


class Recovery(SqliteCase):
    def test_exchanges_queues_and_bindings(self) -> None:
        """Everything that was declared is recovered with its flags. What was deleted is not."""
        storage = self.open()
        exchanges = [
            StoredExchange("first", "topic", True, False),
            StoredExchange("second", "direct", False, True),
        ]
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
        self.assertEqual(
            (queue.name, queue.arguments, queue.auto_delete),
            ("q", {"x-queue-type": "quorum", "x-delivery-limit": 20}, True),
        )
        self.assertEqual(queue.bindings, (("first", "a"),))

    def test_messages(self) -> None:
        """Unsettled messages are recovered in order, with their delivery counts and the last
        position that may have been delivered.
        """
        storage = self.open()
        storage.queue_declared("q", {}, False)
        for position in range(1, 7):
            storage.added("q", record(position))
        storage.removed("q", 1)
        storage.handed_out("q", 4)
        storage.handed_out_again("q", 3, 5)
        for _ in range(2):
            storage = self.reopen(storage)
            (queue,) = storage.recover().queues
            self.assertEqual((queue.count, queue.first, queue.last, queue.handed_out), (5, 2, 6, 4))
            loaded = self.successResultOf(storage.load("q", 1, 6))
            self.assertEqual(
                [(each.position, each.deliveries) for each in loaded],
                [(2, 0), (3, 5), (4, 0), (5, 0), (6, 0)],
            )

    def test_an_empty_queue_goes_on_behind_what_it_has_handed_out(self) -> None:
        """Positions are not used again, even if no message is left that shows them."""
        storage = self.open()
        storage.queue_declared("q", {}, False)
        storage.added("q", record(1))
        storage.handed_out("q", 1)
        storage.commit()
        storage.removed("q", 1)
        (queue,) = self.reopen(storage).recover().queues
        self.assertEqual((queue.count, queue.first, queue.last, queue.handed_out), (0, 2, 1, 1))

    def test_a_queue_declared_after_a_restart(self) -> None:
        """A queue declared after a restart gets a new id."""
        storage = self.open()
        storage.queue_declared("old", {}, False)
        storage.added("old", record(1, b"old"))
        storage = self.reopen(storage)
        storage.queue_declared("new", {}, False)
        storage.added("new", record(1, b"new"))
        bodies = [
            self.successResultOf(storage.load(name, 0, 9))[0].message.body
            for name in ("old", "new")
        ]
        self.assertEqual(bodies, [b"old", b"new"])


class GroupCommit(SqliteCase):
    def setUp(self) -> None:
        super().setUp()
        self.storage = self.open()
        self.storage.queue_declared("q", {}, False)
        self.successResultOf(self.storage.commit())
        self.writer.held = True

    def test_what_comes_during_a_write_shares_the_next(self) -> None:
        """While one transaction is being written, all further commits wait for the next one."""
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
        """A commit without changes fires once all earlier changes are written."""
        self.storage.added("q", record(1))
        first, second = self.storage.commit(), self.storage.commit()
        self.assertNoResult(second)
        self.writer.step()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.storage.commit())
        self.assertEqual(self.writer.calls, [])

    def test_reading_is_behind_writing(self) -> None:
        """A page is read after all earlier changes have been written."""
        self.storage.added("q", record(1))
        self.storage.commit()
        self.storage.added("q", record(2))
        page = self.storage.load("q", 0, 9)
        for _ in range(3):
            self.assertNoResult(page)
            self.writer.step()
        self.assertEqual([each.position for each in self.successResultOf(page)], [1, 2])

    def test_added_and_removed_in_one_batch(self) -> None:
        """A message that is settled before its transaction is written is not written at all."""
        self.storage.added("q", record(1))
        self.storage.removed("q", 1)
        self.successResultOf(self.storage.commit())
        self.assertEqual(self.writer.calls, [])

    def test_added_and_removed_while_another_is_written(self) -> None:
        """If all changes of a commit have been undone before its turn, it fires with the previous
        one.
        """
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
        """Congestion is reported while more than 32 MiB wait to be written."""
        self.assertFalse(self.storage.congested)
        self.storage.added("q", record(1, bytes(CONGESTED_BYTES)))
        self.storage.commit()
        self.assertTrue(self.storage.congested)
        self.writer.step()
        self.assertFalse(self.storage.congested)


class Closing(SqliteCase):
    def test_a_read_that_is_overtaken(self) -> None:
        """A read that is still waiting when the file is closed is dropped, without a log line."""
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
        """A page that arrives after the broker has stopped causes no write, no error and
        no timer.
        """
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
        """With the first commit after a while, free space is given back in steps. Other calls run
        between them.
        """
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
        """While the file cannot grow, commits wait, and the trouble is reported once. Then
        everything is written, and the end of the trouble is reported.
        """
        storage = self.open()
        with capturedLogs() as events:
            self.fill_and_make_room(storage)
        self.assertEqual(
            [(event["log_level"], event["folder"]) for event in events],
            [(level, self.directory) for level in TOLD],
        )

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

    def test_probe(self) -> None:
        """The probe tests whether the file can be written. It fails while a commit waits, and after
        the storage is closed.
        """
        storage = self.open()
        self.successResultOf(storage.probe())
        storage.queue_declared("q", {}, False)
        self.successResultOf(storage.commit())
        (pages,) = self.sql(storage, "PRAGMA page_count").fetchone()
        self.sql(storage, f"PRAGMA max_page_count = {pages}")
        storage.added("q", record(1, bytes(50_000)))
        with capturedLogs():
            storage.commit()
        self.assertEqual(
            str(self.failureResultOf(storage.probe(), OSError).value), "database or disk is full"
        )
        self.sql(storage, "PRAGMA max_page_count = 100000")
        with capturedLogs():
            self.clock.advance(RETRY_S)
        self.successResultOf(storage.probe())
        self.sql(storage, "PRAGMA query_only = 1")
        self.failureResultOf(storage.probe(), sqlite3.OperationalError)
        self.sql(storage, "PRAGMA query_only = 0")
        self.successResultOf(storage.close())
        self.closed.append(storage)
        self.failureResultOf(storage.probe(), OSError)

    def test_an_unexpected_error(self) -> None:
        """Any other error of the writer is handled like a full disk, and logged once with its
        traceback.
        """
        storage = self.open()
        told: list[str | None] = []
        storage.on_trouble = told.append
        errors: list[Exception] = [MemoryError(), MemoryError("too large")]

        def write(batch: Batch) -> None:
            if errors:
                raise errors.pop(0)

        self.patch(storage._database, "write", write)
        storage.queue_declared("q", {}, False)
        committed = storage.commit()
        self.assertEqual(told, ["MemoryError"])
        self.clock.advance(RETRY_S)
        self.assertNoResult(committed)
        self.clock.advance(RETRY_S)
        self.successResultOf(committed)
        self.assertEqual(
            (told, len(self.flushLoggedErrors(MemoryError))), (["MemoryError", None], 1)
        )

    def test_closed_while_it_cannot_be_read(self) -> None:
        """A read that would be retried is dropped when the storage is closed, and leaves
        no timer.
        """
        storage = self.open()
        storage.queue_declared("q", {}, False)
        self.successResultOf(storage.commit())
        self.sql(storage, "ALTER TABLE message RENAME TO elsewhere")
        page = storage.load("q", 0, 9)
        self.successResultOf(storage.close())
        self.closed.append(storage)
        self.assertNoResult(page)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reading(self) -> None:
        """A read that fails is retried each second until it succeeds. The failure is
        logged once.
        """
        self.read_in_spite_of(
            "ALTER TABLE message RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO message",
            [1],
        )

    def test_a_row_that_makes_no_sense(self) -> None:
        """A row that cannot be decoded is handled like a failed read."""
        self.read_in_spite_of("UPDATE message SET header = x'00'", "DELETE FROM message", [])

    def read_in_spite_of(self, damage: str, repair: str, positions: list[int]) -> None:
        """Load a page with one message while the file is damaged by `damage`; check that it arrives
        after the file is repaired by `repair`.
        """
        storage = self.open()
        storage.queue_declared("q", {}, False)
        storage.added("q", record(1))
        self.successResultOf(storage.commit())
        self.sql(storage, damage)
        with capturedLogs() as events:
            page = storage.load("q", 0, 9)
            self.clock.advance(RETRY_S)
            self.clock.advance(RETRY_S)
            self.assertNoResult(page)
            self.sql(storage, repair)
            self.clock.advance(RETRY_S)
        self.assertEqual([each.position for each in self.successResultOf(page)], positions)
        self.assertEqual(
            [(event["log_level"], event["folder"]) for event in events],
            [(LogLevel.critical, self.directory)],
        )

    def sql(self, storage: SqliteStorage, statement: str) -> sqlite3.Cursor:
        database: Database = storage._database
        return database._connection.execute(statement)
