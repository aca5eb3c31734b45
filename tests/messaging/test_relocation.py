"""`rtprov.messaging.relocation`, between two embedded brokers in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.memory import MemoryStorage
from rtprov.errors import BrokerUnavailable, ConfigurationError, Unroutable
from rtprov.messaging.event_batches import encode_batch
from rtprov.messaging.event_messages import decode_task, encode_event, encode_task
from rtprov.messaging.relocation import Relocation, Side
from rtprov.messaging.resharding import Resharding
from rtprov.messaging.shard_count import (
    CHANGE_QUEUE,
    MOVING,
    SHARDS_QUEUE,
    Remembered,
    ShardCount,
    remember,
)
from rtprov.messaging.topology import PARKED_QUEUE, Shard, persistent
from rtprov.model import Event, Finished, Marker, Started, State, shard_of
from tests.support.brokered import EPOCH, make_task, task_id
from tests.support.memory import MemoryNetwork
from tests.support.shard_case import DEVICES, CountTestCase, events_of

SHARDS = 2
LETTER = {"x-death": [{"reason": "rejected"}]}


class _Client:
    """A session that keeps its connection."""

    connection: AmqpConnection

    async def attach(self, connection: AmqpConnection) -> None:
        self.connection = connection

    def detach(self) -> None: ...


class MoveTestCase(CountTestCase):
    """The broker with tasks is the case's; `use` changes to the new one, and back."""

    def setUp(self) -> None:
        super().setUp()
        self.said: list[str] = []
        self.old = (self.network, self.broker)
        self.new = self.another()
        self.count(SHARDS)
        self.fill(self.declare(SHARDS))

    def another(self) -> tuple[MemoryNetwork, Any]:
        network, broker = (
            MemoryNetwork(self.clock),
            make_broker(clock=self.clock, storage=MemoryStorage()),
        )
        network.listen("broker").listen(BrokerFactory(broker))
        self.addCleanup(network.settle)
        self.addCleanup(broker.stop)
        return network, broker

    def use(self, which: tuple[MemoryNetwork, Any]) -> None:
        self.network, self.broker = which

    def fill(self, shards: Sequence[Shard]) -> None:
        """Publish sixteen tasks, of which four have ended, and a dead and a parked letter."""
        for number in range(16):
            device = DEVICES[number % 8]
            shard = shards[shard_of(device, len(shards))]
            self.publish(
                "rtprov.tasks", shard.requested_key, encode_task(make_task(number, device))
            )
            self.publish("rtprov.tasks", shard.event_key, encode_event(Marker("m")))
            if number < 4:
                events = [encode_event(event) for event in self.end_of(number, device)]
                for message in events if number < 2 else [encode_batch(events)]:
                    self.publish("rtprov.tasks", shard.event_key, message)
        self.publish("", shards[0].dead, encode_task(make_task(98)), LETTER)
        self.publish("", PARKED_QUEUE, b"not ours", LETTER)

    def end_of(self, number: int, device: str) -> list[Event]:
        return [
            Started(task_id(number), device, EPOCH, 1, "p"),
            Finished(task_id(number), device, EPOCH, State.COMPLETED, "ok"),
        ]

    def begin_move(self) -> tuple[Deferred[None], list[Any]]:
        """Begin a move; return its result, and its connections."""
        sides, connections = [], []
        for which in (self.old, self.new):
            self.use(which)
            client, publisher = _Client(), Publisher(clock=self.clock)
            connections.append((which, self.connect([publisher, client])))
            sides.append(Side(client.connection, publisher))
        move = Relocation(
            source=sides[0], target=sides[1], new_id=self.new_id, say=self.said.append
        )
        return Deferred.fromCoroutine(move.run()), connections

    def end_move(self, connections: list[Any]) -> None:
        for which, connection in connections:
            self.use(which)
            self.disconnect(connection)

    def move(self) -> Deferred[None]:
        moving, connections = self.begin_move()
        self.network.until(lambda: bool(moving.called), 60.0)
        self.end_move(connections)
        return moving

    def check(self) -> None:
        """Check that everything is at the new broker, in its order, and that only this one can be
        used.
        """
        self.use(self.new)
        numbers: list[int] = []
        for shard in (Shard(index, SHARDS) for index in range(SHARDS)):
            tasks = [decode_task(each.body).task_id for each in self.take(shard.work)]
            numbers += dict.fromkeys(int(each, 16) for each in tasks)
            events = events_of(self, shard)
            requested = dict.fromkeys(event.task_id for event in events)
            self.assertEqual(list(dict.fromkeys(tasks)), list(requested))
            for number in (number for number in range(4) if task_id(number) in requested):
                kinds = [
                    type(event).__name__ for event in events if event.task_id == task_id(number)
                ]
                self.assertEqual(list(dict.fromkeys(kinds)), ["Requested", "Started", "Finished"])
        self.assertEqual(sorted(numbers), list(range(16)))
        for queue, body in (
            (Shard(0, SHARDS).dead, encode_task(make_task(98))),
            (PARKED_QUEUE, b"not ours"),
        ):
            letters = {(each.body, str(each.properties.headers)) for each in self.take(queue)}
            self.assertEqual(letters, {(body, str(LETTER))})
        self.assertEqual(self.count(None), SHARDS)
        self.assertNotIn(CHANGE_QUEUE, self.broker.virtual_host.queues)
        self.use(self.old)
        self.assertNotIn(CHANGE_QUEUE, self.broker.virtual_host.queues)
        refusal = self.on_a_connection(ShardCount(SHARDS, given=False).attach)
        self.assertIn("were moved to another one", str(self.failureResultOf(refusal).value))


