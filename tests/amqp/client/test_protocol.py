"""The open connection: limits, heartbeats, the broker's own messages, and every way to end."""

from __future__ import annotations

from pamqp.commands import Basic, Channel, Connection, Queue, Tx
from twisted.internet.defer import CancelledError

from rtprov.amqp.client import protocol
from rtprov.amqp.framing import HEARTBEAT, encode_method
from rtprov.errors import AmqpError, BrokerUnavailable
from tests.support.memory import MemoryTransport
from tests.support.scripted_broker import AmqpTestCase


class LifeTests(AmqpTestCase):
    def test_heartbeats_sent(self) -> None:
        """An idle client sends heartbeats more often than the interval requires."""
        self.connect()
        for _ in range(10):
            self.network.advance(5)
            self.peer.send_bytes(HEARTBEAT)
        self.assertGreaterEqual(self.peer.heartbeats, 10)

    def test_no_heartbeats_beside_traffic(self) -> None:
        """Other traffic replaces heartbeats."""
        connection = self.connect()
        channel = self.channel(connection)
        for _ in range(40):
            self.network.advance(1)
            self.result(channel.queue_declare(queue="q"))
        self.assertEqual(self.peer.heartbeats, 0)

    def test_dead_peer(self) -> None:
        """A peer that sends nothing for two intervals is disconnected, and all waiting
        calls fail.
        """
        connection = self.connect()
        lost = connection.when_lost()
        self.network.advance(19)
        self.assertNoResult(lost)
        self.network.advance(6)
        self.successResultOf(lost)
        self.assertIn("two heartbeat intervals", str(connection.failure))
        self.assert_idle()

    def test_own_sleep(self) -> None:
        """If the client's own process was suspended, the peer gets another interval."""
        connection = self.connect()
        self.clock.advance(3600)
        self.network.settle()
        self.assertFalse(connection.closed)
        self.network.advance(15)
        self.assertTrue(connection.closed)

    def test_no_heartbeat(self) -> None:
        """If neither side wants heartbeats, there are none."""
        self.broker.tune = Connection.Tune(0, 0, 0)
        connection = self.connect(heartbeat_s=0)
        self.assert_idle()
        self.network.advance(1000)
        self.assertFalse(connection.closed)

    def test_blocked(self) -> None:
        """The broker can block and unblock publishers."""
        connection = self.connect()
        self.peer.send(Connection.Blocked("low on memory"))
        self.network.settle()
        self.assertTrue(connection.blocked)
        self.peer.send(Connection.Unblocked())
        self.network.settle()
        self.assertFalse(connection.blocked)

    def test_paused(self) -> None:
        """While the broker does not read, and more than a burst is buffered, the connection is
        paused. When the broker reads again, it continues.
        """
        self.patch(protocol, "MAX_HELD_BACK_BYTES", 65_536)
        connection = self.connect()
        transport = self.peer.transport
        assert isinstance(transport, MemoryTransport)
        transport.pauseProducing()
        for _ in range(64):
            connection.send(HEARTBEAT * 128)
        self.assertFalse(connection.paused)
        for _ in range(65):
            connection.send(HEARTBEAT * 128)
        self.assertTrue(connection.paused)
        transport.resumeProducing()
        self.network.settle()
        self.assertFalse(connection.paused)

    def test_unexpected_methods(self) -> None:
        """A method that a broker may not send, or not at this time, ends the connection."""
        for channel, method in (
            (0, Queue.Declare()),
            (0, Channel.Flow(True)),
            (1, Connection.Blocked("x")),
            (1, Queue.Declare()),
            (1, Queue.DeclareOk("q", 0, 0)),
            (1, Tx.Select()),
            (1, Basic.Ack(1)),
            (1, Basic.Nack(1)),
        ):
            connection = self.connect()
            self.channel(connection)
            self.peer.send(method, channel)
            self.network.settle()
            self.assertIn("503", str(connection.failure), method.name)

    def test_garbage(self) -> None:
        """Bytes that are not frames end the connection at once, and no call is left waiting."""
        for garbage in (
            b"\x09\0\0\0\0\0\0\xce",  # unknown type
            b"\x01\0\0\x7f\xff\xff\xff\0",  # larger than negotiated
            HEARTBEAT[:-1] + b"\xcd",  # wrong frame end
            b"\x01\0\0\0\0\0\x02\0\0\xce",  # not a method
            b"\x01\0\0\0\0\0\x04\xff\xff\xff\xff\xce",  # unknown method
            b"\x02\0\x01\0\0\0\x0e" + bytes(14) + b"\xce",  # header without method
            b"\x03\0\x01\0\0\0\x01x\xce",  # body without header
            encode_method(77, Channel.OpenOk()),  # no such channel
        ):
            connection = self.connect()
            channel = self.channel(connection)
            self.broker.answers[Queue.Declare] = None
            waiting = channel.queue_declare(queue="q")
            self.network.settle()
            self.peer.send_bytes(garbage)
            self.error(waiting, BrokerUnavailable)
            self.assertTrue(connection.lost)
            self.assertTrue(self.peer.lost)
            self.assert_idle()

    def test_heartbeat_on_any_channel(self) -> None:
        """A heartbeat frame is accepted on any channel."""
        connection = self.connect()
        self.peer.send_bytes(b"\x08\0\x05\0\0\0\0\xce")
        self.network.settle()
        self.assertFalse(connection.closed)


