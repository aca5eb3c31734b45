"""Durability of the embedded broker on SQLite: confirmed messages survive a crash, and a full disk
loses nothing.
"""

from __future__ import annotations

from pamqp.commands import Basic, Queue

from rtprov.broker.engine import stream as streams
from rtprov.broker.storage import sqlite
from tests.support.durable_case import PERSISTENT, DurableCase

SINGLE_ACTIVE = {"x-single-active-consumer": True, "x-delivery-limit": 3}


class Crash(DurableCase):
    async def test_what_was_confirmed(self) -> None:
        """After a crash confirmed messages are there in order. Those that had been delivered come
        first, as redelivered. Settled ones are gone.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum", SINGLE_ACTIVE)
        inbox = await self.inbox(channel, queue, prefetch=3)
        await self.publish(queue, *(b"%d" % number for number in range(8)))
        held = [await inbox.next() for _ in range(3)]
        held[1].ack()
        await inbox.next()
        await self.settle(channel, queue)
        await self.crash()
        found = await self.drained(queue, 7)
        self.assertEqual(
            found,
            [
                (b"0", True),
                (b"2", True),
                (b"3", True),
                *((b"%d" % number, False) for number in range(4, 8)),
            ],
        )

    async def test_what_was_not_confirmed(self) -> None:
        """A message that was not confirmed may be lost. Everything before it is there."""
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        await self.publish(queue, b"safe")
        self.stop_disk()
        publisher = await self.publisher()
        late = publisher.publish("", queue, b"late", properties=self.properties())
        self.network.settle()
        self.assertNoResult(late)
        late.addErrback(lambda _: None)  # its confirm is lost
        await self.crash()
        self.assertEqual(await self.drained(queue, 1), [(b"safe", False)])
        self.assertEqual(await self.count(await self.channel(), queue), 0)

    async def test_streams_keep_their_offsets(self) -> None:
        """After a crash a stream is read on from its consumer's last offset, and continues its
        offsets.
        """
        channel = await self.channel()
        stream = await self.stream(channel)
        await self.publish(stream, *(b"%d" % number for number in range(5)))
        await self.crash()
        await self.publish(stream, b"5", b"6")
        inbox = await self.inbox(
            await self.channel(), stream, prefetch=10, arguments={"x-stream-offset": 3}
        )
        deliveries = [await inbox.next() for _ in range(4)]
        seen = [
            ((each.properties.headers or {})["x-stream-offset"], each.body) for each in deliveries
        ]
        self.assertEqual(seen, [(number, b"%d" % number) for number in range(3, 7)])

    async def test_starts_are_not_counted(self) -> None:
        """However often the broker starts without clients, a message that was delivered once counts
        one more delivery, and no other message does.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum", SINGLE_ACTIVE)
        inbox = await self.inbox(channel, queue, prefetch=1)
        await self.publish(queue, b"first", b"second")
        await inbox.next()
        for _ in range(6):
            await self.crash()
        inbox = await self.inbox(await self.channel(), queue)
        counts = [
            ((await inbox.next()).properties.headers or {}).get("x-delivery-count", 0)
            for _ in range(2)
        ]
        self.assertEqual(counts, [1, 0])

    async def test_what_waits_is_not_counted(self) -> None:
        """A message that was returned and waits gets no higher count, however often the broker
        crashes.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum", SINGLE_ACTIVE)
        await self.publish(queue, b"body")
        consumer = await self.channel()
        inbox = await self.inbox(consumer, queue)
        await self.ask(consumer, Basic.Cancel(inbox.tag))
        (await inbox.next()).nack(requeue=True)
        await self.count(channel, queue)
        for _ in range(6):
            await self.crash()
        delivery = await (await self.inbox(await self.channel(), queue)).next()
        self.assertEqual((delivery.properties.headers or {}).get("x-delivery-count"), 1)

    async def test_stop_in_good_order(self) -> None:
        """When the broker stops, returned messages are not delivered again. Each counts its one
        delivery.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum", SINGLE_ACTIVE)
        inboxes = [await self.inbox(await self.channel(), queue) for _ in range(5)]
        await self.publish(queue, b"body")
        await inboxes[0].next()
        await self.restart()
        delivery = await (await self.inbox(await self.channel(), queue)).next()
        self.assertEqual((delivery.properties.headers or {}).get("x-delivery-count"), 1)

    async def test_deliveries_are_counted(self) -> None:
        """A message with which the broker crashes at each delivery is dead-lettered above its
        delivery limit.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.queue(
            channel,
            "quorum",
            {**SINGLE_ACTIVE, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead},
        )
        await self.publish(queue, b"poison")
        for deliveries in range(4):
            inbox = await self.inbox(await self.channel(), queue)
            delivery = await inbox.next()
            self.assertEqual(
                (delivery.properties.headers or {}).get("x-delivery-count", 0), deliveries
            )
            self.network.settle()
            await self.crash()
        await self.inbox(await self.channel(), queue)
        ((body, _),) = await self.drained(dead, 1)
        self.assertEqual(body, b"poison")

    async def test_transient_messages(self) -> None:
        """A classic queue loses its transient messages, and only these."""
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(queue, b"transient")
        await self.publish(queue, b"kept", delivery_mode=PERSISTENT)
        await self.crash()
        self.assertEqual(await self.drained(queue, 1), [(b"kept", False)])

    async def test_expiration(self) -> None:
        """A message at the head of a recovered queue expires at its time, without any client."""
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.queue(
            channel, "quorum", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        )
        await self.publish(queue, b"short-lived", expiration="60000")
        await self.publish(queue, b"lives on")
        self.network.advance(30)
        await self.crash()
        self.network.advance(29)
        counts = [self.broker.virtual_host.queues[name].message_count for name in (queue, dead)]
        self.network.advance(1)
        counts += [self.broker.virtual_host.queues[name].message_count for name in (queue, dead)]
        self.assertEqual(counts, [2, 0, 1, 1])

    async def test_declarations(self) -> None:
        """A durable auto-delete queue can be declared again with the same arguments, and its
        binding still routes.
        """
        channel = await self.channel()
        declare = Queue.Declare(queue=self.name(), durable=True, auto_delete=True)
        await self.ask(channel, declare)
        await self.ask(
            channel, Queue.Bind(queue=declare.queue, exchange="amq.topic", routing_key="a.*")
        )
        await self.publish("a.b", b"before", exchange="amq.topic", delivery_mode=PERSISTENT)
        await self.crash()
        await self.ask(await self.channel(), declare)
        await self.publish("a.c", b"after", exchange="amq.topic", delivery_mode=PERSISTENT)
        self.assertEqual(
            await self.drained(declare.queue, 2), [(b"before", False), (b"after", False)]
        )

    async def test_what_is_no_longer_accepted(self) -> None:
        """A queue that an earlier version accepted does not prevent the broker from starting, even
        if a new one like it would be refused.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum", {"x-dead-letter-exchange": "amq.fanout"})
        await self.publish(queue, b"body")
        self.sql(
            "UPDATE queue SET arguments = replace(arguments, 'amq.fanout', hex(zeroblob(200)))"
        )
        await self.crash()
        self.assertEqual(await self.drained(queue, 1), [(b"body", False)])


