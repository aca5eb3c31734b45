"""Dead letters: messages that are rejected, expired, or delivered too often; their headers; and
cycles of dead letters.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any

from pamqp.commands import Basic, Queue

from rtprov.amqp.client._txamqp import Content
from rtprov.amqp.client.channel import AmqpChannel
from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import encode_content
from tests.support.broker_cases import (
    KINDS,
    BrokerContract,
    EmbeddedTestCase,
    RabbitMQTestCase,
    SqliteTestCase,
    differs,
)

FIRST = ("x-first-death-reason", "x-first-death-queue", "x-first-death-exchange")


class DeadLettersContract(BrokerContract):
    async def pair(
        self, channel: AmqpChannel, kind: str, arguments: dict[str, Any] | None = None
    ) -> tuple[str, str]:
        """Declare a queue, and the queue that gets its dead letters; return both."""
        dead = await self.queue(channel)
        target = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        return await self.queue(channel, kind, {**target, **(arguments or {})}), dead

    def deaths(self, delivery: Delivery) -> list[dict[str, Any]]:
        """Return the ``x-death`` header without its times, which are checked."""
        headers = delivery.properties.headers
        assert headers is not None
        deaths = [dict(death) for death in headers["x-death"]]  # type: ignore[union-attr,arg-type] # a list of tables
        for death in deaths:
            self.assertIsInstance(death.pop("time"), datetime)
        return deaths

    async def test_rejected(self) -> None:
        """A rejected message goes to the dead-letter exchange, with its body and properties. Its
        headers have reason, queue, exchange and keys.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue, dead = await self.pair(channel, kind)
            await self.ask(
                channel, Queue.Bind(queue=queue, exchange="amq.direct", routing_key=queue)
            )
            inbox, dead_letters = await self.inbox(channel, queue), await self.inbox(channel, dead)
            headers = {"mine": "моё"}
            await self.publish(
                queue,
                b"body",
                exchange="amq.direct",
                message_id="m",
                delivery_mode=2,
                headers=headers,
            )
            (await inbox.next()).nack(requeue=False)
            letter = await dead_letters.next()
            self.assertEqual(
                (letter.body, letter.exchange, letter.routing_key, letter.redelivered),
                (b"body", "", dead, False),
            )
            self.assertEqual(
                (letter.properties.message_id, letter.properties.delivery_mode), ("m", 2)
            )
            expected = {
                "count": 1,
                "reason": "rejected",
                "queue": queue,
                "exchange": "amq.direct",
                "routing-keys": [queue],
            }
            self.assertEqual(self.deaths(letter), [expected])
            found = letter.properties.headers
            assert found is not None
            self.assertEqual([found[name] for name in FIRST], ["rejected", queue, "amq.direct"])
            self.assertEqual(found["mine"], "моё")

    async def test_headers_stay(self) -> None:
        """A dead letter keeps its headers, also those that a client library would encode
        differently or not at all.
        """
        channel = await self.channel()
        fields = (
            b"\x04largd"
            + struct.pack(">d", 1e300)
            + b"\x04fined"
            + struct.pack(">d", 0.1)
            + b"\x03odd"
            + b"S\0\0\0\x02\xff\xfe"
        )
        rest = encode_header(Basic.Properties(expiration="60000", message_id="m"), 0)
        flags = int.from_bytes(rest[12:14], "big") | Basic.Properties.flags["headers"]
        header = (
            rest[:12]
            + flags.to_bytes(2, "big")
            + len(fields).to_bytes(4, "big")
            + fields
            + rest[14:]
        )
        for kind in KINDS:
            queue, dead = await self.pair(channel, kind)
            inbox, dead_letters = await self.inbox(channel, queue), await self.inbox(channel, dead)
            channel.send(
                encode_content(channel.id, Basic.Publish(routing_key=queue), header, b"", 4096)
            )
            (await inbox.next()).nack(requeue=False)
            letter = await dead_letters.next()
            found = letter.properties.headers
            assert found is not None
            self.assertEqual(
                [found[name] for name in ("larg", "fine", "odd")], [1e300, 0.1, b"\xff\xfe"]
            )
            self.assertEqual(
                (letter.properties.message_id, letter.properties.expiration), ("m", None)
            )
            self.assertEqual(len(self.deaths(letter)), 1)

    @differs(since=(4, 0), because="an `x-death` that a client wrote is not interpreted")
    async def test_made_up_deaths(self) -> None:
        """The headers about the first death are set, unless there is an ``x-death`` already, even
        one that a client wrote.
        """
        await self.made_up_deaths(believed=True)

    async def made_up_deaths_since_4_0(self) -> None:
        """The headers about the first death are set, even if a client wrote an ``x-death``."""
        await self.made_up_deaths(believed=False)

    async def made_up_deaths(self, *, believed: bool) -> None:
        channel = await self.channel()
        for kind in KINDS:
            queue, dead = await self.pair(channel, kind)
            inbox, dead_letters = await self.inbox(channel, queue), await self.inbox(channel, dead)
            anew = ["rejected", queue, ""]
            for headers, first in (
                ({"x-first-death-reason": "mine"}, anew),
                (
                    {"x-death": [], "x-first-death-queue": "mine"},
                    [None, "mine", None] if believed else anew,
                ),
                ({"x-death": "mine"}, [None, None, None] if believed else anew),
            ):
                await self.publish(queue, b"body", headers=headers)
                (await inbox.next()).nack(requeue=False)
                letter = await dead_letters.next()
                found = letter.properties.headers or {}
                self.assertEqual(
                    ([found.get(name) for name in FIRST], len(self.deaths(letter))),
                    (first, 1),
                    headers,
                )

    async def test_own_key(self) -> None:
        """Without a dead-letter routing key the message keeps its own."""
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind, {"x-dead-letter-exchange": "amq.topic"})
            dead = await self.queue(channel)
            await self.ask(channel, Queue.Bind(queue=dead, exchange="amq.topic", routing_key=queue))
            inbox, dead_letters = await self.inbox(channel, queue), await self.inbox(channel, dead)
            await self.publish(queue, b"1")
            (await inbox.next()).nack(requeue=False)
            letter = await dead_letters.next()
            self.assertEqual(
                (letter.body, letter.exchange, letter.routing_key), (b"1", "amq.topic", queue)
            )

    async def test_order(self) -> None:
        """Messages that are rejected together arrive in their order."""
        channel = await self.channel()
        for kind in KINDS:
            queue, dead = await self.pair(channel, kind)
            inbox, dead_letters = await self.inbox(channel, queue), await self.inbox(channel, dead)
            await self.publish(queue, b"1", b"2", b"3")
            deliveries = [await inbox.next() for _ in range(3)]
            await self.ask(
                channel,
                Basic.Nack(delivery_tag=deliveries[-1].delivery_tag, multiple=True, requeue=False),
            )
            self.assertEqual(await dead_letters.bodies(3), [b"1", b"2", b"3"])
            self.assertEqual(await self.count(channel, queue), 0)

    async def test_no_exchange(self) -> None:
        """If the dead-letter exchange does not exist, or routes to no queue, the message is lost.
        The queue stays usable.
        """
        channel = await self.channel()
        for kind in KINDS:
            for exchange in (self.name("nowhere"), "amq.direct"):
                queue = await self.queue(channel, kind, {"x-dead-letter-exchange": exchange})
                inbox = await self.inbox(channel, queue, prefetch=1)
                await self.publish(queue, b"1", b"2")
                (await inbox.next()).nack(requeue=False)
                self.assertEqual(await inbox.bodies(1, ack=True), [b"2"])

    async def test_expired(self) -> None:
        """A message that expires in its queue becomes a dead letter without its expiration, even
        without a consumer.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue, dead = await self.pair(channel, kind)
            dead_letters = await self.inbox(channel, dead)
            await self.publish(queue, b"1", expiration="1")
            letter = await dead_letters.next()
            self.assertIsNone(letter.properties.expiration)
            (death,) = self.deaths(letter)
            self.assertEqual(death.pop("original-expiration"), "1")
            self.assertEqual(
                death,
                {
                    "count": 1,
                    "reason": "expired",
                    "queue": queue,
                    "exchange": "",
                    "routing-keys": [queue],
                },
            )
            self.assertEqual(await self.count(channel, queue), 0)

    async def test_expires_at_the_head(self) -> None:
        """A message expires only at the head of its queue. It does not wait for one behind it that
        lives longer, but for one before it.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue, dead = await self.pair(channel, kind)
            dead_letters = await self.inbox(channel, dead)
            await self.publish(queue, b"long", expiration="60000")
            await self.publish(queue, b"short", expiration="1")
            await self.publish(dead, b"marker", expiration="60000")
            self.assertEqual(await dead_letters.bodies(1), [b"marker"])
            self.assertEqual(await self.count(channel, queue), 2)
            self.assertEqual(await self.get_body(channel, queue), b"long")
            self.assertEqual(await dead_letters.bodies(1), [b"short"])

    async def test_expired_with_consumer(self) -> None:
        """A queue with a consumer that has room loses nothing to expiration 0. Without one, a
        message expires at once.
        """
        channel = await self.channel()
        queue, dead = await self.pair(channel, "classic")
        inbox, dead_letters = await self.inbox(channel, queue), await self.inbox(channel, dead)
        await self.publish(queue, b"1", expiration="0")
        self.assertEqual(await inbox.bodies(1, ack=True), [b"1"])
        await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
        await self.publish(queue, b"2", expiration="0")
        self.assertEqual(await dead_letters.bodies(1), [b"2"])

    async def test_expiration_held(self) -> None:
        """An unacknowledged message does not expire. If it is returned late, it does."""
        channel = await self.channel()
        for kind in KINDS:
            queue, dead = await self.pair(channel, kind)
            dead_letters = await self.inbox(channel, dead)
            await self.publish(queue, b"held", b"later", expiration="200")
            held = await self.get(channel, queue, no_ack=False)
            assert held is not None
            self.assertEqual(await dead_letters.bodies(1), [b"later"])
            await self.ask(channel, Basic.Nack(delivery_tag=held.delivery_tag, requeue=True))
            self.assertEqual(await dead_letters.bodies(1), [b"held"])

    async def test_bad_expiration(self) -> None:
        """An expiration that is not a number of milliseconds, or is more than ten years, closes the
        channel with 406.
        """
        for expiration in (
            "",
            "soon",
            "-1",
            "1.5",
            " 1",
            "1 ",
            "1_0",
            "0x5",
            "٣",
            "+",
            "315360000001",
            "9" * 30,
        ):
            channel = await self.channel()
            text = expiration.encode()
            self.publish_raw(channel, expiration=bytes([len(text)]) + text)
            error = await self.refused(channel, Basic.Qos(), 406, "invalid expiration")
            self.assertEqual((error.class_id, error.method_id), (60, 40), expiration)

    async def test_signed_expiration(self) -> None:
        """An expiration may have a sign, if it is not below 0."""
        channel = await self.channel()
        for expiration in ("+60000", "-0", "00060000"):
            await channel.basic_publish(
                routing_key="x", content=Content(b"", None, Basic.Properties(expiration=expiration))
            )
            await self.ask(channel, Basic.Qos())

    @differs(
        since=(4, 3),
        because="`basic.nack` does not count as a delivery; `basic.reject` and a lost consumer do",
    )
    async def test_delivery_limit(self) -> None:
        """A quorum queue counts in ``x-delivery-count`` how often a message was returned, and
        dead-letters it above the delivery limit.
        """
        channel = await self.channel()
        queue, dead = await self.pair(channel, "quorum", {"x-delivery-limit": 2})
        inbox, dead_letters = (
            await self.inbox(channel, queue, prefetch=1),
            await self.inbox(channel, dead),
        )
        await self.publish(queue, b"1", b"2")
        counts = []
        for _ in range(3):
            delivery = await inbox.next()
            self.assertEqual(delivery.body, b"1")
            counts.append((delivery.properties.headers or {}).get("x-delivery-count"))
            delivery.nack(requeue=True)
        self.assertEqual(counts, [None, 1, 2])
        self.assertEqual(await inbox.bodies(1, ack=True), [b"2"])
        letter = await dead_letters.next()
        self.assertEqual(letter.body, b"1")
        self.assertEqual(
            [(death["reason"], death["count"]) for death in self.deaths(letter)],
            [("delivery_limit", 1)],
        )

    async def delivery_limit_since_4_3(self) -> None:
        """A message that is returned by ``basic.nack`` is redelivered without limit, and counted
        only in ``x-acquired-count``.
        """
        channel = await self.channel()
        queue, _ = await self.pair(channel, "quorum", {"x-delivery-limit": 2})
        inbox = await self.inbox(channel, queue, prefetch=1)
        await self.publish(queue, b"1")
        for count in range(10):
            delivery = await inbox.next()
            headers = delivery.properties.headers or {}
            self.assertEqual(
                (headers.get("x-acquired-count"), headers.get("x-delivery-count")),
                (count or None, None),
            )
            delivery.nack(requeue=True)

    async def test_delivery_limit_rejected(self) -> None:
        """``basic.reject`` with requeue counts as a delivery on every version."""
        channel = await self.channel()
        queue, dead = await self.pair(channel, "quorum", {"x-delivery-limit": 2})
        inbox, dead_letters = (
            await self.inbox(channel, queue, prefetch=1),
            await self.inbox(channel, dead),
        )
        await self.publish(queue, b"1")
        for count in (None, 1, 2):
            delivery = await inbox.next()
            self.assertEqual((delivery.properties.headers or {}).get("x-delivery-count"), count)
            await self.ask(channel, Basic.Reject(delivery_tag=delivery.delivery_tag, requeue=True))
        self.assertEqual(await dead_letters.bodies(1), [b"1"])

    async def test_delivery_limit_lost(self) -> None:
        """A lost consumer counts as a delivery."""
        channel = await self.channel()
        queue, dead = await self.pair(channel, "quorum", {"x-delivery-limit": 1})
        await self.publish(queue, b"1")
        dead_letters = await self.inbox(channel, dead)
        for _ in range(2):
            other = await self.channel()
            await (await self.inbox(other, queue)).next()
            await other.client.close()
        self.assertEqual(await dead_letters.bodies(1), [b"1"])

    @differs(
        since=(4, 0),
        because="a quorum queue that is declared without a delivery limit has a limit of 20",
    )
    async def test_no_limit(self) -> None:
        """A quorum queue without a delivery limit, and a classic queue, have no limit."""
        channel = await self.channel()
        for kind in KINDS:
            queue, _ = await self.pair(channel, kind)
            inbox = await self.inbox(channel, queue, prefetch=1)
            await self.publish(queue, b"1")
            for _ in range(30):
                (await inbox.next()).nack(requeue=True)
            (await inbox.next()).ack()

    async def no_limit_since_4_0(self) -> None:
        """A quorum queue has a limit of 20 redeliveries by default. A classic queue never
        has one.
        """
        channel = await self.channel()
        for kind, limit in (("classic", None), ("quorum", None), ("quorum", 1_000_000_000)):
            queue, dead = await self.pair(
                channel, kind, None if limit is None else {"x-delivery-limit": limit}
            )
            inbox, dead_letters = (
                await self.inbox(channel, queue, prefetch=1),
                await self.inbox(channel, dead),
            )
            await self.publish(queue, b"1")
            for _ in range(21):
                delivery = await inbox.next()
                await self.ask(
                    channel, Basic.Reject(delivery_tag=delivery.delivery_tag, requeue=True)
                )
            if kind == "quorum" and limit is None:
                self.assertEqual(await dead_letters.bodies(1), [b"1"])
            else:
                (await inbox.next()).ack()

    @differs(since=(4, 0), because="an `x-death` that a client wrote is not interpreted")
    async def test_twice(self) -> None:
        """A second death in the same queue increases the count, one in another queue comes first in
        the list, and the first death is kept.
        """
        await self.twice(2)

    async def twice_since_4_0(self) -> None:
        """If a client publishes a dead letter again, its count starts from 1."""
        await self.twice(1)

    async def twice(self, count: int) -> None:
        channel = await self.channel()
        for kind in KINDS:
            queue, dead = await self.pair(channel, kind)
            back = await self.queue(
                channel, kind, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
            )
            inbox, dead_letters = await self.inbox(channel, queue), await self.inbox(channel, dead)
            backs = await self.inbox(channel, back)
            await self.publish(back, b"1")
            (await backs.next()).nack(requeue=False)
            (await inbox.next()).nack(requeue=False)
            letter = await dead_letters.next()
            self.assertEqual(
                [(death["queue"], death["count"]) for death in self.deaths(letter)],
                [(queue, 1), (back, 1)],
            )
            await self.publish(back, b"1", headers=letter.properties.headers)
            (await backs.next()).nack(requeue=False)
            (await inbox.next()).nack(requeue=False)
            again = await dead_letters.next()
            self.assertEqual(
                [(death["queue"], death["count"]) for death in self.deaths(again)],
                [(queue, count), (back, count)],
            )
            headers = again.properties.headers
            assert headers is not None
            self.assertEqual([headers[name] for name in FIRST], ["rejected", back, ""])

    async def test_round_by_hand(self) -> None:
        """A message that is rejected in a queue that gets its own dead letters is delivered again
        after each rejection.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.own_dead_letters(channel, {"x-queue-type": kind})
            inbox = await self.inbox(channel, queue, prefetch=1)
            await self.publish(queue, b"1")
            (await inbox.next()).nack(requeue=False)
            for count in (1, 2, 3):
                delivery = await inbox.next()
                self.assertEqual([death["count"] for death in self.deaths(delivery)], [count])
                delivery.nack(requeue=False)

    async def own_dead_letters(self, channel: AmqpChannel, arguments: dict[str, Any]) -> str:
        queue = self.name("round")
        arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
        await self.ask(channel, Queue.Declare(queue=queue, durable=True, arguments=arguments))
        return queue

    async def test_round_on_its_own(self) -> None:
        """A message in a cycle of dead letters without a rejection is dropped."""
        channel = await self.channel()
        queue = await self.own_dead_letters(channel, {"x-queue-type": "classic"})
        await self.publish(queue, b"expires", expiration="1")
        other, dead = await self.pair(channel, "classic")
        await self.publish(other, b"expires later", expiration="100")
        await (await self.inbox(channel, dead)).next()
        self.assertEqual(await self.count(channel, queue), 0)
        queue = await self.own_dead_letters(
            channel, {"x-queue-type": "quorum", "x-delivery-limit": 1}
        )
        inbox = await self.inbox(channel, queue, prefetch=1)
        await self.publish(queue, b"1", b"2")
        for _ in range(2):
            delivery = await inbox.next()
            self.assertEqual(delivery.body, b"1")
            await self.ask(channel, Basic.Reject(delivery_tag=delivery.delivery_tag, requeue=True))
        self.assertEqual(await inbox.bodies(1, ack=True), [b"2"])
        await self.settle(channel, queue)
        self.assertEqual((inbox.waiting, await self.count(channel, queue)), ([], 0))


class EmbeddedDeadLetters(EmbeddedTestCase, DeadLettersContract):
    pass


class SqliteDeadLetters(SqliteTestCase, DeadLettersContract):
    pass


class RabbitMQDeadLetters(RabbitMQTestCase, DeadLettersContract):
    pass
