"""Contract tests of a broker: each runs on the embedded broker in memory and on a real RabbitMQ
over TCP.

A topic is a mixin. Its tests are coroutines that wait for answers and deliveries, never for time to
pass:

    class PurgeContract(BrokerContract):
        async def test_purge(self) -> None:
            channel = await self.channel()
            ...

    class EmbeddedPurge(EmbeddedTestCase, PurgeContract): ...
    class SqlitePurge(SqliteTestCase, PurgeContract): ...
    class RabbitMQPurge(RabbitMQTestCase, PurgeContract): ...

On the embedded broker the virtual clock is advanced until the coroutine is done. On RabbitMQ the
reactor runs, and trial enforces the timeout. To show that something does *not* happen, a test waits
for a later event that does: `BrokerContract.settle`, or a marker message in the same queue.

The reference is RabbitMQ 3.10, which the embedded broker follows. If a later RabbitMQ behaves
differently, the test is marked with the version and the reason, and a second method tests the other
behaviour:

    @differs(since=(4, 3), because="`basic.nack` does not count as a delivery")
    async def test_delivery_limit(self) -> None: ...

    async def delivery_limit_since_4_3(self) -> None: ...  # replaces it on RabbitMQ 4.3 and later

`tests.broker.test_differences` checks that docs/embedded-broker.md lists each reason.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen
from pamqp import base
from pamqp.commands import Basic, Queue
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtprov.amqp.client._txamqp import Message
from rtprov.amqp.client.channel import AmqpChannel
from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.spec import METHODS
from rtprov.amqp.client.url import BrokerUrl
from rtprov.amqp.framing import encode_content
from rtprov.broker.content_header import join
from rtprov.broker.engine import backlog
from rtprov.broker.engine import stream as streams
from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage import database
from rtprov.broker.storage.interface import Storage
from rtprov.broker.storage.memory import MemoryStorage
from rtprov.broker.storage.sqlite import SqliteStorage
from rtprov.errors import AmqpError, BrokerError
from tests.support.memory import MemoryNetwork
from tests.support.rabbitmq import START_DEADLINE_S, rabbitmq

P = TypeVar("P", bound=Protocol)
E = TypeVar("E", bound=Exception)

EPOCH = 1_800_000_000.0
KINDS = ("classic", "quorum")
DEADLINE_S = 30.0

if TYPE_CHECKING:
    _Case = SynchronousTestCase
else:
    _Case = object


class Inbox:
    """The deliveries of one consumer, in order."""

    def __init__(self) -> None:
        self.tag = ""
        self._deliveries: DeferredQueue[Delivery] = DeferredQueue()

    def put(self, delivery: Delivery) -> None:
        self._deliveries.put(delivery)

    async def next(self) -> Delivery:
        """Return the next delivery, once it has arrived."""
        return await self._deliveries.get()

    async def bodies(self, count: int, *, ack: bool = False) -> list[bytes]:
        """Return the bodies of the next deliveries. With `ack`, each is acknowledged as it
        arrives.
        """
        bodies = []
        for _ in range(count):
            delivery = await self.next()
            bodies.append(delivery.body)
            if ack:
                delivery.ack()
        return bodies

    @property
    def waiting(self) -> list[bytes]:
        """The bodies of deliveries that have arrived and were not fetched yet."""
        return [delivery.body for delivery in self._deliveries.pending]


class BrokerContract(_Case):
    """What the tests of a topic use. `clock` is the client's clock, `url` the broker's URL, and
    `endpoint` the way to it.

    `version` is RabbitMQ's version. It is empty for the embedded broker.
    """

    clock: Any  # an IReactorTime
    url: BrokerUrl
    version: tuple[int, ...] = ()

    def endpoint(self) -> IStreamClientEndpoint:
        raise NotImplementedError

    # Connections and channels. All are closed after the test.

    async def open(self, protocol: P) -> P:
        """Connect a protocol."""
        await self.endpoint().connect(_factory(protocol))
        return protocol

    async def connect(self, url: BrokerUrl | None = None, **options: Any) -> AmqpConnection:
        """Return a connection whose handshake is complete."""
        connection = await self.open(
            AmqpConnection(url=url or self.url, clock=self.clock, **options)
        )
        self.connections.append(connection)
        await connection.handshake()
        return connection

    async def channel(self, connection: AmqpConnection | None = None) -> AmqpChannel:
        """Return an open channel, by default on a connection of its own, so that a channel error
        harms no other channel.
        """
        return await (connection or await self.connect()).open_channel(fatal=False)

    async def publisher(self) -> Publisher:
        """Return a publisher on a connection of its own."""
        publisher = Publisher(clock=self.clock, confirm_deadline_s=DEADLINE_S)
        await publisher.attach(await self.connect())
        return publisher

    @property
    def connections(self) -> list[AmqpConnection]:
        connections: list[AmqpConnection] = self.__dict__.setdefault("_connections", [])
        return connections

    async def close_connections(self) -> None:
        while self.connections:
            await self.connections.pop().close()

    # Methods.

    async def ask(self, channel: AmqpChannel, method: base.Frame) -> Message:
        """Send a method and return the broker's answer, or None if the method has no answer."""
        answer: Message = await channel.invoke(
            METHODS[type(method)], [value for _, value in method]
        )
        return answer

    async def refused(
        self, channel: AmqpChannel, method: base.Frame, code: int, words: str = ""
    ) -> AmqpError:
        """Send a method, and check that the broker closes the channel, or the connection if the
        reply code is a connection error.
        """
        closed: Deferred[BrokerError] = Deferred()
        channel.on_closed(closed.callback)
        try:
            await self.ask(channel, method)
        except BrokerError:
            pass
        else:
            await self._round_trip(channel)
        error = await closed
        assert isinstance(error, AmqpError), error
        self.assertEqual(error.reply_code, code, error)
        self.assertIn(words, error.reply_text)
        self.assertEqual(channel.client.closed, error.hard)
        return error

    async def _round_trip(self, channel: AmqpChannel) -> None:
        try:
            await self.ask(channel, Basic.Qos())
        except BrokerError:
            return
        self.fail("the method was not refused")

    async def assertFails(self, waiting: Awaitable[Any], kind: type[E]) -> E:
        """Return the error that a Deferred or coroutine fails with."""
        try:
            await waiting
        except kind as error:
            return error
        self.fail(f"{kind.__name__} was expected")
        raise AssertionError

    async def settle(self, channel: AmqpChannel, queue: str) -> None:
        """Wait until everything that the broker had sent about a queue on this channel has
        arrived.
        """
        # RabbitMQ's channel may answer while a delivery is still in its mailbox. It handles that
        # delivery before the next method.
        for _ in range(2):
            await self.count(channel, queue)

    # Queues.

    def name(self, word: str = "test") -> str:
        """Return a name that no other test uses."""
        return f"{word}.{uuid.uuid4().hex}"

    async def queue(
        self,
        channel: AmqpChannel,
        kind: str = "classic",
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Declare a durable queue; return its name."""
        name = self.name(kind)
        await self.ask(
            channel,
            Queue.Declare(
                queue=name, durable=True, arguments={"x-queue-type": kind, **(arguments or {})}
            ),
        )
        return name

    async def stream(self, channel: AmqpChannel) -> str:
        """Declare a stream; return its name."""
        return await self.queue(channel, "stream")

    async def count(self, channel: AmqpChannel, queue: str) -> int:
        """Return how many messages are ready in a queue."""
        answer = await self.ask(channel, Queue.Declare(queue=queue, passive=True))
        return int(answer.message_count)

    async def publish(
        self, queue: str, *bodies: bytes, exchange: str = "", **properties: Any
    ) -> None:
        """Publish to a queue, or to an exchange with a routing key; return when all messages are
        confirmed.
        """
        publisher = self.__dict__.get("_publisher")
        if publisher is None or publisher.channel is None:
            publisher = self.__dict__["_publisher"] = await self.publisher()
        waiting = [
            publisher.publish(
                exchange, queue, body, properties=Basic.Properties(**properties), mandatory=False
            )
            for body in bodies or (b"",)
        ]
        for each in waiting:
            await each

    def publish_raw(self, channel: AmqpChannel, exchange: str = "", **parts: bytes) -> None:
        """Publish an empty message with these properties unchanged. pamqp omits properties that are
        empty or 0.
        """
        method = Basic.Publish(exchange=exchange, routing_key="x")
        channel.send(encode_content(channel.id, method, join(parts, 0), b"", 4096))

    async def inbox(
        self,
        channel: AmqpChannel,
        queue: str,
        *,
        prefetch: int = 100,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> Inbox:
        """Consume a queue."""
        inbox = Inbox()
        inbox.tag = await consume(
            channel,
            queue,
            inbox.put,
            prefetch=prefetch,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=arguments,
        )
        return inbox

    async def get(self, channel: AmqpChannel, queue: str, *, no_ack: bool = True) -> Message | None:
        """Return the queue's next message by ``basic.get``, or None."""
        answer = await self.ask(channel, Basic.Get(queue=queue, no_ack=no_ack))
        return None if answer.content is None else answer

    async def get_body(self, channel: AmqpChannel, queue: str) -> bytes | None:
        """Get and acknowledge the next message of a queue; return its body, or None."""
        answer = await self.get(channel, queue)
        return None if answer is None or answer.content is None else answer.content.body


Test = Callable[[Any], Coroutine[Any, Any, None]]


def differs(*, since: tuple[int, int], because: str) -> Callable[[Test], Test]:
    """Mark a test that fails on RabbitMQ from version `since` on.

    From that version on, the method named after the test and the version runs instead. `because` is
    also a line of the table in docs/embedded-broker.md.
    """

    def mark(test: Test) -> Test:
        difference = Difference(
            since, because, f"{test.__name__.removeprefix('test_')}_since_{since[0]}_{since[1]}"
        )

        @wraps(test)
        async def run(self: Any) -> None:
            await (getattr(self, difference.instead)() if self.version >= since else test(self))

        run.difference = difference  # type: ignore[attr-defined] # read by the test of the documentation
        return run

    return mark


@frozen
class Difference:
    """The arguments of `differs`, and the method that replaces the test."""

    since: tuple[int, int]
    because: str
    instead: str


def _factory(protocol: Protocol) -> IProtocolFactory:
    factory = Factory.forProtocol(lambda: protocol)
    factory.noisy = False
    return factory


class EmbeddedTestCase(SynchronousTestCase):
    """The embedded broker in memory. Coroutine tests run by advancing the virtual clock. No timer
    may be left at the end.
    """

    def __init_subclass__(cls) -> None:
        for name in dir(cls):
            if name.startswith("test_") and iscoroutinefunction(test := getattr(cls, name)):
                setattr(cls, name, _pumped(test))

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(EPOCH)
        self.network = MemoryNetwork(self.clock)
        self.broker = make_broker(clock=self.clock, storage=self.make_storage())
        self.network.listen("broker").listen(BrokerFactory(self.broker))
        self.url = BrokerUrl.parse("amqp://guest:guest@broker/")

    def make_storage(self) -> Storage:
        return MemoryStorage()

    def endpoint(self) -> IStreamClientEndpoint:
        return self.network.connect("broker")

    def pump(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Advance the clock until a coroutine is done."""
        failures: list[Failure] = []
        done = Deferred.fromCoroutine(coroutine).addErrback(failures.append)
        self.network.until(lambda: bool(done.called), DEADLINE_S)
        for failure in failures:
            failure.raiseException()

    def tearDown(self) -> None:
        assert isinstance(self, BrokerContract)
        self.pump(self.close_connections())
        self.broker.stop()
        self.network.settle()
        self.broker.virtual_host.storage.close()
        self.network.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [], "timers are left behind")


class SqliteTestCase(EmbeddedTestCase):
    """The embedded broker on SQLite. Each call of its writer takes one turn of the clock, and it
    keeps almost nothing in memory.
    """

    def make_storage(self) -> Storage:
        for module, name in (
            (backlog, "RESIDENT_MESSAGES"),
            (streams, "TAIL_MESSAGES"),
            (database, "PAGE_MESSAGES"),
        ):
            self.patch(module, name, 2)
        return SqliteStorage(directory=Path(self.mktemp()), run=self.in_next_turn, clock=self.clock)

    def in_next_turn(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return deferLater(self.clock, 0, function, *arguments)


def _pumped(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    @wraps(test)
    def run(self: EmbeddedTestCase) -> None:
        self.pump(test(self))

    return run


class RabbitMQTestCase(TestCase):
    """A real RabbitMQ, shared by all tests of this process."""

    timeout = START_DEADLINE_S + DEADLINE_S

    async def setUp(self) -> None:  # type: ignore[override] # trial awaits it
        from twisted.internet import reactor

        self.clock = reactor
        self.node = await rabbitmq()
        self.url = BrokerUrl.parse(self.node.url)
        self.version = self.node.version

    def endpoint(self) -> IStreamClientEndpoint:
        return TCP4ClientEndpoint(self.clock, self.url.host, self.url.port)

    async def tearDown(self) -> None:  # type: ignore[override] # trial awaits it
        assert isinstance(self, BrokerContract)
        await self.close_connections()
