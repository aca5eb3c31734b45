"""What of long queues is in memory, what that is bounded by, and who waits for the rest."""

from __future__ import annotations

from pamqp.commands import Basic, Queue

from rtprov.amqp._txamqp import Content
from rtprov.broker.queues import Queue as QueueOfBroker
from rtprov.errors import AmqpError, Overloaded
from tests.broker.cases import BrokerContract, EmbeddedTestCase
from tests.broker.test_durability import DurableCase


class LongQueues(DurableCase):
    async def test_bodies_are_on_disk(self) -> None:
        """However long a queue is, only its head is in memory; all of it comes in order."""
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        bodies = [b"%d" % number for number in range(100)]
        await self.publish(queue, *bodies)
        kept = self.broker.engine.queues[queue]
        assert isinstance(kept, QueueOfBroker)
        self.assertEqual((kept.message_count, len(kept._backlog._ready)), (100, 2))
        self.assertEqual([body for body, _ in await self.drained(queue, 100)], bodies)

    async def test_purged_while_a_page_is_on_its_way(self) -> None:
        """Messages that are purged while they are being read are gone; what comes after them is delivered."""
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        await self.publish(queue, *(b"old" for _ in range(10)))
        inbox = await self.inbox(channel, queue, prefetch=1)
        first = await inbox.next()
        self.stop_disk()
        first.ack()
        purged = self.ask(channel, Queue.Purge(queue=queue))
        self.network.settle()
        self.start_disk()
        self.assertGreater((await purged).message_count, 6)
        await self.publish(queue, b"new")
        rest = [await inbox.next()]
        while rest[-1].body != b"new":
            rest[-1].ack()
            rest.append(await inbox.next())
        self.assertLess(len(rest), 4)

    async def test_get_does_not_wait_for_ever(self) -> None:
        """Who gets from a queue whose page does not come is told so after a while, with 541; the message is there for the next."""
        channel = await self.channel(await self.connect(call_deadline_s=1000.0))
        queue = await self.queue(channel, "quorum")
        await self.publish(queue, *(b"%d" % number for number in range(5)))
        self.stop_disk()
        for _ in range(2):
            await self.get(channel, queue)
        closed = channel.client.when_lost()
        channel.basic_get(queue=queue).addErrback(lambda reason: reason.trap(AmqpError))
        self.network.advance(self.broker.limits.reading_s + 1)
        await closed
        self.assertIsInstance(channel.client.failure, AmqpError)
        self.assertEqual(getattr(channel.client.failure, "reply_code", None), 541)
        self.start_disk()
        self.assertEqual([body for body, _ in await self.drained(queue, 3)], [b"2", b"3", b"4"])


class FullMemory(EmbeddedTestCase, BrokerContract):
    async def test_blocked(self) -> None:
        """While messages take too much memory, publishers are told and not listened to; consumers are served, and nothing is lost."""
        self.broker.engine.memory.limit = 50_000
        channel = await self.channel()
        await self.ask(channel, Queue.Declare(queue="transient"))
        publisher = await self.publisher()
        publishes = []
        for _ in range(30):
            publishes.append(publisher.publish("", "transient", bytes(4000), properties=Basic.Properties()))
            self.network.settle()
            if channel.client.blocked:
                break
        self.assertGreater(len(publishes), 8)
        late = publisher.channel
        assert late is not None
        await self.assertFails(publisher.publish("", "transient", b"", properties=Basic.Properties()), Overloaded)
        for _ in range(5):  # one who does not heed it is no longer read
            late.basic_publish(routing_key="transient", content=Content(bytes(4000), None, Basic.Properties()))
        self.network.settle()
        count = await self.count(channel, "transient")
        self.assertLess(count, len(publishes) + 5)
        inbox = await self.inbox(channel, "transient", no_ack=True, prefetch=0)
        await inbox.bodies(len(publishes) + 5)
        for publish in publishes:
            await publish
        await self.settle(channel, "transient")
        self.assertFalse(channel.client.blocked)
        self.assertEqual(self.broker.engine.memory.used, 0)

    async def test_what_is_deleted_is_given_back(self) -> None:
        """A queue that is purged or deleted takes no memory any longer, whatever of it had been returned."""
        channel = await self.channel()
        for end in (Queue.Purge, Queue.Delete):
            queue = await self.queue(channel, "quorum")
            inbox = await self.inbox(channel, queue, prefetch=2)
            await self.publish(queue, *(bytes(1000) for _ in range(5)))
            deliveries = [await inbox.next() for _ in range(2)]
            await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
            for delivery in deliveries:
                delivery.nack(requeue=True)
            await self.ask(channel, end(queue=queue))
            self.assertEqual(self.broker.engine.memory.used, 0)
