"""Known defects of stock txAMQP 0.8.2, by number, none of which rtprov has. Most are also tested
with one byte at a time.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable

from pamqp.commands import Basic, Channel, Connection, Queue
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from txamqp.protocol import AMQChannel, AMQClient

from rtprov.amqp.client.channel import CHANNEL_CLASS
from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.client.protocol import MAX_HELD_BACK_BYTES, AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import BrokerConnection
from rtprov.amqp.client.spec import SPEC
from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import BrokerUnavailable, Overloaded, Unconfirmed
from tests.support.memory import MemoryTransport
from tests.support.scripted_broker import URL, AmqpTestCase

TEXT = "Ж" * 3000
PERSISTENT = Basic.Properties(delivery_mode=2)


class CountingClock(Clock):
    """Counts the timers that are set."""

    set_timers = 0

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        self.set_timers += 1
        return super().callLater(delay, callable, *args, **kw)


class TrapTests(AmqpTestCase):
    def consumer(self, connection: AmqpConnection) -> tuple[str, list[Delivery]]:
        deliveries: list[Delivery] = []
        return self.result(
            consume(self.channel(connection), "q", deliveries.append, prefetch=1000)
        ), deliveries

    def publisher(self, connection: AmqpConnection) -> Publisher:
        publisher = Publisher(clock=self.clock)
        self.result(publisher.attach(connection))
        return publisher

    def test_model(self) -> None:
        """Connection, channel and their generated methods are txAMQP's."""
        connection = self.connect()
        self.assertIsInstance(connection, AMQClient)
        self.assertIsInstance(self.channel(connection), AMQChannel)
        self.assertTrue(issubclass(CHANNEL_CLASS, SPEC.klass))  # type: ignore[arg-type] # txAMQP is untyped

    def test_no_spec_file(self) -> None:
        """1: No specification file is needed. The specification is built once, with confirms, and
        every no-wait field is called `nowait`.
        """
        self.assertIn("select-ok", SPEC.classes.byname["confirm"].methods.byname)
        for klass in SPEC.classes:
            for method in klass.methods:
                self.assertFalse({"no_wait", "no-wait"} & set(method.fields.byname), method)
        self.assertIs(self.connect().spec, self.connect().spec)

    def test_bodies_are_bytes(self) -> None:
        """2: Bodies are always bytes, even if they are cut within a character, mixed, or empty."""
        tag, deliveries = self.consumer(self.connect())
        bodies = [TEXT.encode()[1:], b"\xff" * 5000 + b"ascii" * 1000, b"", b"ascii"]
        for number, body in enumerate(bodies):
            self.peer.deliver(1, tag, number + 1, body)
        self.network.settle()
        self.assertEqual([delivery.body for delivery in deliveries], bodies)
        self.assertEqual({type(delivery.body) for delivery in deliveries}, {bytes})

    def test_field_tables(self) -> None:
        """3: Headers of every type and script are sent and received unchanged."""
        connection = self.connect()
        tag, deliveries = self.consumer(connection)
        headers = {
            "ключ": TEXT,
            "x-death": [{"count": -3000}],
            "x-stream-offset": 2**40,
            "x": [True, None, 1.5],
        }
        properties = Basic.Properties(headers=headers)  # type: ignore[arg-type] # pamqp's type lacks some of these values
        self.publisher(connection).publish("e", "k", b"", properties=properties)
        self.network.settle()
        (publish,) = self.peer.contents(Basic.Publish)
        assert publish.properties is not None
        self.assertEqual(publish.properties.headers, headers)
        self.peer.deliver(1, tag, 1, b"", properties)
        self.network.settle()
        self.assertEqual(deliveries[0].properties.headers, headers)

    def test_encoding_error(self) -> None:
        """4: An encoding error is raised for its caller, nothing is sent, and the connection stays
        usable.
        """
        connection = self.connect()
        publisher = self.publisher(connection)
        before = self.peer.received[:]
        self.failureResultOf(
            publisher.publish("e", "k", b"x", properties=Basic.Properties(priority=1000)),
            ValueError,
        )
        self.network.settle()
        self.assertEqual(self.peer.received, before)
        published = publisher.publish("e", "k", b"x", properties=PERSISTENT)
        self.network.settle()
        self.peer.send(Basic.Ack(1), 1)
        self.network.settle()
        self.successResultOf(published)

    def test_property_names(self) -> None:
        """5: Properties have Python names, a misspelt one is an error, and persistent messages are
        persistent.
        """
        self.publisher(self.connect()).publish("e", "k", b"x", properties=PERSISTENT)
        self.network.settle()
        properties = self.peer.contents(Basic.Publish)[0].properties
        assert properties is not None
        self.assertEqual(properties.delivery_mode, 2)

    def test_fresh_delegates(self) -> None:
        """6: Each connection has its own delegate: the end of an old one does not affect the new
        one. Confirms close neither.
        """
        old = self.connect()
        old_peer = self.peer
        new = self.connect()
        publisher = self.publisher(new)
        published = publisher.publish("e", "k", b"x", properties=PERSISTENT)
        old_peer.cut()
        self.network.settle()
        self.assertTrue(old.lost)
        for method in (Connection.Blocked("x"), Connection.Unblocked()):
            self.peer.send(method)
        self.peer.send(Basic.Ack(1), 1)
        self.network.settle()
        self.successResultOf(published)
        self.assertFalse(new.closed)

    def test_confirms(self) -> None:
        """7: Confirms count from 1 on each channel, may be multiple, and are all lost with the
        channel.
        """
        connection = self.connect()
        first, second = self.publisher(connection), self.publisher(connection)
        published = [
            publisher.publish("e", "k", b"x", properties=PERSISTENT)
            for publisher in (first, second)
            for _ in range(500)
        ]
        self.network.settle()
        self.peer.send(Basic.Ack(500, True), 2)
        self.network.settle()
        for one in published[500:]:
            self.successResultOf(one)
        self.peer.send(Channel.Close(541, "INTERNAL_ERROR", 0, 0), 1)
        self.network.settle()
        for one in published[:500]:
            self.failureResultOf(one, Unconfirmed)

    def test_cancelled_call(self) -> None:
        """8: A cancelled call does not take the next call's answer."""
        channel = self.channel(self.connect())
        calls = [channel.queue_declare(queue=name) for name in "abc"]
        calls[0].cancel()
        calls[1].cancel()
        self.network.settle()
        for call in calls[:2]:
            self.failureResultOf(call, CancelledError)
        self.assertEqual(self.successResultOf(calls[2]).queue, "c")

    def test_closed_channel(self) -> None:
        """9: A closed channel reports that, and its number can be used for a new one."""
        self.broker.tune.channel_max = 1
        connection = self.connect()
        channel = self.channel(connection)
        self.result(channel.channel_close())
        self.assertTrue(channel.closed)
        again = self.channel(connection)
        self.assertEqual((again.id, again.closed, again is channel), (1, False, False))

    def test_direct_dispatch(self) -> None:
        """10: Deliveries go to their consumer's callback as they arrive, without a queue in
        between.
        """
        connection = self.connect()
        tag, deliveries = self.consumer(connection)
        for number in range(100):
            self.peer.deliver(1, tag, number + 1, b"x")
        self.network.settle()
        self.assertEqual(len(deliveries), 100)
        self.assertFalse(hasattr(connection, "queues"))
        self.assertFalse(hasattr(connection, "basic_return_queue"))

    def test_silent_handshake(self) -> None:
        """11: A broker that accepts and sends nothing does not block the client. Closing closes
        every channel.
        """
        self.patch(self.broker, "greet", lambda peer: None)
        handshake = self.begin().handshake()
        self.network.advance(5)
        self.failureResultOf(handshake, BrokerUnavailable)
        self.setUp()
        connection = self.connect()
        channels = [self.channel(connection) for _ in range(20)]
        self.result(connection.close())
        self.assertTrue(all(channel.closed for channel in channels))

    def test_heartbeats_cost_nothing(self) -> None:
        """12: Sending or receiving a frame sets no timer."""
        self.clock = self.network.clock = CountingClock()
        connection = self.connect()
        tag, deliveries = self.consumer(connection)
        before = self.clock.set_timers
        for number in range(50):
            connection.dataReceived(b"\x08\0\0\0\0\0\0\xce" * 20)
            self.peer.deliver(1, tag, number + 1, b"x")
        self.assertLessEqual(self.clock.set_timers - before, 1)  # timers of the in-memory network
        self.network.settle()
        before = self.clock.set_timers
        for delivery in deliveries:
            delivery.ack()
        self.assertEqual(len(deliveries), 50)
        self.assertLessEqual(self.clock.set_timers - before, 1)

    def test_no_frame_limit(self) -> None:
        """13: If the broker has no frame limit, bodies are sent in frames of at most
        131072 bytes.
        """
        self.broker.tune = Connection.Tune(0, 0, 0)
        publisher = self.publisher(self.connect())
        body = bytes(300_000)
        publisher.publish("e", "k", body, properties=PERSISTENT)
        self.network.settle()
        self.assertEqual([publish.body for publish in self.peer.contents(Basic.Publish)], [body])
        self.assertEqual(self.peer.commands(Connection.TuneOk)[0].frame_max, 131072)

    def test_back_pressure(self) -> None:
        """14: If the broker stops reading, the buffer stays small."""
        connection = self.connect()
        publisher = self.publisher(connection)
        assert isinstance(self.peer.transport, MemoryTransport)
        self.peer.transport.pauseProducing()
        body = bytes(60_000)
        published = [publisher.publish("e", "k", body, properties=PERSISTENT) for _ in range(1000)]
        self.failureResultOf(published[-1], Overloaded)
        refused = sum(one.called for one in published)
        for one in published[:-1]:
            one.addErrback(lambda _: None)
        self.assertLess((1000 - refused) * len(body), MAX_HELD_BACK_BYTES + 200_000)

    def test_no_deferred_a_frame(self) -> None:
        """15: A delivery and its ack create no Deferred. A publish creates the one that its caller
        waits for.
        """
        connection = self.connect()
        publisher = self.publisher(connection)
        tag, deliveries = self.consumer(connection)
        made: list[object] = []
        original = Deferred.__init__

        def count(deferred: Deferred[object], *args: object) -> None:
            made.append(deferred)
            original(deferred, *args)  # type: ignore[arg-type] # arguments are passed on as they are

        self.patch(Deferred, "__init__", count)
        for number in range(20):
            self.peer.deliver(2, tag, number + 1, b"x")
        self.clock.advance(0)
        for delivery in deliveries:
            delivery.ack()
        self.assertEqual((len(deliveries), len(made)), (20, 0))
        for _ in range(20):
            publisher.publish("e", "k", b"x", properties=PERSISTENT)
        self.clock.advance(0)
        self.peer.send(Basic.Ack(20, True), 1)
        self.clock.advance(0)
        self.assertEqual((publisher.unconfirmed, len(made)), (0, 20))

    def test_url(self) -> None:
        """16: The URL is percent-decoded, and may be amqps."""
        self.assertEqual(
            BrokerUrl.parse("amqps://a%40b:p%3Aw@h/%2F"),
            BrokerUrl("h", 5671, "a@b", "p:w", "/", True),
        )

    def test_loop(self) -> None:
        """17: After a connection that is lost during the handshake, exactly one new connection is
        made.
        """
        answer = self.broker.answers[Connection.Open]
        self.broker.answers[Connection.Open] = lambda peer, _: peer.cut()
        service = BrokerConnection(
            name="test",
            endpoint=self.network.connect("broker"),
            url=URL,
            clock=self.clock,
            rng=random.Random(1),
            sessions=(),
        )
        service.startService()
        self.network.advance(1)
        self.broker.answers[Connection.Open] = answer
        self.network.advance(2)
        self.assertTrue(service.connected)
        self.assertEqual(sum(not peer.lost for peer in self.broker.peers), 1)
        service.stopService()
        self.assert_idle()

    def test_refused_declare_is_no_answer(self) -> None:
        """A refused method fails with the broker's error, never with one of txAMQP's."""
        channel = self.channel(self.connect(), fatal=False)
        self.broker.answers[Queue.Declare] = lambda peer, _: Channel.Close(404, "NOT_FOUND", 50, 10)
        self.assertEqual(str(self.error(channel.queue_declare(queue="q"))), "404 NOT_FOUND")


class BytewiseTrapTests(TrapTests):
    bytewise = True


class ReactorTests(AmqpTestCase):
    def test_no_reactor(self) -> None:
        """A whole conversation, including txAMQP, imports no global reactor."""
        script = (
            "import sys\n"
            "import rtprov.amqp.client.service, rtprov.amqp.client.rpc, rtprov.messaging.topology\n"
            "from twisted.internet.task import Clock\n"
            "from rtprov.amqp.client.protocol import AmqpConnection\n"
            "from rtprov.amqp.client.url import BrokerUrl\n"
            "connection = AmqpConnection(url=BrokerUrl.parse('amqp://h'), clock=Clock())\n"
            "from twisted.internet.testing import StringTransport\n"
            "from pamqp.commands import Connection\n"
            "from rtprov.amqp.framing import encode_method\n"
            "connection.makeConnection(StringTransport())\n"
            "for method in Connection.Start(), Connection.Tune(0, 0, 9), Connection.OpenOk():\n"
            "    connection.dataReceived(encode_method(0, method))\n"
            "opened = connection.open_channel()\n"
            "assert len(connection.channels) == 2\n"
            "print('twisted.internet.reactor' in sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        self.assertEqual((done.stdout, done.stderr), ("False\n", ""))
