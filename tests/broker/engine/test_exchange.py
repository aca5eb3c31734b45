"""Exchanges and bindings: to which queues a message is routed."""

from __future__ import annotations

from pamqp.commands import Basic, Channel, Exchange, Queue

from rtprov.amqp.client.channel import AmqpChannel
from rtprov.errors import Unroutable
from tests.support.broker_cases import (
    BrokerContract,
    EmbeddedTestCase,
    RabbitMQTestCase,
    SqliteTestCase,
    differs,
)


class ExchangesContract(BrokerContract):
    async def exchange(self, channel: AmqpChannel, kind: str, **options: bool) -> str:
        name = self.name(kind)
        await self.ask(channel, Exchange.Declare(exchange=name, exchange_type=kind, **options))  # type: ignore[arg-type] # options of exchange.declare
        return name

    async def bound(self, channel: AmqpChannel, exchange: str, *keys: str) -> str:
        queue = await self.queue(channel)
        for key in keys:
            await self.ask(channel, Queue.Bind(queue=queue, exchange=exchange, routing_key=key))
        return queue

    async def reached(
        self, channel: AmqpChannel, queues: list[str], exchange: str, key: str
    ) -> list[int]:
        """Publish one message; return how often each queue got it."""
        await self.publish(key, exchange=exchange)
        return [
            (await self.ask(channel, Queue.Purge(queue=queue))).message_count for queue in queues
        ]

    async def test_direct(self) -> None:
        """A direct exchange routes to each queue bound with exactly the routing key."""
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        queues = [
            await self.bound(channel, exchange, *keys)
            for keys in (["a"], ["a", "b"], ["A"], ["a.#"])
        ]
        self.assertEqual(await self.reached(channel, queues, exchange, "a"), [1, 1, 0, 0])
        self.assertEqual(await self.reached(channel, queues, exchange, "b"), [0, 1, 0, 0])
        self.assertEqual(await self.reached(channel, queues, exchange, ""), [0, 0, 0, 0])

    async def test_fanout(self) -> None:
        """A fanout exchange routes once to every queue bound to it, whatever the key."""
        channel = await self.channel()
        exchange = await self.exchange(channel, "fanout")
        queues = [await self.bound(channel, exchange, *keys) for keys in (["a"], ["a", "b"], [""])]
        self.assertEqual(await self.reached(channel, queues, exchange, "c"), [1, 1, 1])

    async def test_topic(self) -> None:
        """In a topic binding ``*`` stands for one word and ``#`` for any number of words."""
        patterns = [
            "a.b",
            "*",
            "a.*",
            "*.b",
            "#",
            "a.#",
            "#.b",
            "a.#.b",
            "*.*.*",
            "a.*.#",
            "#.*",
            "a.#.#",
        ]
        expected = {
            "a.b": "a.b a.* *.b # a.# #.b a.#.b a.*.# #.* a.#.#",
            "a": "* # a.# #.* a.#.#",
            "": "#",
            "b": "* # #.b #.*",
            "a.b.c": "# a.# *.*.* a.*.# #.* a.#.#",
            "a.x.b": "# a.# #.b a.#.b *.*.* a.*.# #.* a.#.#",
            "a..b": "# a.# #.b a.#.b *.*.* a.*.# #.* a.#.#",
            "A.b": "*.b # #.b #.*",
        }
        channel = await self.channel()
        exchange = await self.exchange(channel, "topic")
        queues = [await self.bound(channel, exchange, pattern) for pattern in patterns]
        for key, matching in expected.items():
            reached = await self.reached(channel, queues, exchange, key)
            self.assertEqual(
                " ".join(
                    pattern for pattern, count in zip(patterns, reached, strict=True) if count
                ),
                matching,
                key,
            )

    async def test_topic_words_are_literal(self) -> None:
        """Only ``*`` and ``#`` as whole words are special in a topic binding."""
        channel = await self.channel()
        exchange = await self.exchange(channel, "topic")
        queues = [
            await self.bound(channel, exchange, pattern)
            for pattern in ("a*.b", "a#", "[a]+", "ключ.*")
        ]
        self.assertEqual(await self.reached(channel, queues, exchange, "ax.b"), [0, 0, 0, 0])
        self.assertEqual(await self.reached(channel, queues, exchange, "a*.b"), [1, 0, 0, 0])
        self.assertEqual(await self.reached(channel, queues, exchange, "a#"), [0, 1, 0, 0])
        self.assertEqual(await self.reached(channel, queues, exchange, "aa"), [0, 0, 0, 0])
        self.assertEqual(await self.reached(channel, queues, exchange, "ключ.слово"), [0, 0, 0, 1])

    async def test_default(self) -> None:
        """The default exchange routes to the queue whose name is the routing key."""
        channel = await self.channel()
        queue = await self.queue(channel)
        self.assertEqual(await self.reached(channel, [queue], "", queue), [1])

    async def test_default_is_closed(self) -> None:
        """The default exchange cannot be declared, deleted, bound to or unbound from."""
        channel = await self.channel()
        queue = await self.queue(channel)
        for method in (
            Exchange.Declare(exchange="", exchange_type="direct"),
            Exchange.Declare(exchange="", passive=True),
            Exchange.Delete(exchange=""),
            Queue.Bind(queue=queue, exchange="", routing_key="a"),
            Queue.Unbind(queue=queue, exchange="", routing_key="a"),
        ):
            await self.refused(await self.channel(channel.client), method, 403)

    async def test_predeclared(self) -> None:
        """``amq.direct``, ``amq.topic`` and ``amq.fanout`` exist from the start."""
        channel = await self.channel()
        for kind in ("direct", "topic", "fanout"):
            queue = await self.bound(channel, f"amq.{kind}", self.id())
            self.assertEqual(await self.reached(channel, [queue], f"amq.{kind}", self.id()), [1])
            await self.ask(channel, Queue.Delete(queue=queue))

    async def test_reserved_names(self) -> None:
        """An exchange whose name begins with ``amq.`` can be neither declared nor deleted."""
        connection = await self.connect()
        await self.refused(
            await self.channel(connection),
            Exchange.Declare(exchange="amq.mine", exchange_type="direct"),
            403,
        )
        await self.refused(
            await self.channel(connection), Exchange.Delete(exchange="amq.direct"), 403
        )

    async def test_two_routes_to_one_queue(self) -> None:
        """A message that matches two bindings of a queue is in it once. A repeated binding is one
        binding.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "topic")
        queue = await self.bound(channel, exchange, "a.*", "*.b", "a.*")
        self.assertEqual(await self.reached(channel, [queue], exchange, "a.b"), [1])
        await self.ask(channel, Queue.Unbind(queue=queue, exchange=exchange, routing_key="a.*"))
        self.assertEqual(await self.reached(channel, [queue], exchange, "a.x"), [0])

    async def test_unbind(self) -> None:
        """An unbound queue gets no more messages. Unbinding a binding that does not exist
        succeeds.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        queue = await self.bound(channel, exchange, "a", "b")
        await self.ask(channel, Queue.Unbind(queue=queue, exchange=exchange, routing_key="a"))
        await self.ask(channel, Queue.Unbind(queue=queue, exchange=exchange, routing_key="a"))
        self.assertEqual(await self.reached(channel, [queue], exchange, "a"), [0])
        self.assertEqual(await self.reached(channel, [queue], exchange, "b"), [1])
        await self.ask(
            channel, Queue.Unbind(queue=queue, exchange=self.name("gone"), routing_key="b")
        )
        await self.ask(
            channel, Queue.Unbind(queue=self.name("gone"), exchange=exchange, routing_key="b")
        )

    async def test_unbind_an_exclusive_queue(self) -> None:
        """Any connection may unbind another one's exclusive queue from an exchange to which it is
        not bound. Its real bindings are a 405.
        """
        channel, owner = await self.channel(), await self.channel()
        exchange, queue = await self.exchange(channel, "direct"), self.name()
        await self.ask(owner, Queue.Declare(queue=queue, exclusive=True))
        await self.ask(owner, Queue.Bind(queue=queue, exchange=exchange, routing_key="a"))
        await self.ask(channel, Queue.Unbind(queue=queue, exchange=exchange, routing_key="b"))
        await self.ask(
            channel, Queue.Unbind(queue=queue, exchange=self.name("gone"), routing_key="a")
        )
        await self.refused(
            channel, Queue.Unbind(queue=queue, exchange=exchange, routing_key="a"), 405
        )

    async def test_bind_to_what_is_not_there(self) -> None:
        """A binding needs both the queue and the exchange. Otherwise the channel is closed."""
        connection = await self.connect()
        channel = await self.channel(connection)
        queue, exchange = await self.queue(channel), await self.exchange(channel, "direct")
        gone = self.name("gone")
        await self.refused(
            channel,
            Queue.Bind(queue=queue, exchange=gone, routing_key="a"),
            404,
            f"no exchange '{gone}'",
        )
        channel = await self.channel(connection)
        await self.refused(
            channel,
            Queue.Bind(queue=gone, exchange=exchange, routing_key="a"),
            404,
            f"no queue '{gone}'",
        )

    async def test_declare_again(self) -> None:
        """Declaring an exchange again changes nothing. With another type or durability it is a 406
        on the channel.
        """
        connection = await self.connect()
        channel = await self.channel(connection)
        name = await self.exchange(channel, "direct", durable=True)
        await self.ask(
            channel, Exchange.Declare(exchange=name, exchange_type="direct", durable=True)
        )
        await self.ask(channel, Exchange.Declare(exchange=name, passive=True))
        for method, what in (
            (
                Exchange.Declare(exchange=name, exchange_type="topic", durable=True),
                "inequivalent arg 'type'",
            ),
            (Exchange.Declare(exchange=name, exchange_type="direct"), "inequivalent arg 'durable'"),
            (
                Exchange.Declare(
                    exchange=name, exchange_type="direct", durable=True, auto_delete=True
                ),
                "inequivalent arg 'auto_delete'",
            ),
            (
                Exchange.Declare(
                    exchange=name, exchange_type="direct", durable=True, internal=True
                ),
                "inequivalent arg 'internal'",
            ),
        ):
            await self.refused(await self.channel(connection), method, 406, what)

    async def test_passive(self) -> None:
        """A passive declare of a missing exchange is a 404 on the channel."""
        name = self.name()
        error = await self.refused(
            await self.channel(),
            Exchange.Declare(exchange=name, passive=True),
            404,
            f"no exchange '{name}'",
        )
        self.assertEqual((error.class_id, error.method_id), (40, 10))

    @differs(
        since=(4, 0),
        because="an unknown exchange type closes the channel (406), not the connection (503)",
    )
    async def test_unknown_type(self) -> None:
        """An unknown exchange type closes the connection."""
        await self.refused(
            await self.channel(),
            Exchange.Declare(exchange=self.name(), exchange_type="nonsense"),
            503,
        )

    async def unknown_type_since_4_0(self) -> None:
        """An unknown exchange type closes the channel."""
        await self.refused(
            await self.channel(),
            Exchange.Declare(exchange=self.name(), exchange_type="nonsense"),
            406,
        )

    async def test_delete(self) -> None:
        """A deleted exchange no longer exists. Deleting it again succeeds."""
        channel = await self.channel()
        name = await self.exchange(channel, "direct")
        await self.ask(channel, Exchange.Delete(exchange=name))
        await self.ask(channel, Exchange.Delete(exchange=name))
        await self.refused(channel, Exchange.Declare(exchange=name, passive=True), 404)

    async def test_delete_if_unused(self) -> None:
        """Deleting an exchange with `if_unused` is a 406 while a queue is bound to it."""
        connection = await self.connect()
        channel = await self.channel(connection)
        name = await self.exchange(channel, "direct")
        queue = await self.bound(channel, name, "a")
        await self.refused(
            await self.channel(connection),
            Exchange.Delete(exchange=name, if_unused=True),
            406,
            "in use",
        )
        await self.ask(channel, Queue.Delete(queue=queue))
        await self.ask(channel, Exchange.Delete(exchange=name, if_unused=True))

    async def test_auto_delete(self) -> None:
        """An auto-delete exchange is deleted with its last binding, whether that is unbound or its
        queue deleted, and not before its first binding.
        """
        connection = await self.connect()
        channel = await self.channel(connection)
        for how in (Queue.Unbind, Queue.Delete):
            name = await self.exchange(channel, "direct", auto_delete=True)
            await self.ask(channel, Exchange.Declare(exchange=name, passive=True))
            first, second = (
                await self.bound(channel, name, "a"),
                await self.bound(channel, name, "a"),
            )
            for queue in (first, second):
                await self.ask(channel, Exchange.Declare(exchange=name, passive=True))
                gone = (
                    Queue.Delete(queue=queue)
                    if how is Queue.Delete
                    else Queue.Unbind(queue=queue, exchange=name, routing_key="a")
                )
                await self.ask(channel, gone)
            await self.refused(
                await self.channel(connection), Exchange.Declare(exchange=name, passive=True), 404
            )

    async def test_internal(self) -> None:
        """Clients may not publish to an internal exchange."""
        channel = await self.channel()
        name = await self.exchange(channel, "fanout", internal=True)
        await self.refused(channel, Basic.Publish(exchange=name, routing_key="a"), 403)

    async def test_publish_to_what_is_not_there(self) -> None:
        """Publishing to a missing exchange closes the channel. Other channels of the connection are
        not affected.
        """
        channel = await self.channel()
        name = self.name()
        error = await self.refused(
            channel, Basic.Publish(exchange=name, routing_key="a"), 404, f"no exchange '{name}'"
        )
        self.assertEqual((error.class_id, error.method_id), (60, 40))
        await self.ask(await self.channel(channel.client), Channel.Flow(active=True))

    async def test_queue_deleted(self) -> None:
        """The bindings of a queue are deleted with it. A new queue with the same name has none."""
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        queue = await self.bound(channel, exchange, "a")
        await self.ask(channel, Queue.Delete(queue=queue))
        await self.ask(channel, Queue.Declare(queue=queue, durable=True))
        self.assertEqual(await self.reached(channel, [queue], exchange, "a"), [0])

    async def test_mandatory(self) -> None:
        """A mandatory message that is routed to no queue is returned. One that is not mandatory is
        dropped and confirmed.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        publisher = await self.publisher()
        properties = Basic.Properties(message_id="1")
        await self.assertFails(
            publisher.publish(exchange, "unbound", b"", properties=properties), Unroutable
        )
        await self.assertFails(
            publisher.publish("", self.name(), b"", properties=properties), Unroutable
        )
        await publisher.publish(exchange, "unbound", b"", properties=properties, mandatory=False)

    async def test_nowait(self) -> None:
        """With no-wait, declare, bind and delete take effect without an answer."""
        channel = await self.channel()
        name, queue = self.name("direct"), await self.queue(channel)
        await self.ask(
            channel, Exchange.Declare(exchange=name, exchange_type="direct", nowait=True)
        )
        await self.ask(
            channel, Queue.Bind(queue=queue, exchange=name, routing_key="a", nowait=True)
        )
        await self.ask(channel, Exchange.Declare(exchange=name, passive=True))
        self.assertEqual(await self.reached(channel, [queue], name, "a"), [1])
        await self.ask(channel, Exchange.Delete(exchange=name, nowait=True))
        await self.refused(channel, Exchange.Declare(exchange=name, passive=True), 404)


class EmbeddedExchanges(EmbeddedTestCase, ExchangesContract):
    async def test_not_implemented(self) -> None:
        """Headers exchanges, arguments of exchanges, and exchange-to-exchange bindings are not
        implemented.
        """
        for method in (
            Exchange.Declare(exchange=self.name(), exchange_type="headers"),
            Exchange.Declare(
                exchange=self.name(),
                exchange_type="direct",
                arguments={"alternate-exchange": "other"},
            ),
            Exchange.Bind(destination="amq.direct", source="amq.topic", routing_key="a"),
        ):
            await self.refused(await self.channel(), method, 540)


class SqliteExchanges(SqliteTestCase, ExchangesContract):
    pass


class RabbitMQExchanges(RabbitMQTestCase, ExchangesContract):
    pass
