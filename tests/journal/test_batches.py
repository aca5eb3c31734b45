"""Several events of a journal in one message: `Appender` and `ShardJournal` with batches."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from rtprov.journal.appending import MAX_BATCH_BYTES, MAX_EVENTS
from rtprov.journal.shard_journal import ShardJournal
from rtprov.messaging.event_batches import encode_batch
from rtprov.messaging.event_messages import encode_event
from rtprov.model import Cancelled, Event, Finished, State
from tests.support.brokered import EPOCH, SHARD, task_id
from tests.support.journal_case import JournalTestCase, started


class Batches(JournalTestCase):
    """Several events in one message."""

    batches = True

    def messages_of_events(self) -> int:
        """Return how many messages the journal has got since `follow`."""
        return self.messages(SHARD.journal) - self.before

    def follow(self) -> ShardJournal:
        journal = super().follow()
        self.before = self.messages(SHARD.journal)
        return journal

    def test_of_one_turn(self) -> None:
        """The events of one reactor turn are one message. Each append succeeds with its confirm."""
        journal = self.follow()
        appended = [journal.append(started(number)) for number in range(5)]
        self.network.settle()
        self.assertEqual([self.successResultOf(each) for each in appended], [None] * 5)
        self.assertEqual(self.seen, [started(number) for number in range(5)])
        self.assertEqual(self.messages_of_events(), 1)

    def test_limits(self) -> None:
        """A batch has at most `MAX_EVENTS` events, and at most `MAX_BATCH_BYTES` bytes."""
        journal = self.follow()
        for number in range(2 * MAX_EVENTS + 1):
            journal.append(started(number))
        self.network.settle()
        self.assertEqual(self.messages_of_events(), 3)
        reason = "x" * (MAX_BATCH_BYTES // 2)
        for number in range(4):
            journal.append(Finished(task_id(number), "DEVICE1", EPOCH, State.FAILED, reason))
        self.network.settle()
        self.assertEqual(self.messages_of_events(), 7)
        self.assertEqual(len(self.seen), 2 * MAX_EVENTS + 5)

    def test_order(self) -> None:
        """Events are in the journal in the order of the appends, also those that need a message of
        their own. A barrier that begins later is behind them.
        """
        journal = self.follow()
        cancelled = Cancelled(task_id(2), "DEVICE1", EPOCH)
        journal.append(started(1))
        journal.append(cancelled)
        journal.append(started(3))
        barrier = journal.barrier()
        self.network.settle()
        self.successResultOf(barrier)
        self.assertEqual(self.seen, [started(1), cancelled, started(3)])
        self.assertEqual(self.messages_of_events(), 4)

    def test_cancelled(self) -> None:
        """An append that is cancelled in the same turn is not made. No timer is left of it."""
        journal = self.follow()
        given_up, other = journal.append(started(1)), journal.append(started(2))
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.network.settle()
        self.successResultOf(other)
        self.assertEqual(self.seen, [started(2)])
        timers = len(self.clock.getDelayedCalls())
        only = journal.append(started(3))
        only.cancel()
        self.failureResultOf(only, CancelledError)
        self.assertEqual(len(self.clock.getDelayedCalls()), timers)

    def test_an_outage(self) -> None:
        """After an outage the waiting events are appended in order, as few messages."""
        journal = self.follow()
        self.close_broker()
        appended = [journal.append(started(number)) for number in range(3 * MAX_EVENTS)]
        self.network.advance(60)
        given_up = appended.pop()
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.open_broker()
        self.network.advance(2)
        self.assertTrue(all(each.called for each in appended))
        self.assertEqual(self.seen, [started(number) for number in range(3 * MAX_EVENTS - 1)])
        self.assertLess(self.messages_of_events(), 10)

    def test_an_event_that_fails(self) -> None:
        """If an event of a batch is damaged, or applying it fails, the others are applied."""
        self.publish_event(
            encode_batch(
                [encode_event(started(1)), b'{"kind":"started"}', encode_event(started(2))]
            )
        )
        self.publish_event(encode_batch([encode_event(started(3))]).replace(b"]}", b"}"))
        self.follow()
        self.assertEqual(self.seen, [started(1), started(2)])
        self.assertEqual(len([line for line in self.logged if "ignoring the message" in line]), 2)

        def fail(event: Event) -> None:
            self.seen.append(event)
            if event == started(4):
                raise ZeroDivisionError

        self.follower._apply = fail
        self.publish_event(encode_batch([encode_event(started(4)), encode_event(started(5))]))
        self.assertEqual(self.seen[2:], [started(4), started(5)])
        self.reconnected(self.connection)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
