"""Consuming: deliveries, how they are settled, and how a consumer ends."""

from __future__ import annotations

from pamqp.commands import Basic, Channel
from pamqp.common import FieldTable

from rtprov.amqp.client.consumer import cancel, consume
from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import encode_content
from rtprov.errors import AmqpError, BrokerUnavailable
from tests.support.scripted_broker import AmqpTestCase


class ConsumerTests(AmqpTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.connection = self.connect()
        self.channel_ = self.channel(self.connection)
        self.deliveries: list[Delivery] = []

    def consume(self, **options: object) -> str:
        arguments = {"prefetch": 10, **options}
        return self.result(consume(self.channel_, "q", self.deliveries.append, **arguments))  # type: ignore[arg-type] # options of consume()

    def deliver(self, tag: str, count: int = 1) -> list[Delivery]:
        start = len(self.deliveries)
        for number in range(start, start + count):
            self.peer.deliver(1, tag, number + 1, b"body %d" % number)
        self.network.settle()
        return self.deliveries[start:]

    def settled(self) -> list[tuple[str, int, bool, bool | None]]:
        """Return each ack and nack that the broker received: name, tag, multiple, requeue."""
        self.network.settle()
        return [
            (
                command.method.name,
                command.method.delivery_tag,
                command.method.multiple,
                getattr(command.method, "requeue", None),
            )
            for command in self.peer.received
            if isinstance(command.method, (Basic.Ack, Basic.Nack))
        ]

    def test_setup(self) -> None:
        """Prefetch and arguments are sent to the broker, prefetch first. The prefetch is set for
        the consumer, never globally.
        """
        tag = self.consume(arguments={"x-stream-offset": 5}, exclusive=True)
        qos, sent = self.peer.received[-2].method, self.peer.received[-1].method
        assert isinstance(qos, Basic.Qos) and isinstance(sent, Basic.Consume)
        self.assertEqual((qos.prefetch_count, qos.global_), (10, False))
        self.assertEqual(
            (sent.queue, sent.consumer_tag, sent.no_ack, sent.exclusive), ("q", tag, False, True)
        )
        self.assertEqual(sent.arguments, {"x-stream-offset": 5})

    def test_no_prefetch(self) -> None:
        """Without a prefetch no ``basic.qos`` is sent."""
        self.consume(prefetch=0, no_ack=True)
        self.assertEqual(self.peer.commands(Basic.Qos), [])

    def test_delivery(self) -> None:
        """A delivery has all the fields of the broker's method and properties. Its body
        is bytes.
        """
        tag = self.consume()
        headers: FieldTable = {
            "x-stream-offset": 1 << 40,
            "x-death": [{"count": 3, "queue": "очередь"}],
            "x": -1000,
        }
        for size in (0, 1, 4088, 4089, 100_000):
            body = bytes(i % 251 for i in range(size))
            method = Basic.Deliver(tag, size + 1, True, "exchange", "ключ")
            properties = Basic.Properties(headers=headers, correlation_id="Ж")
            self.peer.send_bytes(
                encode_content(1, method, encode_header(properties, size), body, 4096)
            )
            self.network.settle()
            delivery = self.deliveries.pop()
            self.assertEqual(
                (delivery.body, delivery.exchange, delivery.routing_key), (body, "exchange", "ключ")
            )
            self.assertEqual((delivery.redelivered, delivery.delivery_tag), (True, size + 1))
            self.assertEqual(
                (delivery.properties.headers, delivery.properties.correlation_id), (headers, "Ж")
            )

    def test_repr(self) -> None:
        """The repr of a delivery shows no contents, so they cannot get into a log."""
        (delivery,) = self.deliver(self.consume())
        self.assertNotIn("body", repr(delivery))

    def test_first_delivery_comes_with_consume_ok(self) -> None:
        """A delivery that arrives together with the broker's ``basic.consume-ok`` gets to its
        consumer.
        """

        def at_once(peer: object, command: object) -> Basic.ConsumeOk:
            tag = self.peer.commands(Basic.Consume)[-1].consumer_tag
            self.clock.callLater(0, self.peer.deliver, 1, tag, 1, b"first")
            return Basic.ConsumeOk(tag)

        self.broker.answers[Basic.Consume] = at_once
        self.consume()
        self.assertEqual([delivery.body for delivery in self.deliveries], [b"first"])

    def test_each_to_its_own(self) -> None:
        """Deliveries go to the consumer that they name."""
        others: list[Delivery] = []
        mine = self.consume()
        other = self.result(consume(self.channel_, "q2", others.append, prefetch=1))
        self.assertNotEqual(mine, other)
        for number, tag in enumerate((mine, other, mine)):
            self.peer.deliver(1, tag, number + 1, tag.encode())
        self.network.settle()
        self.assertEqual([delivery.body for delivery in self.deliveries], [mine.encode()] * 2)
        self.assertEqual([delivery.body for delivery in others], [other.encode()])

    def test_ack(self) -> None:
        """An ack settles one delivery. Settling it again does nothing."""
        first, second = self.deliver(self.consume(), 2)
        self.assertTrue(second.live)
        second.ack()
        second.ack()
        second.nack(requeue=True)
        self.assertFalse(second.live)
        self.assertTrue(first.live)
        self.assertEqual(self.settled(), [("Basic.Ack", 2, False, None)])

    def test_nack(self) -> None:
        """A nack returns one delivery to its queue, or makes it a dead letter."""
        first, second = self.deliver(self.consume(), 2)
        first.nack(requeue=True)
        second.nack(requeue=False)
        first.ack()
        self.assertEqual(
            self.settled(), [("Basic.Nack", 1, False, True), ("Basic.Nack", 2, False, False)]
        )

    def test_ack_all(self) -> None:
        """One ack can settle all deliveries up to a tag. None of them can then be settled again."""
        deliveries = self.deliver(self.consume(), 4)
        self.channel_.ack_all(deliveries[2])
        for delivery in deliveries[:3]:
            self.assertFalse(delivery.live)
            delivery.ack()
        self.channel_.ack_all(deliveries[1])
        deliveries[3].ack()
        self.assertEqual(
            self.settled(), [("Basic.Ack", 3, True, None), ("Basic.Ack", 4, False, None)]
        )

    def test_no_ack(self) -> None:
        """If messages are consumed without acknowledgements, none is sent."""
        (delivery,) = self.deliver(self.consume(no_ack=True))
        self.assertFalse(delivery.live)
        delivery.ack()
        delivery.nack(requeue=True)
        self.channel_.ack_all(delivery)
        self.assertEqual(self.settled(), [])

    def test_settled_too_late(self) -> None:
        """After the channel is closed, settling does nothing."""
        first, second = self.deliver(self.consume(), 2)
        self.connection.drop("over")
        self.assertFalse(first.live)
        first.ack()
        second.nack(requeue=False)
        self.assertEqual(self.settled(), [])

    def test_cancel(self) -> None:
        """After a cancel, deliveries in flight still arrive, and no others."""
        tag = self.consume()

        def late(peer: object, command: object) -> Basic.CancelOk:
            self.peer.deliver(1, tag, 1, b"late")
            return Basic.CancelOk(tag)

        self.broker.answers[Basic.Cancel] = late
        self.result(cancel(self.channel_, tag))
        (delivery,) = self.deliveries
        delivery.ack()
        self.assertEqual(len(self.settled()), 1)
        self.assertFalse(self.connection.closed)

    def test_refused(self) -> None:
        """A consumer that the broker refuses fails with the broker's reason."""
        channel = self.channel(self.connection, fatal=False)
        self.broker.answers[Basic.Consume] = lambda peer, _: Channel.Close(404, "NOT_FOUND", 60, 20)
        self.error(consume(channel, "q", self.deliveries.append, prefetch=1), AmqpError)
        self.assertEqual(channel.consumers, {})

    def test_cancelled_by_broker(self) -> None:
        """If the broker cancels a consumer, because its queue was deleted, the connection is
        closed, so that everything is declared again.
        """
        tag = self.consume()
        self.peer.send(Basic.Cancel(tag, True), 1)
        self.network.settle()
        self.assertIn("cancelled the consumer", str(self.connection.failure))
        self.assertTrue(self.connection.lost)

    def test_cancelled_by_broker_alone(self) -> None:
        """On a channel that is not fatal, only the consumer ends."""
        channel = self.channel(self.connection, fatal=False)
        tag = self.result(consume(channel, "q", self.deliveries.append, prefetch=1))
        self.peer.send(Basic.Cancel(tag, True), channel.id)
        self.network.settle()
        self.assertEqual(
            (channel.consumers, channel.closed, self.connection.closed), ({}, False, False)
        )

    def test_unknown_consumer(self) -> None:
        """A delivery for an unknown consumer would stay unsettled for ever, so the connection is
        closed.
        """
        self.peer.deliver(1, "unknown", 1, b"")
        self.network.settle()
        self.assertIn("unknown consumer", str(self.connection.failure))

    def test_failing_callback(self) -> None:
        """An exception in a consumer is logged and closes the connection, so that its message is
        delivered again.
        """

        def fail(delivery: Delivery) -> None:
            raise RuntimeError("bug")

        tag = self.result(consume(self.channel_, "q", fail, prefetch=1))
        self.peer.deliver(1, tag, 1, b"")
        self.peer.deliver(1, tag, 2, b"")
        self.network.settle()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(self.connection.lost)

    def test_drop_from_callback(self) -> None:
        """A consumer may close the connection. No further delivery arrives, not even one that was
        received before.
        """

        def drop(delivery: Delivery) -> None:
            self.deliveries.append(delivery)
            self.connection.drop("by the consumer")

        tag = self.result(consume(self.channel_, "q", drop, prefetch=1))
        for number in range(3):
            self.peer.deliver(1, tag, number + 1, b"")
        self.network.settle()
        self.assertEqual(len(self.deliveries), 1)
        self.assertEqual(str(self.connection.failure), "by the consumer")

    def test_lost(self) -> None:
        """A consumer that waits for the broker's answer fails if the connection is lost."""
        self.broker.answers[Basic.Consume] = lambda peer, _: peer.cut()
        self.error(
            consume(self.channel_, "q", self.deliveries.append, prefetch=1), BrokerUnavailable
        )


class BytewiseConsumerTests(ConsumerTests):
    bytewise = True
