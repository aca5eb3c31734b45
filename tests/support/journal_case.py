"""A test case for a shard's journal on the embedded broker in memory."""

from __future__ import annotations

from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import BrokerConnection
from rtprov.broker.server.factory import BrokerFactory
from rtprov.journal.shard_journal import ShardJournal
from rtprov.messaging.topology import Topology
from rtprov.model import Event, Started
from tests.support.brokered import EPOCH, SHARD, BrokerTestCase, task_id


def started(number: int) -> Started:
    return Started(task_id(number), "DEVICE1", EPOCH, 1)


class JournalTestCase(BrokerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.seen: list[Event] = []

    def make(self) -> tuple[ShardJournal, BrokerConnection]:
        """Return a journal whose connection is being made."""
        publisher = Publisher(clock=self.clock)
        journal = self.journal(self.seen.append, publisher)
        return journal, self.begin([Topology([SHARD]), publisher, journal])

    def follow(self) -> ShardJournal:
        """Return a journal that has replayed everything."""
        self.follower, self.connection = self.make()
        self.reconnected(self.connection)
        return self.follower

    def lose(self) -> None:
        """Break every connection. No client has reconnected yet."""
        self.network.cut("broker")
        self.network.settle()

    def close_broker(self) -> None:
        """Make the broker refuse connections until `open_broker`."""
        del self.network.factories["broker"]
        self.lose()

    def open_broker(self) -> None:
        self.network.factories["broker"] = BrokerFactory(self.broker)
        self.reconnected(self.connection, self.outside_connection)
