"""Settling deliveries: acknowledging, returning, rejecting, and what a lost channel returns."""

from __future__ import annotations

from pamqp.commands import Basic, Channel, Queue

from rtprov.amqp.client.channel import AmqpChannel
from tests.support.broker_cases import (
    KINDS,
    BrokerContract,
    EmbeddedTestCase,
    RabbitMQTestCase,
    SqliteTestCase,
    differs,
)


class SettlingContract(BrokerContract):
    async def rest(self, queue: str) -> list[bytes]:
        """Return everything in a queue, read on another connection."""
        channel = await self.channel()
        bodies: list[bytes] = []
        await self.settle(channel, queue)
        while (body := await self.get_body(channel, queue)) is not None:
            bodies.append(body)
        return bodies

    async def test_multiple(self) -> None:
        """A multiple ack settles every delivery of the channel up to its tag, and none after it."""
        for kind in KINDS:
            channel = await self.channel()
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2", b"3", b"4")
            inbox = await self.inbox(channel, queue)
            await inbox.bodies(4)
            await self.ask(channel, Basic.Ack(delivery_tag=3, multiple=True))
            await channel.client.close()
            self.assertEqual(await self.rest(queue), [b"4"])

    async def test_ack_of_all(self) -> None:
        """A multiple ack for tag 0 settles all deliveries of the channel, from all its queues, even
        if there are none.
        """
        channel = await self.channel()
        queues = [await self.queue(channel, kind) for kind in KINDS]
        await self.ask(channel, Basic.Ack(delivery_tag=0, multiple=True))
        for queue in queues:
            await self.publish(queue, b"1", b"2")
            await (await self.inbox(channel, queue)).bodies(2)
        await self.ask(channel, Basic.Ack(delivery_tag=0, multiple=True))
        await channel.client.close()
        for queue in queues:
            self.assertEqual(await self.rest(queue), [])

    async def test_unknown_tag(self) -> None:
        """Settling an unknown delivery tag closes the channel with 406, and returns its
        deliveries.
        """
        for method in (
            Basic.Ack(delivery_tag=1),
            Basic.Nack(delivery_tag=1),
            Basic.Reject(delivery_tag=1),
            Basic.Ack(delivery_tag=3),
            Basic.Ack(delivery_tag=0),
            Basic.Ack(delivery_tag=9, multiple=True),
            Basic.Nack(delivery_tag=9, multiple=True),
        ):
            channel = await self.channel()
            queue = await self.queue(channel)
            await self.publish(queue, b"1", b"2")
            deliveries = await self.inbox(channel, queue)
            (await deliveries.next()).ack()
            await deliveries.next()
            await self.refused(channel, method, 406, "unknown delivery tag")
            self.assertEqual(await self.rest(queue), [b"2"])

    async def test_settled_tag(self) -> None:
        """Settling a delivery tag a second time is a 406 too, and all unsettled deliveries are
        returned.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        inbox = await self.inbox(channel, queue)
        await self.publish(queue, b"1", b"2", b"3")
        await inbox.bodies(3)
        await self.ask(channel, Basic.Ack(delivery_tag=2))
        await self.refused(
            channel, Basic.Ack(delivery_tag=2, multiple=True), 406, "unknown delivery tag 2"
        )
        self.assertEqual(await self.rest(queue), [b"1", b"3"])

    async def limited(self, channel: AmqpChannel, kind: str) -> str:
        """Return a queue whose returned messages are redelivered before the rest."""
        return await self.queue(
            channel, kind, {"x-delivery-limit": 20} if kind == "quorum" else None
        )

    async def test_requeue(self) -> None:
        """A returned message is redelivered before messages that were never delivered, and is
        marked as redelivered.
        """
        channel = await self.channel()
        for kind in KINDS:
            for how in (Basic.Nack, Basic.Reject):
                queue = await self.limited(channel, kind)
                await self.publish(queue, b"1", b"2", b"3")
                inbox = await self.inbox(channel, queue, prefetch=1)
                first = await inbox.next()
                self.assertEqual((first.body, first.redelivered), (b"1", False))
                await self.ask(channel, how(delivery_tag=first.delivery_tag, requeue=True))
                again = await inbox.next()
                self.assertEqual((again.body, again.redelivered), (b"1", True))
                again.ack()
                following = await inbox.next()
                self.assertEqual((following.body, following.redelivered), (b"2", False))
                following.ack()
                (await inbox.next()).ack()

    async def test_requeue_multiple(self) -> None:
        """Messages that are returned together keep their order."""
        for kind in KINDS:
            channel = await self.channel()
            queue = await self.limited(channel, kind)
            await self.publish(queue, b"1", b"2", b"3", b"4", b"5")
            inbox = await self.inbox(channel, queue, prefetch=4)
            await inbox.bodies(4)
            await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
            await self.ask(channel, Basic.Nack(delivery_tag=3, multiple=True, requeue=True))
            await self.settle(channel, queue)
            self.assertEqual(await self.rest(queue), [b"1", b"2", b"3", b"5"])

    async def test_requeue_one_by_one(self) -> None:
        """Messages that are returned one by one get their old places in a classic queue. In a
        quorum queue they keep the order of their return.
        """
        for kind, expected in (
            ("classic", [b"1", b"2", b"3", b"4"]),
            ("quorum", [b"3", b"1", b"2", b"4"]),
        ):
            channel = await self.channel()
            queue = await self.limited(channel, kind)
            await self.publish(queue, b"1", b"2", b"3", b"4")
            await self.return_out_of_order(channel, queue)
            self.assertEqual(await self.rest(queue), expected)

    async def return_out_of_order(self, channel: AmqpChannel, queue: str) -> None:
        """Take three messages, and return the third, the first and the second."""
        inbox = await self.inbox(channel, queue, prefetch=3)
        first, second, third = [await inbox.next() for _ in range(3)]
        await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
        for delivery in (third, first, second):
            delivery.nack(requeue=True)
            await self.settle(channel, queue)

    @differs(
        since=(4, 0),
        because=(
            "a message returned to a quorum queue without a delivery limit goes to its head, not to"
            " its end"
        ),
    )
    async def test_requeue_without_limit(self) -> None:
        """If a quorum queue has no delivery limit, a returned message goes to its end. Messages of
        a lost channel still come first.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        await self.publish(queue, b"1", b"2", b"3", b"4")
        await self.return_out_of_order(channel, queue)
        held = await self.inbox(channel, queue, prefetch=2)
        self.assertEqual(await held.bodies(2), [b"4", b"3"])
        await channel.client.close()
        self.assertEqual(await self.rest(queue), [b"4", b"3", b"1", b"2"])

    async def requeue_without_limit_since_4_0(self) -> None:
        """A returned message is redelivered before the rest, as with a limit."""
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        await self.publish(queue, b"1", b"2", b"3", b"4")
        await self.return_out_of_order(channel, queue)
        self.assertEqual(await self.rest(queue), [b"3", b"1", b"2", b"4"])

    async def test_refuse(self) -> None:
        """A rejected message is dropped if the queue has no dead-letter exchange."""
        channel = await self.channel()
        for kind in KINDS:
            for how in (Basic.Nack, Basic.Reject):
                queue = await self.queue(channel, kind)
                await self.publish(queue, b"1", b"2")
                inbox = await self.inbox(channel, queue, prefetch=1)
                await self.ask(
                    channel, how(delivery_tag=(await inbox.next()).delivery_tag, requeue=False)
                )
                self.assertEqual(await inbox.bodies(1, ack=True), [b"2"])
                await self.settle(channel, queue)
                self.assertEqual(await self.rest(queue), [])

    async def test_lost(self) -> None:
        """When a channel or connection ends, its unsettled deliveries are returned in order.
        Settled ones are gone.
        """
        for kind in KINDS:
            for whole_connection in (False, True):
                channel = await self.channel()
                queue = await self.queue(channel, kind)
                await self.publish(queue, b"1", b"2", b"3", b"4")
                inbox = await self.inbox(channel, queue, prefetch=3)
                deliveries = [await inbox.next() for _ in range(3)]
                deliveries[1].ack()
                await self.settle(channel, queue)
                if whole_connection:
                    await channel.client.close()
                else:
                    await self.ask(
                        channel,
                        Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0),
                    )
                self.assertEqual(await self.rest(queue), [b"1", b"3", b"4"])

    async def test_recover(self) -> None:
        """``basic.recover`` returns all unsettled deliveries of the channel. They are redelivered,
        also to its own consumers.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2")
            inbox = await self.inbox(channel, queue)
            await inbox.bodies(2)
            await self.ask(channel, Basic.Recover(requeue=True))
            again = [await inbox.next() for _ in range(2)]
            self.assertEqual(
                [(each.body, each.redelivered) for each in again], [(b"1", True), (b"2", True)]
            )
            await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
            await self.ask(channel, Basic.Ack(delivery_tag=0, multiple=True))

    async def test_recover_without_requeue(self) -> None:
        """``basic.recover`` without requeue is not implemented."""
        await self.refused(await self.channel(), Basic.Recover(requeue=False), 540)

    async def test_tags_are_the_channels(self) -> None:
        """A delivery can be settled only on its own channel."""
        connection = await self.connect()
        channel, other = await self.channel(connection), await self.channel(connection)
        queue = await self.queue(channel)
        await self.publish(queue, b"1")
        delivery = await (await self.inbox(channel, queue)).next()
        await self.refused(other, Basic.Ack(delivery_tag=delivery.delivery_tag), 406)
        delivery.ack()
        await self.settle(channel, queue)
        await connection.close()
        self.assertEqual(await self.rest(queue), [])

    async def test_settled_after_the_queue(self) -> None:
        """A delivery may be settled after its queue is deleted."""
        for kind in KINDS:
            channel = await self.channel()
            for requeue in (None, False, True):
                queue = await self.queue(channel, kind)
                await self.publish(queue, b"1")
                delivery = await (await self.inbox(channel, queue)).next()
                await self.delete(channel, queue)
                if requeue is None:
                    delivery.ack()
                else:
                    delivery.nack(requeue=requeue)
                await self.ask(channel, Basic.Qos())

    async def delete(self, channel: AmqpChannel, queue: str) -> None:
        await self.ask(channel, Queue.Delete(queue=queue))

    async def test_get_and_consume_share_tags(self) -> None:
        """Messages from ``basic.get`` and deliveries share one sequence of tags, and are returned
        in the same way.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(queue, b"1", b"2")
        first = await self.get(channel, queue, no_ack=False)
        assert first is not None
        second = await (await self.inbox(channel, queue)).next()
        self.assertEqual((first.delivery_tag, second.delivery_tag), (1, 2))
        await channel.client.close()
        self.assertEqual(await self.rest(queue), [b"1", b"2"])


class EmbeddedSettling(EmbeddedTestCase, SettlingContract):
    async def test_stream_among_others(self) -> None:
        """Returning deliveries of a stream closes the connection (540). Those of queues, returned
        by the same method, are redelivered.
        """
        channel = await self.channel()
        stream, queue = await self.stream(channel), await self.queue(channel)
        streamed, queued = await self.inbox(channel, stream), await self.inbox(channel, queue)
        await self.publish(stream, b"1")
        await self.publish(queue, b"2")
        await streamed.next()
        await queued.next()
        await self.refused(
            channel,
            Basic.Nack(delivery_tag=0, multiple=True),
            540,
            "not supported by stream queues",
        )
        self.assertEqual(await self.rest(queue), [b"2"])


class SqliteSettling(SqliteTestCase, SettlingContract):
    pass


class RabbitMQSettling(RabbitMQTestCase, SettlingContract):
    pass
