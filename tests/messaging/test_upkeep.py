"""`rtprov.messaging.upkeep`: queues, exchanges and bindings that an operator deletes while a worker
is connected are declared again within seconds.
"""

from __future__ import annotations

from rtprov.messaging.topology import DEAD_EXCHANGE, PARKED_QUEUE, STATUS_EXCHANGE, TASKS_EXCHANGE
from tests.support.census_case import DEVICES, DONE, EXCHANGES, SHARD, CensusTestCase


class Restored(CensusTestCase):
    """What a connected worker has declared or bound is restored within seconds, even if it is not
    used.
    """

    def everything(self) -> tuple[set[str], set[tuple[str, str, str]]]:
        """Return the names of all queues, and all bindings."""
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
        """Check that everything is as before, and that no connection was lost."""
        self.assertNotEqual(self.everything(), self.before)
        self.system.network.advance(within_s)
        self.assertEqual(self.everything(), self.before)
        self.assertEqual(list(self.system.broker.connections), self.connections)

    def setUp(self) -> None:
        super().setUp()
        self.system.network.advance(1.0)
        self.look()

    def look(self) -> None:
        """Remember the present state."""
        self.before = self.everything()
        self.connections = list(self.system.broker.connections)

    def test_exchanges(self) -> None:
        """Each deleted exchange is declared again, with all its bindings."""
        for exchange in (TASKS_EXCHANGE, DEAD_EXCHANGE):
            self.virtual_host.routing.delete(exchange, if_unused=False)
            self.system.broker.after_work()
            self.assert_restored()

    def test_bindings(self) -> None:
        """Each deleted binding is declared again, including those of the worker's own queues."""
        for exchange, key, queue in sorted(self.before[1]):
            owner = self.virtual_host.queues[queue].owner
            self.virtual_host.unbind(queue, exchange, key, owner)
            self.assert_restored()

    def test_letters(self) -> None:
        """The queue of parked messages, which has no consumer, is declared again."""
        self.operator("delete", PARKED_QUEUE)
        self.assert_restored()

    def test_the_exchange_of_questions(self) -> None:
        """If the exchange of status requests is deleted, clients get answers again within seconds,
        even if no worker reconnects.
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
        """A queue of dead letters that an earlier rtprov declared stays as it is, and everything
        else is restored.
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
