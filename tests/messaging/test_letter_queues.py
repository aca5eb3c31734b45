"""Queues of dead letters on every broker: no message is lost, in new queues and in queues that an
earlier rtprov declared.
"""

from __future__ import annotations

from typing import Any

from pamqp.commands import Basic, Queue

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import AmqpError
from rtprov.messaging.letter_queues import LETTER_DELIVERY_LIMIT, LOCK_QUEUE, has_default_limit
from rtprov.messaging.topology import DEAD_EXCHANGE, PARKED_QUEUE, Shard, Topology
from tests.support.broker_cases import BrokerContract, EmbeddedTestCase, RabbitMQTestCase

SHARD, OTHER = Shard(0, 2), Shard(1, 2)
LOOKS = 30  # more than RabbitMQ's default limit
HEADERS: dict[str, Any] = {"x-death": [{"reason": "rejected", "queue": SHARD.work}]}
LIMITED: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": LETTER_DELIVERY_LIMIT}
OLD: dict[str, Any] = {"x-queue-type": "quorum"}


class LetterQueuesContract(BrokerContract):
    async def attach(self, *, replaces: bool = True) -> None:
        """Do what a front end and a worker do first on a connection."""
        connection = await self.connect()
        await Topology([SHARD], replaces=replaces).attach(connection)
        await connection.close()

    async def declare_as_before(self, *letters: bytes) -> None:
        """Declare the queues as earlier versions did, and put messages into each."""
        connection = await self.connect()
        await Topology([SHARD]).attach(connection)
        channel = await self.channel(connection)
        for queue in (SHARD.dead, PARKED_QUEUE):
            await self.ask(channel, Queue.Delete(queue=queue))
            await self.ask(channel, Queue.Declare(queue=queue, durable=True, arguments=OLD))
            await self.publish(queue, *letters, headers=HEADERS, delivery_mode=2)
        for key in (SHARD.requested_key, SHARD.work):
            await self.ask(
                channel, Queue.Bind(queue=SHARD.dead, exchange=DEAD_EXCHANGE, routing_key=key)
            )
        await connection.close()

    async def has(self, queue: str, arguments: dict[str, Any] | None) -> bool:
        """Return whether the queue exists with these arguments, or with None, whether it exists."""
        channel = await self.channel()
        declare = Queue.Declare(
            queue=queue, durable=True, passive=arguments is None, arguments=arguments or {}
        )
        try:
            await self.ask(channel, declare)
        except AmqpError:
            return False
        return True

    @property
    def must_replace(self) -> bool:
        return self.version >= (4, 0)

    async def look_at(self, queue: str, *bodies: bytes) -> None:
        """Check that all messages are there, in order, and stay there however often they are
        fetched and returned.
        """
        channel = await self.channel()
        for _ in range(LOOKS):
            taken = [await self.get(channel, queue, no_ack=False) for _ in bodies]
            for message, body in zip(taken, bodies, strict=True):
                assert message is not None and message.content is not None, queue
                self.assertEqual(message.content.body, body)
                headers = message.content.properties.headers
                assert isinstance(headers, dict)
                self.assertEqual(headers["x-death"], HEADERS["x-death"])
            for message in reversed(taken):
                assert message is not None
                await self.ask(
                    channel, Basic.Reject(delivery_tag=message.delivery_tag, requeue=True)
                )
            await self.settle(channel, queue)
            if self.version < (4, 0):
                bodies = await self.order(channel, queue, bodies)

    async def order(self, channel: Any, queue: str, bodies: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the present order of the messages. Before RabbitMQ 4.0, a message returned to a
        queue without a delivery limit goes to its end.
        """
        taken = [await self.get(channel, queue, no_ack=False) for _ in bodies]
        await self.ask(channel, Basic.Recover(requeue=True))
        await self.settle(channel, queue)
        order = tuple(
            message.content.body
            for message in taken
            if message is not None and message.content is not None
        )
        self.assertEqual(sorted(order), sorted(bodies))
        return order

    async def test_new(self) -> None:
        """A message in a new queue stays there, however often it is fetched and returned."""
        await self.attach()
        for queue in (SHARD.dead, PARKED_QUEUE):
            await self.publish(queue, b"1", headers=HEADERS, delivery_mode=2)
            await self.look_at(queue, b"1")

    async def test_of_before(self) -> None:
        """Messages in the queues of an earlier version are kept in order, and stay from then on.
        New messages arrive as before.
        """
        await self.declare_as_before(b"1", b"2", b"3")
        await self.attach()
        for queue in (SHARD.dead, PARKED_QUEUE):
            self.assertEqual(await self.has(queue, LIMITED), self.must_replace)
            self.assertFalse(await self.has(f"{queue}.moving", None))
            channel = await self.channel()
            self.assertEqual(await self.count(channel, queue), 3)
            self.assertEqual(await self.get_body(channel, queue), b"1")
            self.assertEqual(await self.get_body(channel, queue), b"2")
            await self.look_at(queue, b"3")
        for key in (SHARD.requested_key, SHARD.work):
            await self.publish(key, b"new", exchange=DEAD_EXCHANGE, delivery_mode=2)
        self.assertEqual(await self.count(await self.channel(), SHARD.dead), 3)

    async def test_front_end(self) -> None:
        """A front end uses the queues as they are."""
        await self.declare_as_before(b"1")
        await self.attach(replaces=False)
        self.assertTrue(await self.has(SHARD.dead, OLD))
        self.assertTrue(await self.has(PARKED_QUEUE, OLD))

    async def test_beside_a_worker(self) -> None:
        """No queue is replaced while a worker consumes dead letters of any shard, because it may be
        of the earlier version.
        """
        await self.declare_as_before(b"1")
        channel = await self.channel()
        await self.ask(channel, Queue.Declare(queue=OTHER.dead, durable=True, arguments=OLD))
        await self.inbox(channel, OTHER.dead)
        await self.attach()
        self.assertTrue(await self.has(SHARD.dead, OLD))
        self.assertTrue(await self.has(PARKED_QUEUE, OLD))
        await channel.client.close()
        await self.attach()
        self.assertEqual(await self.has(SHARD.dead, LIMITED), self.must_replace)

    async def test_cut_off(self) -> None:
        """A replacement that was interrupted at any point is finished by the next worker. Messages
        that arrived meanwhile are kept.
        """
        if not self.must_replace:
            return  # nothing was begun
        for deleted in (False, True):
            await self.declare_as_before(b"1")
            channel = await self.channel()
            beside = SHARD.dead_letters.temporary
            await self.ask(channel, Queue.Declare(queue=beside, durable=True, arguments=LIMITED))
            await self.publish(beside, b"0", headers=HEADERS, delivery_mode=2)
            if deleted:
                await self.ask(channel, Queue.Delete(queue=SHARD.dead))
            await self.attach()
            self.assertTrue(await self.has(SHARD.dead, LIMITED))
            self.assertFalse(await self.has(beside, None))
            kept = [await self.get_body(channel, SHARD.dead) for _ in range(2)]
            self.assertEqual(kept, [b"0", None] if deleted else [b"0", b"1"])
            for queue in (SHARD.dead, PARKED_QUEUE):
                await self.ask(channel, Queue.Delete(queue=queue))

    async def test_cut_off_beside_a_worker(self) -> None:
        """Messages that an interrupted replacement has left in a temporary queue are moved back,
        even if workers consume the new queue.
        """
        if not self.must_replace:
            return
        await self.attach()
        channel = await self.channel()
        beside = SHARD.dead_letters.temporary
        await self.ask(channel, Queue.Declare(queue=beside, durable=True, arguments=LIMITED))
        await self.publish(beside, b"0", headers=HEADERS, delivery_mode=2)
        inbox = await self.inbox(channel, SHARD.dead)
        await self.attach()
        self.assertEqual(await inbox.bodies(1), [b"0"])
        self.assertFalse(await self.has(beside, None))

    async def test_two_at_once(self) -> None:
        """While one worker replaces the queues, another is refused. When it connects again, nothing
        is left to do.
        """
        if not self.must_replace:
            return
        await self.declare_as_before(b"1")
        channel = await self.channel()
        await self.ask(channel, Queue.Declare(queue=LOCK_QUEUE, exclusive=True))
        error = await self.assertFails(self.attach(), AmqpError)
        self.assertEqual(error.reply_code, 405)
        await channel.client.close()
        await self.attach()
        await self.attach()
        self.assertEqual(await self.count(await self.channel(), SHARD.dead), 1)

    async def test_default_limit(self) -> None:
        """The broker's server properties tell whether it has a default delivery limit."""
        connection = await self.connect()
        self.assertEqual(has_default_limit(connection.server_properties), self.must_replace)


class EmbeddedLetterQueues(EmbeddedTestCase, LetterQueuesContract):
    pass


class RabbitMQLetterQueues(RabbitMQTestCase, LetterQueuesContract):
    """Each test uses a virtual host of its own, since the names of the queues are fixed."""

    async def setUp(self) -> None:  # type: ignore[override] # trial awaits it
        await super().setUp()
        self.url = BrokerUrl.parse(await self.node.add_vhost())