class GroupCommit(DurableCase):
    async def test_confirms_wait_for_the_disk(self) -> None:
        """No confirm is sent before its message is written. Then one write has written them all."""
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        publisher = await self.publisher()
        self.stop_disk()
        publishes = [
            publisher.publish("", queue, b"%d" % number, properties=self.properties())
            for number in range(50)
        ]
        self.network.settle()
        for publish in publishes:
            self.assertNoResult(publish)
        assert self.stopped is not None
        self.assertEqual(len(self.stopped), 1)
        self.start_disk()
        for publish in publishes:
            await publish

    async def test_streams_show_what_is_written(self) -> None:
        """A stream's consumer gets a message only after it is written, since it may act on it."""
        channel = await self.channel()
        stream = await self.stream(channel)
        inbox = await self.inbox(channel, stream, prefetch=10)
        publisher = await self.publisher()
        self.stop_disk()
        publish = publisher.publish("", stream, b"event", properties=self.properties())
        self.network.settle()
        self.assertEqual(inbox.waiting, [])
        self.start_disk()
        await publish
        self.assertEqual(await inbox.bodies(1), [b"event"])

    async def test_back_pressure(self) -> None:
        """While too much waits for the disk, a publisher is not read. Nothing that it sends is
        lost.
        """
        self.patch(sqlite, "CONGESTED_BYTES", 10_000)
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        publisher = await self.publisher()
        self.stop_disk()
        publishes = []
        for number in range(20):
            publishes.append(
                publisher.publish(
                    "", queue, b"%d" % number + bytes(4000), properties=self.properties()
                )
            )
            self.network.settle()
        self.assertLess(await self.count(channel, queue), 10)
        self.start_disk()
        for publish in publishes:
            await publish
        self.assertEqual(
            [body[:2].strip(b"\0") for body, _ in await self.drained(queue, 20)],
            [b"%d" % number for number in range(20)],
        )


