"""The exchanges, queues and bindings that are declared, and their names."""

from __future__ import annotations

from pamqp.commands import Channel, Exchange, Queue

from rtprov.errors import AmqpError
from rtprov.messaging.letter_queues import LETTER_DELIVERY_LIMIT
from rtprov.messaging.topology import Shard, Topology, declare_status
from tests.support.scripted_broker import AmqpTestCase


class TopologyTests(AmqpTestCase):
    def test_names(self) -> None:
        """Names contain the shard and the number of shards."""
        shard = Shard(3, 8)
        self.assertEqual(
            (shard.work, shard.journal, shard.status, shard.dead),
            ("rtprov.work.3of8", "rtprov.journal.3of8", "status.3of8", "rtprov.dead.3of8"),
        )
        self.assertEqual((shard.requested_key, shard.event_key), ("requested.3of8", "event.3of8"))

    def test_declared(self) -> None:
        """Exchanges, queues and bindings of each shard are declared, all durable. The channel is
        closed afterwards.
        """
        connection = self.connect()
        self.result(Topology([Shard(0, 2), Shard(1, 2)]).attach(connection))
        self.assertEqual(
            [
                (declare.exchange, declare.exchange_type, declare.durable)
                for declare in self.peer.commands(Exchange.Declare)
            ],
            [(f"rtprov.{name}", "direct", True) for name in ("tasks", "dead", "status")],
        )
        declared = {declare.queue: declare for declare in self.peer.commands(Queue.Declare)}
        self.assertEqual(
            sorted(declared),
            sorted(
                [
                    "rtprov.parked",
                    *(
                        f"rtprov.{kind}.{k}of2"
                        for kind in ("work", "journal", "dead")
                        for k in (0, 1)
                    ),
                ]
            ),
        )
        self.assertTrue(
            all(
                declare.durable and not declare.auto_delete and not declare.exclusive
                for declare in declared.values()
            )
        )
        self.assertEqual(
            declared["rtprov.work.1of2"].arguments,
            {
                "x-queue-type": "quorum",
                "x-single-active-consumer": True,
                "x-delivery-limit": 100,
                "x-dead-letter-exchange": "rtprov.dead",
            },
        )
        for name in ("rtprov.parked", "rtprov.dead.1of2"):
            self.assertEqual(
                declared[name].arguments,
                {"x-queue-type": "quorum", "x-delivery-limit": LETTER_DELIVERY_LIMIT},
            )
        self.assertEqual(
            declared["rtprov.journal.1of2"].arguments,
            {
                "x-queue-type": "stream",
                "x-max-age": "7D",
                "x-stream-max-segment-size-bytes": 16_777_216,
            },
        )
        self.assertEqual(
            {
                (bind.exchange, bind.routing_key, bind.queue)
                for bind in self.peer.commands(Queue.Bind)
                if bind.queue.endswith(".1of2")
            },
            {
                ("rtprov.tasks", "requested.1of2", "rtprov.work.1of2"),
                ("rtprov.tasks", "requested.1of2", "rtprov.journal.1of2"),
                ("rtprov.tasks", "event.1of2", "rtprov.journal.1of2"),
                ("rtprov.dead", "requested.1of2", "rtprov.dead.1of2"),
                ("rtprov.dead", "rtprov.work.1of2", "rtprov.dead.1of2"),
            },
        )
        self.assertEqual(list(connection.channels), [0])

    def test_differs(self) -> None:
        """If a queue with the name exists and differs, the error contains the broker's reason."""
        self.broker.answers[Queue.Declare] = lambda peer, _: Channel.Close(
            406, "PRECONDITION_FAILED - inequivalent arg", 50, 10
        )
        self.assertIn(
            "inequivalent arg",
            str(self.error(Topology([Shard(0, 1)]).attach(self.connect()), AmqpError)),
        )

    def test_repair(self) -> None:
        """Whatever is missing is declared again on the same connection. Requests during a repair
        are merged into one.
        """
        topology, connection = Topology([Shard(0, 1)]), self.connect()
        topology.repair()  # not connected, so nothing is repaired
        self.result(topology.attach(connection))
        declared = len(self.peer.commands(Queue.Declare))
        for _ in range(3):
            topology.repair()
        self.network.settle()
        self.assertEqual(
            (len(self.peer.commands(Queue.Declare)), list(connection.channels)), (2 * declared, [0])
        )
        topology.repair()
        self.network.settle()
        self.assertEqual(len(self.peer.commands(Queue.Declare)), 3 * declared)

    def test_a_repair_that_fails(self) -> None:
        """A repair that the broker refuses does not close the connection. The next repair is made
        as usual.
        """
        topology, connection = Topology([Shard(0, 1)]), self.connect()
        self.result(topology.attach(connection))
        self.broker.answers[Queue.Declare] = lambda peer, _: Channel.Close(
            406, "PRECONDITION_FAILED - inequivalent arg", 50, 10
        )
        topology.repair()
        self.network.settle()
        self.assertFalse(connection.closed)
        tried = len(self.peer.commands(Queue.Declare))
        topology.repair()
        self.network.settle()
        self.assertEqual(len(self.peer.commands(Queue.Declare)), tried + 1)
        topology.detach()
        topology.repair()

    def test_status(self) -> None:
        """Each worker has its own queue for status requests, which ends with its connection."""
        channel = self.channel(self.connect())
        names = [self.result(declare_status(channel, Shard(0, 1))) for _ in range(2)]
        self.assertEqual(len(set(names)), 2)
        for name, declare, bind in zip(
            names, self.peer.commands(Queue.Declare), self.peer.commands(Queue.Bind), strict=True
        ):
            self.assertTrue(name.startswith("rtprov.status.0of1."), name)
            self.assertEqual(
                (declare.queue, declare.durable, declare.exclusive), (name, False, True)
            )
            self.assertEqual(
                (bind.queue, bind.exchange, bind.routing_key),
                (name, "rtprov.status", "status.0of1"),
            )
