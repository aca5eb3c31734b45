"""The history of a worker: every end is written once, whatever the disk and the process do."""

from __future__ import annotations

import sqlite3
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from rtprov.errors import HistoryUnavailable
from rtprov.history import history as history_module
from rtprov.history.history import MAX_BUFFERED, RETRY_S
from rtprov.history.shard_history import PIECE
from rtprov.history.thread import MAX_WAITING
from rtprov.messaging.topology import Shard
from rtprov.reports import TaskFilter
from tests.support.ended_tasks import DAY_S, EPOCH, ended_task
from tests.support.history_case import ALL, HistoryCase

DISK_FULL = sqlite3.OperationalError("database or disk is full")


class Writing(HistoryCase):
    def test_ends_are_written_together(self) -> None:
        """Ends of a second are written in one batch."""
        self.attach()
        written = self.count_writes()
        for number in range(5):
            self.end(ended_task(number, 0.0, 1.0))
        self.assertEqual(self.found(), [])
        self.clock.advance(1)
        self.assertEqual(self.found(), [4, 3, 2, 1, 0])
        self.assertEqual(written, [5])

    def test_a_full_batch(self) -> None:
        """Many ends do not wait for the second to pass."""
        self.patch(history_module, "BATCH", 3)
        self.attach()
        self.end(*(ended_task(number, 0.0, 1.0) for number in range(3)))
        self.clock.advance(0)
        self.assertEqual(self.found(), [2, 1, 0])

    def test_the_first_replay(self) -> None:
        """Ends of the first replay are written after it, in pieces; the replica forgets nothing
        until then.
        """
        count = 2 * PIECE + 10
        self.end(*(ended_task(number, 0.0, float(number)) for number in range(count)))
        self.assertTrue(self.shard.catching_up)
        self.forget(1e6)
        self.assertEqual(len(self.memory.tasks), count)
        written = self.count_writes()
        self.attach()
        self.assertEqual(sorted(written)[-3:], [10, PIECE, PIECE])
        self.assertFalse(self.shard.catching_up)
        counts = self.successResultOf(self.shard.reasons(ALL))
        self.assertEqual(counts.days, {"2024-10-04": {"A answered 200": count}})

    def test_a_restart_writes_nothing_twice(self) -> None:
        """The next process reads the same journal again, and adds only what is new."""
        self.attach()
        self.end(ended_task(1, 0.0, 1.0))
        self.clock.advance(60)
        self.restart()
        self.end(ended_task(2, 0.0, 2.0))
        self.attach()
        self.assertEqual(self.found(), [2, 1])
        counts = self.successResultOf(self.shard.reasons(ALL))
        self.assertEqual(counts.days, {"2024-10-04": {"A answered 200": 2}})

    def test_a_stop(self) -> None:
        """What has been collected is written when the process stops."""
        self.attach()
        self.end(ended_task(1, 0.0, 1.0))
        self.restart()
        self.assertEqual(self.found(), [1])

    def test_counts_see_all_ends(self) -> None:
        """A count has the ends that are not written yet."""
        self.attach()
        self.end(ended_task(1, 0.0, 1.0))
        counts = self.successResultOf(self.shard.reasons(TaskFilter(reasons=("A answered 200",))))
        self.assertEqual(counts.days, {"2024-10-04": {"A answered 200": 1}})

    def test_old_days(self) -> None:
        """Days that are older than the limit are removed once an hour. What is older is not missing
        then.
        """
        self.attach()
        self.end(ended_task(1, 0.0, 1.0))
        self.clock.advance(1)
        self.clock.advance(31.5 * DAY_S)
        self.end(ended_task(2, 31 * DAY_S, 31 * DAY_S + 1))
        self.clock.advance(60)
        self.assertEqual(self.found(), [2])
        self.assertEqual(self.covered(), [(-1.0, self.clock.seconds())])

    def count_writes(self) -> list[int]:
        written: list[int] = []
        write = self.history.folder.write

        def counted(tasks: Any, covered: Any) -> None:
            if tasks:
                written.append(len(tasks))
            write(tasks, covered)

        self.patch(self.history.folder, "write", counted)
        return written