class BytewiseLifeTests(LifeTests):
    bytewise = True


class EndTests(AmqpTestCase):
    def test_close(self) -> None:
        """Closing sends ``connection.close``, waits for the broker's answer, and leaves
        no timer.
        """
        connection = self.connect()
        channel = self.channel(connection)
        closed = connection.close()
        self.network.settle()
        self.successResultOf(closed)
        self.assertEqual(
            [close.reply_code for close in self.peer.commands(Connection.Close)], [200]
        )
        self.failureResultOf(channel.queue_declare(queue="q"), BrokerUnavailable)
        self.assert_idle()

    def test_close_unanswered(self) -> None:
        """A broker that does not answer a close is disconnected after 2 seconds."""
        self.broker.answers[Connection.Close] = None
        closed = self.connect().close()
        self.network.advance(1.9)
        self.assertNoResult(closed)
        self.network.advance(0.2)
        self.successResultOf(closed)
        self.assertTrue(self.peer.lost)
        self.assert_idle()

    def test_close_twice(self) -> None:
        """A second close sends nothing, and waits for the same end."""
        connection = self.connect()
        first, second = connection.close(), connection.close()
        self.network.settle()
        for closed in (first, second, connection.close()):
            self.successResultOf(closed)
        self.assertEqual(len(self.peer.commands(Connection.Close)), 1)

    def test_close_crossing(self) -> None:
        """If both sides close at once, both are done."""
        self.broker.answers[Connection.Close] = lambda peer, _: Connection.Close(
            320, "CONNECTION_FORCED", 0, 0
        )
        self.result(self.connect().close())
        self.assert_idle()

    def test_close_during_handshake(self) -> None:
        """Before the handshake is complete, a close sends nothing."""
        self.patch(self.broker, "greet", lambda peer: None)
        connection = self.begin()
        handshake = connection.handshake()
        closed = connection.close()
        self.network.settle()
        self.successResultOf(closed)
        self.failureResultOf(handshake, BrokerUnavailable)
        self.assert_idle()

    def test_traffic_after_close(self) -> None:
        """Messages that the broker sent before it received the close are dropped."""
        connection = self.connect()
        self.channel(connection)
        self.peer.deliver(1, "unknown", 1, b"body")
        self.peer.send(Basic.Ack(7), 1)
        closed = connection.close()
        self.network.settle()
        self.successResultOf(closed)

    def test_broker_closes(self) -> None:
        """If the broker closes the connection, the client confirms that, and all calls fail with
        the broker's reason.
        """
        connection = self.connect()
        channel = self.channel(connection)
        self.broker.answers[Queue.Declare] = lambda peer, _: peer.send(
            Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)
        )
        error = self.error(channel.queue_declare(queue="q"), AmqpError)
        self.assertEqual(str(error), "320 CONNECTION_FORCED - shutdown")
        self.assertEqual(len(self.peer.commands(Connection.CloseOk)), 1)
        self.successResultOf(connection.when_lost())
        self.assert_idle()

    def test_broker_closes_and_stalls(self) -> None:
        """If the broker closes but neither disconnects nor reads, the client disconnects after 2
        seconds.
        """
        connection = self.connect()
        transport = self.peer.transport
        assert isinstance(transport, MemoryTransport)
        self.peer.send(Connection.Close(320, "CONNECTION_FORCED", 0, 0))
        transport.pauseProducing()
        self.network.advance(1.9)
        self.assertFalse(connection.lost)
        self.network.advance(0.2)
        self.assertTrue(connection.lost)
        self.assert_idle()

    def test_drop(self) -> None:
        """`drop` ends everything at once. Nothing more is sent or processed."""
        connection = self.connect()
        channel = self.channel(connection)
        seen: list[str] = []
        channel.on_closed(lambda reason: seen.append(str(reason)))
        self.peer.deliver(1, "unknown", 1, b"body")
        connection.drop("enough")
        self.assertEqual(seen, ["enough"])
        connection.send(b"nothing")
        self.failureResultOf(connection.open_channel(), BrokerUnavailable)
        self.network.settle()
        self.successResultOf(connection.when_lost())
        self.assertEqual(str(connection.failure), "enough")
        self.assert_idle()

    def test_first_failure_counts(self) -> None:
        """The first error is reported, whatever follows from it."""
        connection = self.connect()
        connection.drop("first")
        connection.drop("second")
        self.network.settle()
        self.assertEqual(str(connection.failure), "first")

    def test_cancelled_wait(self) -> None:
        """Waiting for the loss, or for the handshake, can be cancelled."""
        self.patch(self.broker, "greet", lambda peer: None)
        connection = self.begin()
        for waiting in (connection.handshake(), connection.when_lost()):
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.network.settle()
        connection.drop("over")
        self.network.settle()


class BytewiseEndTests(EndTests):
    bytewise = True
