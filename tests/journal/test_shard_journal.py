"""The journal on the embedded broker: replay, resuming, appending, and the front end's
publisher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from attrs import define, field
from twisted.internet.defer import CancelledError, succeed

from rtprov.amqp.client.publisher import Publisher
from rtprov.errors import BrokerUnavailable, Overloaded, Unconfirmed, Unroutable
from rtprov.frontend.task_publisher import TaskPublisher
from rtprov.journal.shard_journal import SETTLE_EVERY_S
from rtprov.messaging.event_messages import decode_event, decode_task
from rtprov.messaging.topology import TASKS_EXCHANGE, Shard, Topology
from rtprov.model import Event, Finished, Marker, Requested, State, Unrecognised, shard_of
from tests.support.brokered import EPOCH, SHARD, BrokerTestCase, make_task, task_id
from tests.support.journal_case import JournalTestCase, started

if TYPE_CHECKING:
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.broker.server.connection import BrokerProtocol


@define
class AfterTheJournal:
    """A session that notes how many events had been applied when it was attached."""

    seen: list[Event]
    applied: list[int] = field(factory=list)

    async def attach(self, connection: AmqpConnection) -> None:
        self.applied.append(len(self.seen))

    def detach(self) -> None: ...


class Following(JournalTestCase):
    def test_replay(self) -> None:
        """Everything in the stream, from its first event on, is applied in order before the journal
        counts as attached.
        """
        events = [started(number) for number in range(2500)]
        self.publish_task(make_task(1))
        for event in events:
            self.publish_event(event)
        self.follow()
        self.assertEqual(self.seen, [Requested(task_id(1), "DEVICE1", EPOCH), *events])

    def test_what_comes_after_the_replay(self) -> None:
        """The next session of the connection is attached only when all events have been applied."""
        events = [started(number) for number in range(2500)]
        for event in events:
            self.publish_event(event)
        publisher = Publisher(clock=self.clock)
        after = AfterTheJournal(self.seen)
        journal = self.journal(self.seen.append, publisher)
        self.reconnected(self.begin([Topology([SHARD]), publisher, journal, after]))
        self.assertEqual(after.applied, [len(events)])

    def test_live(self) -> None:
        """Events that are published later are applied as they arrive."""
        self.follow()
        for number in range(3):
            self.publish_event(started(number))
            self.assertEqual(self.seen[-1], started(number))

    def test_resume(self) -> None:
        """After a lost connection the journal continues after the last event it has applied. None
        is applied twice, and none is skipped.
        """
        self.follow()
        self.publish_event(started(1))
        self.network.connections[-1][1].cut()
        self.network.settle()
        self.publish_event(started(2))
        self.assertEqual(self.seen, [started(1)])
        self.reconnected(self.connection)
        self.publish_event(started(3))
        self.assertEqual(self.seen, [started(1), started(2), started(3)])

    def test_undecodable(self) -> None:
        """A message that is not an event is skipped and logged once, without its content."""
        self.publish_event(b"s3cr3t")
        self.publish_event(started(1))
        self.follow()
        self.lose()
        self.reconnected(self.connection)
        self.assertEqual(self.seen, [started(1)])
        (line,) = [line for line in self.logged if "ignoring the message at offset 0" in line]
        self.assertNotIn("s3cr3t", line)

    def test_unrecognised(self) -> None:
        """An event of a kind that only a later version knows is passed on as unrecognised."""
        self.publish_event(b'{"kind": "paused", "v": 2, "task": 1}')
        self.follow()
        self.assertEqual(self.seen, [Unrecognised("paused")])

    def test_others_markers(self) -> None:
        """Markers of other replicas are ignored."""
        self.publish_event(Marker("theirs"))
        self.follow()
        self.assertEqual(self.seen, [])

    def test_a_journal_that_began_anew(self) -> None:
        """If the broker comes back with another, shorter journal, that one is read from its
        beginning.
        """
        self.follow()
        for number in range(5):
            self.publish_event(started(number))
        self.broker.stop()
        self.lose()
        self.start_broker()
        self.reconnected(self.outside_connection)
        self.publish_event(started(9))
        self.reconnected(self.connection)
        self.network.advance(10)
        self.assertEqual(self.seen[5:], [started(9)])
        self.assertEqual(len([line for line in self.logged if "from its beginning" in line]), 1)


class Credit(JournalTestCase):
    """A stream delivers at most as many messages as the prefetch count, and closes a consumer that
    never acknowledges.
    """

    def unsettled(self) -> int:
        """Return how many of the stream's deliveries are unacknowledged at the broker."""
        return sum(
            len(channel.consuming.unsettled)
            for connection in self.broker.connections
            for channel in cast("BrokerProtocol", connection).channels
        )

    def test_batches(self) -> None:
        """Many deliveries are acknowledged at a time, and the stream never has to wait."""
        self.follow()
        for number in range(600):
            self.publish_event(started(number))
        self.assertEqual(len(self.seen), 600)
        self.assertGreater(self.unsettled(), 0)
        self.assertLess(self.unsettled(), 500)

    def test_an_idle_journal(self) -> None:
        """On a journal with few events, deliveries are acknowledged after some minutes, long before
        the broker's limit of 30.
        """
        self.follow()
        self.publish_event(started(1))
        self.assertGreater(self.unsettled(), 0)
        self.network.advance(SETTLE_EVERY_S)
        self.assertEqual(self.unsettled(), 0)
        self.network.advance(SETTLE_EVERY_S)
        self.assertTrue(self.connection.connected)