class Trouble(HistoryCase):
    def setUp(self) -> None:
        super().setUp()
        self.attach()

    def test_a_full_disk(self) -> None:
        """A disk that is full is logged once, and its end once. Ends are added from memory then."""
        events: list[LogEvent] = []
        observer = cast("ILogObserver", events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.thread.error = DISK_FULL
        for number in range(50):
            self.end(ended_task(number, 0.0, float(number)))
            self.clock.advance(1)
        self.assertEqual(self.history.trouble, "database or disk is full")
        self.assertFalse(self.shard.catching_up, "memory is not kept for ever")
        self.thread.error = None
        self.clock.advance(RETRY_S)
        self.assertIsNone(self.history.trouble)
        self.assertEqual(self.found(), list(reversed(range(50))))
        self.assertEqual(self.covered(), [(-1.0, self.clock.seconds())])
        texts = [formatEvent(event) for event in events]
        self.assertEqual(len(texts), 2, texts)
        self.assertIn("the history cannot be written: database or disk is full", texts[0])
        self.assertIn("the history is written again", texts[1])

    def test_a_gap(self) -> None:
        """If the disk is full until the replica has forgotten tasks, exactly these are missing, and
        the gap is known, in the next process too.
        """
        self.clock.advance(100)
        self.end(ended_task(1, 0.0, 99.0))
        self.clock.advance(100)
        self.thread.error = DISK_FULL
        self.end(ended_task(2, 0.0, 150.0), ended_task(3, 0.0, 190.0))
        self.clock.advance(100)
        self.forget(180.0)
        self.thread.error = None
        self.clock.advance(RETRY_S)
        self.assertEqual(self.found(), [3, 1])
        first, second = self.covered()
        self.assertEqual((first, second[0]), ((-1.0, 150.0), 180.0))
        self.stop(self.history)
        self.start(offset=1000, at=160.0)
        self.attach()
        self.assertEqual(self.covered(), [first, (180.0, self.clock.seconds())])

    def test_a_gap_that_the_journal_fills(self) -> None:
        """If the next process finds the missing tasks in its journal, it adds them."""
        self.clock.advance(100)
        self.thread.error = DISK_FULL
        missing = ended_task(1, 0.0, 50.0)
        self.end(missing)
        self.clock.advance(10)
        self.forget(100.0)
        self.thread.error = None
        self.clock.advance(RETRY_S)
        self.assertEqual((self.found(), len(self.covered())), ([], 2))
        self.stop(self.history)
        self.memory.tasks.append(missing)
        self.start(offset=1000, at=0.0)
        self.attach()
        self.assertEqual(self.found(), [1])
        self.assertEqual(self.covered(), [(-1.0, self.clock.seconds())])

    def test_a_slow_disk(self) -> None:
        """Not more than a certain number of tasks waits for a slow disk; the others are added
        later.
        """
        self.patch(history_module, "MAX_BUFFERED", 20)
        self.thread.held = True
        for number in range(100):
            self.end(ended_task(number, 0.0, float(number)))
        self.clock.advance(1)
        self.assertLessEqual(self.history._unwritten + len(self.history._buffer), 20)
        self.assertLess(20, MAX_BUFFERED)
        self.release()
        self.assertEqual(self.found(), list(reversed(range(100))))

    def test_a_disk_that_hangs(self) -> None:
        """A disk that does not answer is a trouble after 30 s; a limited number of calls waits."""
        self.thread.held = True
        self.end(ended_task(1, 0.0, 1.0))
        self.clock.pump([1.0] * 35)
        self.assertIn("no result within 30 s", self.history.trouble or "")
        failures = [self.shard.search(ALL, None, 1) for _ in range(2 * MAX_WAITING)]
        self.clock.advance(2)
        for each in failures:
            self.failureResultOf(each, HistoryUnavailable)
        self.assertLessEqual(len(self.thread.calls), MAX_WAITING)
        self.release()
        self.clock.advance(RETRY_S)
        self.assertEqual(self.found(), [1])
        self.assertIsNone(self.history.trouble)

    def release(self) -> None:
        """Let the thread run until nothing is left for it."""
        for _ in range(1000):
            if self.thread.calls:
                self.thread.step()
            else:
                self.clock.advance(1)
                if not self.thread.calls:
                    break
        self.thread.held = False


class Coverage(HistoryCase):
    def test_from_the_beginning(self) -> None:
        """A history that reads a journal from its very beginning covers all times before, too."""
        self.assertEqual(self.covered(), [])
        self.attach()
        self.clock.advance(5)
        self.assertEqual(self.covered(), [(-1.0, 5.0)])

    def test_a_journal_that_is_older(self) -> None:
        """A history of a journal that has forgotten events begins with its first event."""
        self.stop(self.history)
        self.start(offset=1000, at=-500.0)
        self.attach()
        self.clock.advance(5)
        self.assertEqual(self.covered(), [(-500.0, 5.0)])

    def test_a_short_stop(self) -> None:
        """A process that reads what it has missed covers the time of its stop, too."""
        self.attach()
        self.clock.advance(600)
        self.stop(self.history)
        self.clock.advance(DAY_S)
        self.start(offset=1000, at=500.0)
        self.attach()
        self.clock.advance(5)
        self.assertEqual(self.covered(), [(-1.0, self.clock.seconds())])

    def test_a_long_stop(self) -> None:
        """If the journal has forgotten events since the last stop, there is a gap."""
        self.attach()
        self.clock.advance(600)
        self.stop(self.history)
        self.clock.advance(10 * DAY_S)
        self.start(offset=1000, at=3 * DAY_S)
        self.attach()
        self.clock.advance(5)
        (first, second) = self.covered()
        self.assertEqual((first[0], second), (-1.0, (3 * DAY_S, self.clock.seconds())))
        self.assertTrue(500.0 < first[1] <= 600.0, first)

    def test_without_a_connection(self) -> None:
        """While the journal is not followed, later times are not covered."""
        self.attach()
        self.clock.advance(61)
        self.shard.detach()
        self.clock.advance(1000)
        ((since, upto),) = self.covered()
        self.assertEqual(since, -1.0)
        self.assertLessEqual(upto, 61.0)
        self.attach()
        self.assertEqual(self.covered(), [(-1.0, self.clock.seconds())])

    def test_another_shard(self) -> None:
        """A shard that comes later to a folder is covered from its journal's first event on."""
        self.attach()
        self.clock.advance(60)
        self.restart()
        other = self.history.shard(
            Shard(1, 2), ended_before=self.memory.ended_before, whole=lambda: True
        )
        other.began(EPOCH + 50.0)
        self.successResultOf(
            Deferred.fromCoroutine(other.attach(None))  # type: ignore[arg-type] # not used
        )
        self.clock.advance(5)
        self.assertEqual(other.covered(self.now()), [(EPOCH + 50.0, self.now())])

    def test_a_damaged_day(self) -> None:
        """A day whose file cannot be read is not covered."""
        self.attach()
        self.end(ended_task(1, 0.0, 60.0))
        self.clock.advance(1)
        self.stop(self.history)
        (self.directory / "2024-10-04.sqlite3").write_bytes(b"not a database" * 1000)
        self.clock.advance(2 * DAY_S)
        self.memory.tasks.clear()
        self.start()
        self.attach()
        self.clock.advance(5)
        self.assertEqual(self.found(), [])
        self.assertEqual(self.covered(), [(-1.0, 0.0), (DAY_S, self.clock.seconds())])
