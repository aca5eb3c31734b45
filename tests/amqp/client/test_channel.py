"""Channels: methods and their answers, one at a time; closing by either side; deadlines."""

from __future__ import annotations

from pamqp.commands import Basic, Channel, Queue
from twisted.internet.defer import CancelledError

from rtprov.amqp.client._txamqp import Content
from rtprov.amqp.client.channel import MAX_WAITING_CALLS
from rtprov.errors import AmqpError, BrokerUnavailable, Overloaded
from tests.support.scripted_broker import AmqpTestCase

NOT_FOUND = Channel.Close(404, "NOT_FOUND - no queue 'q'", 50, 10)


class ChannelTests(AmqpTestCase):
    def test_answer(self) -> None:
        """The answer to a method has its fields by name."""
        channel = self.channel(self.connect())
        self.broker.answers[Queue.Declare] = lambda peer, _: Queue.DeclareOk("amq.gen-1", 7, 2)
        message = self.result(
            channel.queue_declare(exclusive=True, arguments={"x-max-length": 5, "ключ": "значение"})
        )
        self.assertEqual(
            (message.queue, message.message_count, message.consumer_count), ("amq.gen-1", 7, 2)
        )
        (declare,) = self.peer.commands(Queue.Declare)
        self.assertEqual((declare.exclusive, declare.durable), (True, False))
        self.assertEqual(declare.arguments, {"x-max-length": 5, "ключ": "значение"})

    def test_answer_with_content(self) -> None:
        """An answer with a message has the message's body as bytes."""
        channel = self.channel(self.connect())
        properties = Basic.Properties(headers={"a": [1, None]})
        self.broker.answers[Basic.Get] = lambda peer, _: peer.send_content(
            1, Basic.GetOk(1, False, "e", "k", 0), b"\xff\0", properties
        )
        message = self.result(channel.basic_get(queue="q"))
        assert message.content is not None
        self.assertEqual(message.content.body, b"\xff\0")
        self.assertEqual(message.content.properties.headers, {"a": [1, None]})

    def test_either_answer(self) -> None:
        """A method may have several possible answers."""
        channel = self.channel(self.connect())
        self.broker.answers[Basic.Get] = lambda peer, _: Basic.GetEmpty()
        self.assertEqual(self.result(channel.basic_get(queue="q")).method.name, "get-empty")

    def test_in_order(self) -> None:
        """Only one method is under way at a time. Each gets its own answer, in order."""
        channel = self.channel(self.connect())
        self.broker.answers[Queue.Declare] = None
        calls = [channel.queue_declare(queue=name) for name in ("a", "b", "c")]
        for number, call in enumerate(calls):
            self.network.settle()
            self.assertEqual(len(self.peer.commands(Queue.Declare)), number + 1)
            self.assertNoResult(call)
            self.peer.send(Queue.DeclareOk(f"answer {number}", 0, 0), 1)
            self.assertEqual(self.result(call).queue, f"answer {number}")

    def test_too_many_waiting(self) -> None:
        """The number of waiting methods is limited."""
        channel = self.channel(self.connect())
        self.broker.answers[Queue.Declare] = None
        for _ in range(MAX_WAITING_CALLS):
            channel.queue_declare(queue="q").addErrback(lambda _: None)
        self.failureResultOf(channel.queue_declare(queue="q"), Overloaded)

    def test_nowait(self) -> None:
        """With `nowait` the call does not wait for an answer."""
        channel = self.channel(self.connect())
        self.broker.answers[Queue.Declare] = None
        self.assertIsNone(self.successResultOf(channel.queue_declare(queue="q", nowait=True)))
        self.network.settle()
        self.assertEqual([declare.nowait for declare in self.peer.commands(Queue.Declare)], [True])

    def test_flow(self) -> None:
        """The broker can stop and restart publishing on a channel, and gets an answer each time."""
        channel = self.channel(self.connect())
        for active in (False, True):
            self.peer.send(Channel.Flow(active), 1)
            self.network.settle()
            self.assertEqual(channel.flowing, active)
            self.assertEqual(self.peer.commands(Channel.FlowOk)[-1].active, active)

    def test_close(self) -> None:
        """A channel that both sides have closed is removed, and its number can be used again."""
        connection = self.connect()
        channel = self.channel(connection)
        self.result(channel.channel_close())
        self.assertTrue(channel.closed)
        self.failureResultOf(channel.queue_declare(queue="q"), BrokerUnavailable)
        self.assertEqual(list(connection.channels), [0])
        self.assertFalse(connection.closed)

    def test_close_waits_its_turn(self) -> None:
        """Methods called before a close are answered before it. No method can be called
        after it.
        """
        channel = self.channel(self.connect())
        call, close = channel.queue_declare(queue="q"), channel.channel_close()
        self.failureResultOf(channel.queue_declare(queue="late"), BrokerUnavailable)
        self.assertEqual(self.result(call).queue, "q")
        self.result(close)

    def test_late_traffic(self) -> None:
        """Messages that the broker sent before it received the close are dropped."""
        connection = self.connect()
        channel = self.channel(connection)
        self.peer.deliver(1, "unknown", 1, b"late")
        self.peer.send(Basic.Ack(5), 1)
        self.result(channel.channel_close())
        self.assertFalse(connection.closed)

    def test_closes_cross(self) -> None:
        """If both sides close a channel at once, it is removed, and the connection stays open."""
        connection = self.connect()
        channel = self.channel(connection)
        self.peer.send(NOT_FOUND, 1)
        self.error(channel.channel_close(), AmqpError)
        self.assertTrue(channel.closed)
        self.assertEqual(list(connection.channels), [0])
        self.assertFalse(connection.closed)

    def test_refused_before_close(self) -> None:
        """If a method is refused while a close waits for it, nothing of the channel is left."""
        connection = self.connect()
        channel = self.channel(connection)
        self.broker.answers[Queue.Declare] = lambda peer, _: NOT_FOUND
        call, close = channel.queue_declare(queue="q"), channel.channel_close()
        self.error(call, AmqpError)
        self.failureResultOf(close, AmqpError)
        self.assertEqual(list(connection.channels), [0])
        self.assertEqual(self.peer.commands(Channel.Close), [])
        self.assertEqual(len(self.peer.commands(Channel.CloseOk)), 1)

    def test_refused_fatal(self) -> None:
        """A channel that the broker closes also closes the connection by default."""
        connection = self.connect()
        channel, other = self.channel(connection), self.channel(connection)
        self.broker.answers[Queue.Declare] = lambda peer, _: NOT_FOUND
        error = self.error(channel.queue_declare(queue="q"), AmqpError)
        assert isinstance(error, AmqpError)
        self.assertEqual((error.reply_code, error.class_id, error.method_id), (404, 50, 10))
        self.assertTrue(other.closed)
        self.assertTrue(connection.lost)
        self.assertIn("404 NOT_FOUND", str(connection.failure))
        self.assert_idle()

    def test_refused_alone(self) -> None:
        """If a channel opened as not fatal is closed, the connection stays open, and a new channel
        can be opened.
        """
        connection = self.connect()
        channel = self.channel(connection, fatal=False)
        self.broker.answers[Queue.Declare] = lambda peer, _: NOT_FOUND
        calls = [channel.queue_declare(queue="q", passive=True) for _ in range(2)]
        for call in calls:
            self.error(call, AmqpError)
        self.assertEqual(len(self.peer.commands(Channel.CloseOk)), 1)
        self.failureResultOf(channel.queue_declare(queue="q"), AmqpError)
        self.assertFalse(connection.closed)
        self.assertFalse(self.channel(connection).closed)

    def test_overdue(self) -> None:
        """A method without an answer within 10 seconds closes the connection."""
        connection = self.connect()
        channel = self.channel(connection)
        self.broker.answers[Queue.Declare] = None
        first, second = channel.queue_declare(queue="q"), channel.queue_declare(queue="q")
        self.network.advance(9.9)
        self.assertNoResult(first)
        self.network.advance(0.2)
        for call in (first, second):
            self.failureResultOf(call, BrokerUnavailable)
        self.assertIn("Queue.Declare within 10 s", str(connection.failure))
        self.assert_idle()

    def test_overdue_alone(self) -> None:
        """On a channel that is not fatal, only the channel is closed. A late answer is dropped."""
        connection = self.connect()
        channel = self.channel(connection, fatal=False)
        self.broker.answers[Queue.Declare] = None
        self.broker.answers[Channel.Close] = None
        call = channel.queue_declare(queue="q")
        self.network.advance(10)
        self.failureResultOf(call, BrokerUnavailable)
        self.assertTrue(channel.closed)
        self.peer.send(Queue.DeclareOk("q", 0, 0), 1)
        self.peer.deliver(1, "unknown", 1, b"late")
        self.network.settle()
        self.assertEqual(sorted(connection.channels), [0, 1])
        self.peer.send(Channel.CloseOk(), 1)
        self.network.settle()
        self.assertEqual(sorted(connection.channels), [0])
        self.assertFalse(connection.closed)

    def test_cancelled(self) -> None:
        """A cancelled call is forgotten, and its answer does not go to another call."""
        channel = self.channel(self.connect())
        self.broker.answers[Queue.Declare] = None
        first, second = channel.queue_declare(queue="a"), channel.queue_declare(queue="b")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.network.settle()
        self.peer.send(Queue.DeclareOk("a", 0, 0), 1)
        self.network.settle()
        self.assertNoResult(second)
        self.peer.send(Queue.DeclareOk("b", 0, 0), 1)
        self.assertEqual(self.result(second).queue, "b")

    def test_unencodable(self) -> None:
        """Arguments that cannot be encoded raise an error for the caller. Nothing is sent, and the
        channel stays usable.
        """
        channel = self.channel(self.connect())
        before = len(self.peer.received)
        for call in (
            channel.queue_declare(queue="x" * 256),
            channel.queue_declare(queue="q", arguments={"x": object()}),
            channel.queue_declare(queue="\ud800"),
            channel.basic_qos(prefetch_count=65536),
            channel.basic_publish(content=Content("text")),  # type: ignore[arg-type] # text on purpose
            channel.basic_publish(content=Content(b"", None, {"priority": 256})),
            channel.basic_publish(content=Content(b"", None, {"prioritet": 1})),
        ):
            self.failureResultOf(call, ValueError, TypeError)
        self.network.settle()
        self.assertEqual(len(self.peer.received), before)
        self.result(channel.queue_declare(queue="q"))

    def test_publish_without_confirms(self) -> None:
        """txAMQP's publish without confirms works, in one write."""
        channel = self.channel(self.connect())
        body = bytes(range(256)) * 1200
        self.successResultOf(
            channel.basic_publish(
                routing_key="q", content=Content(body, None, {"delivery_mode": 2})
            )
        )
        self.network.settle()
        (publish,) = self.peer.contents(Basic.Publish)
        assert publish.properties is not None
        self.assertEqual((publish.body, publish.properties.delivery_mode), (body, 2))

    def test_numbers(self) -> None:
        """A channel number is used again only after all others, and never while it is in use."""
        self.broker.tune.channel_max = 3
        connection = self.connect()
        channels = [self.channel(connection) for _ in range(3)]
        self.assertEqual([channel.id for channel in channels], [1, 2, 3])
        self.failureResultOf(connection.open_channel(), BrokerUnavailable)
        self.result(channels[1].channel_close())
        self.assertEqual(self.channel(connection).id, 2)

    def test_closed_callback(self) -> None:
        """The callback for the channel's end is called once, even if it is added after the end."""
        connection = self.connect()
        channel = self.channel(connection)
        reasons: list[str] = []
        channel.on_closed(lambda reason: reasons.append(str(reason)))
        connection.drop("over")
        channel.on_closed(lambda reason: reasons.append(str(reason)))
        self.network.settle()
        self.assertEqual(reasons, ["over", "over"])


class BytewiseChannelTests(ChannelTests):
    bytewise = True
