"""The journal's barrier, with a broker that confirms and delivers when the test says so."""

from __future__ import annotations

import itertools
import random

from pamqp.commands import Basic, Connection
from twisted.internet.defer import CancelledError, Deferred

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.framing import Command
from rtprov.errors import BrokerUnavailable, Overloaded, Unconfirmed, Unroutable
from rtprov.journal.shard_journal import ACK_EVERY, STALL_S, ShardJournal
from rtprov.messaging.event_messages import decode_event, encode_event
from rtprov.messaging.topology import Shard
from rtprov.model import Event, Marker, Started
from tests.support.scripted_broker import AmqpTestCase, ScriptedPeer


class BarrierTestCase(AmqpTestCase):
    """An attached journal. After that, the broker confirms only in `confirm` and delivers only in
    `bring`.
    """

    def setUp(self) -> None:
        super().setUp()
        # without heartbeats, so that a silent broker does not lose the connection
        self.broker.tune = Connection.Tune(2047, 131072, 0)
        self.broker.answers[Basic.Publish] = self.at_once
        self.offsets = itertools.count()
        self.markers_made = itertools.count(1)
        self.seen: list[Event] = []
        self.lost = 0
        self.publisher = Publisher(clock=self.clock)
        self.journal = ShardJournal(
            shard=Shard(0, 1),
            apply=self.seen.append,
            publisher=self.publisher,
            clock=self.clock,
            rng=random.Random(7),
            new_marker_id=lambda: f"marker {next(self.markers_made)}",
            lost=self.on_lost,
        )
        self.addCleanup(self.assert_idle)
        self.addCleanup(self.lose)
        self.attach()
        self.broker.answers[Basic.Publish] = None

    def on_lost(self) -> None:
        self.lost += 1

    def at_once(self, peer: ScriptedPeer, command: Command) -> None:
        self.confirm()
        self.bring(command.body)

    def attach(self) -> None:
        self.connection: AmqpConnection = self.connect(heartbeat_s=0)
        self.delivery_tags = itertools.count(1)
        self.confirmed = 0
        self.result(self.publisher.attach(self.connection))
        self.result(self.journal.attach(self.connection))

    def lose(self) -> None:
        """Lose the connection; both sessions are detached."""
        self.connection.drop("lost")
        self.network.settle()
        self.journal.detach()
        self.publisher.detach()

    def confirm(self) -> None:
        """Confirm the next publish."""
        self.confirmed += 1
        self.peer.send(Basic.Ack(self.confirmed), 1)

    def bring(self, *bodies: bytes) -> None:
        """Deliver these as the journal's next events."""
        for body in bodies:
            properties = Basic.Properties(headers={"x-stream-offset": next(self.offsets)})
            self.peer.deliver(
                2,
                self.peer.commands(Basic.Consume)[-1].consumer_tag,
                next(self.delivery_tags),
                body,
                properties,
            )

    def turn(self) -> None:
        self.network.settle()

    def sent(self) -> list[Command]:
        """Return the markers that were published after the attach."""
        self.turn()
        return self.peer.contents(Basic.Publish)[1:]

    def land(self, number: int) -> None:
        """Confirm and deliver the marker of this number, from 0."""
        self.confirm()
        self.bring(self.sent()[number].body)
        self.turn()

    def barriers(self, count: int) -> list[Deferred[None]]:
        return [self.journal.barrier() for _ in range(count)]


