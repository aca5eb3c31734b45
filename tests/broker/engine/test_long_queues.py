"""What of long queues is in memory, what that is bounded by, and who waits for the rest."""

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
        """However long a queue is, only its head is in memory; all of it comes in order."""
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        bodies = [b"%d" % number for number in range(100)]
        await self.publish(queue, *bodies)
        kept = self.broker.virtual_host.queues[queue]
        assert isinstance(kept, QueueOfBroker)
        self.assertEqual((kept.message_count, len(kept._backlog._ready)), (100, 2))
        self.assertEqual([body for body, _ in await self.drained(queue, 100)], bodies)

    async def test_purged_while_a_page_is_on_its_way(self) -> None:
        """Messages that are purged while they are being read are gone; what comes after them is
        delivered.
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
        """Get from a queue of which no page can be read: two messages are in memory; the third get
        ends the connection.
        """
        for _ in range(2):
            await self.get(channel, queue)
        closed = channel.client.when_lost()
        channel.basic_get(queue=queue).addErrback(lambda reason: reason.trap(AmqpError))
        self.network.advance(self.broker.limits.reading_s + 1)
        await closed

    async def test_get_does_not_wait_for_ever(self) -> None:
        """Who gets from a queue whose page does not come is told so after a while, with 541; the
        message is there for the next.
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
        """What he held is handed out to others, and that is written down at once, though nothing
        else happens.
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
        """While messages take too much memory, publishers are told and not listened to; consumers
        are served, and nothing is lost.
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
        for _ in range(5):  # one who does not heed it is no longer read
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
        """Who was not listened to goes on in a turn of its own, not in the middle of what made
        room, and as far as there is room.
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
        """Publishers that hang up and come again do not get more into a full memory than those that
        wait, nor are they waited for.
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
        """A queue that is purged or deleted takes no memory any longer, whatever of it had been
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
