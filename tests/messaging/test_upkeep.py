"""`rtprov.messaging.upkeep`: what an operator deletes or unbinds while a worker is connected is
there again within seconds.
"""

from __future__ import annotations

from rtprov.messaging.topology import DEAD_EXCHANGE, PARKED_QUEUE, STATUS_EXCHANGE, TASKS_EXCHANGE
from tests.support.census_case import DEVICES, DONE, EXCHANGES, SHARD, CensusTestCase


class Restored(CensusTestCase):
    """What a connected worker has declared or bound comes back within seconds, though nobody uses
    it meanwhile.
    """

    def everything(self) -> tuple[set[str], set[tuple[str, str, str]]]:
        """The names of all queues, and all bindings."""
        exchanges = self.virtual_host.routing._exchanges
        bindings = {
            (name, key, queue)
            for name in EXCHANGES
            if name in exchanges
            for key, queues in exchanges[name].bindings.items()
            for queue in queues
        }
        return set(self.virtual_host.queues), bindings

    def assert_restored(self, *, within_s: float = 11.0) -> None:
        """All is as it was, and no connection was lost."""
        self.assertNotEqual(self.everything(), self.before)
        self.system.network.advance(within_s)
        self.assertEqual(self.everything(), self.before)
        self.assertEqual(list(self.system.broker.connections), self.connections)

    def setUp(self) -> None:
        super().setUp()
        self.system.network.advance(1.0)
        self.look()

    def look(self) -> None:
        """Remember how things are."""
        self.before = self.everything()
        self.connections = list(self.system.broker.connections)

    def test_exchanges(self) -> None:
        """Each exchange that is deleted is there again, with all its bindings."""
        for exchange in (TASKS_EXCHANGE, DEAD_EXCHANGE):
            self.virtual_host.routing.delete(exchange, if_unused=False)
            self.system.broker.after_work()
            self.assert_restored()

    def test_bindings(self) -> None:
        """So is each binding, those of the worker's own queues included."""
        for exchange, key, queue in sorted(self.before[1]):
            owner = self.virtual_host.queues[queue].owner
            self.virtual_host.unbind(queue, exchange, key, owner)
            self.assert_restored()

    def test_letters(self) -> None:
        """So is the queue of parked letters, which nobody consumes."""
        self.operator("delete", PARKED_QUEUE)
        self.assert_restored()

    def test_the_exchange_of_questions(self) -> None:
        """If the exchange of status requests is deleted, clients are told again within seconds,
        though no worker reconnects.
        """
        tasks = self.accepted(DEVICES[:1])
        worker = self.system.workers[0].connection._connection
        self.virtual_host.routing.delete(STATUS_EXCHANGE, if_unused=False)
        self.system.broker.after_work()
        self.assertEqual(self.system.get(*tasks[0]).status, 503)
        self.system.network.advance(11.0)
        self.assertEqual(self.codes(tasks), [DONE])
        self.assertIs(self.system.workers[0].connection._connection, worker)

    def test_old_letters(self) -> None:
        """A queue of letters that an earlier rtprov declared stays as it is, and the rest is
        restored all the same.
        """
        self.stop_worker()
        self.operator("delete", SHARD.dead)
        old = {"x-queue-type": "quorum"}
        self.virtual_host.declare_queue(
            SHARD.dead,
            passive=False,
            durable=True,
            exclusive=False,
            auto_delete=False,
            arguments=old,
            owner=None,
        )
        self.system.start_worker()
        self.system.network.advance(1.0)
        self.look()
        self.operator("unbind")
        self.assert_restored()
        self.assertEqual(dict(self.virtual_host.queues[SHARD.dead].arguments), old)
