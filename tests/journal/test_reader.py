"""Reading single messages of a journal, on the embedded broker."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.errors import BrokerUnavailable
from rtprov.journal.reader import DEADLINE_S, WIDEST_GAP, JournalReader
from rtprov.messaging.event_messages import decode_event
from rtprov.model import Started
from tests.support.brokered import EPOCH, SHARD, BrokerTestCase, task_id


class _Kept:
    """A session that keeps its connection."""

    connection: AmqpConnection

    async def attach(self, connection: AmqpConnection) -> None:
        self.connection = connection

    def detach(self) -> None: ...


class Reading(BrokerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.kept = _Kept()
        self.connect([self.kept])
        self.reader = JournalReader(name=SHARD.journal, clock=self.clock)

    def write(self, count: int) -> None:
        for number in range(count):
            self.publish_event(Started(task_id(number), "DEVICE1", EPOCH, 1))

    def read(self, *offsets: int) -> dict[int, object]:
        found = self.result(self.reader.read(self.kept.connection, offsets))
        return {offset: decode_event(message.body) for offset, message in found.items()}

    def test_messages_at_offsets(self) -> None:
        """The messages at these offsets are returned, near one another or far apart. No channel
        stays open.
        """
        self.write(WIDEST_GAP + 20)
        wanted = (3, 1, 4, WIDEST_GAP + 15, WIDEST_GAP + 19)
        self.assertEqual(
            self.read(*wanted),
            {offset: Started(task_id(offset), "DEVICE1", EPOCH, 1) for offset in wanted},
        )
        self.assertEqual((self.read(), len(self.kept.connection.channels)), ({}, 1))

    def test_forgotten(self) -> None:
        """Messages that the journal has forgotten are left out."""
        self.write(5)
        stream = self.broker.virtual_host.queues[SHARD.journal]
        stream._on_trimmed(3)  # type: ignore[union-attr] # the queue is a stream
        self.assertEqual(list(self.read(1, 2, 3)), [3])

    def test_a_journal_that_brings_nothing(self) -> None:
        """Reading ends after a time limit if messages do not arrive."""
        self.write(1)
        reading = Deferred.fromCoroutine(self.reader.read(self.kept.connection, [5]))
        self.network.advance(DEADLINE_S)
        self.failureResultOf(reading, BrokerUnavailable)
