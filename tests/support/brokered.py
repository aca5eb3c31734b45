"""A test case with the embedded broker on an in-memory network, for tests of sessions on real
connections.
"""

from __future__ import annotations

import random
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pamqp.commands import Basic
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import BrokerConnection, Session
from rtprov.amqp.client.url import BrokerUrl
from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.memory import MemoryStorage
from rtprov.journal.shard_journal import ShardJournal
from rtprov.messaging.event_messages import encode_event, encode_task
from rtprov.messaging.topology import TASKS_EXCHANGE, Shard, Topology
from rtprov.model import Event, Task
from tests.support.fakes import PlainSealer
from tests.support.memory import MemoryNetwork

T = TypeVar("T")
EPOCH = 1_800_000_000.0
SHARD = Shard(0, 1)


def task_id(number: int) -> str:
    return f"{number:032x}"


def make_task(number: int, equipment_id: str = "DEVICE1") -> Task:
    return Task(task_id(number), equipment_id, 14, EPOCH, PlainSealer().seal(b"{}"))


class BrokerTestCase(SynchronousTestCase):
    """A running broker, and `outside`, the publisher of another client. `logged` is what was
    logged. With `batches`, journals write batches of events.
    """

    shards: Sequence[Shard] = (SHARD,)
    batches = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.rng = random.Random(7)
        self.logged: list[str] = []
        observer = cast("ILogObserver", self._observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.start_broker()
        self.outside = Publisher(clock=self.clock)
        self.outside_connection = self.connect([Topology(self.shards), self.outside])

    def _observe(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event))

    def wall_clock(self) -> float:
        return EPOCH + self.clock.seconds()

    def new_id(self) -> str:
        return f"{self.rng.getrandbits(128):032x}"

    def start_broker(self) -> None:
        """Start a broker with empty storage."""
        self.broker = make_broker(clock=self.clock, storage=MemoryStorage())
        self.network.listen("broker").listen(BrokerFactory(self.broker))
        self.addCleanup(self.network.settle)
        self.addCleanup(self.broker.stop)

    def begin(self, sessions: Sequence[Session], name: str = "test") -> BrokerConnection:
        """Start to connect; the handshake has not been processed yet."""
        connection = BrokerConnection(
            name=name,
            endpoint=self.network.connect("broker"),
            url=BrokerUrl.parse("amqp://guest:guest@broker/"),
            clock=self.clock,
            rng=self.rng,
            sessions=sessions,
        )
        connection.startService()
        self.addCleanup(self.disconnect, connection)
        return connection

    def connect(self, sessions: Sequence[Session]) -> BrokerConnection:
        """Return a connection with all its sessions attached."""
        connection = self.begin(sessions)
        self.network.until(lambda: connection.connected, 10.0)
        return connection

    def disconnect(self, connection: BrokerConnection) -> None:
        if connection.running:
            stopped = connection.stopService()
            self.network.until(lambda: bool(stopped.called), 10.0)

    def reconnected(self, *connections: BrokerConnection) -> None:
        """Let time pass until these are connected again."""
        self.network.until(lambda: all(connection.connected for connection in connections), 60.0)

    def journal(self, apply: Any, publisher: Publisher) -> ShardJournal:
        """Return a journal, which is to be attached after the topology and `publisher`."""
        return ShardJournal(
            shard=SHARD,
            apply=apply,
            publisher=publisher,
            clock=self.clock,
            rng=self.rng,
            new_marker_id=self.new_id,
            batches=self.batches,
        )

    def result(self, work: Deferred[T] | Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, which must be available without time passing."""
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        self.network.settle()
        return self.successResultOf(deferred)

    # Another client.

    def publish(
        self, exchange: str, key: str, body: bytes, headers: dict[str, Any] | None = None
    ) -> None:
        properties = Basic.Properties(delivery_mode=2, headers=headers)
        self.result(self.outside.publish(exchange, key, body, properties=properties))

    def publish_event(self, event: Event | bytes) -> None:
        self.publish(
            TASKS_EXCHANGE,
            SHARD.event_key,
            event if isinstance(event, bytes) else encode_event(event),
        )

    def publish_task(self, task: Task) -> None:
        self.publish(TASKS_EXCHANGE, SHARD.requested_key, encode_task(task))

    def messages(self, queue: str) -> int:
        """Return how many messages are ready in a queue, or stored in a stream."""
        return self.broker.virtual_host.queues[queue].message_count

    @contextmanager
    def consuming(self, queue: str) -> Iterator[list[Delivery]]:
        """Consume a queue within the context, on a connection that is lost at its end. By then all
        messages have arrived.
        """
        taken: list[Delivery] = []
        connection = self.connect([_Taker(queue, taken)])
        self.network.settle()
        yield taken
        self.disconnect(connection)

    def take(self, queue: str) -> list[Delivery]:
        """Remove all messages from a queue and return them."""
        with self.consuming(queue) as taken:
            for delivery in taken:
                delivery.ack()
        return taken


class _Taker:
    """A session that consumes a queue."""

    def __init__(self, queue: str, taken: list[Delivery]) -> None:
        self._queue, self._taken = queue, taken

    async def attach(self, connection: Any) -> None:
        await consume(
            await connection.open_channel(), self._queue, self._taken.append, prefetch=1000
        )

    def detach(self) -> None: ...
