"""`rtprov.messaging.resharding`, on the embedded broker in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.url import BrokerUrl
from rtprov.clocks import WallClock
from rtprov.errors import BrokerUnavailable, ConfigurationError, Unconfirmed, Unroutable
from rtprov.frontend.service import FrontendService
from rtprov.frontend.task_publisher import TaskPublisher
from rtprov.journal.open_tasks import OpenTasks
from rtprov.messaging import moving
from rtprov.messaging.environment import Environment
from rtprov.messaging.event_batches import encode_batch
from rtprov.messaging.event_messages import decode_task, encode_event, encode_task
from rtprov.messaging.resharding import Resharding
from rtprov.messaging.shard_count import (
    CHANGE_QUEUE,
    SHARDS_QUEUE,
    Remembered,
    ShardCount,
    delete_queue,
    message_count,
    remember,
)
from rtprov.messaging.topology import (
    JOURNAL_MAX_AGE_S,
    PARKED_QUEUE,
    Shard,
    Topology,
    persistent,
)
from rtprov.model import (
    Copied,
    Finished,
    Marker,
    Requested,
    Started,
    State,
    shard_of,
)
from tests.support.brokered import EPOCH, make_task, task_id
from tests.support.fakes import PlainSealer
from tests.support.shard_case import DEVICES, CountTestCase, Once, events_of


class Change(CountTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.said: list[str] = []

    def change(self, count: int) -> Deferred[Any]:
        publisher = Publisher(clock=self.clock)

        async def work(connection: AmqpConnection) -> None:
            await Resharding(
                connection=connection, publisher=publisher, new_id=self.new_id, say=self.said.append
            ).run(count)

        return self.on_a_connection(work, publisher)

    def begin_with(self, count: int) -> list[Shard]:
        self.assertEqual(self.count(count), count)
        return self.declare(count)

    def fill(self, shards: list[Shard]) -> None:
        """Publish sixteen tasks for eight devices. Four have ended: the events of two are in a
        batch for each shard.
        """
        batches: dict[Shard, list[bytes]] = {}
        for number in range(16):
            device = DEVICES[number % 8]
            shard = shards[shard_of(device, len(shards))]
            task = make_task(number, device)
            self.publish("rtprov.tasks", shard.requested_key, encode_task(task))
            self.publish("rtprov.tasks", shard.event_key, encode_event(Marker("m")))
            if number < 4:
                events = [
                    encode_event(Started(task_id(number), device, EPOCH, 1, "p")),
                    encode_event(Finished(task_id(number), device, EPOCH, State.COMPLETED, "ok")),
                ]
                if number < 2:
                    for event in events:
                        self.publish("rtprov.tasks", shard.event_key, event)
                else:
                    batches.setdefault(shard, []).extend(events)
        for shard, events in batches.items():
            self.publish("rtprov.tasks", shard.event_key, encode_batch(events))

    def check(self, count: int) -> None:
        """Check that everything is in its new place, in the order of each device, and that nothing
        is left of the old one.
        """
        queues = sorted(name for name in self.broker.virtual_host.queues if "of" in name)
        new = [Shard(index, count) for index in range(count)]
        self.assertEqual(
            queues,
            sorted(name for shard in new for name in (shard.work, shard.journal, shard.dead)),
        )
        orders: list[int] = []
        for shard in new:
            tasks = [decode_task(delivery.body) for delivery in self.take(shard.work)]
            self.assertTrue(
                all(shard_of(task.equipment_id, count) == shard.index for task in tasks)
            )
            for device in DEVICES:
                mine = list(
                    dict.fromkeys(
                        int(task.task_id, 16) for task in tasks if task.equipment_id == device
                    )
                )
                self.assertEqual(mine, sorted(mine))
                orders += mine
            events = events_of(self, shard)
            for number in [
                int(event.task_id, 16) for event in events if isinstance(event, Requested)
            ]:
                kinds = [
                    type(event)
                    for event in events
                    if getattr(event, "task_id", "") == task_id(number)
                ]
                self.assertEqual(
                    list(dict.fromkeys(kinds)),
                    [Requested, Started, Finished] if number < 4 else [Requested],
                )
        self.assertEqual(sorted(orders), list(range(16)))
        self.assertEqual(self.count(None), count)

    def test_change(self) -> None:
        """Queues, journals and dead letters move to the new number, up and down, and the broker
        remembers it.
        """
        self.fill(self.begin_with(1))
        headers = {"x-death": [{"reason": "rejected"}]}
        self.publish(
            "rtprov.dead", Shard(0, 1).requested_key, encode_task(make_task(99, "DEVICE1")), headers
        )
        self.successResultOf(self.change(4))
        self.assertIn("start the workers", self.said[-1])
        dead = self.take(Shard(shard_of("DEVICE1", 4), 4).dead)
        self.assertEqual(
            [(decode_task(each.body).task_id, each.properties.headers) for each in dead],
            [(task_id(99), headers)],
        )
        self.successResultOf(self.change(3))
        self.check(3)

    def test_nothing_to_do(self) -> None:
        """A change to the present number does nothing."""
        self.fill(self.begin_with(2))
        self.successResultOf(self.change(2))
        self.check(2)

    def test_a_broker_of_before(self) -> None:
        """A change works for a broker whose last version did not store the number."""
        self.fill(self.declare(1))
        self.successResultOf(self.change(2))
        self.check(2)

    def test_workers_run(self) -> None:
        """While a worker consumes, nothing is changed, and the error tells the operator
        what to do.
        """
        self.fill(self.begin_with(1))
        with self.consuming("rtprov.work.0of1"):
            error = self.failureResultOf(self.change(2), ConfigurationError)
        self.assertIn("stop all workers first", str(error.value))
        self.assertEqual(self.count(None), 1)
        self.check(1)

    def test_after_a_crash(self) -> None:
        """A change that was interrupted at any point is completed by another run. Of the first run
        only copies are left.
        """
        for events in range(40, 2000, 23):
            with self.subTest(events=events):
                self.start_broker()
                self.outside_connection = self.reconnect_outside()
                self.fill(self.begin_with(1))
                broken = self.break_off_after(events, 2)
                self.successResultOf(self.change(2))
                self.check(2)
                if not broken:
                    self.assertGreater(events, 200)  # otherwise few runs were interrupted
                    return
        self.fail("the change was never completed before its end")

    def reconnect_outside(self) -> Any:
        self.outside = Publisher(clock=self.clock)
        return self.connect([self.outside])

    def break_off_after(self, events: int, count: int) -> bool:
        """Begin a change and break its connection after so many events; return whether it was still
        running.
        """
        publisher = Publisher(clock=self.clock)
        done: list[bool] = []

        async def work(connection: AmqpConnection) -> None:
            await Resharding(
                connection=connection, publisher=publisher, new_id=self.new_id, say=self.said.append
            ).run(count)
            done.append(True)

        session = Once(work)
        connection = self.begin([publisher, session])
        session.outcome.addErrback(lambda _: None)
        for _ in range(events):
            self.next_event()
        broken = not done
        self.disconnect(connection)
        return broken

    def test_events_that_come_late(self) -> None:
        """Events that reach the old journal while its other events are moved are moved, too."""
        (old,) = self.begin_with(1)
        self.fill([old])
        outside = self.outside
        late: list[str] = []

        class Interrupted(Publisher):
            """Adds an event to the old journal for each event that is moved, up to a limit."""

            def publish(self, exchange: str, routing_key: str, *of: Any, **more: Any) -> Any:
                if "journal" in routing_key and routing_key.endswith("of2") and len(late) < 10:
                    late.append(task_id(100 + len(late)))
                    event = encode_event(Requested(late[-1], "DEVICE1", EPOCH))
                    outside.publish("", old.journal, event, properties=persistent())
                return super().publish(exchange, routing_key, *of, **more)

        publisher = Interrupted(clock=self.clock)

        async def work(connection: AmqpConnection) -> None:
            await Resharding(
                connection=connection, publisher=publisher, new_id=self.new_id, say=self.said.append
            ).run(2)

        self.successResultOf(self.on_a_connection(work, publisher))
        moved = [event for index in range(2) for event in events_of(self, Shard(index, 2))]
        known = {event.task_id for event in moved if isinstance(event, Requested)}
        self.assertEqual(len(late), 10)
        self.assertEqual(set(late) - known, set())

    def test_places(self) -> None:
        """The order of a device's tasks is kept if their events were written again, and the numbers
        in these copies belong to the old journal. An order that has left the old journal comes
        before those that are still in it.
        """
        (old,) = self.begin_with(1)
        for _ in range(1000):
            self.publish("rtprov.tasks", old.event_key, encode_event(Marker("m")))
        self.clock.advance(JOURNAL_MAX_AGE_S + 1)
        self.outside = Publisher(clock=self.clock)
        self.connect([self.outside])
        self.publish("rtprov.tasks", old.event_key, encode_event(Marker("m")))
        at = self.wall_clock()
        gone, there = Copied(at, 900, 999), Copied(at, 1002, 1002)
        for event in (
            Requested(task_id(1), "DEVICE1", EPOCH, copied=gone, whole=True),
            Requested(task_id(2), "DEVICE1", at, whole=True),
            Requested(task_id(3), "DEVICE1", at, whole=True),
            Requested(task_id(2), "DEVICE1", at, copied=there, whole=True),
        ):
            self.publish("rtprov.tasks", old.event_key, encode_event(event))
        self.assertEqual(self.messages(old.journal), 5)
        self.successResultOf(self.change(2))
        tasks = OpenTasks()
        for offset, moved in enumerate(events_of(self, Shard(shard_of("DEVICE1", 2), 2))):
            tasks.on_event(moved, offset, State.RUNNING)
        missing = [task.task_id for task in tasks.missing(100, [])]
        self.assertEqual(missing, [task_id(number) for number in (1, 2, 3)])

    def test_no_number_for_a_moment(self) -> None:
        """While the stored number is replaced, a front end waits and does not store its own."""
        self.begin_with(1)

        async def work(connection: AmqpConnection) -> None:
            changing = Remembered(1, 4)
            await remember(connection, changing, CHANGE_QUEUE)
            await delete_queue(connection, PARKED_QUEUE)
            await delete_queue(connection, SHARDS_QUEUE)
            with self.assertRaises(BrokerUnavailable) as caught:
                await ShardCount(1, given=False).attach(connection)
            self.assertIn("is being changed", str(caught.exception))
            self.assertIsNone(await message_count(connection, SHARDS_QUEUE))

        self.successResultOf(self.on_a_connection(work, Publisher(clock=self.clock)))
        self.successResultOf(self.change(4))
        self.assertEqual(self.said[0], "Changing from 1 to 4 shards")
        self.assertNotIn(CHANGE_QUEUE, self.broker.virtual_host.queues)

    def test_a_late_front_end(self) -> None:
        """What a front end with the old number publishes is returned as unroutable, and is in no
        old queue.
        """
        shards = self.begin_with(1)
        self.fill(shards)
        self.successResultOf(self.change(2))
        published = self.outside.publish(
            "rtprov.tasks", shards[0].requested_key, b"{}", properties=persistent(), mandatory=True
        )
        self.network.settle()
        self.assertEqual(self.failureResultOf(published).type.__name__, "Unroutable")

    def test_a_front_end_that_is_overtaken(self) -> None:
        """A change that is faster than a connecting front end: the front end notices after it has
        declared the old queues, and takes no POST.
        """
        self.begin_with(1)
        count = ShardCount(1, given=True)
        reached: Deferred[None] = Deferred()
        go: Deferred[None] = Deferred()

        async def wait(_: AmqpConnection) -> None:
            reached.callback(None)
            await go

        publisher = Publisher(clock=self.clock)
        topology = Topology([Shard(0, 1)], count=count)
        connection = self.begin([count, Once(wait), topology, publisher])
        self.network.until(lambda: bool(reached.called), 10.0)
        self.successResultOf(self.change(2))
        go.callback(None)
        self.network.advance(10.0)
        self.assertIn("the broker has 2 shards", "\n".join(self.logged))
        self.assertFalse(connection.connected)
        self.assertIsInstance(publisher.refusal(), BrokerUnavailable)
        # Nor is the queue there for a front end that was connected before the change.
        published = self.outside.publish(
            "rtprov.tasks", Shard(0, 1).requested_key, b"{}", properties=persistent()
        )
        self.network.settle()
        self.failureResultOf(published, Unroutable)

    def test_overtaken_at_any_point(self) -> None:
        """A change while a front end connects, at any of its steps: afterwards nothing that is
        published with the old number reaches a queue.
        """
        for steps in range(2, 80, 3):
            with self.subTest(steps=steps):
                self.start_broker()
                self.outside_connection = self.reconnect_outside()
                self.fill(self.begin_with(1))
                count = ShardCount(1, given=True)
                publisher = Publisher(clock=self.clock)
                late = self.begin([count, Topology([Shard(0, 1)], count=count), publisher])
                for _ in range(steps):
                    if self.clock.calls:
                        self.next_event()
                client = self.network.connections[-1][1]
                slow = (client, client.other)
                for end in slow:
                    end.pauseProducing()
                self.successResultOf(self.change(2))
                for end in slow:
                    end.resumeProducing()
                self.network.advance(10.0)
                published = self.outside.publish(
                    "rtprov.tasks", Shard(0, 1).requested_key, b"{}", properties=persistent()
                )
                self.network.settle()
                self.failureResultOf(published, Unroutable)
                self.disconnect(late)

    def test_a_repair_that_is_overtaken(self) -> None:
        """A change that is faster than the repair of a front end: what was confirmed meanwhile is
        not taken to be safe.
        """
        self.begin_with(1)
        go: list[Deferred[None]] = []
        agreed = ShardCount(1, given=True)

        class Count:
            """Waits after each comparison during a repair."""

            async def attach(self, connection: AmqpConnection) -> None:
                await agreed.attach(connection)
                if connected:
                    go.append(Deferred())
                    await go[-1]

        connected: list[bool] = []
        topology = Topology([Shard(0, 1)], count=Count())
        publisher = Publisher(clock=self.clock)
        connection = self.connect([agreed, topology, publisher])
        connected.append(True)
        tasks = TaskPublisher(
            publisher=publisher,
            shards=1,
            refusal=lambda shard, key: None,
            repaired=topology.repaired,
        )
        topology.repair()
        self.network.until(lambda: len(go) == 1, 10.0)
        self.successResultOf(self.change(2))
        self.declare(1)  # as the repair is about to do
        published = tasks.submit(make_task(1))
        cancelled = tasks.submit(make_task(2))
        self.network.settle()
        self.assertEqual(self.messages(Shard(0, 1).work), 2)
        self.assertNoResult(published)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        go[0].callback(None)
        self.network.until(lambda: not connection.connected, 10.0)
        self.failureResultOf(published, Unconfirmed)

    def test_a_repair_while_nothing_changes(self) -> None:
        """What is confirmed during a repair is safe once the repair is complete."""
        self.begin_with(1)
        count = ShardCount(1, given=True)
        topology = Topology([Shard(0, 1)], count=count)
        publisher = Publisher(clock=self.clock)
        self.connect([count, topology, publisher])
        self.successResultOf(topology.repaired())
        topology.repair()
        repaired = topology.repaired()
        self.assertNoResult(repaired)
        self.network.settle()
        self.successResultOf(repaired)

    def test_many_copies(self) -> None:
        """A batch is divided among many shards. The change waits for confirms now and then, so that
        it never has too many.
        """
        (shard,) = self.begin_with(1)
        devices = [f"DEVICE{number:04}" for number in range(100)]
        for number in range(30):
            batch = [
                encode_event(Started(task_id(100 * number + each), device, EPOCH, 1))
                for each, device in enumerate(devices)
            ]
            self.publish("rtprov.tasks", shard.event_key, encode_batch(batch))
        self.patch(moving, "BATCH", 50)
        publisher = Publisher(clock=self.clock, max_unconfirmed=100)

        async def work(connection: AmqpConnection) -> None:
            await Resharding(
                connection=connection, publisher=publisher, new_id=self.new_id, say=self.said.append
            ).run(50)

        self.successResultOf(self.on_a_connection(work, publisher))
        events = [event for index in range(50) for event in events_of(self, Shard(index, 50))]
        self.assertEqual(len({event.task_id for event in events}), 3000)

    def test_posts_meanwhile(self) -> None:
        """What a running front end publishes during the change is either returned to it or in its
        new place.
        """
        (shard,) = self.begin_with(1)
        publisher = Publisher(clock=self.clock)
        taken: list[int] = []
        refused: list[int] = []

        def came_back(reason: Failure, number: int) -> None:
            reason.trap(Unroutable)
            refused.append(number)

        async def work(connection: AmqpConnection) -> None:
            await Resharding(
                connection=connection, publisher=publisher, new_id=self.new_id, say=self.said.append
            ).run(2)

        session = Once(work)
        connection = self.begin([publisher, session])
        for number in range(100, 2000):
            task = encode_task(make_task(number))
            published = self.outside.publish(
                "rtprov.tasks", shard.requested_key, task, properties=persistent(), mandatory=True
            )
            published.addCallbacks(
                lambda _, number: taken.append(number),
                came_back,
                callbackArgs=(number,),
                errbackArgs=(number,),
            )
            for _ in range(5):
                self.next_event()
            if session.outcome.called:
                break
        self.successResultOf(session.outcome)
        self.network.settle()
        self.disconnect(connection)
        new = Shard(shard_of("DEVICE1", 2), 2)
        self.assertTrue(taken and refused, (len(taken), len(refused)))
        requested = [
            event.task_id for event in events_of(self, new) if isinstance(event, Requested)
        ]
        self.assertEqual(set(requested), set(map(task_id, taken)))
        # The work queue is unbound first. A message that only reached the journal is put back by
        # the worker's census.
        queued = {decode_task(delivery.body).task_id for delivery in self.take(new.work)}
        self.assertLessEqual(queued, set(requested))
        self.assertGreater(len(queued), len(set(requested)) - 10)

    def test_a_front_end_that_nobody_posts_to(self) -> None:
        """A front end that was given no number learns the new one within seconds, even if its
        connection is not lost and no POST arrives.
        """
        shards: list[int] = []
        around = Environment(
            clock=self.clock,
            wall_clock=WallClock(self.wall_clock, self.clock.seconds),
            rng=self.rng,
            new_id=self.new_id,
            broker=self.network.connect("broker"),
            broker_url=BrokerUrl.parse("amqp://guest:guest@broker/"),
        )
        service = FrontendService(
            around, sealer=PlainSealer(), shards=1, running_status=200, shards_given=False
        )
        service.shard_count.on_other = shards.append
        service.startService()
        self.addCleanup(lambda: self.network.until(service.stopService().called.__bool__))
        self.network.until(lambda: service.connection.connected, 10.0)
        self.network.advance(3.0)
        self.successResultOf(self.change(2))
        self.network.advance(11.0)
        self.assertEqual(shards[:1], [2])
