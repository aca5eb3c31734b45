"""Hostile clients of the embedded broker: floods, huge sizes and silence end in the right error,
and other clients are served meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from pamqp import base
from pamqp.commands import Basic, Channel, Connection, Exchange, Queue
from pamqp.common import FieldTable

from rtprov.amqp.client._txamqp import Content
from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import PROTOCOL_HEADER, encode_method
from rtprov.broker.content_header import ACCEPTED_BYTES, ACCEPTED_FIELDS
from rtprov.broker.engine.routing import MAX_EXCHANGES, MAX_KEYS
from rtprov.broker.engine.virtual_host import MAX_QUEUES
from tests.support.broker_cases import BrokerContract, EmbeddedTestCase
from tests.support.raw_amqp import CHANNEL, LOGIN, RawClient, frame, publish
from tests.support.scale import slow


class FloodTests(EmbeddedTestCase, BrokerContract):
    async def opened(self) -> RawClient:
        client = await self.open(RawClient())
        client.say(CHANNEL)
        for kind in (Connection.Start, Connection.Tune, Connection.OpenOk, Channel.OpenOk):
            await client.hear(kind)
        return client

    async def flood(self, methods: Iterable[base.Frame], code: int) -> None:
        """Send methods without waiting; check that the connection ends with this code, and that
        another client is served.
        """
        client = await self.opened()
        client.say(b"".join(encode_method(1, method) for method in methods))
        heard = await client.heard.get()
        while not isinstance(heard, Connection.Close):
            heard = await client.heard.get()
        self.assertEqual(heard.reply_code, code, heard.reply_text)
        client.say(Connection.CloseOk())
        await client.lost
        await self.ask(await self.channel(), Queue.Declare(exclusive=True))

    async def test_queues(self) -> None:
        """The number of queues is limited: 506."""
        await self.flood(
            (Queue.Declare(exclusive=True, nowait=True) for _ in range(MAX_QUEUES + 1)), 506
        )

    async def test_exchanges(self) -> None:
        """The number of exchanges is limited: 506."""
        await self.flood(
            (
                Exchange.Declare(exchange=f"e{number}", nowait=True)
                for number in range(MAX_EXCHANGES + 1)
            ),
            506,
        )

    async def test_consumers(self) -> None:
        """The number of consumers of a channel is limited: 506."""
        consume = [Basic.Consume(queue="", nowait=True)] * 2001
        await self.flood([Queue.Declare(exclusive=True, nowait=True), *consume], 506)

    async def test_bindings(self) -> None:
        """The number of bindings of a queue to an exchange is limited: 506."""
        binds = (
            Queue.Bind(exchange="amq.topic", routing_key=f"{number}", nowait=True)
            for number in range(MAX_KEYS + 1)
        )
        await self.flood([Queue.Declare(exclusive=True, nowait=True), *binds], 506)

    async def test_channels(self) -> None:
        """The number of channels of a connection is limited: 504."""
        client = await self.opened()
        client.say(b"".join(encode_method(number, Channel.Open()) for number in range(2, 3000)))
        for _ in range(2, 2048):
            await client.hear(Channel.OpenOk)
        self.assertEqual((await client.hear(Connection.Close)).reply_code, 504)
        client.end()
        await client.lost

    @slow
    async def test_connections(self) -> None:
        """The number of connections is limited. When one has ended, there is room again."""
        clients = [await self.open(RawClient()) for _ in range(self.broker.limits.connections)]
        await self.assertFails(self.connect(), Exception)
        clients[0].end()
        await clients[0].lost
        await self.connect()
        for client in clients[1:]:
            client.end()

    async def test_silent(self) -> None:
        """A client that sends nothing, or stops in the middle of its log-in, is disconnected."""
        clients = []
        for said in (
            b"",
            PROTOCOL_HEADER[:3],
            PROTOCOL_HEADER,
            PROTOCOL_HEADER + encode_method(0, LOGIN),
        ):
            clients.append(await self.open(RawClient()))
            clients[-1].say(said)
        for client in clients:
            await client.lost

    async def test_huge_sizes(self) -> None:
        """A body larger than allowed is refused when its header arrives, a frame larger than
        negotiated when it begins.
        """
        for wrong in (_huge_body(), b"\x03\x00\x01\xff\xff\xff\xff" + b"x"):
            client = await self.opened()
            client.say(wrong)
            self.assertEqual((await client.hear(Connection.Close)).reply_code, 501)
            client.end()
            await client.lost

    async def test_unfinished_bodies(self) -> None:
        """The total size of incomplete messages is limited: the one that exceeds the limit is a
        506. The others can be completed.
        """
        self.broker.limits = attrs.evolve(self.broker.limits, unfinished_bytes=100_000)
        honest = await self.opened()
        header = encode_header(Basic.Properties(), 60_000)
        start = encode_method(1, Basic.Publish(routing_key="nowhere", mandatory=True)) + frame(
            2, 1, header
        )
        honest.say(start + frame(3, 1, bytes(30_000)))
        large: FieldTable = {"large": "x" * 30_000}
        for headers, pieces in ((None, [bytes(30_000)]), (None, [b"", b"x"] * 30_000), (large, [])):
            greedy = await self.opened()
            header = encode_header(Basic.Properties(headers=headers), 200_000)
            for number in range(2, 5):
                start = encode_method(number, Basic.Publish()) + frame(2, number, header)
                greedy.say(
                    encode_method(number, Channel.Open())
                    + start
                    + b"".join(frame(3, number, piece) for piece in pieces)
                )
            for _ in range(3):
                await greedy.hear(Channel.OpenOk)
            self.assertEqual((await greedy.hear(Connection.Close)).reply_code, 506)
            greedy.end()
            await greedy.lost
        honest.say(frame(3, 1, bytes(30_000)))
        await honest.hear(Basic.Return)
        self.assertEqual(self.broker.unfinished_bytes, 0)
        honest.end()

    async def test_large_properties(self) -> None:
        """Properties that leave no room for the headers that the broker adds are refused with 406,
        because they would break the connection of a consumer.
        """
        dead = await self.queue(await self.channel())
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        large: FieldTable = {"large": "x" * (ACCEPTED_BYTES - 29)}
        many: FieldTable = {"many": [None] * (ACCEPTED_FIELDS - 1)}
        larger: FieldTable = {"large": "x" * (ACCEPTED_BYTES - 28)}
        more: FieldTable = {"many": [None] * ACCEPTED_FIELDS}
        for headers, above in ((large, larger), (many, more)):
            channel = await self.channel()
            queue = await self.queue(channel, "quorum", arguments)
            await self.publish(queue, b"", headers=headers)
            for _ in range(2):
                held = await self.get(channel, queue, no_ack=False)
                assert held is not None
                await self.ask(channel, Basic.Nack(delivery_tag=held.delivery_tag, requeue=True))
            held = await self.get(channel, queue, no_ack=False)
            assert held is not None and held.content is not None
            self.assertEqual(held.content.properties.headers, {**headers, "x-delivery-count": 2})
            await self.ask(channel, Basic.Nack(delivery_tag=held.delivery_tag, requeue=False))
            letter = await self.get(channel, dead)
            assert letter is not None and letter.content is not None
            found = letter.content.properties.headers or {}
            self.assertEqual((found | headers, "x-death" in found), (found, True))
            properties = Basic.Properties(headers=above)
            await channel.basic_publish(routing_key=queue, content=Content(b"", None, properties))
            await self.refused(channel, Basic.Qos(), 406, "are taken")

    async def test_topic_of_many_hashes(self) -> None:
        """A binding and a routing key that are made to be slow to match are matched quickly."""
        channel = await self.channel()
        await self.ask(channel, Queue.Declare(exclusive=True))
        await self.ask(
            channel, Queue.Bind(exchange="amq.topic", routing_key=".".join(["#.a"] * 60))
        )
        await self.publish(".".join(["a"] * 120 + ["b"]), exchange="amq.topic")

    @slow
    async def test_reads_nothing(self) -> None:
        """A client that never reads is sent a limited amount, whether of deliveries, answers or
        returns. Others are served meanwhile.
        """
        limit = self.broker.limits.backlog_bytes
        channel = await self.channel()
        queue = await self.queue(channel)
        for _ in range(200):
            await self.publish(queue, b"x" * 100_000)
        for greedy in (
            encode_method(1, Basic.Consume(queue=queue, no_ack=True)),
            encode_method(1, Basic.Get(queue=queue)) * 200,
            publish(1, b"x" * 100_000, routing_key="nowhere", mandatory=True) * 200,
            encode_method(1, Basic.Qos()) * 500_000,
        ):
            client = await self.opened()
            server = next(
                end for name, end in reversed(self.network.connections) if end.protocol is client
            ).other
            written = server.written
            client.transport.pauseProducing()  # type: ignore[union-attr] # the client is connected
            client.say(greedy)
            await self.publish(queue, b"y")
            await self.settle(channel, queue)
            self.assertLess(server.written - written, limit + 1_000_000)
            client.transport.abortConnection()  # type: ignore[union-attr] # the client is connected
            await client.lost
        self.assertGreater(await self.count(channel, queue), 0)

    async def test_reads_late(self) -> None:
        """A client that reads late gets everything, in order."""
        client = await self.opened()
        client.transport.pauseProducing()  # type: ignore[union-attr] # the client is connected
        count = 100
        for number in range(count):
            client.say(publish(1, b"%03d" % number * 50_000, routing_key="nowhere", mandatory=True))
        channel = await self.channel()
        await self.ask(channel, Basic.Qos())
        client.transport.resumeProducing()  # type: ignore[union-attr] # the client is connected
        for _ in range(count):
            await client.hear(Basic.Return)
        client.say(Basic.Qos(), channel=1)
        await client.hear(Basic.QosOk)
        client.end()

    async def test_wrong_log_ins(self) -> None:
        """Log-ins that cannot be parsed close the connection."""
        for mechanism, response in (
            ("PLAIN", "no zeros"),
            ("AMQPLAIN", "no table"),
            ("GSSAPI", ""),
            ("PLAIN", "\0" * 9),
        ):
            client = await self.open(RawClient())
            client.say(PROTOCOL_HEADER, Connection.StartOk({}, mechanism, response, "en_US"))
            await client.hear(Connection.Start)
            self.assertIn((await client.hear(Connection.Close)).reply_code, (501, 503))
            client.end()
            await client.lost


def _huge_body() -> bytes:
    """Return a publish whose header announces a terabyte."""
    header = encode_header(Basic.Properties(), 1 << 40)
    return (
        encode_method(1, Basic.Publish(routing_key="q"))
        + b"\x02\x00\x01"
        + len(header).to_bytes(4, "big")
        + header
        + b"\xce"
    )