class FullDisk(DurableCase):
    async def test_blocked(self) -> None:
        """On a full disk publishers are blocked and nothing is confirmed. When there is room again,
        everything continues and nothing is lost.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        publisher = await self.publisher()
        ((pages,),) = self.sql("PRAGMA page_count")
        self.sql(f"PRAGMA max_page_count = {pages}")
        publish = publisher.publish("", queue, bytes(50_000), properties=self.properties())
        self.network.settle()
        self.assertNoResult(publish)
        late = await self.channel()
        self.assertEqual(
            [connection.blocked for connection in self.connections], [True] * len(self.connections)
        )
        self.sql("PRAGMA max_page_count = 100000")
        await publish
        await self.settle(late, queue)
        self.assertEqual(
            [connection.blocked for connection in self.connections], [False] * len(self.connections)
        )
        self.assertEqual(len(await self.drained(queue, 1)), 1)


class OldEvents(DurableCase):
    """Streams delete old messages in steps."""

    async def left_after_a_minute(self, max_age: str) -> list[bytes]:
        """Return what a stream still has of four old messages, and of four that are published a
        minute later.
        """
        self.patch(streams, "TRIM_EVERY", 4)
        channel = await self.channel()
        stream = await self.queue(channel, "stream", {"x-max-age": max_age})
        await self.publish(stream, *(b"old" for _ in range(4)))
        self.network.advance(60)
        await self.publish(stream, *(b"%d" % number for number in range(4)))
        self.network.settle()
        count = self.broker.virtual_host.queues[stream].message_count
        inbox = await self.inbox(
            await self.channel(), stream, prefetch=10, arguments={"x-stream-offset": "first"}
        )
        return await inbox.bodies(count)

    async def test_max_age(self) -> None:
        """Messages older than x-max-age are deleted from the file too. Others stay."""
        self.assertEqual(await self.left_after_a_minute("59s"), [b"0", b"1", b"2", b"3"])
        ((rows,),) = self.sql("SELECT count(*) FROM message")
        self.assertEqual(rows, 4)

    async def test_younger(self) -> None:
        """Younger messages stay."""
        self.assertEqual(len(await self.left_after_a_minute("2m")), 8)

    async def test_policy(self) -> None:
        """If the broker has a maximal age of its own, that limits every stream, whatever its
        declaration says.
        """
        self.broker.virtual_host._max_age_s = 59.0
        self.assertEqual(len(await self.left_after_a_minute("7D")), 4)
