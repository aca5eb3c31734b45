"""The clients pika and aio-pika use the embedded broker over TCP, as they would use RabbitMQ.

pika blocks, aio-pika needs an event loop. So each test's client runs in a thread, with a timeout,
while the broker runs in the reactor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import pika  # type: ignore[import-untyped] # pika has no types
from pika.adapters.blocking_connection import BlockingChannel  # type: ignore[import-untyped] # pika has no types
from pika.exceptions import (  # type: ignore[import-untyped] # pika has no types
    ChannelClosedByBroker,
    NackError,
    ProbableAuthenticationError,
    UnroutableError,
)
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.memory import MemoryStorage

DEADLINE_S = 15.0


class ForeignClientTestCase(TestCase):
    """The embedded broker on a free port."""

    timeout = 2 * DEADLINE_S

    async def setUp(self) -> None:  # type: ignore[override] # trial awaits it
        from twisted.internet import reactor

        self.broker = make_broker(clock=reactor, storage=MemoryStorage())
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            BrokerFactory(self.broker)
        )
        self.addCleanup(port.stopListening)
        self.addCleanup(self.broker.stop)
        self.port: int = port.getHost().port


class PikaTests(ForeignClientTestCase):
    def connect(self, password: str) -> pika.BlockingConnection:
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                host="127.0.0.1",
                port=self.port,
                credentials=pika.PlainCredentials("guest", password),
                blocked_connection_timeout=DEADLINE_S,
                stack_timeout=DEADLINE_S,
                socket_timeout=DEADLINE_S,
            )
        )

    async def run_client(self, work: Callable[[BlockingChannel], None]) -> None:
        """Run `work` on a channel, in a thread, and close the connection in the regular way."""

        def session() -> None:
            connection = self.connect("guest")
            try:
                connection.call_later(DEADLINE_S, connection.close)
                work(connection.channel())
            finally:
                if connection.is_open:
                    connection.close()

        await deferToThread(session)

    async def test_get(self) -> None:
        """pika declares, publishes with confirms, gets and acknowledges."""

        def work(channel: BlockingChannel) -> None:
            channel.confirm_delivery()
            channel.exchange_declare("events", "topic", durable=True)
            channel.queue_declare(
                "q", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 5}
            )
            channel.queue_bind("q", "events", "a.#")
            properties = pika.BasicProperties(
                delivery_mode=2, headers={"слово": ["x", 1, {"y": None}]}
            )
            channel.basic_publish("events", "a.b", "тело".encode(), properties, mandatory=True)
            method, found, body = channel.basic_get("q")
            assert method is not None and found is not None
            self.assertEqual(
                (body, method.routing_key, method.redelivered), ("тело".encode(), "a.b", False)
            )
            self.assertEqual(found.headers, {"слово": ["x", 1, {"y": None}]})
            channel.basic_nack(method.delivery_tag, requeue=True)
            method, found, _ = channel.basic_get("q")
            assert method is not None and found is not None
            self.assertEqual(
                (method.redelivered, (found.headers or {})["x-delivery-count"]), (True, 1)
            )
            channel.basic_ack(method.delivery_tag)
            self.assertEqual(channel.basic_get("q"), (None, None, None))
            self.assertEqual(channel.queue_delete("q").method.message_count, 0)

        await self.run_client(work)

    async def test_consume(self) -> None:
        """pika consumes with a prefetch, in order, including bodies of several frames."""

        def work(channel: BlockingChannel) -> None:
            channel.queue_declare("q", durable=True)
            bodies = [b"%d" % number * (number * 5000) for number in range(60)]
            for body in bodies:
                channel.basic_publish("", "q", body)
            channel.basic_qos(prefetch_count=7)
            received = []
            for method, _, body in channel.consume("q", inactivity_timeout=DEADLINE_S):
                assert method is not None, "nothing came in time"
                received.append(body)
                channel.basic_ack(method.delivery_tag)
                if len(received) == len(bodies):
                    break
            channel.cancel()
            self.assertEqual(received, bodies)

        await self.run_client(work)

    async def test_rpc(self) -> None:
        """pika sends requests and replies by direct reply-to."""

        def work(channel: BlockingChannel) -> None:
            server = channel.connection.channel()
            server.queue_declare("questions", exclusive=True)

            def answer(_: Any, method: Any, properties: Any, body: bytes) -> None:
                server.basic_publish(
                    "",
                    properties.reply_to,
                    body.upper(),
                    pika.BasicProperties(correlation_id=properties.correlation_id),
                )
                server.basic_ack(method.delivery_tag)

            server.basic_consume("questions", answer)
            replies: list[tuple[bytes, str]] = []
            channel.basic_consume(
                "amq.rabbitmq.reply-to",
                lambda _channel, _method, properties, body: replies.append(
                    (body, properties.correlation_id)
                ),
                auto_ack=True,
            )
            channel.basic_publish(
                "",
                "questions",
                b"hi",
                pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="7"),
            )
            while not replies:
                channel.connection.process_data_events(time_limit=DEADLINE_S)
            self.assertEqual(replies, [(b"HI", "7")])

        await self.run_client(work)

    async def test_stream(self) -> None:
        """pika reads a stream from an offset."""

        def work(channel: BlockingChannel) -> None:
            channel.confirm_delivery()
            channel.queue_declare("s", durable=True, arguments={"x-queue-type": "stream"})
            for number in range(5):
                channel.basic_publish("", "s", b"%d" % number)
            channel.basic_qos(prefetch_count=10)
            reading = channel.consume(
                "s", arguments={"x-stream-offset": 3}, inactivity_timeout=DEADLINE_S
            )
            found = []
            for method, properties, body in reading:
                assert method is not None and properties is not None, "nothing came in time"
                found.append((body, (properties.headers or {})["x-stream-offset"]))
                channel.basic_ack(method.delivery_tag)
                if len(found) == 2:
                    break
            self.assertEqual(found, [(b"3", 3), (b"4", 4)])

        await self.run_client(work)

    async def test_errors(self) -> None:
        """pika recognises returned messages and closed channels."""

        def work(channel: BlockingChannel) -> None:
            channel.confirm_delivery()
            with self.assertRaises((UnroutableError, NackError)):
                channel.basic_publish("", "nowhere", b"x", mandatory=True)
            with self.assertRaises(ChannelClosedByBroker) as raised:
                channel.queue_declare("nowhere", passive=True)
            self.assertEqual(raised.exception.reply_code, 404)
            channel.connection.channel().queue_declare("somewhere")

        await self.run_client(work)

    async def test_wrong_password(self) -> None:
        """pika recognises that its password is wrong."""

        def work() -> None:
            with self.assertRaises(ProbableAuthenticationError) as raised:
                self.connect("wrong")
            self.assertIn("ACCESS_REFUSED", str(raised.exception))

        await deferToThread(work)


class AioPikaTests(ForeignClientTestCase):
    async def run_client(
        self, work: Callable[[aio_pika.abc.AbstractConnection], Awaitable[None]]
    ) -> None:
        """Run `work` with a connection, in a thread with its own event loop."""

        async def session() -> None:
            connection = await aio_pika.connect(
                f"amqp://guest:guest@127.0.0.1:{self.port}/", timeout=DEADLINE_S
            )
            async with connection:
                await work(connection)

        await deferToThread(lambda: asyncio.run(asyncio.wait_for(session(), DEADLINE_S)))

    async def test_consume(self) -> None:
        """aio-pika declares, publishes with confirms, consumes, rejects, and gets the dead
        letter.
        """

        async def work(connection: aio_pika.abc.AbstractConnection) -> None:
            channel = await connection.channel(publisher_confirms=True)
            dead = await channel.declare_queue("dead", durable=True)
            arguments: Any = {
                "x-queue-type": "quorum",
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "dead",
            }
            queue = await channel.declare_queue("q", durable=True, arguments=arguments)
            exchange = await channel.declare_exchange(
                "events", aio_pika.ExchangeType.TOPIC, durable=True
            )
            await queue.bind(exchange, "a.*")
            await channel.set_qos(prefetch_count=10)
            message = aio_pika.Message(
                "тело".encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT, headers={"h": "ж"}
            )
            await exchange.publish(message, "a.b")
            async with queue.iterator(timeout=DEADLINE_S) as messages:
                async for received in messages:
                    self.assertEqual((received.body, received.headers["h"]), ("тело".encode(), "ж"))
                    await received.reject(requeue=False)
                    break
            async with dead.iterator(timeout=DEADLINE_S) as letters:
                async for letter in letters:
                    self.assertEqual(letter.headers["x-first-death-reason"], "rejected")
                    await letter.ack()
                    break

        await self.run_client(work)

    async def test_rpc(self) -> None:
        """aio-pika sends requests and replies by direct reply-to."""

        async def work(connection: aio_pika.abc.AbstractConnection) -> None:
            channel = await connection.channel()
            questions = await channel.declare_queue(exclusive=True)
            replied: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

            async def answer(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                assert message.reply_to is not None
                await channel.default_exchange.publish(
                    aio_pika.Message(message.body.upper()), message.reply_to, mandatory=False
                )
                await message.ack()

            async def reply(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                replied.set_result(message.body)

            await questions.consume(answer)
            replies = await channel.get_queue("amq.rabbitmq.reply-to")
            await replies.consume(reply, no_ack=True)
            request = aio_pika.Message(b"hi", reply_to="amq.rabbitmq.reply-to")
            await channel.default_exchange.publish(request, questions.name)
            self.assertEqual(await replied, b"HI")

        await self.run_client(work)

    async def test_stream(self) -> None:
        """aio-pika reads a stream from its beginning."""

        async def work(connection: aio_pika.abc.AbstractConnection) -> None:
            channel = await connection.channel()
            stream = await channel.declare_queue(
                "s", durable=True, arguments={"x-queue-type": "stream"}
            )
            for number in range(3):
                await channel.default_exchange.publish(aio_pika.Message(b"%d" % number), "s")
            await channel.set_qos(prefetch_count=1)
            bodies: list[bytes] = []
            async with stream.iterator(
                arguments={"x-stream-offset": "first"}, timeout=DEADLINE_S
            ) as messages:
                async for message in messages:
                    bodies.append(message.body)
                    await message.ack()
                    if len(bodies) == 3:
                        break
            self.assertEqual(bodies, [b"0", b"1", b"2"])

        await self.run_client(work)

    async def test_errors(self) -> None:
        """aio-pika recognises returned messages and closed channels."""

        async def work(connection: aio_pika.abc.AbstractConnection) -> None:
            channel = await connection.channel(on_return_raises=True)
            with self.assertRaises(aio_pika.exceptions.DeliveryError):
                await channel.default_exchange.publish(
                    aio_pika.Message(b"x"), "nowhere", mandatory=True
                )
            with self.assertRaises(aio_pika.exceptions.ChannelNotFoundEntity):
                await channel.declare_queue("nowhere", passive=True)

        await self.run_client(work)

    async def test_wrong_password(self) -> None:
        """aio-pika recognises that its password is wrong."""

        async def connect() -> None:
            await aio_pika.connect(f"amqp://guest:wrong@127.0.0.1:{self.port}/", timeout=DEADLINE_S)

        def work() -> None:
            with self.assertRaises(aio_pika.exceptions.ProbableAuthenticationError):
                asyncio.run(connect())

        await deferToThread(work)
