"""Connections: log-in, virtual hosts, channels, heartbeats, and errors of channels and
connections.
"""

from __future__ import annotations

from typing import cast

import attrs
from pamqp.commands import Basic, Channel, Connection, Queue, Tx
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import HEARTBEAT, PROTOCOL_HEADER, encode_content, encode_method
from rtprov.broker.server.factory import BrokerFactory
from rtprov.errors import AmqpError, BrokerError, BrokerUnavailable
from tests.support.broker_cases import EmbeddedTestCase, RabbitMQTestCase, differs
from tests.support.raw_amqp import RawContract, publish


class ConnectionsContract(RawContract):
    async def test_wrong_password(self) -> None:
        """A wrong password, or an unknown user, is refused with 403 if the client has the
        capability for that.
        """
        for url in (
            attrs.evolve(self.url, password="wrong"),
            attrs.evolve(self.url, username="unknown"),
        ):
            error = await self.assertFails(self.connect(url), AmqpError)
            self.assertEqual(error.reply_code, 403)
            self.assertIn(
                "Login was refused using authentication mechanism PLAIN", error.reply_text
            )

    async def test_wrong_password_of_old_client(self) -> None:
        """For a client without that capability, the connection is just closed."""
        client = await self.raw()
        client.say(PROTOCOL_HEADER)
        await client.hear(Connection.Start)
        client.say(Connection.StartOk({}, "PLAIN", "\0guest\0wrong", "en_US"))
        await client.lost
        self.assertEqual(client.heard.pending, [])

    async def test_unknown_vhost(self) -> None:
        """An unknown virtual host is a 530."""
        error = await self.assertFails(
            self.connect(attrs.evolve(self.url, virtual_host="nowhere")), AmqpError
        )
        self.assertEqual((error.reply_code, error.class_id, error.method_id), (530, 10, 40))
        self.assertIn("vhost nowhere not found", error.reply_text)

    @differs(
        since=(4, 0),
        because="a client that speaks no AMQP gets the header of AMQP 1.0, not of 0-9-1",
    )
    async def test_other_protocol(self) -> None:
        """A client that does not speak AMQP 0-9-1 gets the protocol header of 0-9-1, and is
        disconnected.
        """
        await self.other_protocol(PROTOCOL_HEADER)

    async def other_protocol_since_4_0(self) -> None:
        """A client that does not speak AMQP gets the header of AMQP 1.0 with SASL. A client of
        another 0-9 version gets that of 0-9-1.
        """
        await self.other_protocol(b"AMQP\x03\x01\x00\x00")

    async def other_protocol(self, told: bytes) -> None:
        for greeting, answer in ((b"GET / HT", told), (b"AMQP\x00\x00\x09\x02", PROTOCOL_HEADER)):
            client = await self.raw()
            client.say(greeting)
            await client.lost
            self.assertEqual(client.greeting, answer)

    async def test_close(self) -> None:
        """A client's close is answered. The client then ends the connection."""
        client = await self.raw_open()
        client.say(Connection.Close(200, "bye", 0, 0))
        await client.hear(Connection.CloseOk)
        client.end()
        await client.lost

    async def test_own_close(self) -> None:
        """Our client closes in the regular way: waiting calls fail, and its exclusive queues are
        deleted.
        """
        connection = await self.connect()
        channel = await self.channel(connection)
        queue = (await self.ask(channel, Queue.Declare(exclusive=True))).queue
        await connection.close()
        await self.assertFails(self.ask(channel, Basic.Qos()), BrokerUnavailable)
        await self.refused(await self.channel(), Queue.Declare(queue=queue, passive=True), 404)

    async def test_channel_error(self) -> None:
        """An error of a channel closes only that channel. Others, and new ones with the same
        number, work.
        """
        client = await self.raw_open()
        for channel in (1, 2):
            client.say(Channel.Open(), channel=channel)
            await client.hear(Channel.OpenOk)
        client.say(Queue.Declare(queue=self.name(), passive=True), channel=1)
        close = await client.hear(Channel.Close)
        self.assertEqual((close.reply_code, close.class_id, close.method_id), (404, 50, 10))
        # ignored
        client.say(Queue.Declare(queue=self.name(), passive=True), Basic.Qos(), channel=1)
        client.say(Basic.Qos(), channel=2)
        await client.hear(Basic.QosOk)
        client.say(Channel.CloseOk(), Channel.Open(), Basic.Qos(), channel=1)
        await client.hear(Channel.OpenOk)
        await client.hear(Basic.QosOk)
        client.end()

    async def test_both_close_a_channel(self) -> None:
        """If client and broker close a channel at the same time, nothing else is affected, and it
        can be opened again.
        """
        client = await self.raw_open()
        for channel in (1, 2):
            client.say(Channel.Open(), channel=channel)
            await client.hear(Channel.OpenOk)
        client.say(
            Queue.Declare(queue=self.name(), passive=True), Channel.Close(200, "", 0, 0), channel=1
        )
        await client.hear(Channel.Close)
        await client.hear(Channel.CloseOk)
        client.say(Channel.CloseOk(), channel=1)
        client.say(Basic.Qos(), channel=2)
        await client.hear(Basic.QosOk)
        client.say(Channel.Open(), Basic.Qos(), channel=1)
        await client.hear(Channel.OpenOk)
        await client.hear(Basic.QosOk)
        client.end()

    async def test_channel_reuse(self) -> None:
        """A channel number can be used again once its channel is closed."""
        client = await self.raw_open()
        for _ in range(3):
            client.say(Channel.Open(), Basic.Qos(), Channel.Close(200, "", 0, 0), channel=1)
            for kind in (Channel.OpenOk, Basic.QosOk, Channel.CloseOk):
                await client.hear(kind)
        client.end()

    async def test_closed_channel(self) -> None:
        """A method on a channel that is not open is a 504, which closes the connection."""
        client = await self.raw_open()
        client.say(Basic.Qos(), channel=7)
        await self.closed(client, 504)

    async def test_channel_twice(self) -> None:
        """Opening an open channel is a 504."""
        client = await self.raw_open()
        client.say(Channel.Open(), channel=1)
        await client.hear(Channel.OpenOk)  # else RabbitMQ may close the connection without it
        client.say(Channel.Open(), channel=1)
        await self.closed(client, 504)

    async def test_methods_of_the_wrong_side(self) -> None:
        """Methods that only a broker may send, and connection methods on a channel, close the
        connection with 503 or 504.
        """
        client = await self.raw_open()
        client.say(Channel.Open(), channel=1)
        await client.hear(Channel.OpenOk)
        client.say(Queue.DeclareOk("q", 0, 0), channel=1)
        close = await client.hear(Connection.Close)
        self.assertIn(close.reply_code, (503, 540))
        client.end()

    async def test_transactions(self) -> None:
        """A channel has either confirms or transactions. The embedded broker has no transactions
        (540), RabbitMQ has.
        """
        channel = await self.channel()
        try:
            answer = await self.ask(channel, Tx.Select())
        except AmqpError as error:
            self.assertEqual((error.reply_code, channel.client.closed), (540, True))
        else:
            self.assertEqual(answer.method.name, "select-ok")

    async def test_frame_end(self) -> None:
        """A frame that does not end in 0xCE is a 501."""
        client = await self.raw_open()
        client.say(HEARTBEAT[:-1] + b"\x00")
        await self.closed(client, 501)

    async def test_frame_too_large(self) -> None:
        """A frame larger than negotiated is a 501, before it is received completely."""
        client = await self.raw_open(frame_max=8192)  # the smallest that RabbitMQ 4.3 accepts
        client.say(Channel.Open(), channel=1)
        await client.hear(Channel.OpenOk)
        client.say(b"\x03\x00\x01\x00\x01\x00\x00" + bytes(100))
        await self.closed(client, 501)

    async def test_frames_out_of_order(self) -> None:
        """Content in place of a method, and a method in place of content, are a 505."""
        header = encode_header(Basic.Properties(), 5)
        publish = encode_method(1, Basic.Publish(routing_key="x"))
        content = encode_content(1, Basic.Publish(routing_key="x"), header, b"12345", 4096)
        for wrong in (
            content[len(publish) :],
            publish + encode_method(1, Basic.Qos()),
            publish + publish,
        ):
            client = await self.raw_open()
            client.say(Channel.Open(), channel=1)
            await client.hear(Channel.OpenOk)
            client.say(wrong)
            await self.closed(client, 505)

    async def test_one_byte_at_a_time(self) -> None:
        """Bytes may arrive in any pieces."""
        client = await self.raw_open()
        queue = self.name()
        declare = encode_method(1, Queue.Declare(queue=queue, exclusive=True))
        publish = encode_content(
            1, Basic.Publish(routing_key=queue), encode_header(Basic.Properties(), 3), b"abc", 4096
        )
        for byte in (
            encode_method(1, Channel.Open())
            + declare
            + publish
            + encode_method(1, Queue.Purge(queue=queue))
        ):
            client.say(bytes([byte]))
        await client.hear(Channel.OpenOk)
        await client.hear(Queue.DeclareOk)
        self.assertEqual((await client.hear(Queue.PurgeOk)).message_count, 1)
        client.end()

    async def test_heartbeats(self) -> None:
        """The broker sends heartbeats as negotiated, and disconnects a client that is silent for
        two intervals.
        """
        client = await self.raw_open(heartbeat_s=1)
        await client.hear(None)
        await client.lost

    async def test_our_heartbeats(self) -> None:
        """Our client's heartbeats keep an idle connection open."""
        connection, silent = await self.connect(heartbeat_s=1), await self.raw_open(heartbeat_s=2)
        # This takes longer than a connection with heartbeats of one second would last without any.
        await silent.lost
        self.assertFalse(connection.closed)
        await (await self.channel(connection)).channel_close(reply_code=200)

    async def test_lost_without_a_word(self) -> None:
        """The messages of a connection that is lost without a close are returned."""
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(queue, b"1")
        holding = await self.channel()
        await (await self.inbox(holding, queue)).next()
        reading = await self.inbox(channel, queue)
        holding.client.drop("by the test", BrokerError("by the test"))
        again = await reading.next()
        self.assertEqual((again.body, again.redelivered), (b"1", True))


