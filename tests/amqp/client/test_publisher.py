"""Publishing: the result of each confirm, return, loss and delay for the caller."""

from __future__ import annotations

from pamqp.commands import Basic, Channel, Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from rtprov.amqp.client.protocol import MAX_HELD_BACK_BYTES, AmqpConnection
from rtprov.amqp.client.publisher import LOST_AFTER_S, Publisher
from rtprov.errors import BrokerUnavailable, Overloaded, Unconfirmed, Unroutable
from tests.support.memory import MemoryTransport
from tests.support.scripted_broker import AmqpTestCase

PERSISTENT = Basic.Properties(delivery_mode=2, headers={"ключ": "значение"})


class PublisherTests(AmqpTestCase):
    connection: AmqpConnection

    def setUp(self) -> None:
        super().setUp()
        self.unroutable = 0
        self.publisher = Publisher(
            clock=self.clock, max_unconfirmed=100, on_unroutable=self.count_unroutable
        )

    def attach(self) -> None:
        self.connection = self.connect()
        self.result(self.publisher.attach(self.connection))

    def count_unroutable(self) -> None:
        self.unroutable += 1

    def publish(
        self,
        body: bytes = b"body",
        *,
        properties: Basic.Properties = PERSISTENT,
        mandatory: bool = True,
        patient: bool = False,
    ) -> Deferred[None]:
        published = self.publisher.publish(
            "exchange", "key", body, properties=properties, mandatory=mandatory, patient=patient
        )
        self.network.settle()
        return published

    def confirm(self, tag: int, *, multiple: bool = False) -> None:
        self.peer.send(Basic.Ack(tag, multiple), 1)
        self.network.settle()

    def test_message(self) -> None:
        """A message reaches the broker with its body, properties and flags."""
        self.attach()
        body = "тело".encode() * 50_000
        self.publish(body)
        (publish,) = self.peer.contents(Basic.Publish)
        method = publish.method
        assert isinstance(method, Basic.Publish)
        self.assertEqual(
            (method.exchange, method.routing_key, method.mandatory), ("exchange", "key", True)
        )
        self.assertEqual((publish.body, publish.properties), (body, PERSISTENT))

    def test_confirmed(self) -> None:
        """A publish fires when its confirm arrives, and not before."""
        self.attach()
        published = self.publish()
        self.assertNoResult(published)
        self.confirm(1)
        self.assertIsNone(self.successResultOf(published))
        self.assertEqual(self.publisher.unconfirmed, 0)

    def test_out_of_order(self) -> None:
        """Confirms may arrive in any order."""
        self.attach()
        first, second = self.publish(), self.publish()
        self.confirm(2)
        self.assertNoResult(first)
        self.successResultOf(second)
        self.confirm(1)
        self.successResultOf(first)

    def test_multiple(self) -> None:
        """One confirm can stand for all messages up to its tag."""
        self.attach()
        published = [self.publish() for _ in range(10)]
        self.confirm(3)
        self.confirm(7, multiple=True)
        for one in published[:7]:
            self.successResultOf(one)
        for one in published[7:]:
            self.assertNoResult(one)
        self.confirm(5, multiple=True)
        self.confirm(10, multiple=True)
        for one in published[7:]:
            self.successResultOf(one)

    def test_multiple_of_all(self) -> None:
        """A multiple confirm of tag 0 stands for all messages in flight."""
        self.attach()
        published = [self.publish() for _ in range(3)]
        self.confirm(0, multiple=True)
        for one in published:
            self.successResultOf(one)

    def test_confirmed_twice(self) -> None:
        """A second confirm for a message is ignored."""
        self.attach()
        published = [self.publish() for _ in range(2)]
        for _ in range(2):
            self.confirm(1)
        self.successResultOf(published[0])
        self.assertNoResult(published[1])
        self.assertFalse(self.connection.closed)

    def test_confirm_of_nothing(self) -> None:
        """A confirm for a message that was never published is an error: the connection is closed,
        and no message counts as safe.
        """
        for tag, multiple in ((2, False), (2, True), (1 << 62, True), (0, False)):
            self.attach()
            published = self.publish()
            self.confirm(tag, multiple=multiple)
            self.failureResultOf(published, Unconfirmed)
            self.assertTrue(self.connection.lost)

    def test_nack(self) -> None:
        """A nack is a failure, for one or for many messages."""
        self.attach()
        published = [self.publish() for _ in range(4)]
        self.peer.send(Basic.Nack(1), 1)
        self.peer.send(Basic.Nack(3, True), 1)
        self.network.settle()
        for one in published[:3]:
            self.failureResultOf(one, Unconfirmed)
        self.assertNoResult(published[3])

    def test_returned(self) -> None:
        """A message that is returned before its confirm was routed to no queue."""
        self.attach()
        published = self.publish()
        self.peer.send_back(self.peer.contents(Basic.Publish)[0])
        self.network.settle()
        self.assertNoResult(published)
        self.assertEqual(self.unroutable, 0)
        self.confirm(1)
        self.assertIn("312 NO_ROUTE", str(self.failureResultOf(published, Unroutable).value))
        self.assertEqual(self.unroutable, 1)

    def test_returned_among_others(self) -> None:
        """Of many messages, the returned ones are recognised by their contents."""
        self.attach()
        bodies = [b"a", b"b", b"b", b"", b"c" * 10_000]
        published = [
            self.publish(body, properties=Basic.Properties(correlation_id=str(i)))
            for i, body in enumerate(bodies)
        ]
        publishes = self.peer.contents(Basic.Publish)
        for index in (2, 3):
            self.peer.send_back(publishes[index])
        self.confirm(5, multiple=True)
        for index, one in enumerate(published):
            if index in (2, 3):
                self.failureResultOf(one, Unroutable)
            else:
                self.successResultOf(one)

    def test_twins_returned(self) -> None:
        """Of two equal messages, each return counts for one."""
        self.attach()
        published = [self.publish() for _ in range(3)]
        for publish in self.peer.contents(Basic.Publish)[:2]:
            self.peer.send_back(publish)
        self.confirm(3, multiple=True)
        for one in published[:2]:
            self.failureResultOf(one, Unroutable)
        self.successResultOf(published[2])

    def test_returned_unasked(self) -> None:
        """A return that matches no message in flight is ignored."""
        self.attach()
        self.publish(mandatory=False)
        self.publish(b"other")
        self.peer.send_content(
            1, Basic.Return(312, "NO_ROUTE", "exchange", "key"), b"body", PERSISTENT
        )
        self.confirm(2, multiple=True)
        self.assertEqual(self.publisher.unconfirmed, 0)
        self.assertFalse(self.connection.closed)

    def test_not_attached(self) -> None:
        """Without a connection nothing can be published."""
        self.failureResultOf(self.publish(), BrokerUnavailable)
        self.attach()
        self.publisher.detach()
        self.failureResultOf(self.publish(), BrokerUnavailable)

    def test_lost(self) -> None:
        """When the channel is lost, it is unknown whether messages in flight are safe. A later
        connection does not confirm them.
        """
        for end in ("cut", "drop", "channel", "detach"):
            self.attach()
            published = [self.publish() for _ in range(2)]
            if end == "cut":
                self.peer.cut()
            elif end == "drop":
                self.connection.drop("dropped")
            elif end == "channel":
                self.peer.send(Channel.Close(406, "PRECONDITION_FAILED", 0, 0), 1)
            else:
                self.publisher.detach()
            self.network.settle()
            for one in published:
                self.failureResultOf(one, Unconfirmed)
            self.assertEqual(self.publisher.unconfirmed, 0)

    def test_tags_start_anew(self) -> None:
        """Each channel counts its messages from 1."""
        self.attach()
        self.confirm_all(5)
        self.publisher.detach()
        self.attach()
        published = self.publish()
        self.confirm(1)
        self.successResultOf(published)

    def confirm_all(self, count: int) -> None:
        for _ in range(count):
            self.publish()
        self.confirm(count, multiple=True)

    def test_deadline(self) -> None:
        """For a message without a confirm within 4 seconds it is unknown whether it is safe. Its
        late confirm has no effect.
        """
        self.attach()
        early = self.publish()
        self.network.advance(2)
        late = self.publish()
        self.network.advance(1.4)
        self.assertNoResult(early)
        self.network.advance(0.6)
        self.failureResultOf(early, Unconfirmed)
        self.assertNoResult(late)
        self.assertEqual(self.publisher.unconfirmed, 2)
        self.confirm(2, multiple=True)
        self.successResultOf(late)
        self.assertEqual(self.publisher.unconfirmed, 0)
        self.network.advance(1)
        self.assertEqual(
            [
                call
                for call in self.clock.getDelayedCalls()
                if call.getTime() < self.clock.seconds() + 1
            ],
            [],
        )

    def test_busy(self) -> None:
        """A reactor that is busy does not use up the deadline: the confirm may wait in the socket.
        Each turn counts for half a second at most.
        """
        self.attach()
        published = self.publish()
        for _ in range(7):
            self.clock.advance(1.0)
            self.assertNoResult(published)
        self.clock.advance(1.0)
        self.failureResultOf(published, Unconfirmed)

    def test_patient(self) -> None:
        """A patient message has no deadline. It fails after a minute, when the broker has lost
        it.
        """
        self.attach()
        patient, other, confirmed = (
            self.publish(patient=True),
            self.publish(),
            self.publish(patient=True),
        )
        self.network.advance(5)
        self.failureResultOf(other, Unconfirmed)
        self.confirm(3)
        self.successResultOf(confirmed)
        for _ in range(int(LOST_AFTER_S) - 6):
            self.confirm(3)  # again, as a sign of life
            self.network.advance(1)
        self.assertNoResult(patient)
        self.network.advance(1.1)
        error = self.failureResultOf(patient, Unconfirmed).value
        self.assertEqual(str(error), "The broker did not confirm the message within 60 s")
        late = self.publish()
        self.confirm(4)
        self.successResultOf(late)

    def test_deadline_of_all(self) -> None:
        """Each message waits between 3.5 and 4 seconds, whenever it was published."""
        self.attach()
        ages: list[float] = []

        def note(reason: Failure, at: float) -> None:
            reason.trap(Unconfirmed)
            ages.append(self.clock.seconds() - at)

        for _ in range(60):
            self.publish().addErrback(note, self.clock.seconds())
            self.network.advance(0.07)
        self.network.advance(5)
        self.assertEqual(len(ages), 60)
        self.assertLessEqual(max(ages), 4.0)
        self.assertGreaterEqual(min(ages), 3.5)

    def test_too_many(self) -> None:
        """At most `max_unconfirmed` messages are in flight, including those whose callers have
        cancelled.
        """
        self.attach()
        waiting = [self.publish() for _ in range(100)]
        self.failureResultOf(self.publish(), Overloaded)
        self.network.advance(5)
        for one in waiting:
            self.failureResultOf(one, Unconfirmed)
        self.failureResultOf(self.publish(), Overloaded)
        self.confirm(100, multiple=True)
        self.assertNoResult(self.publish())

    def test_blocked(self) -> None:
        """While the broker blocks publishers, nothing is sent."""
        self.attach()
        self.peer.send(Connection.Blocked("disk"))
        self.network.settle()
        self.failureResultOf(self.publish(), Overloaded)
        self.assertEqual(self.peer.commands(Basic.Publish), [])
        self.peer.send(Connection.Unblocked())
        self.network.settle()
        self.assertNoResult(self.publish())

    def test_flow(self) -> None:
        """While the broker stops the channel, nothing is sent."""
        self.attach()
        self.peer.send(Channel.Flow(False), 1)
        self.network.settle()
        self.failureResultOf(self.publish(), Overloaded)

    def test_stopped_broker(self) -> None:
        """If the broker does not read, at most one burst is buffered."""
        self.attach()
        assert isinstance(self.peer.transport, MemoryTransport)
        self.peer.transport.pauseProducing()
        body = bytes(200_000)
        published = [self.publish(body) for _ in range(50)]
        failed = [one for one in published if one.called]
        for one in failed:
            self.failureResultOf(one, Overloaded)
        self.assertLess((50 - len(failed)) * len(body), MAX_HELD_BACK_BYTES + 1_000_000)

    def test_unencodable(self) -> None:
        """A message that cannot be encoded raises an error for its caller and uses no delivery tag.
        The next message is published as usual.
        """
        self.attach()
        self.failureResultOf(
            self.publisher.publish("e", "k" * 256, b"", properties=PERSISTENT),
            TypeError,
            ValueError,
        )
        unknown = Basic.Properties(headers={"x": object()})  # type: ignore[dict-item] # on purpose
        self.failureResultOf(self.publish(properties=unknown), TypeError)
        published = self.publish()
        self.confirm(1)
        self.successResultOf(published)

    def test_cancelled(self) -> None:
        """A cancelled publish is forgotten. The message is still sent, and its confirm does not go
        to another caller.
        """
        self.attach()
        first, second = self.publish(), self.publish()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.confirm(1)
        self.assertNoResult(second)
        self.confirm(2)
        self.successResultOf(second)

    def test_republish_from_callback(self) -> None:
        """A caller may publish again in the callback of a loss or a confirm."""
        self.attach()
        again: list[Deferred[None]] = []
        self.publish().addCallback(lambda _: again.append(self.publish(b"again")))
        self.publish().addErrback(lambda _: again.append(self.publish(b"too late")))
        self.confirm(1)
        self.assertNoResult(again[0])
        self.connection.drop("over")
        self.network.settle()
        self.failureResultOf(again[0], Unconfirmed)
        self.failureResultOf(again[1], BrokerUnavailable)

    def test_idle(self) -> None:
        """A publisher without messages in flight has no timer, nor has one that has lost its
        channel.
        """
        self.broker.tune = Connection.Tune(0, 0, 0)
        connection = self.connect(heartbeat_s=0)
        self.result(self.publisher.attach(connection))
        published = self.publish()
        self.confirm(1)
        self.successResultOf(published)
        self.network.advance(1)
        self.assert_idle()
        self.publish().addErrback(lambda _: None)
        connection.drop("over")
        self.assert_idle()


class BytewisePublisherTests(PublisherTests):
    bytewise = True
