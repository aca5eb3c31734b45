"""Contract tests of all storages, run on the one in memory and the one on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.trial.unittest import SynchronousTestCase

from rtprov.broker.storage import interface as storage_module
from rtprov.broker.storage.interface import Record, Storage
from rtprov.broker.storage.memory import MemoryStorage
from tests.support.storage_cases import SqliteCase, message, record

if TYPE_CHECKING:
    _Case = SynchronousTestCase
else:
    _Case = object


class StorageContract(_Case):
    """The tests, with one queue, ``q``."""

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
        """A message is loaded with everything that was stored with it."""
        stored = Record(7, 1.5, message("пароль".encode()), 99.5)
        self.storage.added("q", stored)
        (loaded,) = self.successResultOf(self.storage.load("q", 6, 7))
        self.assertEqual(loaded, stored)

    def test_load_a_range(self) -> None:
        """Only positions after `after` and up to `upto` are loaded, in order, whatever lies between
        them.
        """
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
        """A page has at most 1,000 messages."""
        count = storage_module.PAGE_MESSAGES
        self.add(*range(1, count + 11))
        self.assertEqual(self.load(), list(range(1, count + 1)))
        self.assertEqual(self.load(count), list(range(count + 1, count + 11)))

    def test_pages_are_small(self) -> None:
        """A page ends with the message that brings it over 4 MiB. A larger message is a page of its
        own.
        """
        for position in range(1, 5):
            self.storage.added("q", record(position, bytes(storage_module.PAGE_BYTES // 2)))
        self.storage.added("q", record(5, bytes(storage_module.PAGE_BYTES + 1)))
        self.assertEqual([self.load(), self.load(2), self.load(4)], [[1, 2], [3, 4], [5]])

    def test_queues_know_nothing_of_one_another(self) -> None:
        """Equal positions in two queues are different messages. A deleted queue that is declared
        again is empty.
        """
        self.storage.queue_declared("other", {}, False)
        self.add(1, 2)
        self.storage.added("other", record(1, b"other"))
        self.storage.queue_deleted("q")
        self.storage.queue_declared("q", {}, False)
        self.assertEqual(self.load(), [])
        (loaded,) = self.successResultOf(self.storage.load("other", 0, 9))
        self.assertEqual(loaded.message.body, b"other")

    def test_position_at(self) -> None:
        """The position of the first message at a given time or later is found; None if all are
        older.
        """
        self.add(1, 2, 5)
        found = [
            self.successResultOf(self.storage.position_at("q", time))
            for time in (0.0, 2.0, 2.5, 5.1)
        ]
        self.assertEqual(found, [1, 2, 5, None])

    def test_trim(self) -> None:
        """A trim removes old messages, but never the newest. It returns the first position left."""
        self.assertIsNone(self.successResultOf(self.storage.trim("q", 10.0)))
        self.add(1, 2, 3)
        self.assertEqual(self.successResultOf(self.storage.trim("q", 2.0)), 2)
        self.assertEqual(self.load(), [2, 3])
        self.assertEqual(self.successResultOf(self.storage.trim("q", 10.0)), 3)
        self.assertEqual(self.load(), [3])


class Memory(StorageContract, SynchronousTestCase):
    def make(self) -> Storage:
        return MemoryStorage()


class Sqlite(StorageContract, SqliteCase):
    def setUp(self) -> None:
        SqliteCase.setUp(self)
        StorageContract.setUp(self)

    def make(self) -> Storage:
        return self.open()
