"""Direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to)."""

from __future__ import annotations

from pamqp.commands import Basic, Queue

from rtprov.amqp.client._txamqp import Content
from rtprov.amqp.client.channel import AmqpChannel
from rtprov.amqp.client.rpc import REPLY_TO, RpcClient, serve
from rtprov.errors import Unroutable
from tests.support.broker_cases import (
    BrokerContract,
    EmbeddedTestCase,
    Inbox,
    RabbitMQTestCase,
    differs,
)


class ReplyToContract(BrokerContract):
    async def asker(self) -> tuple[AmqpChannel, Inbox]:
        channel = await self.channel()
        return channel, await self.inbox(channel, REPLY_TO, prefetch=0, no_ack=True)

    async def request(self, channel: AmqpChannel, queue: str) -> None:
        properties = Basic.Properties(reply_to=REPLY_TO, correlation_id="c")
        await channel.basic_publish(
            routing_key=queue, content=Content(b"question", None, properties)
        )

    async def test_rpc(self) -> None:
        """Our RPC client sends many requests at once, and our RPC server answers them."""
        channel = await self.channel()
        queue = await self.queue(channel)

        async def handler(body: bytes) -> bytes:
            return body.upper()

        await serve(channel, queue, handler, prefetch=10)
        client = RpcClient(clock=self.clock)
        await client.attach(await self.connect())
        calls = [client.call(queue, b"request %d" % number, timeout_s=20) for number in range(30)]
        self.assertEqual(
            [await call for call in calls], [b"REQUEST %d" % number for number in range(30)]
        )
        await self.assertFails(client.call(self.name(), b"", timeout_s=20), Unroutable)

    async def test_address(self) -> None:
        """A request has a reply address made by the broker. Messages published to that address
        reach the requester, as if from the default exchange.
        """
        asker, replies = await self.asker()
        channel = await self.channel()
        queue = await self.queue(channel)
        requests = await self.inbox(channel, queue)
        await self.request(asker, queue)
        request = await requests.next()
        address = request.properties.reply_to
        assert address is not None
        self.assertTrue(address.startswith(f"{REPLY_TO}."), address)
        content = Content("ответ".encode(), None, Basic.Properties(correlation_id="c"))
        await channel.basic_publish(routing_key=address, content=content)
        reply = await replies.next()
        self.assertEqual(
            (reply.body, reply.exchange, reply.routing_key), ("ответ".encode(), "", address)
        )
        self.assertEqual((reply.properties.correlation_id, reply.redelivered), ("c", False))

    @differs(since=(4, 3), because="a mandatory reply by direct reply-to does not come back")
    async def test_mandatory(self) -> None:
        """The address is not a queue: a mandatory reply is always returned, even though it reaches
        the requester.
        """
        await self.mandatory(returned=True)

    async def mandatory_since_4_3(self) -> None:
        """A mandatory reply reaches the requester and is not returned."""
        await self.mandatory(returned=False)

    async def mandatory(self, *, returned: bool) -> None:
        asker, replies = await self.asker()
        channel, publisher = await self.channel(), await self.publisher()
        queue = await self.queue(channel)
        requests = await self.inbox(channel, queue)
        await self.request(asker, queue)
        address = str((await requests.next()).properties.reply_to)
        publishing = publisher.publish("", address, b"1", properties=Basic.Properties())
        await (self.assertFails(publishing, Unroutable) if returned else publishing)
        self.assertEqual(await replies.bodies(1), [b"1"])
        await self.assertFails(
            publisher.publish("", f"{REPLY_TO}.nonsense", b"3", properties=Basic.Properties()),
            Unroutable,
        )

    async def test_asker_gone(self) -> None:
        """A reply to a requester that has disconnected is dropped."""
        channel, address = await self.channel(), await self.address_of_gone()
        await channel.basic_publish(routing_key=address, content=Content(b"reply"))
        await self.ask(channel, Basic.Qos())

    async def address_of_gone(self) -> str:
        asker, _ = await self.asker()
        channel = await self.channel()
        queue = await self.queue(channel)
        requests = await self.inbox(channel, queue)
        await self.request(asker, queue)
        address = str((await requests.next()).properties.reply_to)
        await self.found(channel, address)
        await asker.client.close()
        return address

    async def found(self, channel: AmqpChannel, address: str) -> None:
        """Overridden if the client can declare an address. RabbitMQ's addresses have characters
        that pamqp refuses.
        """

    async def test_request_without_consumer(self) -> None:
        """A request before consuming the replies is a 406 on the channel."""
        channel = await self.channel()
        await self.request(channel, "anywhere")
        await self.refused(channel, Basic.Qos(), 406, "fast reply consumer does not exist")

    async def test_with_ack(self) -> None:
        """Replies cannot be acknowledged: consuming them with acknowledgements is a 406."""
        await self.refused(
            await self.channel(),
            Basic.Consume(queue=REPLY_TO),
            406,
            "reply consumer cannot acknowledge",
        )

    async def test_second_consumer(self) -> None:
        """A channel has at most one consumer of replies, whatever the tags. After a cancel it may
        have another one.
        """
        for same_tag in (False, True):
            channel, replies = await self.asker()
            await self.ask(channel, Basic.Cancel(consumer_tag=replies.tag))
            replies = await self.inbox(channel, REPLY_TO, prefetch=0, no_ack=True)
            second = Basic.Consume(
                queue=REPLY_TO, no_ack=True, consumer_tag=replies.tag if same_tag else ""
            )
            await self.refused(channel, second, 406, "reply consumer already set")

    async def test_declare(self) -> None:
        """The pseudo-queue can be declared, passively or not."""
        channel = await self.channel()
        for passive in (True, False):
            declared = await self.ask(channel, Queue.Declare(queue=REPLY_TO, passive=passive))
            self.assertEqual(
                (declared.queue, declared.message_count, declared.consumer_count), (REPLY_TO, 0, 1)
            )


class EmbeddedReplyTo(EmbeddedTestCase, ReplyToContract):
    async def found(self, channel: AmqpChannel, address: str) -> None:
        await self.ask(channel, Queue.Declare(queue=address, passive=True))

    async def test_address_gone(self) -> None:
        """An address can be declared passively while its requester is connected, and is a 404
        afterwards.
        """
        await self.refused(
            await self.channel(),
            Queue.Declare(queue=await self.address_of_gone(), passive=True),
            404,
        )


class RabbitMQReplyTo(RabbitMQTestCase, ReplyToContract):
    pass
