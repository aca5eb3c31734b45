"""Consuming: which consumer gets which message, and when it gets no more."""

from __future__ import annotations

from pamqp.commands import Basic, Queue

from rtprov.amqp.client.channel import AmqpChannel
from rtprov.errors import AmqpError
from tests.support.broker_cases import (
    KINDS,
    BrokerContract,
    EmbeddedTestCase,
    Inbox,
    RabbitMQTestCase,
    SqliteTestCase,
    differs,
)


class ConsumingContract(BrokerContract):
    async def test_delivery(self) -> None:
        """A delivery has the exchange and routing key of its publish, and its properties
        and body.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.ask(
                channel, Queue.Bind(queue=queue, exchange="amq.topic", routing_key=queue)
            )
            inbox = await self.inbox(channel, queue)
            await self.publish(
                queue, b"body", exchange="amq.topic", message_id="m", delivery_mode=2
            )
            delivery = await inbox.next()
            self.assertEqual(
                (delivery.exchange, delivery.routing_key, delivery.body),
                ("amq.topic", queue, b"body"),
            )
            self.assertEqual(
                (delivery.properties.message_id, delivery.properties.delivery_mode), ("m", 2)
            )
            self.assertEqual(delivery.redelivered, False)

    async def test_order(self) -> None:
        """Messages are delivered in the order of publishing, waiting ones first. Delivery tags
        count up from 1 on a channel.
        """
        for kind in KINDS:
            channel = await self.channel()
            queue = await self.queue(channel, kind)
            await self.publish(queue, *(b"%d" % number for number in range(50)))
            inbox = await self.inbox(channel, queue)
            await self.publish(queue, *(b"%d" % number for number in range(50, 100)))
            deliveries = [await inbox.next() for _ in range(100)]
            self.assertEqual(
                [delivery.body for delivery in deliveries],
                [b"%d" % number for number in range(100)],
            )
            self.assertEqual(
                [delivery.delivery_tag for delivery in deliveries], list(range(1, 101))
            )

    async def test_prefetch(self) -> None:
        """A consumer has at most as many unacknowledged deliveries as its prefetch. Each settled
        delivery makes room for the next, however it is settled.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2", b"3", b"4", b"5")
            inbox = await self.inbox(channel, queue, prefetch=2)
            first, second = await inbox.next(), await inbox.next()
            await self.settle(channel, queue)
            self.assertEqual(inbox.waiting, [])
            first.ack()
            self.assertEqual(await inbox.bodies(1), [b"3"])
            second.nack(requeue=False)
            self.assertEqual(await inbox.bodies(1), [b"4"])
            await self.settle(channel, queue)
            self.assertEqual(inbox.waiting, [])

    async def test_prefetch_is_each_consumers(self) -> None:
        """``basic.qos`` sets the prefetch for each consumer that is started later."""
        channel = await self.channel()
        for kind in KINDS:
            first_queue, second_queue = (
                await self.queue(channel, kind),
                await self.queue(channel, kind),
            )
            await self.publish(first_queue, b"1", b"2", b"3")
            await self.publish(second_queue, b"1", b"2", b"3")
            first = await self.inbox(channel, first_queue, prefetch=1)
            second = await self.inbox(channel, second_queue, prefetch=2)
            self.assertEqual(
                (await first.bodies(1), await second.bodies(2)), ([b"1"], [b"1", b"2"])
            )
            await self.settle(channel, first_queue)
            await self.settle(channel, second_queue)
            self.assertEqual((first.waiting, second.waiting), ([], []))

    async def test_no_prefetch(self) -> None:
        """Prefetch 0 means no limit."""
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.publish(queue, *[b"x"] * 300)
            await self.ask(channel, Basic.Qos(prefetch_count=0))
            inbox = await self.inbox(channel, queue, prefetch=0)
            await inbox.bodies(300)

    async def test_no_ack(self) -> None:
        """A consumer without acknowledgements gets everything, whatever its prefetch, and its
        messages are removed.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2", b"3")
            inbox = await self.inbox(channel, queue, prefetch=1, no_ack=True)
            self.assertEqual(await inbox.bodies(3), [b"1", b"2", b"3"])
        await channel.client.close()
        self.assertEqual(await self.count(await self.channel(), queue), 0)

    @differs(since=(4, 3), because="a global prefetch applies to each consumer separately")
    async def test_global_qos(self) -> None:
        """A quorum queue refuses consumers under a global prefetch: 540, which closes the
        connection.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        error = await self.assertFails(self.consume_under_global_qos(channel, queue), AmqpError)
        self.assertEqual((error.reply_code, channel.client.closed), (540, True))

    async def global_qos_since_4_3(self) -> None:
        """A global prefetch applies to each consumer separately."""
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        await self.publish(queue, b"1", b"2", b"3")
        await self.ask(channel, Basic.Qos(prefetch_count=1, global_=True))
        inboxes = [await self.inbox(channel, queue, prefetch=0) for _ in range(2)]
        self.assertEqual([await inbox.bodies(1) for inbox in inboxes], [[b"1"], [b"2"]])
        await self.settle(channel, queue)
        self.assertEqual([inbox.waiting for inbox in inboxes], [[], []])

    async def consume_under_global_qos(self, channel: AmqpChannel, queue: str) -> None:
        await self.ask(channel, Basic.Qos(prefetch_count=1, global_=True))
        await self.ask(channel, Basic.Consume(queue=queue))

    async def test_offset_elsewhere(self) -> None:
        """Only a stream is consumed from an offset. For another queue any offset is a 406."""
        for kind in KINDS:
            queue = await self.queue(await self.channel(), kind)
            for offset in ("first", 1, "nonsense"):
                consume = Basic.Consume(queue=queue, arguments={"x-stream-offset": offset})
                await self.refused(await self.channel(), consume, 406, "x-stream-offset")

    async def test_prefetch_size(self) -> None:
        """A prefetch in bytes is not implemented."""
        await self.refused(await self.channel(), Basic.Qos(prefetch_size=1), 540)

    async def test_round_robin(self) -> None:
        """Consumers of one queue get its messages in turn."""
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            inboxes = [await self.inbox(channel, queue) for _ in range(3)]
            await self.publish(queue, *(b"%d" % number for number in range(9)))
            bodies = [await inbox.bodies(3) for inbox in inboxes]
            self.assertEqual(
                sorted(bodies), [[b"0", b"3", b"6"], [b"1", b"4", b"7"], [b"2", b"5", b"8"]]
            )

    async def test_a_newcomer(self) -> None:
        """A consumer that was just served is behind those that wait, and a new consumer is behind
        it.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        first = await self.inbox(channel, queue)
        await self.publish(queue, b"1")
        second = await self.inbox(channel, queue)
        await self.publish(queue, b"2", b"3")
        self.assertEqual((await first.bodies(2), await second.bodies(1)), ([b"1", b"2"], [b"3"]))

    async def test_who_has_room(self) -> None:
        """A consumer without room is skipped."""
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            small, large = (
                await self.inbox(channel, queue, prefetch=1),
                await self.inbox(channel, queue, prefetch=10),
            )
            await self.publish(queue, *(b"%d" % number for number in range(6)))
            bodies = await small.bodies(1) + await large.bodies(5)
            self.assertEqual(sorted(bodies), [b"0", b"1", b"2", b"3", b"4", b"5"])

    async def test_cancel(self) -> None:
        """A cancelled consumer gets no more messages. It may still acknowledge those that it has.
        Others get the rest.
        """
        for kind in KINDS:
            channel, other = await self.channel(), await self.channel()
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2", b"3")
            inbox = await self.inbox(channel, queue, prefetch=2)
            first, _second = await inbox.next(), await inbox.next()
            answer = await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
            self.assertEqual(answer.consumer_tag, inbox.tag)
            first.ack()
            rest = await self.inbox(other, queue)
            self.assertEqual(await rest.bodies(1), [b"3"])
            await channel.client.close()
            self.assertEqual(await rest.bodies(1), [b"2"])

    async def test_cancel_unknown(self) -> None:
        """Cancelling an unknown consumer succeeds."""
        answer = await self.ask(await self.channel(), Basic.Cancel(consumer_tag="unknown"))
        self.assertEqual(answer.consumer_tag, "unknown")

    async def test_tags(self) -> None:
        """Without a consumer tag the broker makes one. A tag that is in use on the channel closes
        the connection.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        tag = (await self.ask(channel, Basic.Consume(queue=queue))).consumer_tag
        self.assertTrue(tag.startswith("amq.ctag-"), tag)
        again = (await self.ask(channel, Basic.Consume(queue=queue))).consumer_tag
        self.assertNotEqual(tag, again)
        await self.refused(channel, Basic.Consume(queue=queue, consumer_tag=tag), 530)

    async def test_consume_nowait(self) -> None:
        """With no-wait a consumer starts and ends without an answer."""
        channel = await self.channel()
        queue, inbox = await self.queue(channel), Inbox()
        inbox.tag = await self.inbox_tag(channel, queue)
        await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag, nowait=True))
        await self.ask(channel, Queue.Declare(queue=queue, passive=True))
        self.assertEqual(
            (await self.ask(channel, Queue.Declare(queue=queue, passive=True))).consumer_count, 0
        )

    async def inbox_tag(self, channel: AmqpChannel, queue: str) -> str:
        await self.ask(channel, Basic.Consume(queue=queue, consumer_tag="mine", nowait=True))
        await self.settle(channel, queue)
        self.assertEqual(
            (await self.ask(channel, Queue.Declare(queue=queue, passive=True))).consumer_count, 1
        )
        return "mine"

    async def test_exclusive_consumer(self) -> None:
        """An exclusive consumer excludes others (403), cannot start where others are, and allows
        others after its end.
        """
        connection = await self.connect()
        channel = await self.channel(connection)
        queue = await self.queue(channel)
        inbox = await self.inbox(channel, queue, exclusive=True)
        await self.refused(
            await self.channel(connection), Basic.Consume(queue=queue), 403, "exclusive use"
        )
        await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
        await self.inbox(channel, queue)
        await self.refused(
            await self.channel(connection),
            Basic.Consume(queue=queue, exclusive=True),
            403,
            "exclusive use",
        )

    async def test_exclusive_consumer_of_single_active(self) -> None:
        """A classic queue with a single active consumer refuses an exclusive one."""
        channel = await self.channel()
        queue = await self.queue(channel, "classic", {"x-single-active-consumer": True})
        await self.refused(
            channel, Basic.Consume(queue=queue, exclusive=True), 403, "exclusive use"
        )

    async def test_queue_deleted(self) -> None:
        """When its queue is deleted, a consumer is notified, and its channel stays open."""
        for kind in (*KINDS, "stream"):
            channel, other = await self.channel(), await self.channel()
            queue = await self.queue(channel, kind)
            inbox = await self.inbox(channel, queue)
            self.assertIn(inbox.tag, channel.consumers)
            await self.ask(other, Queue.Delete(queue=queue))
            while inbox.tag in channel.consumers:
                await self.ask(channel, Basic.Qos())

    async def test_single_active(self) -> None:
        """Of the consumers of a single-active-consumer queue only the first gets messages."""
        for kind in KINDS:
            channel, other = await self.channel(), await self.channel()
            queue = await self.queue(channel, kind, {"x-single-active-consumer": True})
            first, second = (
                await self.inbox(channel, queue, prefetch=1),
                await self.inbox(other, queue, prefetch=1),
            )
            await self.publish(queue, b"1", b"2", b"3")
            for body in (b"1", b"2", b"3"):
                self.assertEqual(await first.bodies(1, ack=True), [body])
            await self.settle(other, queue)
            self.assertEqual(second.waiting, [])

    async def test_failover(self) -> None:
        """When the active consumer's connection ends, the next one gets the unacknowledged
        messages, redelivered and in order, then the rest.
        """
        for kind, arguments in (
            ("classic", {}),
            ("quorum", {}),
            ("quorum", {"x-delivery-limit": 20}),
        ):
            channel, other, third = await self.channel(), await self.channel(), await self.channel()
            queue = await self.queue(channel, kind, {"x-single-active-consumer": True, **arguments})
            first, second = (
                await self.inbox(channel, queue, prefetch=4),
                await self.inbox(other, queue),
            )
            idle = await self.inbox(third, queue)
            await self.publish(queue, *(b"%d" % number for number in range(6)))
            held = [await first.next() for _ in range(4)]
            held[1].ack()
            await first.next()
            await channel.client.close()
            deliveries = [await second.next() for _ in range(5)]
            self.assertEqual(
                [delivery.body for delivery in deliveries], [b"0", b"2", b"3", b"4", b"5"]
            )
            self.assertEqual(
                [delivery.redelivered for delivery in deliveries], [True, True, True, True, False]
            )
            await self.settle(third, queue)
            self.assertEqual(idle.waiting, [])

    async def test_returned_to_the_active(self) -> None:
        """Messages that the active consumer returns are redelivered to it, before the rest, and not
        to the next consumer.
        """
        for kind, arguments in (("classic", {}), ("quorum", {"x-delivery-limit": 20})):
            channel, other = await self.channel(), await self.channel()
            queue = await self.queue(channel, kind, {"x-single-active-consumer": True, **arguments})
            active, standby = (
                await self.inbox(channel, queue, prefetch=2),
                await self.inbox(other, queue),
            )
            await self.publish(queue, b"1", b"2", b"3")
            first, second = await active.next(), await active.next()
            first.nack(requeue=True)
            again = await active.next()
            self.assertEqual((again.body, again.redelivered), (b"1", True))
            second.ack()
            self.assertEqual(await active.bodies(1), [b"3"])
            await self.settle(other, queue)
            self.assertEqual(standby.waiting, [])

    async def test_failover_again(self) -> None:
        """After a second failover the third consumer gets everything in order once more."""
        for kind, arguments in (("classic", {}), ("quorum", {"x-delivery-limit": 20})):
            channels = [await self.channel() for _ in range(3)]
            queue = await self.queue(
                channels[0], kind, {"x-single-active-consumer": True, **arguments}
            )
            inboxes = [await self.inbox(channel, queue, prefetch=3) for channel in channels]
            await self.publish(queue, b"1", b"2", b"3", b"4")
            for channel, inbox in zip(channels, inboxes, strict=True):
                self.assertEqual(await inbox.bodies(3), [b"1", b"2", b"3"])
                await channel.client.close()

    async def test_failover_by_cancel(self) -> None:
        """When the active consumer is cancelled, the next one gets the waiting messages. The first
        one keeps its unacknowledged ones.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel, "quorum", {"x-single-active-consumer": True})
        first, second = await self.inbox(channel, queue, prefetch=1), await self.inbox(other, queue)
        await self.publish(queue, b"1", b"2")
        held = await first.next()
        await self.ask(channel, Basic.Cancel(consumer_tag=first.tag))
        self.assertEqual(await second.bodies(1), [b"2"])
        held.nack(requeue=True)
        self.assertEqual(await second.bodies(1), [b"1"])


class EmbeddedConsuming(EmbeddedTestCase, ConsumingContract):
    async def test_refused_exclusive_consumer(self) -> None:
        """An exclusive consumer that is refused does not exclude others."""
        stream = await self.stream(await self.channel())
        consume = Basic.Consume(
            queue=stream, exclusive=True, arguments={"x-stream-offset": "nowhere"}
        )
        channel = await self.channel()
        await self.ask(channel, Basic.Qos(prefetch_count=1))
        await self.refused(channel, consume, 406, "x-stream-offset")
        inbox = await self.inbox(await self.channel(), stream)
        await self.publish(stream, b"1")
        self.assertEqual(await inbox.bodies(1), [b"1"])


class SqliteConsuming(SqliteTestCase, ConsumingContract):
    pass


class RabbitMQConsuming(RabbitMQTestCase, ConsumingContract):
    pass