class Barrier(BarrierTestCase):
    def test_a_marker(self) -> None:
        """A barrier publishes a persistent, mandatory marker to the journal only, and fires when
        the marker is delivered, not before.
        """
        barrier = self.journal.barrier()
        (publish,) = self.sent()
        method, properties = publish.method, publish.properties
        assert isinstance(method, Basic.Publish) and properties is not None
        self.assertEqual(
            (method.exchange, method.routing_key, method.mandatory),
            ("rtprov.tasks", "event.0of1", True),
        )
        self.assertEqual(
            (properties.delivery_mode, decode_event(publish.body)), (2, Marker("marker 2"))
        )
        self.confirm()
        self.bring(encode_event(Marker("another's")))
        self.turn()
        self.assertNoResult(barrier)
        self.bring(publish.body)
        self.turn()
        self.assertIsNone(self.successResultOf(barrier))
        self.assertEqual(self.seen, [])

    def test_before_its_confirm(self) -> None:
        """The barrier fires even if the marker is delivered before its confirm."""
        barrier = self.journal.barrier()
        self.bring(self.sent()[0].body)
        self.turn()
        self.assertIsNone(self.successResultOf(barrier))

    def test_what_came_before_is_seen(self) -> None:
        """When the barrier fires, every event before its marker has been applied."""
        event = Started("0" * 32, "DEVICE1", 1.0, 1)
        seen: list[list[Event]] = []
        self.journal.barrier().addCallback(lambda _: seen.append(list(self.seen)))
        self.bring(encode_event(event), self.sent()[0].body)
        self.turn()
        self.assertEqual(seen, [[event]])

    def test_late_callers_share_the_next_marker(self) -> None:
        """Callers that arrive while a marker is under way share the next one, because their events
        may be after the first marker.
        """
        (first,) = self.barriers(1)
        self.turn()
        late = self.barriers(100)
        self.assertEqual(len(self.sent()), 1)
        self.land(0)
        self.assertIsNone(self.successResultOf(first))
        for barrier in late:
            self.assertNoResult(barrier)
        self.assertEqual(len(self.sent()), 2)
        self.land(1)
        self.assertEqual([self.successResultOf(barrier) for barrier in late], [None] * 100)
        self.assertEqual(len(self.sent()), 2)

    def test_a_caller_from_within(self) -> None:
        """A caller that requests a barrier in the callback of another one gets a new marker."""
        inner: list[Deferred[None]] = []
        self.journal.barrier().addCallback(lambda _: inner.append(self.journal.barrier()))
        self.turn()
        self.land(0)
        self.assertNoResult(inner[0])
        self.land(1)
        self.assertIsNone(self.successResultOf(inner[0]))

    def test_cancelled(self) -> None:
        """Cancelled callers, of the current marker and of the next, are forgotten. Others get their
        result.
        """
        gone, kept = self.barriers(2)
        self.turn()
        late_gone, late_kept = self.barriers(2)
        for barrier in (gone, late_gone):
            barrier.cancel()
            self.failureResultOf(barrier, CancelledError)
        self.land(0)
        self.land(1)
        self.assertEqual(
            [self.successResultOf(barrier) for barrier in (kept, late_kept)], [None, None]
        )

    def test_cancelled_by_another(self) -> None:
        """A callback may cancel another caller. The connection is not affected."""
        (first,) = self.barriers(1)
        self.turn()
        barriers = self.barriers(3)
        barriers[0].addCallback(lambda _: barriers[1].cancel())
        self.land(0)
        self.land(1)
        self.successResultOf(first)
        self.failureResultOf(barriers[1], CancelledError)
        self.assertIsNone(self.successResultOf(barriers[2]))
        self.assertFalse(self.connection.closed)


class Failing(BarrierTestCase):
    def test_lost(self) -> None:
        """When the connection is lost, all callers fail, also those that wait for the next marker,
        which is not sent.
        """
        first = self.journal.barrier()
        self.turn()
        late = self.journal.barrier()
        self.journal.detach()
        for barrier in (first, late):
            self.failureResultOf(barrier, BrokerUnavailable)
        self.assertEqual(len(self.sent()), 1)

    def test_without_a_connection(self) -> None:
        """Without a connection a barrier fails at once."""
        self.lose()
        self.failureResultOf(self.journal.barrier(), BrokerUnavailable)

    def test_attached_again(self) -> None:
        """On the next connection the stream continues after the last event, and barriers work. Old
        markers are ignored.
        """
        barrier = self.journal.barrier()
        old = self.sent()[0].body
        self.bring(encode_event(Started("0" * 32, "DEVICE1", 1.0, 1)))
        self.turn()
        self.lose()
        self.failureResultOf(barrier, BrokerUnavailable, Unconfirmed)
        self.broker.answers[Basic.Publish] = self.at_once
        self.attach()
        self.broker.answers[Basic.Publish] = None
        self.assertEqual(self.peer.commands(Basic.Consume)[-1].arguments, {"x-stream-offset": 1})
        again = self.journal.barrier()
        self.bring(old)
        self.turn()
        self.assertNoResult(again)
        self.land(0)
        self.assertIsNone(self.successResultOf(again))

    def test_the_broker_refuses_the_marker(self) -> None:
        """If the broker refuses the marker, its callers fail with the reason. The next callers get
        another marker.
        """
        barrier = self.journal.barrier()
        self.turn()
        late = self.journal.barrier()
        self.confirmed += 1
        self.peer.send(Basic.Nack(self.confirmed), 1)
        self.turn()
        self.failureResultOf(barrier, Unconfirmed)
        self.land(1)
        self.assertIsNone(self.successResultOf(late))

    def test_no_queue_takes_the_marker(self) -> None:
        """If the marker is returned as unroutable, its callers fail."""
        barrier = self.journal.barrier()
        self.peer.send_back(self.sent()[0])
        self.confirm()
        self.turn()
        self.failureResultOf(barrier, Unroutable)

    def test_no_confirm(self) -> None:
        """If the marker is not confirmed in time, its callers fail. A later confirm has no
        effect.
        """
        barrier = self.journal.barrier()
        marker = self.sent()[0].body
        self.network.advance(5)
        self.failureResultOf(barrier, Unconfirmed)
        self.bring(marker)
        self.turn()
        self.assertFalse(self.connection.closed)

    def test_the_broker_is_full(self) -> None:
        """While the broker accepts no messages, a barrier fails at once, also for later callers."""
        self.connection.blocked = True
        for barrier in self.barriers(2):
            self.failureResultOf(barrier, Overloaded)
        self.connection.blocked = False
        barrier = self.journal.barrier()
        self.turn()
        self.land(0)
        self.assertIsNone(self.successResultOf(barrier))