class Appending(JournalTestCase):
    def test_confirmed(self) -> None:
        """An append succeeds once the broker has confirmed the event. The own replica applies it
        too.
        """
        journal = self.follow()
        appended = journal.append(started(1))
        self.assertNoResult(appended)
        self.network.settle()
        self.assertIsNone(self.successResultOf(appended))
        self.assertEqual(self.seen, [started(1)])

    def test_an_outage(self) -> None:
        """An append waits for the broker, however long the broker is down."""
        journal = self.follow()
        self.close_broker()
        appended = journal.append(started(1))
        self.network.advance(3600)
        self.assertNoResult(appended)
        self.open_broker()
        self.network.advance(2)
        self.assertIsNone(self.successResultOf(appended))
        self.assertEqual(self.seen, [started(1)])

    def test_a_confirm_that_is_lost(self) -> None:
        """If the connection is lost before the confirm, the event is published again. It may be
        there twice, but is never missing.
        """
        journal = self.follow()
        appended = journal.append(started(1))
        self.network.connections[-1][1].cut()
        self.reconnected(self.connection)
        self.network.advance(2)
        self.assertIsNone(self.successResultOf(appended))
        self.assertIn(self.seen, ([started(1)], [started(1)] * 2))

    def test_a_confirm_that_is_late(self) -> None:
        """If the confirm is late, the event is not published again."""
        journal = self.follow()
        server = self.network.connections[-1][1].other
        server.pauseProducing()
        appended = journal.append(started(1))
        self.network.advance(9)
        server.resumeProducing()
        self.network.advance(2)
        self.assertIsNone(self.successResultOf(appended))
        self.assertEqual(self.seen, [started(1)])

    def test_many_wait_on_one_timer(self) -> None:
        """Thousands of appends that wait for the broker share one timer."""
        journal = self.follow()
        self.close_broker()
        appended = [journal.append(started(number)) for number in range(3000)]
        self.network.advance(0)
        self.assertLess(len(self.clock.getDelayedCalls()), 20)
        self.open_broker()
        self.network.advance(2)
        self.assertTrue(all(each.called for each in appended))
        self.assertEqual(
            sorted(self.seen, key=repr),
            sorted((started(number) for number in range(3000)), key=repr),
        )

    def test_cancelled(self) -> None:
        """An append that is cancelled while the broker is down is not made, and leaves no timer."""
        journal = self.follow()
        self.close_broker()
        given_up, other = journal.append(started(1)), journal.append(started(2))
        self.network.advance(10)
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.open_broker()
        self.network.advance(2)
        self.successResultOf(other)
        self.assertEqual(self.seen, [started(2)])

    def test_all_cancelled(self) -> None:
        """After all appends are cancelled, no timer is left."""
        journal = self.follow()
        self.close_broker()
        appended = journal.append(Finished(task_id(1), "DEVICE1", EPOCH, State.FAILED, "why"))
        self.disconnect(self.connection)
        self.disconnect(self.outside_connection)
        appended.cancel()
        self.failureResultOf(appended, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Submitting(BrokerTestCase):
    """The front end's `TaskPublisher`."""

    shards = tuple(Shard(index, 4) for index in range(4))

    def setUp(self) -> None:
        super().setUp()
        self.tasks = TaskPublisher(
            publisher=self.outside,
            shards=4,
            refusal=lambda shard, key: None,
            repaired=lambda: succeed(None),
        )

    def test_each_to_its_shard(self) -> None:
        """A task is published once and routed to the work queue and the journal of its equipment's
        shard, complete and persistent.
        """
        for number in range(12):
            task = make_task(number, f"DEVICE{number}")
            submitted = self.tasks.submit(task)
            self.assertNoResult(submitted)
            self.network.settle()
            self.assertIsNone(self.successResultOf(submitted))
            shard = self.shards[shard_of(task.equipment_id, 4)]
            (message,) = self.take(shard.work)
            self.assertEqual(
                (decode_task(message.body), message.properties.delivery_mode), (task, 2)
            )
            self.assertEqual(
                (message.exchange, message.routing_key), (TASKS_EXCHANGE, shard.requested_key)
            )
            self.assertEqual(
                decode_event(message.body), Requested(task.task_id, task.equipment_id, EPOCH)
            )
        self.assertEqual(sum(self.messages(shard.journal) for shard in self.shards), 12)

    def test_no_queue(self) -> None:
        """A task that is routed to no queue is refused."""
        for shard in self.shards:
            for queue in (shard.work, shard.journal):
                self.broker.virtual_host.delete_queue(self.broker.virtual_host.queue(queue, None))
        submitted = self.tasks.submit(make_task(1))
        self.network.settle()
        self.failureResultOf(submitted, Unroutable)

    def test_no_connection(self) -> None:
        """Without a connection the task is refused at once."""
        self.disconnect(self.outside_connection)
        self.failureResultOf(self.tasks.submit(make_task(1)), BrokerUnavailable)

    def test_too_many(self) -> None:
        """If too many messages wait for confirms, a task is refused at once."""
        publisher = Publisher(clock=self.clock, max_unconfirmed=2)
        self.connect([publisher])
        tasks = TaskPublisher(
            publisher=publisher,
            shards=4,
            refusal=lambda shard, key: None,
            repaired=lambda: succeed(None),
        )
        submitted = [tasks.submit(make_task(number)) for number in range(3)]
        self.failureResultOf(submitted[2], Overloaded)
        self.network.settle()
        self.assertEqual([self.successResultOf(each) for each in submitted[:2]], [None, None])

    def test_the_confirm_is_lost(self) -> None:
        """If the connection is lost before the confirm, the error says that the task may
        be safe.
        """
        submitted = self.tasks.submit(make_task(1))
        self.network.cut("broker")
        self.network.settle()
        self.failureResultOf(submitted, Unconfirmed)