class Move(MoveTestCase):
    def test_move(self) -> None:
        """Tasks, events, letters and the number of shards move to the new broker, in their order.
        The old one refuses front ends and workers from then on. Another run does nothing.
        """
        self.successResultOf(self.move())
        self.assertIn("start the workers", self.said[-1])
        self.check()
        self.successResultOf(self.move())
        self.assertIn("nothing to do", self.said[-1])

    def test_from_an_earlier_version(self) -> None:
        """A broker that an earlier version used, which stored no number, can be moved."""
        del self.broker.virtual_host.queues[SHARDS_QUEUE]
        self.successResultOf(self.move())
        self.check()

    def test_after_a_crash(self) -> None:
        """A move that was interrupted at any point is completed by another run. No process can use
        the new broker before that.
        """
        for events in range(20, 3000, 37):
            with self.subTest(events=events):
                self.begin_again()
                moving, connections = self.begin_move()
                moving.addErrback(lambda _: None)
                for _ in range(events):
                    if not moving.called:
                        self.next_event()
                broken = not moving.called
                self.end_move(connections)
                if broken and SHARDS_QUEUE in self.new[1].virtual_host.queues:
                    self.use(self.new)
                    attached = self.on_a_connection(ShardCount(SHARDS, given=False).attach)
                    if attached.result is not None:
                        self.failureResultOf(attached, BrokerUnavailable)
                self.successResultOf(self.move())
                self.check()
                if not broken:
                    self.assertGreater(events, 200)  # otherwise few runs were interrupted
                    return
        self.fail("the move was never completed before its end")

    def begin_again(self) -> None:
        """Begin with two brokers as in `setUp`."""
        self.old, self.new = self.another(), self.another()
        self.use(self.old)
        self.outside = Publisher(clock=self.clock)
        self.connect([self.outside])
        self.count(SHARDS)
        self.fill(self.declare(SHARDS))

    def test_a_front_end_that_runs(self) -> None:
        """What a front end publishes to the old broker is returned to it."""
        self.successResultOf(self.move())
        self.use(self.old)
        published = self.outside.publish(
            "rtprov.tasks",
            Shard(0, SHARDS).requested_key,
            b"{}",
            properties=persistent(),
            mandatory=True,
        )
        self.network.settle()
        self.failureResultOf(published, Unroutable)


class Refused(MoveTestCase):
    def refusal(self) -> str:
        error = self.failureResultOf(self.move(), ConfigurationError)
        return str(error.value)

    def test_a_worker_runs(self) -> None:
        """While a worker consumes, nothing is moved."""
        self.use(self.old)
        with self.consuming(Shard(1, SHARDS).work):
            self.assertIn("stop all workers first", self.refusal())
            self.use(self.old)
        self.assertEqual(self.count(None), SHARDS)
        self.successResultOf(self.move())
        self.check()

    def test_the_new_broker_is_in_use(self) -> None:
        """Tasks are not moved to a broker that has others, of this version or an earlier one."""
        self.use(self.new)
        self.declare(SHARDS)
        self.assertIn("is in use", self.refusal())
        self.use(self.new)
        self.count(SHARDS)
        self.assertIn("is in use", self.refusal())
        self.use(self.old)
        self.assertEqual(self.count(None), SHARDS)

    def test_nothing_to_move(self) -> None:
        """A broker without tasks is not moved: the two files may be mixed up."""
        self.old, self.new = self.new, self.old
        self.assertIn("has no tasks", self.refusal())

    def test_yet_another_broker(self) -> None:
        """A move that was begun or completed is not repeated to another broker."""
        moving, connections = self.begin_move()
        moving.addErrback(lambda _: None)
        for _ in range(300):
            self.next_event()
        self.assertFalse(moving.called)
        self.end_move(connections)
        first, self.new = self.new, self.another()
        self.assertIn("complete that one", self.refusal())
        self.new = first
        self.successResultOf(self.move())
        self.new = self.another()
        self.assertIn("were moved to another one before", self.refusal())

    def test_with_a_change_of_shards(self) -> None:
        """A move waits for a change of the number of shards that is not complete, and a change does
        not touch a broker whose tasks were moved.
        """
        self.use(self.old)
        changing = Remembered(SHARDS, 4)
        del self.broker.virtual_host.queues[SHARDS_QUEUE]
        self.successResultOf(
            self.on_a_connection(lambda connection: remember(connection, changing))
        )
        self.assertIn("run python -m rtprov.shards 4 first", self.refusal())
        self.use(self.old)
        del self.broker.virtual_host.queues[SHARDS_QUEUE]
        self.successResultOf(
            self.on_a_connection(lambda connection: remember(connection, Remembered(1, MOVING)))
        )
        publisher = Publisher(clock=self.clock)

        async def change(connection: AmqpConnection) -> None:
            await Resharding(
                connection=connection, publisher=publisher, new_id=self.new_id, say=self.said.append
            ).run(1)

        refused = self.on_a_connection(change, publisher)
        self.assertIn(
            "are being moved", str(self.failureResultOf(refused, ConfigurationError).value)
        )
