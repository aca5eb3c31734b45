"""Streams: every consumer reads independently, from any offset, as fast as it acknowledges."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from pamqp.commands import Basic, Queue

from rtprov.amqp.client.channel import AmqpChannel
from tests.support.broker_cases import (
    BrokerContract,
    EmbeddedTestCase,
    Inbox,
    RabbitMQTestCase,
    differs,
)


class StreamsContract(BrokerContract):
    async def filled(self, channel: AmqpChannel, count: int = 5) -> str:
        """Return a stream with this many messages, each published separately."""
        stream = await self.stream(channel)
        for number in range(count):
            await self.publish(stream, b"%d" % number)
        return stream

    async def read(
        self, channel: AmqpChannel, stream: str, offset: Any = None, prefetch: int = 100
    ) -> Inbox:
        arguments = None if offset is None else {"x-stream-offset": offset}
        return await self.inbox(channel, stream, prefetch=prefetch, arguments=arguments)

    async def test_first(self) -> None:
        """From ``first``, everything is read. Each delivery has its offset, counted from 0."""
        channel = await self.channel()
        inbox = await self.read(channel, await self.filled(channel), "first")
        deliveries = [await inbox.next() for _ in range(5)]
        self.assertEqual([delivery.body for delivery in deliveries], [b"0", b"1", b"2", b"3", b"4"])
        self.assertEqual(
            [(delivery.properties.headers or {}).get("x-stream-offset") for delivery in deliveries],
            [0, 1, 2, 3, 4],
        )
        self.assertEqual([delivery.redelivered for delivery in deliveries], [False] * 5)

    async def test_next(self) -> None:
        """From ``next``, and without an offset, only messages published later are read."""
        channel = await self.channel()
        stream = await self.filled(channel)
        inboxes = [await self.read(channel, stream, offset) for offset in ("next", None)]
        await self.publish(stream, b"new")
        for inbox in inboxes:
            delivery = await inbox.next()
            self.assertEqual(
                (delivery.body, (delivery.properties.headers or {})["x-stream-offset"]), (b"new", 5)
            )

    async def test_last(self) -> None:
        """From ``last``, reading begins near the end: with the last chunk, which is one message
        here.
        """
        channel = await self.channel()
        inbox = await self.read(channel, await self.filled(channel), "last")
        self.assertEqual(await inbox.bodies(1), [b"4"])

    async def test_number(self) -> None:
        """From an offset, the message with that offset comes first. An offset beyond the end waits
        for new messages.
        """
        channel = await self.channel()
        stream = await self.filled(channel)
        self.assertEqual(await (await self.read(channel, stream, 3)).bodies(2), [b"3", b"4"])
        self.assertEqual(
            await (await self.read(channel, stream, 0)).bodies(5), [b"0", b"1", b"2", b"3", b"4"]
        )
        beyond = await self.read(channel, stream, 5)
        await self.publish(stream, b"5")
        self.assertEqual(await beyond.bodies(1), [b"5"])

    async def test_timestamp(self) -> None:
        """From a time in the past, all messages since then are read."""
        channel = await self.channel()
        stream = await self.filled(channel, 3)
        now = datetime.fromtimestamp(self.now(), tz=timezone.utc)
        past = await self.read(channel, stream, now - timedelta(hours=1))
        self.assertEqual(await past.bodies(3), [b"0", b"1", b"2"])

    def now(self) -> float:
        return float(self.clock.seconds())

    async def test_not_consumed(self) -> None:
        """Acknowledging removes nothing: another consumer, or the same one later, reads everything
        again.
        """
        channel = await self.channel()
        stream = await self.filled(channel, 3)
        for _ in range(2):
            inbox = await self.read(channel, stream, "first")
            self.assertEqual(await inbox.bodies(3, ack=True), [b"0", b"1", b"2"])
            await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))

    async def test_many_consumers(self) -> None:
        """Every consumer of a stream gets everything."""
        channel, other = await self.channel(), await self.channel()
        stream = await self.stream(channel)
        inboxes = [await self.read(each, stream, "first") for each in (channel, channel, other)]
        await self.publish(stream, b"0", b"1")
        for inbox in inboxes:
            self.assertEqual(await inbox.bodies(2, ack=True), [b"0", b"1"])

    async def test_credit(self) -> None:
        """At most as many deliveries as the prefetch count are unacknowledged."""
        channel = await self.channel()
        stream = await self.filled(channel, 6)
        inbox = await self.read(channel, stream, "first", prefetch=2)
        first, second = await inbox.next(), await inbox.next()
        await self.settle_stream(channel)
        self.assertEqual(inbox.waiting, [])
        first.ack()
        second.ack()
        self.assertEqual(await inbox.bodies(2, ack=True), [b"2", b"3"])
        self.assertEqual(await inbox.bodies(2, ack=True), [b"4", b"5"])

    async def settle_stream(self, channel: AmqpChannel) -> None:
        """A channel reads a stream's messages itself, before it handles the next method."""
        for _ in range(3):
            await self.ask(channel, Basic.Qos(prefetch_count=2))

    @differs(
        since=(4, 0),
        because="a message of a stream that is refused or returned counts as acknowledged",
    )
    async def test_settling_otherwise(self) -> None:
        """A stream's message can be neither rejected nor returned: that is not implemented and
        closes the connection.
        """
        for requeue in (False, True):
            for how in (Basic.Nack, Basic.Reject):
                channel = await self.channel()
                inbox = await self.read(channel, await self.filled(channel, 1), "first")
                await self.refused(
                    channel,
                    how(delivery_tag=(await inbox.next()).delivery_tag, requeue=requeue),
                    540,
                )

    async def settling_otherwise_since_4_0(self) -> None:
        """A stream's message that is rejected or returned counts as acknowledged: it is not
        redelivered, and the next one is delivered.
        """
        for requeue in (False, True):
            for how in (Basic.Nack, Basic.Reject):
                channel = await self.channel()
                inbox = await self.read(channel, await self.filled(channel, 2), "first", prefetch=1)
                first = await inbox.next()
                await self.ask(channel, how(delivery_tag=first.delivery_tag, requeue=requeue))
                self.assertNotEqual((await inbox.next()).body, first.body)

    async def test_many(self) -> None:
        """A stream keeps the order of messages that are published at once, and read with a small
        prefetch.
        """
        channel = await self.channel()
        stream = await self.stream(channel)
        bodies = [b"%d" % number for number in range(500)]
        await self.publish(stream, *bodies)
        inbox = await self.read(channel, stream, "first", prefetch=10)
        self.assertEqual(await inbox.bodies(500, ack=True), bodies)

    async def test_prefetch_required(self) -> None:
        """Consuming a stream without a prefetch is a 406 on the channel."""
        stream = await self.stream(await self.channel())
        await self.refused(await self.channel(), Basic.Consume(queue=stream), 406, "prefetch")

    async def test_no_ack(self) -> None:
        """Consuming a stream without acknowledgements is not implemented, which closes the
        connection.
        """
        channel = await self.channel()
        stream = await self.stream(channel)
        await self.ask(channel, Basic.Qos(prefetch_count=1))
        await self.refused(channel, Basic.Consume(queue=stream, no_ack=True), 540)

    async def test_get_and_purge(self) -> None:
        """``basic.get`` and ``queue.purge`` are not implemented for streams, which closes the
        connection.
        """
        for method in (Basic.Get, Queue.Purge):
            channel = await self.channel()
            await self.refused(channel, method(queue=await self.stream(channel)), 540)

    async def test_expiration(self) -> None:
        """A message's expiration has no effect in a stream."""
        channel = await self.channel()
        stream = await self.stream(channel)
        await self.publish(stream, b"0", expiration="0")
        await self.publish(stream, b"1", expiration="1")
        inbox = await self.read(channel, stream, "first")
        self.assertEqual(await inbox.bodies(2), [b"0", b"1"])

    async def test_lost(self) -> None:
        """A consumer that is lost without acknowledging removes nothing, and there are no
        redeliveries.
        """
        channel = await self.channel()
        stream = await self.filled(channel, 2)
        await (await self.read(channel, stream, "first")).bodies(2)
        await channel.client.close()
        inbox = await self.read(await self.channel(), stream, "first")
        deliveries = [await inbox.next() for _ in range(2)]
        self.assertEqual(
            [(delivery.body, delivery.redelivered) for delivery in deliveries],
            [(b"0", False), (b"1", False)],
        )

    async def test_cancel(self) -> None:
        """A cancelled consumer gets no more deliveries."""
        channel = await self.channel()
        stream = await self.filled(channel, 2)
        inbox = await self.read(channel, stream, "first")
        await inbox.bodies(2, ack=True)
        await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
        other = await self.read(channel, stream, 2)
        await self.publish(stream, b"2")
        self.assertEqual((await other.bodies(1), inbox.waiting), ([b"2"], []))

    async def test_declare_again(self) -> None:
        """Declaring a stream with another maximal age is a 406."""
        connection, name = await self.connect(), self.name("stream")
        channel = await self.channel(connection)
        arguments: dict[str, Any] = {
            "x-queue-type": "stream",
            "x-max-age": "7D",
            "x-stream-max-segment-size-bytes": 1_000_000,
        }
        for _ in range(2):
            await self.ask(
                channel, Queue.Declare(queue=name, durable=True, arguments=dict(arguments))
            )
        other = {**arguments, "x-max-age": "6D"}
        await self.refused(
            channel, Queue.Declare(queue=name, durable=True, arguments=other), 406, "'x-max-age'"
        )


class EmbeddedStreams(EmbeddedTestCase, StreamsContract):
    async def test_bad_offset(self) -> None:
        """An invalid offset closes the channel with 406. RabbitMQ has an internal error."""
        channel = await self.channel()
        stream = await self.filled(channel, 1)
        await self.ask(channel, Basic.Qos(prefetch_count=1))
        await self.refused(
            channel, Basic.Consume(queue=stream, arguments={"x-stream-offset": "middle"}), 406
        )


class RabbitMQStreams(RabbitMQTestCase, StreamsContract):
    pass
