"""The embedded broker confirms a message only after the storage has it."""

from __future__ import annotations

from pamqp.commands import Basic
from twisted.internet.defer import Deferred

from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.memory import MemoryStorage
from rtprov.messaging.topology import TASKS_EXCHANGE
from tests.support.brokered import SHARD, BrokerTestCase


class HeldStorage(MemoryStorage):
    """While it is `held`, each commit waits for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.commits: list[Deferred[None]] = []

    def commit(self) -> Deferred[None]:
        if not self.held:
            return super().commit()
        committed: Deferred[None] = Deferred()
        self.commits.append(committed)
        return committed

    def let_go(self, count: int) -> None:
        """Complete the oldest commits."""
        for _ in range(count):
            self.commits.pop(0).callback(None)


class Confirms(BrokerTestCase):
    def start_broker(self) -> None:
        self.storage = HeldStorage()
        self.broker = make_broker(clock=self.clock, storage=self.storage)
        self.network.listen("broker").listen(BrokerFactory(self.broker))
        self.addCleanup(self.network.settle)
        self.addCleanup(self.broker.stop)
        self.addCleanup(setattr, self.storage, "held", False)

    def begin_publish(self) -> Deferred[None]:
        """Publish a message. The broker has it when this returns."""
        published = self.outside.publish(
            TASKS_EXCHANGE, SHARD.event_key, b"{}", properties=Basic.Properties(delivery_mode=2)
        )
        self.network.settle()
        return published

    def test_in_the_order_of_commits(self) -> None:
        """A commit confirms what was published before it was requested, and nothing that arrived
        while it was under way.
        """
        self.storage.held = True
        first = self.begin_publish()
        before = len(self.storage.commits)
        second = self.begin_publish()
        self.storage.let_go(before)
        self.network.settle()
        self.assertIsNone(self.successResultOf(first))
        self.assertNoResult(second)
        self.storage.let_go(len(self.storage.commits))
        self.network.settle()
        self.assertIsNone(self.successResultOf(second))

    def test_several_at_once(self) -> None:
        """One commit confirms everything that was published in the turns before it."""
        self.storage.held = True
        published = [self.begin_publish() for _ in range(3)]
        self.storage.let_go(len(self.storage.commits))
        self.network.settle()
        self.assertEqual([self.successResultOf(each) for each in published], [None] * 3)
