"""Long queues: which messages are in memory, the limits on memory, and what waits for messages on
disk.
"""

from __future__ import annotations

import sqlite3

from pamqp.commands import Basic, Channel, Queue

from rtprov.amqp.client._txamqp import Content
from rtprov.amqp.client.channel import AmqpChannel
from rtprov.broker.engine.queue import Queue as QueueOfBroker
from rtprov.broker.storage.sqlite import SqliteStorage
from rtprov.errors import AmqpError, Overloaded
from tests.support.broker_cases import EmbeddedTestCase
from tests.support.durable_case import DurableCase
from tests.support.raw_amqp import RawContract, publish


class LongQueues(DurableCase):
    async def test_bodies_are_on_disk(self) -> None:
        """However long a queue is, only its head is in memory. All messages are delivered
        in order.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        bodies = [b"%d" % number for number in range(100)]
        await self.publish(queue, *bodies)
        kept = self.broker.virtual_host.queues[queue]
        assert isinstance(kept, QueueOfBroker)
        self.assertEqual((kept.message_count, len(kept._backlog._ready)), (100, 2))
        self.assertEqual([body for body, _ in await self.drained(queue, 100)], bodies)

    async def test_purged_while_a_page_is_on_its_way(self) -> None:
        """Messages that are purged while they are being read are not delivered. Messages after them
        are.
        """
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

    async def get_in_vain(self, channel: AmqpChannel, queue: str) -> None:
        """Get from a queue whose pages cannot be read. Two messages are in memory. The third
        ``basic.get`` ends the connection.
        """
        for _ in range(2):
            await self.get(channel, queue)
        closed = channel.client.when_lost()
        channel.basic_get(queue=queue).addErrback(lambda reason: reason.trap(AmqpError))
        self.network.advance(self.broker.limits.reading_s + 1)
        await closed

    async def test_get_does_not_wait_for_ever(self) -> None:
        """A ``basic.get`` whose page cannot be read fails after a while with 541. The message is
        there for the next consumer.
        """
        channel = await self.channel(await self.connect(call_deadline_s=1000.0))
        queue = await self.queue(channel, "quorum")
        await self.publish(queue, *(b"%d" % number for number in range(5)))
        self.stop_disk()
        await self.get_in_vain(channel, queue)
        self.assertIsInstance(channel.client.failure, AmqpError)
        self.assertEqual(getattr(channel.client.failure, "reply_code", None), 541)
        self.start_disk()
        self.assertEqual([body for body, _ in await self.drained(queue, 3)], [b"2", b"3", b"4"])

    async def test_what_a_getter_gives_back(self) -> None:
        """The messages that its connection held are delivered to others, and that is written at
        once, even without other events.
        """
        channel, getter = (
            await self.channel(),
            await self.channel(await self.connect(call_deadline_s=1000.0)),
        )
        queue, long = (
            await self.queue(channel, "quorum", {"x-delivery-limit": 3}),
            await self.queue(channel, "quorum"),
        )
        await self.publish(queue, b"held")
        await self.publish(long, *(b"%d" % number for number in range(5)))
        held = await self.get(getter, queue, no_ack=False)
        inbox = await self.inbox(channel, queue)
        storage = self.broker.virtual_host.storage
        assert held is not None and isinstance(storage, SqliteStorage)
        self.patch(storage._database, "load", raise_disk_error)
        await self.get_in_vain(getter, long)
        self.assertEqual((await inbox.next()).redelivered, True)
        self.assertEqual(
            self.sql("SELECT deliveries FROM message WHERE body = x'68656c64'"), [(2,)]
        )
        self.flushLoggedErrors()


def raise_disk_error(*_: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


class FullMemory(EmbeddedTestCase, RawContract):
    async def test_blocked(self) -> None:
        """While messages use too much memory, publishers are notified and not read. Consumers are
        served, and nothing is lost.
        """
        self.broker.virtual_host.memory.limit = 50_000
        channel = await self.channel()
        await self.ask(channel, Queue.Declare(queue="transient"))
        publisher = await self.publisher()
        publishes = []
        for _ in range(30):
            publishes.append(
                publisher.publish("", "transient", bytes(4000), properties=Basic.Properties())
            )
            self.network.settle()
            if channel.client.blocked:
                break
        self.assertGreater(len(publishes), 8)
        late = publisher.channel
        assert late is not None
        await self.assertFails(
            publisher.publish("", "transient", b"", properties=Basic.Properties()), Overloaded
        )
        for _ in range(5):  # a publisher that ignores it is no longer read
            late.basic_publish(
                routing_key="transient", content=Content(bytes(4000), None, Basic.Properties())
            )
        self.network.settle()
        count = await self.count(channel, "transient")
        self.assertLess(count, len(publishes) + 5)
        inbox = await self.inbox(channel, "transient", no_ack=True, prefetch=0)
        await inbox.bodies(len(publishes) + 5)
        for published in publishes:
            await published
        await self.settle(channel, "transient")
        self.assertFalse(channel.client.blocked)
        self.assertEqual(self.broker.virtual_host.memory.used, 0)

    async def test_one_by_one(self) -> None:
        """A publisher that was not read continues in a reactor turn of its own, not in the call
        that freed memory, and only as far as there is room.
        """
        host = self.broker.virtual_host
        host.memory.limit = 1000
        channel = await self.channel()
        queue = await self.queue(channel)
        clients = [await self.raw_open() for _ in range(3)]
        for client in clients:
            client.say(Channel.Open(), channel=1)
            client.say(publish(1, bytes(2000), routing_key=queue))
        self.network.settle()
        for _ in range(3):
            self.assertEqual(host.queues[queue].message_count, 1)
            host.queues[queue].purge()
            self.assertEqual(host.queues[queue].message_count, 0)
            self.network.settle()
        self.assertEqual(host.queues[queue].message_count, 0)

    async def test_come_again(self) -> None:
        """Publishers that reconnect do not get more messages into a full memory than those that
        wait, and their old connections are dropped.
        """
        host = self.broker.virtual_host
        host.memory.limit = 1000
        channel = await self.channel()
        queue = await self.queue(channel)
        for _ in range(10):
            client = await self.raw_open()
            client.say(Channel.Open(), channel=1)
            client.say(publish(1, bytes(2000), routing_key=queue))
            self.network.settle()
            assert client.transport is not None
            client.transport.abortConnection()
            await client.lost
        self.assertEqual(await self.count(channel, queue), 1)

    async def test_what_is_deleted_is_given_back(self) -> None:
        """A purged or deleted queue uses no memory, even if some of its messages had been
        returned.
        """
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
            self.assertEqual(self.broker.virtual_host.memory.used, 0)