class EmbeddedConnections(EmbeddedTestCase, ConnectionsContract):
    async def test_channel_number_too_high(self) -> None:
        """A channel number above the negotiated limit is refused with 504."""
        client = await self.raw_open()
        client.say(Channel.Open(), channel=2048)
        await self.closed(client, 504)

    async def test_not_listened_to(self) -> None:
        """A publisher that the broker does not read does not count as silent, and still gets
        heartbeats.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        self.broker.virtual_host.memory.limit = 1000
        client = await self.raw_open(heartbeat_s=1)
        client.say(Channel.Open(), channel=1)
        await client.hear(Channel.OpenOk)
        client.say(
            encode_content(
                1,
                Basic.Publish(0, "", queue),
                encode_header(Basic.Properties(), 2000),
                bytes(2000),
                131072,
            )
            * 2
        )
        for _ in range(8):
            await client.hear(None)
        await self.ask(channel, Queue.Purge(queue=queue))
        client.say(Channel.Close(200, "", 0, 0), channel=1)
        await client.hear(Channel.CloseOk)

    async def test_closed_unread(self) -> None:
        """If a connection is closed by either side and the client does not read, its messages are
        returned at once, and it is disconnected.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(queue, b"1")
        for number, last in enumerate((Connection.Close(200, "", 0, 0), Channel.Open())):
            client, own = await self.raw_open(), self.name()
            client.say(
                Channel.Open(),
                Queue.Declare(queue=own, exclusive=True),
                Basic.Consume(queue=queue),
                channel=1,
            )
            for kind in (Channel.OpenOk, Queue.DeclareOk, Basic.ConsumeOk, Basic.Deliver):
                await client.hear(kind)
            assert client.transport is not None
            client.transport.pauseProducing()
            client.say(last, channel=number)
            self.network.settle()
            self.assertEqual(await self.count(channel, queue), 1)
            await self.refused(
                await self.channel(channel.client), Queue.Declare(queue=own, passive=True), 404
            )
            self.network.advance(self.broker.limits.closing_s)
            await client.lost

    async def test_nothing_for_who_leaves(self) -> None:
        """Messages returned by one channel of a closing connection are not delivered to another
        channel of it, whichever side closes.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        limited = {
            "x-delivery-limit": 2,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead,
        }
        for number, last in enumerate((Connection.Close(200, "", 0, 0), Channel.Open())):
            held, counted = await self.queue(channel), await self.queue(channel, "quorum", limited)
            for queue in (held, counted):
                await self.publish(queue, b"1")
            client = await self.raw_open()
            client.say(Channel.Open(), Basic.Get(queue=held), channel=1)
            for each in (2, 3, 4, 5):
                client.say(
                    Channel.Open(),
                    Basic.Consume(queue=held, no_ack=True),
                    Basic.Consume(queue=counted),
                    channel=each,
                )
            self.network.settle()
            client.say(last, channel=number)
            self.network.settle()
            self.assertEqual(
                [await self.count(channel, queue) for queue in (held, counted, dead)], [1, 1, 0]
            )

    async def test_other_protocols(self) -> None:
        """A client of another protocol gets the supported protocol header and is disconnected.
        Nothing that it sends afterwards is stored.
        """
        server, transport = BrokerFactory(self.broker).buildProtocol(None), StringTransport()
        assert server is not None
        server.makeConnection(transport)
        server.dataReceived(b"GET / HTTP/1.1\r\n")
        self.assertEqual((transport.value(), transport.disconnecting), (PROTOCOL_HEADER, True))
        for _ in range(11):  # TLS delivers it even after it was told to close.
            server.dataReceived(bytes(1000))
            self.clock.advance(self.broker.limits.closing_s / 10)
        self.assertTrue(transport.disconnected)
        self.assertLess(len(server.handshake._header), 1000)
        server.connectionLost()

    async def test_stop_while_a_publisher_waits(self) -> None:
        """A publisher that the broker does not read is notified when the broker stops, and its
        answer is read.
        """
        self.broker.virtual_host.memory.limit = 1000
        client = await self.raw_open()
        client.say(Channel.Open(), Queue.Declare(queue="q"), channel=1)
        client.say(publish(1, bytes(2000), routing_key="q") * 2)
        self.network.settle()
        self.assertEqual(self.broker.virtual_host.queues["q"].message_count, 1)
        stopped = self.broker.stop()
        for kind in (Channel.OpenOk, Queue.DeclareOk, Connection.Close):
            await client.hear(kind)
        client.say(Connection.CloseOk())
        self.network.settle()
        self.successResultOf(stopped)

    async def test_log(self) -> None:
        """The reason for closing a channel, or for disconnecting a client, is logged; but not that
        a passive declaration found nothing.
        """
        self.logged: list[str] = []
        observer = cast("ILogObserver", lambda event: self.logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        client = await self.raw_open(heartbeat_s=10)
        client.say(Channel.Open(), Queue.Declare(queue="none", passive=True), channel=1)
        await client.hear(Channel.OpenOk)
        await client.hear(Channel.Close)
        self.assertEqual([line for line in self.logged if "closing" in line], [])
        client.say(Channel.CloseOk(), Channel.Open(), Queue.Purge(queue="none"), channel=1)
        await client.hear(Channel.OpenOk)
        await client.hear(Channel.Close)
        self.assertIn(
            "closing channel 1: 404 NOT_FOUND - no queue 'none' in vhost '/'", self.logged[-1]
        )
        client.say(Channel.CloseOk(), Channel.Open(), channel=1)
        await client.hear(Channel.OpenOk)
        assert client.transport is not None
        client.transport.pauseProducing()
        client.say(publish(1, bytes(1_500_000), routing_key="nowhere", mandatory=True) * 6)
        for _ in range(30):
            client.say(HEARTBEAT)
            self.network.advance(1.0)
        await client.lost
        self.assertIn("did not read what it was sent for two heartbeat intervals", self.logged[-1])

    async def test_unknown_method(self) -> None:
        """An unknown method is a 540. RabbitMQ does not answer it at all."""
        client = await self.raw_open()
        client.say(Channel.Open(), channel=1)
        await client.hear(Channel.OpenOk)
        client.say(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x03\xe7\xce")  # 60.999
        close = await self.closed(client, 540)
        self.assertEqual((close.class_id, close.method_id), (60, 999))


class RabbitMQConnections(RabbitMQTestCase, ConnectionsContract):
    pass
