"""Queues: declaring, passive declares, equivalence, exclusive queues, purging, deleting,
``basic.get``.
"""

from __future__ import annotations

from typing import Any

from pamqp.commands import Basic, Queue

from tests.support.broker_cases import (
    KINDS,
    BrokerContract,
    EmbeddedTestCase,
    RabbitMQTestCase,
    SqliteTestCase,
)


class QueuesContract(BrokerContract):
    async def test_declare_again(self) -> None:
        """Declaring a queue again with the same arguments changes nothing, and returns its numbers
        of messages and consumers.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2")
            again = await self.ask(
                channel, Queue.Declare(queue=queue, durable=True, arguments={"x-queue-type": kind})
            )
            self.assertEqual(
                (again.queue, again.message_count, again.consumer_count), (queue, 2, 0)
            )
            inbox = await self.inbox(channel, queue, prefetch=1)
            await inbox.next()
            again = await self.ask(channel, Queue.Declare(queue=queue, passive=True))
            self.assertEqual(
                (again.queue, again.message_count, again.consumer_count), (queue, 1, 1)
            )

    async def test_inequivalent(self) -> None:
        """Declaring a queue with other arguments is a 406 on the channel that names the first
        difference.
        """
        connection = await self.connect()
        channel = await self.channel(connection)
        queue = self.name()
        arguments = {"x-queue-type": "classic", "x-dead-letter-exchange": "one"}
        await self.ask(channel, Queue.Declare(queue=queue, durable=True, arguments=dict(arguments)))
        differing: list[tuple[str, dict[str, Any]]] = [
            ("inequivalent arg 'durable'", {"durable": False}),
            ("inequivalent arg 'auto_delete'", {"auto_delete": True}),
            (
                "inequivalent arg 'x-dead-letter-exchange'",
                {"arguments": {**arguments, "x-dead-letter-exchange": "other"}},
            ),
            (
                "inequivalent arg 'x-dead-letter-exchange'",
                {"arguments": {"x-queue-type": "classic"}},
            ),
            (
                "inequivalent arg 'x-queue-type'",
                {"arguments": {**arguments, "x-queue-type": "quorum"}},
            ),
        ]
        for words, changed in differing:
            method = Queue.Declare(
                **{"queue": queue, "durable": True, "arguments": dict(arguments), **changed}
            )
            error = await self.refused(await self.channel(connection), method, 406, words)
            self.assertEqual((error.class_id, error.method_id), (50, 10))

    async def test_equivalent_type(self) -> None:
        """A classic queue is equivalent with and without its type argument. An unknown type is a
        406.
        """
        channel = await self.channel()
        for first, second in (({}, {"x-queue-type": "classic"}), ({"x-queue-type": "classic"}, {})):
            queue = self.name()
            await self.ask(channel, Queue.Declare(queue=queue, durable=True, arguments=dict(first)))
            await self.ask(
                channel, Queue.Declare(queue=queue, durable=True, arguments=dict(second))
            )
        await self.refused(
            channel,
            Queue.Declare(queue=self.name(), durable=True, arguments={"x-queue-type": "heap"}),
            406,
        )

    async def test_passive(self) -> None:
        """A passive declare of a missing queue is a 404 on the channel. For an existing queue only
        the name counts.
        """
        channel = await self.channel()
        queue = await self.queue(channel, "quorum")
        await self.ask(
            channel,
            Queue.Declare(
                queue=queue, passive=True, auto_delete=True, arguments={"x-queue-type": "stream"}
            ),
        )
        name = self.name()
        await self.refused(
            channel, Queue.Declare(queue=name, passive=True), 404, f"no queue '{name}'"
        )

    async def test_server_named(self) -> None:
        """A queue declared without a name gets one. The empty name then refers to it on this
        channel.
        """
        channel = await self.channel()
        declared = await self.ask(channel, Queue.Declare(exclusive=True))
        self.assertTrue(declared.queue.startswith("amq.gen-"), declared.queue)
        other = await self.ask(channel, Queue.Declare(exclusive=True))
        self.assertNotEqual(declared.queue, other.queue)
        await self.ask(channel, Queue.Bind(exchange="amq.fanout", routing_key=""))
        await self.publish("", b"x", exchange="amq.fanout")
        self.assertEqual(await self.get_body(channel, ""), b"x")
        self.assertEqual(await self.count(channel, declared.queue), 0)

    async def test_no_last_queue(self) -> None:
        """The empty name on a channel that has declared no queue is a 404."""
        connection = await self.connect()
        for method in (
            Queue.Bind(exchange="amq.direct", routing_key="a"),
            Queue.Purge(),
            Basic.Get(),
            Basic.Consume(),
            Queue.Delete(),
        ):
            await self.refused(
                await self.channel(connection), method, 404, "no previously declared queue"
            )

    async def test_reserved_name(self) -> None:
        """A queue whose name begins with ``amq.`` cannot be declared."""
        await self.refused(await self.channel(), Queue.Declare(queue=f"amq.{self.name()}"), 403)

    async def test_exclusive(self) -> None:
        """Every use of an exclusive queue by another connection is a 405. The queue is deleted with
        its own connection.
        """
        owner, other = await self.connect(), await self.connect()
        queue = self.name()
        await self.ask(await self.channel(owner), Queue.Declare(queue=queue, exclusive=True))
        await self.ask(await self.channel(owner), Queue.Declare(queue=queue, exclusive=True))
        for method in (
            Queue.Declare(queue=queue, exclusive=True),
            Queue.Declare(queue=queue, passive=True),
            Queue.Bind(queue=queue, exchange="amq.direct", routing_key="a"),
            Queue.Purge(queue=queue),
            Queue.Delete(queue=queue),
            Basic.Get(queue=queue),
            Basic.Consume(queue=queue),
        ):
            await self.refused(await self.channel(other), method, 405)
        await self.publish(queue, b"anybody may publish")
        self.assertEqual(
            await self.get_body(await self.channel(owner), queue), b"anybody may publish"
        )
        await owner.close()
        await self.gone(await self.channel(other), queue)

    async def gone(self, channel: Any, queue: str) -> None:
        await self.refused(channel, Queue.Declare(queue=queue, passive=True), 404)

    async def test_exclusive_or_not(self) -> None:
        """A shared queue cannot be declared again as exclusive, nor an exclusive one as shared. An
        exclusive queue is never durable.
        """
        channel = await self.channel()
        shared, own = self.name(), self.name()
        await self.ask(channel, Queue.Declare(queue=shared))
        await self.ask(channel, Queue.Declare(queue=own, exclusive=True))
        await self.ask(channel, Queue.Declare(queue=own, exclusive=True, durable=True))
        await self.refused(await self.channel(channel.client), Queue.Declare(queue=own), 405)
        await self.refused(
            await self.channel(channel.client),
            Queue.Declare(queue=shared, exclusive=True, durable=True),
            405,
        )
        await self.ask(channel, Queue.Delete(queue=shared))

    async def test_auto_delete(self) -> None:
        """An auto-delete queue is deleted with its last consumer, cancelled or lost, and not before
        it had one.
        """
        connection = await self.connect()
        for lost in (False, True):
            channel, consuming = await self.channel(connection), await self.channel()
            queue = self.name()
            await self.ask(channel, Queue.Declare(queue=queue, durable=True, auto_delete=True))
            first, second = await self.inbox(consuming, queue), await self.inbox(consuming, queue)
            await self.ask(consuming, Basic.Cancel(consumer_tag=first.tag))
            await self.ask(channel, Queue.Declare(queue=queue, passive=True))
            if lost:
                await consuming.client.close()
            else:
                await self.ask(consuming, Basic.Cancel(consumer_tag=second.tag))
            await self.gone(channel, queue)

    async def test_purge(self) -> None:
        """A purge deletes the ready messages and returns their number. Unacknowledged messages
        stay.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2", b"3")
            inbox = await self.inbox(channel, queue, prefetch=1)
            held = await inbox.next()
            self.assertEqual((await self.ask(channel, Queue.Purge(queue=queue))).message_count, 2)
            self.assertEqual((await self.ask(channel, Queue.Purge(queue=queue))).message_count, 0)
            held.nack(requeue=True)
            again = await inbox.next()
            self.assertEqual((again.body, again.redelivered), (b"1", True))

    async def test_delete(self) -> None:
        """A delete returns the number of messages in the queue. Deleting a missing queue succeeds
        with 0.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2")
            self.assertEqual((await self.ask(channel, Queue.Delete(queue=queue))).message_count, 2)
            self.assertEqual((await self.ask(channel, Queue.Delete(queue=queue))).message_count, 0)

    async def test_delete_if_unused(self) -> None:
        """Deleting a queue with `if_unused` is a 406 while it has a consumer."""
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        inbox = await self.inbox(channel, queue)
        await self.refused(other, Queue.Delete(queue=queue, if_unused=True), 406, "in use")
        await self.ask(channel, Basic.Cancel(consumer_tag=inbox.tag))
        await self.ask(channel, Queue.Delete(queue=queue, if_unused=True))
        await self.gone(channel, queue)

    async def test_delete_if_empty(self) -> None:
        """Deleting a queue with `if_empty` is a 406 while it has a message."""
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        await self.publish(queue, b"1")
        await self.refused(other, Queue.Delete(queue=queue, if_empty=True), 406, "not empty")
        await self.ask(channel, Queue.Purge(queue=queue))
        await self.ask(channel, Queue.Delete(queue=queue, if_empty=True))
        await self.gone(channel, queue)

    async def test_conditional_delete_of_quorum_queue(self) -> None:
        """Deleting a quorum queue with a condition is a 540, which closes the connection."""
        for options in ({"if_unused": True}, {"if_empty": True}):
            channel = await self.channel()
            await self.refused(
                channel, Queue.Delete(queue=await self.queue(channel, "quorum"), **options), 540
            )

    async def test_nowait(self) -> None:
        """With no-wait, declare, purge and delete take effect without an answer."""
        channel = await self.channel()
        queue = self.name()
        await self.ask(channel, Queue.Declare(queue=queue, durable=True, nowait=True))
        self.assertEqual(await self.count(channel, queue), 0)
        await self.publish(queue, b"1")
        await self.ask(channel, Queue.Purge(queue=queue, nowait=True))
        self.assertEqual(await self.count(channel, queue), 0)
        await self.ask(channel, Queue.Delete(queue=queue, nowait=True))
        await self.gone(channel, queue)

    async def test_get(self) -> None:
        """``basic.get`` returns one message after the other, with the number of the remaining ones,
        and then ``get-empty``.
        """
        channel = await self.channel()
        for kind in KINDS:
            queue = await self.queue(channel, kind)
            await self.publish(queue, b"1", b"2", correlation_id="c")
            for body, remaining in ((b"1", 1), (b"2", 0)):
                message = await self.get(channel, queue, no_ack=False)
                assert message is not None and message.content is not None
                self.assertEqual(
                    (message.content.body, message.message_count, message.redelivered),
                    (body, remaining, False),
                )
                self.assertEqual((message.exchange, message.routing_key), ("", queue))
                self.assertEqual(message.content.properties.correlation_id, "c")
            self.assertIsNone(await self.get(channel, queue))
            await self.ask(channel, Basic.Nack(delivery_tag=0, multiple=True, requeue=True))
            await self.settle(channel, queue)
            again = await self.get(channel, queue)
            assert again is not None and again.content is not None
            self.assertEqual((again.content.body, again.redelivered), (b"1", True))

    async def test_get_of_single_active(self) -> None:
        """``basic.get`` on a quorum queue with a single active consumer is a 405."""
        channel = await self.channel()
        queue = await self.queue(channel, "quorum", {"x-single-active-consumer": True})
        await self.refused(channel, Basic.Get(queue=queue), 405, "single active consumer")

    async def test_get_from_what_is_not_there(self) -> None:
        """Getting from, consuming, or purging a missing queue is a 404 on the channel."""
        connection, name = await self.connect(), self.name()
        for method in (Basic.Get(queue=name), Basic.Consume(queue=name), Queue.Purge(queue=name)):
            await self.refused(await self.channel(connection), method, 404, f"no queue '{name}'")

    async def test_what_a_quorum_queue_refuses(self) -> None:
        """A quorum queue must be durable and neither exclusive nor auto-delete. It has no
        priorities and no maximal age.
        """
        await self.refuses(
            "quorum",
            {"x-max-priority": 10},
            {"x-max-age": "1D"},
            {"x-stream-max-segment-size-bytes": 1000},
        )
        await self.refuses_properties("quorum")

    async def test_what_a_stream_refuses(self) -> None:
        """A stream must be durable and neither exclusive nor auto-delete. Its maximal age is a
        number with a unit. It has no dead-letter exchange, no single active consumer and no
        delivery limit.
        """
        await self.refuses(
            "stream",
            {"x-max-age": "5"},
            {"x-max-age": "5x"},
            {"x-stream-max-segment-size-bytes": "many"},
            {"x-dead-letter-exchange": ""},
            {"x-single-active-consumer": True},
            {"x-delivery-limit": 3},
        )
        await self.refuses_properties("stream")

    async def test_what_a_classic_queue_refuses(self) -> None:
        """A classic queue has neither a maximal age nor a delivery limit, and no dead-letter
        routing key without an exchange. Types are checked.
        """
        await self.refuses(
            "classic",
            {"x-dead-letter-exchange": 5},
            {"x-dead-letter-routing-key": "without an exchange"},
            {"x-single-active-consumer": "yes"},
            {"x-queue-type": 5},
            {"x-delivery-limit": 3},
            {"x-max-age": "1D"},
        )

    async def test_bind_by_the_last_queue(self) -> None:
        """Without queue and key, the last declared queue is bound by its own name. Unbinding is the
        same, and also works after the queue is deleted.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.ask(channel, Queue.Bind(exchange="amq.topic"))
        await self.publish(queue, b"body", exchange="amq.topic")
        self.assertEqual(await self.count(channel, queue), 1)
        await self.ask(channel, Queue.Unbind(exchange="amq.topic"))
        await self.publish(queue, b"body", exchange="amq.topic")
        self.assertEqual(await self.count(channel, queue), 1)
        await self.ask(channel, Queue.Delete())
        self.assertEqual((await self.ask(channel, Queue.Delete())).message_count, 0)
        await self.ask(channel, Queue.Unbind(exchange="amq.topic"))

    async def test_what_counts_first(self) -> None:
        """If both the exchange and the queue cannot be bound, the error is about the exchange."""
        other = await self.channel()
        locked, missing = self.name(), self.name()
        await self.ask(other, Queue.Declare(queue=locked, exclusive=True))
        await self.refused(await self.channel(), Queue.Bind(queue=missing, exchange=""), 403)
        await self.refused(await self.channel(), Queue.Unbind(queue=missing, exchange=""), 403)
        await self.refused(
            await self.channel(), Queue.Bind(queue=locked, exchange=missing), 404, "exchange"
        )
        await self.refused(
            await self.channel(), Queue.Bind(queue=missing, exchange="amq.topic"), 404, "queue"
        )

    async def test_bind_again(self) -> None:
        """A repeated binding is not a further binding, so it succeeds even at the limit of
        bindings.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        for number in range(1000):
            await channel.queue_bind(
                queue=queue, exchange="amq.direct", routing_key=f"{number}", nowait=True
            )
        await self.ask(channel, Queue.Bind(queue=queue, exchange="amq.direct", routing_key="7"))

    async def refuses(self, kind: str, *refused: dict[str, Any]) -> None:
        for arguments in refused:
            method = Queue.Declare(
                queue=self.name(), durable=True, arguments={"x-queue-type": kind, **arguments}
            )
            await self.refused(await self.channel(), method, 406, f"'{next(iter(arguments))}'")

    async def refuses_properties(self, kind: str) -> None:
        for words, options in (
            ("non-durable", {"durable": False}),
            ("exclusive-owner", {"durable": True, "exclusive": True}),
            ("auto-delete", {"durable": True, "auto_delete": True}),
        ):
            method = Queue.Declare(queue=self.name(), arguments={"x-queue-type": kind}, **options)
            await self.refused(await self.channel(), method, 406, words)


class EmbeddedQueues(EmbeddedTestCase, QueuesContract):
    async def test_not_implemented(self) -> None:
        """Unknown arguments are refused, not ignored."""
        for key, value in (
            ("x-message-ttl", 1000),
            ("x-max-length", 5),
            ("x-max-priority", 5),
            ("x-mine", "my own"),
        ):
            await self.refused(
                await self.channel(),
                Queue.Declare(queue=self.name(), arguments={key: value}),
                540,
                key,
            )

    async def test_priority_of_a_consumer(self) -> None:
        """A consumer's priority is refused too."""
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.refused(
            channel, Basic.Consume(queue=queue, arguments={"x-priority": 5}), 540, "x-priority"
        )

    async def test_long_names(self) -> None:
        """A dead-letter exchange or key that is too long for a frame is refused, before the first
        dead letter needs it.
        """
        long = "ж" * 128
        await self.refuses(
            "classic",
            {"x-dead-letter-exchange": long},
            {"x-dead-letter-routing-key": long, "x-dead-letter-exchange": ""},
        )


class SqliteQueues(SqliteTestCase, QueuesContract):
    pass


class RabbitMQQueues(RabbitMQTestCase, QueuesContract):
    pass