class Stall(BarrierTestCase):
    def test_nothing_comes(self) -> None:
        """If the stream delivers nothing while a marker is due, the connection is closed."""
        barrier = self.journal.barrier()
        self.turn()
        self.confirm()
        self.network.advance(STALL_S - 1)
        self.assertFalse(self.connection.closed)
        self.network.advance(1)
        self.assertIn("delivered nothing for 30 s", str(self.connection.failure))
        self.journal.detach()
        self.failureResultOf(barrier, BrokerUnavailable)

    def test_the_journal_is_another(self) -> None:
        """After a stream that delivered nothing, the last event is searched from the beginning. If
        it is not there, the whole stream is read.
        """
        events = [encode_event(Started(f"{number:032x}", "DEVICE1", 1.0, 1)) for number in range(3)]
        self.bring(*events)
        self.stall()
        self.delivery_tags, self.offsets, self.confirmed = itertools.count(1), itertools.count(), 0
        self.connection = self.connect(heartbeat_s=0)
        self.result(self.publisher.attach(self.connection))
        attaching = Deferred.fromCoroutine(self.journal.attach(self.connection))
        self.turn()
        self.assertEqual(
            self.peer.commands(Basic.Consume)[-1].arguments, {"x-stream-offset": "first"}
        )
        self.bring(events[1])
        self.turn()
        self.assertEqual((self.lost, len(self.seen)), (0, 3))
        self.broker.answers[Basic.Publish] = self.at_once
        self.bring(self.peer.contents(Basic.Publish)[-1].body)
        self.turn()
        self.assertEqual(self.lost, 1)
        self.lose()
        self.failureResultOf(attaching, Unconfirmed)
        self.offsets = itertools.count(2)
        self.attach()
        self.assertEqual(
            self.peer.commands(Basic.Consume)[-1].arguments, {"x-stream-offset": "first"}
        )

    def test_the_journal_is_the_same(self) -> None:
        """If the last event is found at its offset, only newer events are applied."""
        events = [encode_event(Started(f"{number:032x}", "DEVICE1", 1.0, 1)) for number in range(3)]
        self.bring(*events)
        self.stall()
        self.delivery_tags, self.confirmed = itertools.count(1), 0
        self.connection = self.connect(heartbeat_s=0)
        self.result(self.publisher.attach(self.connection))
        attaching = Deferred.fromCoroutine(self.journal.attach(self.connection))
        self.turn()
        self.offsets = itertools.count(1)
        self.bring(
            *events,
            encode_event(Started("f" * 32, "DEVICE1", 1.0, 1)),
            self.peer.contents(Basic.Publish)[-1].body,
        )
        self.turn()
        self.assertIsNone(self.successResultOf(attaching))
        self.assertEqual(
            ([event.task_id[-1:] for event in self.seen if isinstance(event, Started)], self.lost),
            (["0", "1", "2", "f"], 0),
        )

    def stall(self) -> None:
        barrier = self.journal.barrier()
        self.turn()
        self.confirm()
        self.network.advance(STALL_S)
        self.network.advance(STALL_S)
        self.lose()
        self.failureResultOf(barrier, BrokerUnavailable)

    def test_a_long_replay(self) -> None:
        """As long as the stream delivers anything, the marker is waited for."""
        barrier = self.journal.barrier()
        self.turn()
        self.confirm()
        for _ in range(10):
            self.network.advance(STALL_S - 1)
            self.bring(encode_event(Started("0" * 32, "DEVICE1", 1.0, 1)))
        self.turn()
        self.assertFalse(self.connection.closed)
        self.bring(self.sent()[0].body)
        self.turn()
        self.assertIsNone(self.successResultOf(barrier))


class Acks(BarrierTestCase):
    def test_one_for_many(self) -> None:
        """One acknowledgement covers many deliveries."""
        self.bring(*[encode_event(Started("0" * 32, "DEVICE1", 1.0, 1))] * (2 * ACK_EVERY))
        self.turn()
        self.assertEqual(
            [(ack.delivery_tag, ack.multiple) for ack in self.peer.commands(Basic.Ack)],
            [(ACK_EVERY, True), (2 * ACK_EVERY, True)],
        )
