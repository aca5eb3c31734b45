"""Publishing: confirms, returns, and unchanged contents."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from pamqp.commands import Basic, Channel, Confirm, Queue
from twisted.internet.defer import Deferred

from rtprov.amqp.client._txamqp import Content, Message
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.codec import encode_header
from rtprov.broker.content_header import split
from rtprov.errors import Unconfirmed, Unroutable
from tests.support.broker_cases import (
    KINDS,
    BrokerContract,
    EmbeddedTestCase,
    RabbitMQTestCase,
    SqliteTestCase,
    differs,
)

HEADERS: dict[str, Any] = {
    "text": "текст",
    "empty": "",
    "yes": True,
    "no": False,
    "byte": 5,  # pamqp 3, for Python 3.10, cannot write -5
    "short": 30_000,
    "int": -2_000_000_000,
    "long": 2**62,
    "negative": -(2**62),
    "float": 0.5,
    "decimal": Decimal("3.14"),
    "bytes": bytearray(b"\x00\xff"),
    "nothing": None,
    "time": datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    "array": [1, "два", [3.0, None], {"four": 4}],
    "table": {"nested": {"deeper": ["x"]}, "ключ": "значение"},
}


class Listener:
    """Records a channel's confirms and returns, in order. `done` fires once this many messages are
    confirmed.
    """

    def __init__(self, count: int) -> None:
        self.events: list[tuple[str, object]] = []
        self.confirmed: list[int] = []
        self.done: Deferred[None] = Deferred()
        self._count = count

    def on_confirm(self, delivery_tag: int, *, multiple: bool, positive: bool) -> None:
        assert positive
        first = (self.confirmed[-1] if self.confirmed else 0) + 1 if multiple else delivery_tag
        self.confirmed += [
            tag for tag in range(first, delivery_tag + 1) if tag not in self.confirmed
        ]
        self.confirmed.sort()
        self.events.append(("confirm", delivery_tag))
        if len(self.confirmed) == self._count and not self.done.called:
            self.done.callback(None)

    def on_return(self, message: Message) -> None:
        assert message.content is not None
        self.events.append(("return", message.content.body))
        self.returned = message


class PublishingContract(BrokerContract):
    async def test_confirms(self) -> None:
        """In confirm mode every message is confirmed, with tags that count up from 1 on its
        channel, one by one or many together.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        channel.confirms = listener = Listener(200)
        await self.ask(channel, Confirm.Select())
        await self.ask(channel, Confirm.Select())
        for number in range(200):
            await channel.basic_publish(routing_key=queue, content=Content(b"%d" % number))
        await listener.done
        self.assertEqual(listener.confirmed, list(range(1, 201)))
        self.assertEqual(await self.count(channel, queue), 200)

    async def test_confirms_begin_with_select(self) -> None:
        """Messages from before ``confirm.select`` are neither confirmed nor counted."""
        channel = await self.channel()
        queue = await self.queue(channel)
        await channel.basic_publish(routing_key=queue, content=Content(b"before"))
        channel.confirms = listener = Listener(1)
        await self.ask(channel, Confirm.Select(nowait=True))
        await channel.basic_publish(routing_key=queue, content=Content(b"after"))
        await listener.done
        self.assertEqual((listener.confirmed, await self.count(channel, queue)), ([1], 2))

    async def test_return(self) -> None:
        """A mandatory message that is routed to no queue is returned with its content, before its
        confirm.
        """
        channel = await self.channel()
        await self.ask(channel, Confirm.Select())
        channel.confirms = listener = Listener(1)
        content = Content(
            "тело".encode(), None, Basic.Properties(message_id="m", headers={"a": "б"})
        )
        await channel.basic_publish(
            exchange="amq.direct", routing_key=self.name(), mandatory=True, content=content
        )
        await listener.done
        self.assertEqual(listener.events, [("return", "тело".encode()), ("confirm", 1)])
        returned = listener.returned
        self.assertEqual(
            (returned.reply_code, returned.reply_text, returned.exchange),
            (312, "NO_ROUTE", "amq.direct"),
        )
        assert returned.content is not None
        self.assertEqual(
            (returned.content.properties.message_id, returned.content.properties.headers),
            ("m", {"a": "б"}),
        )

    async def test_return_without_confirms(self) -> None:
        """A mandatory message is returned without confirm mode too. One that is not mandatory is
        dropped.
        """
        channel = await self.channel()
        channel.confirms = listener = Listener(1)
        await channel.basic_publish(routing_key=self.name(), content=Content(b"1"))
        await channel.basic_publish(routing_key=self.name(), mandatory=True, content=Content(b"2"))
        await self.ask(channel, Basic.Qos())
        await self.ask(channel, Basic.Qos())
        self.assertEqual(listener.events, [("return", b"2")])

    @differs(
        since=(4, 3),
        because="for a moment after a queue is deleted, messages for it are nacked, not returned",
    )
    async def test_auto_delete_tells_that_nobody_is_there(self) -> None:
        """A queue without a consumer accepts mandatory messages. They are returned only after an
        auto-delete queue was deleted with its last consumer.
        """
        channel, publisher, queue = await self.channel(), await self.publisher(), self.name()
        await self.ask(channel, Queue.Declare(queue=queue, durable=True, auto_delete=True))
        await publisher.publish("", queue, b"1", properties=Basic.Properties())
        inbox = await self.inbox(channel, queue)
        await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
        await self.assertFails(
            publisher.publish("", queue, b"2", properties=Basic.Properties()), Unroutable
        )

    async def auto_delete_tells_that_nobody_is_there_since_4_3(self) -> None:
        """The same, except for a moment after the queue is deleted, in which its messages are
        nacked instead of returned.
        """
        channel, publisher, queue = await self.channel(), await self.publisher(), self.name()
        await self.ask(channel, Queue.Declare(queue=queue, durable=True, auto_delete=True))
        inbox = await self.inbox(channel, queue)
        await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
        while isinstance(await self.not_taken(publisher, queue), Unconfirmed):
            pass

    async def not_taken(self, publisher: Publisher, queue: str) -> Unconfirmed | Unroutable:
        try:
            await publisher.publish("", queue, b"2", properties=Basic.Properties())
        except (Unconfirmed, Unroutable) as error:
            return error
        self.fail("the message was taken")

    async def test_one_publish_many_queues(self) -> None:
        """A message for a quorum queue, a classic queue and a stream is confirmed when all
        have it.
        """
        channel = await self.channel()
        key = self.name()
        queues = [await self.queue(channel, kind) for kind in (*KINDS, "stream")]
        for queue in queues:
            await self.ask(channel, Queue.Bind(queue=queue, exchange="amq.topic", routing_key=key))
        await self.publish(key, b"to all", exchange="amq.topic", delivery_mode=2)
        for queue in queues:
            inbox = await self.inbox(
                channel,
                queue,
                arguments={"x-stream-offset": "first"} if queue == queues[-1] else None,
            )
            self.assertEqual(await inbox.bodies(1), [b"to all"])

    async def test_bodies(self) -> None:
        """Bodies arrive unchanged: empty, of any bytes, over several frames, about as large as a
        frame.
        """
        channel = await self.channel()
        edge = channel.client.frame_max - 8
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            inbox = await self.inbox(channel, queue)
            sizes = (0, 1, edge - 1, edge, edge + 1, 3 * edge + 7)
            for body in [bytes(range(256)), "Привет".encode(), *(b"\xce" * size for size in sizes)]:
                await self.publish(queue, body)
                self.assertEqual(await inbox.bodies(1, ack=True), [body])

    async def test_properties(self) -> None:
        """All properties and every type of header field arrive unchanged."""
        properties: dict[str, Any] = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "headers": HEADERS,
            "delivery_mode": 2,
            "priority": 3,
            "correlation_id": "correlation",
            "reply_to": "replies",
            "expiration": "60000",
            "message_id": "message",
            "timestamp": datetime(2030, 1, 2, tzinfo=timezone.utc),
            "message_type": "тип",
            "user_id": "guest",
            "app_id": "tests",
        }
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            inbox = await self.inbox(channel, queue)
            await self.publish(queue, b"x", **properties)
            found = (await inbox.next()).properties
            for name in properties.keys() - {"headers"}:
                self.assertEqual(getattr(found, name), properties[name], f"{kind} {name}")
            self.assertEqual(found.headers, HEADERS, kind)

    async def test_properties_in_a_stream(self) -> None:
        """A stream keeps properties and simple headers too."""
        channel = await self.channel()
        stream = await self.stream(channel)
        inbox = await self.inbox(channel, stream)
        headers: dict[str, Any] = {"текст": "слово", "long": 2**40, "negative": -1000, "yes": True}
        await self.publish(
            stream,
            b"x",
            message_id="m",
            correlation_id="c",
            content_type="text/plain",
            headers=headers,
        )
        found = (await inbox.next()).properties
        self.assertEqual(
            (found.message_id, found.correlation_id, found.content_type), ("m", "c", "text/plain")
        )
        self.assertEqual(found.headers, {**headers, "x-stream-offset": 0})

    async def test_no_properties(self) -> None:
        """A message without properties arrives without any."""
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(queue, b"x")
        found = (await (await self.inbox(channel, queue)).next()).properties
        self.assertEqual([name for name, value in found if value not in (None, "")], [])

    async def test_foreign_user_id(self) -> None:
        """A message with another user's name, or an unknown one, in `user_id` closes the channel
        with 406.
        """
        for user in (b"\x08stranger", b"\0"):
            await self.refused_for("user_id", user_id=user)

    async def refused_for(self, text: str, **parts: bytes) -> None:
        """Check that a message with these properties closes the channel with 406, or, for a missing
        exchange, with 404.
        """
        for exchange, code, why in (("", 406, text), (self.name("nowhere"), 404, "no exchange")):
            channel = await self.channel()
            self.publish_raw(channel, exchange, **parts)
            await self.refused(channel, Basic.Qos(), code, why)

    @differs(since=(4, 0), because="a delivery mode other than 1 and 2 is accepted")
    async def test_unknown_delivery_mode(self) -> None:
        """A delivery mode that is neither transient (1) nor persistent (2) closes the channel with
        406.
        """
        for mode in (0, 3, 255):
            await self.refused_for("invalid message", delivery_mode=bytes([mode]))

    async def unknown_delivery_mode_since_4_0(self) -> None:
        """Any delivery mode is accepted."""
        channel = await self.channel()
        for mode in (0, 3, 255):
            self.publish_raw(channel, delivery_mode=bytes([mode]))
            await self.ask(channel, Basic.Qos())

    async def test_copies_for_nothing(self) -> None:
        """The headers ``CC`` and ``BCC`` are arrays of routing keys. Anything else closes the
        channel with 406.
        """
        for name in ("CC", "BCC"):
            values: tuple[Any, ...] = ("key", 1, {"key": "x"})
            for value in values:
                parts = split(encode_header(Basic.Properties(headers={name: value}), 0))
                await self.refused_for("invalid message", **parts)

    async def test_immediate(self) -> None:
        """``immediate`` is not implemented, which closes the connection."""
        channel = await self.channel()
        await channel.basic_publish(routing_key="x", immediate=True, content=Content(b""))
        await self.refused(channel, Basic.Qos(), 540)

    async def test_flow(self) -> None:
        """A client may start the flow of its deliveries with ``channel.flow``, but not stop it."""
        channel = await self.channel()
        self.assertTrue((await self.ask(channel, Channel.Flow(active=True))).active)
        await self.refused(channel, Channel.Flow(active=False), 540)


class EmbeddedPublishing(EmbeddedTestCase, PublishingContract):
    pass


class SqlitePublishing(SqliteTestCase, PublishingContract):
    pass


class RabbitMQPublishing(RabbitMQTestCase, PublishingContract):
    pass
