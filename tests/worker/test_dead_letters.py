"""Dead letters on the embedded broker: each ends its task or is parked, and none is lost."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from pamqp.commands import Basic
from twisted.internet.defer import Deferred, fail

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.framing import encode_content
from rtprov.broker.content_header import ACCEPTED_BYTES, ACCEPTED_FIELDS, join
from rtprov.errors import BrokerUnavailable, Overloaded
from rtprov.journal.store import Store
from rtprov.messaging.event_messages import encode_task
from rtprov.messaging.markers import encode_census
from rtprov.messaging.topology import DEAD_EXCHANGE, DELIVERY_LIMIT, PARKED_QUEUE, Topology
from rtprov.model import Event, Finished, Requested, State
from rtprov.worker.dead_letters import RETRY_PAUSE_S, RETURN_PAUSE_S, DeadLetters
from tests.support.brokered import EPOCH, SHARD, BrokerTestCase, make_task, task_id

DEATH = {"x-death": [{"reason": "delivery_limit", "count": 1}, {"reason": "older"}], "mine": "kept"}


class _OddHeaders:
    """A session of a foreign client. It dead-letters a message with a string in its headers that is
    not UTF-8.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def attach(self, connection: AmqpConnection) -> None:
        channel = await connection.open_channel()
        table = b"\x01oS\0\0\0\x01\xff"
        header = join({"headers": len(table).to_bytes(4, "big") + table}, len(self._body))
        method = Basic.Publish(exchange=DEAD_EXCHANGE, routing_key=SHARD.requested_key)
        channel.send(encode_content(channel.id, method, header, self._body, connection.frame_max))

    def detach(self) -> None: ...


class DeadLettersTestCase(BrokerTestCase):
    """A worker's dead letters, on a connection with its journal."""

    def setUp(self) -> None:
        super().setUp()
        self.store = Store(86400.0)
        self.seen: list[Event] = []
        self.publisher = Publisher(clock=self.clock)
        self.replica = self.journal(self.apply, self.publisher)
        self.letters = DeadLetters(
            shard=SHARD,
            store=self.store,
            journal=self.replica,
            publisher=self.publisher,
            clock=self.clock,
            wall_clock=self.wall_clock,
        )
        self.connection = self.connect(
            [Topology([SHARD]), self.publisher, self.replica, self.letters]
        )

    def apply(self, event: Event) -> None:
        self.seen.append(event)
        self.store.apply(event)

    def die(
        self, number: int, headers: dict[str, Any] | None = DEATH, body: bytes | None = None
    ) -> None:
        """Publish task `number`, or `body`, as a dead letter."""
        self.publish(
            DEAD_EXCHANGE,
            SHARD.requested_key,
            encode_task(make_task(number)) if body is None else body,
            headers,
        )
        self.network.settle()

    def finished(self) -> list[Finished]:
        return [event for event in self.seen if isinstance(event, Finished)]

    def state(self, number: int) -> State | None:
        return self.store.lookup(task_id(number), "DEVICE1")

    def left(self) -> int:
        """Return how many dead letters the broker still has, delivered or not."""
        self.disconnect(self.connection)
        return self.messages(SHARD.dead)


class Burial(DeadLettersTestCase):
    def test_delivered_too_often(self) -> None:
        """A task that was delivered too often has failed, with the broker's newest reason. Its
        letter is parked unchanged.
        """
        self.die(1)
        self.assertEqual(
            self.finished(),
            [
                Finished(
                    task_id(1),
                    "DEVICE1",
                    self.wall_clock(),
                    State.FAILED,
                    "dead-lettered: delivery_limit",
                )
            ],
        )
        self.assertIs(self.state(1), State.FAILED)
        (parked,) = self.take(PARKED_QUEUE)
        self.assertEqual(
            (parked.body, parked.properties.headers), (encode_task(make_task(1)), DEATH)
        )
        self.assertEqual(parked.properties.delivery_mode, 2)
        self.assertEqual(self.left(), 0)

    def test_a_task_that_kills_its_worker(self) -> None:
        """A task whose connection is lost at every delivery has failed when the delivery limit is
        reached.
        """
        self.publish_task(make_task(1))
        for _ in range(DELIVERY_LIMIT + 1):
            with self.consuming(SHARD.work) as taken:
                self.assertEqual(len(taken), 1)
        self.network.settle()
        self.assertIs(self.state(1), State.FAILED)
        self.assertIn("delivery_limit", self.finished()[0].reason)

    def test_refused(self) -> None:
        """The state of a task that was rejected has the broker's reason."""
        self.publish_task(make_task(1))
        with self.consuming(SHARD.work) as (delivery,):
            delivery.nack(requeue=False)
            self.network.settle()
        self.assertEqual([event.reason for event in self.finished()], ["dead-lettered: rejected"])

    def test_a_marker(self) -> None:
        """A marker of the census that an earlier version of the worker has rejected is dropped."""
        self.die(1, body=encode_census("marker"))
        self.assertEqual((self.finished(), self.messages(PARKED_QUEUE), self.left()), ([], 0, 0))

    def test_no_reason(self) -> None:
        """A letter without a usable ``x-death`` ends its task with an unknown reason."""
        senseless: list[dict[str, Any] | None] = [
            None,
            {},
            {"x-death": "?"},
            {"x-death": []},
            {"x-death": ["?"]},
        ]
        for number, headers in enumerate(senseless):
            self.die(number, headers)
        self.assertEqual(
            [event.reason for event in self.finished()], ["dead-lettered: unknown reason"] * 5
        )
        self.assertEqual(self.messages(PARKED_QUEUE), 5)

    def test_finished_meanwhile(self) -> None:
        """A task that has ended keeps its state. Its letter is parked."""
        self.publish_event(Requested(task_id(1), "DEVICE1", EPOCH))
        self.publish_event(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        self.die(1)
        self.assertEqual(
            (self.state(1), len(self.finished()), self.messages(PARKED_QUEUE)),
            (State.COMPLETED, 1, 1),
        )

    def test_no_task(self) -> None:
        """A message that is not a task is parked unchanged. The log line does not show its
        content.
        """
        self.die(1, body=b"\xff s3cr3t")
        (parked,) = self.take(PARKED_QUEUE)
        self.assertEqual(
            (parked.body, parked.properties.headers, self.seen), (b"\xff s3cr3t", DEATH, [])
        )
        self.assertEqual(
            len([line for line in self.logged if "parking a message that is not a task" in line]), 1
        )
        self.assertEqual([line for line in self.logged if "s3cr3t" in line], [])

    def test_headers_that_nobody_can_write(self) -> None:
        """If a letter's headers cannot be encoded again, it is parked with the broker's reason
        only.
        """
        self.connect([_OddHeaders(encode_task(make_task(1)))])
        self.network.settle()
        (parked,) = self.take(PARKED_QUEUE)
        self.assertEqual(
            parked.properties.headers,
            {"x-death": [{"reason": "unknown reason", "queue": SHARD.work}]},
        )
        self.assertEqual(
            (parked.body, self.state(1), self.left()), (encode_task(make_task(1)), State.FAILED, 0)
        )

    def test_headers_that_no_broker_takes(self) -> None:
        """If a letter's headers and those that the broker has added are too large to publish, it is
        parked with the broker's reason only.
        """
        for headers in (
            {"large": "x" * (ACCEPTED_BYTES - 30)},
            {"many": [None] * (ACCEPTED_FIELDS - 1)},
        ):
            self.publish("", SHARD.work, b"no task", headers)
            with self.consuming(SHARD.work) as (delivery,):
                delivery.nack(requeue=False)
                self.network.settle()
            (parked,) = self.take(PARKED_QUEUE)
            self.assertEqual(
                parked.properties.headers,
                {"x-death": [{"reason": "rejected", "queue": SHARD.work}]},
            )
            self.assertEqual(self.messages(SHARD.dead), 0)
        self.assertTrue(self.connection.connected)

    def test_many(self) -> None:
        """All letters are handled if there are more than the prefetch."""
        for number in range(50):
            self.die(number)
        self.assertEqual(
            (len(self.finished()), self.messages(PARKED_QUEUE), self.left()), (50, 50, 0)
        )


class Keys(DeadLettersTestCase):
    def test_another_body(self) -> None:
        """The message of a key's second body is parked. The task of the first body stays open."""
        self.publish_event(Requested(task_id(1), "DEVICE1", EPOCH, "f1"))
        second = evolve(make_task(1), fingerprint="f2")
        self.die(1, body=encode_task(second))
        self.assertEqual(
            (self.state(1), self.finished(), self.messages(PARKED_QUEUE)), (State.RUNNING, [], 1)
        )

    def test_the_order(self) -> None:
        """The message that is the order of its key ends the task."""
        self.publish_event(Requested(task_id(1), "DEVICE1", EPOCH, "f1"))
        self.die(1, body=encode_task(evolve(make_task(1), fingerprint="f1")))
        self.assertEqual((self.state(1), self.messages(PARKED_QUEUE)), (State.FAILED, 1))


class Trouble(DeadLettersTestCase):
    def test_finished_in_front_of_the_barrier(self) -> None:
        """Whether a task has ended is decided after the barrier, because the replica may lag."""
        self.replica._apply = lambda _: None  # only the barrier applies the event

        def barrier() -> Deferred[None]:
            self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
            return Deferred()

        self.replica.barrier = barrier  # type: ignore[method-assign] # a fault is injected here
        self.die(1)
        self.assertEqual((len(self.finished()), self.messages(PARKED_QUEUE)), (1, 0))

    def test_a_barrier_that_fails(self) -> None:
        """While the barrier fails, the letter waits. Then its task fails and it is parked, on the
        same connection.
        """
        barrier, failures = self.replica.barrier, [BrokerUnavailable("away"), Overloaded("full")]
        self.replica.barrier = lambda: fail(failures.pop()) if failures else barrier()  # type: ignore[method-assign] # a fault is injected here
        self.die(1)
        self.network.advance(RETRY_PAUSE_S)
        self.assertEqual((failures, self.state(1), self.messages(PARKED_QUEUE)), ([], None, 0))
        self.network.advance(RETRY_PAUSE_S)
        self.assertEqual(
            (self.state(1), self.messages(PARKED_QUEUE), self.left()), (State.FAILED, 1, 0)
        )

    def test_parking_fails(self) -> None:
        """While the broker accepts no messages, the letter stays unsettled. Its task fails only
        once.
        """
        publish, failures = self.publisher.publish, [Overloaded("full")] * 2

        def flaky(exchange: str, *rest: Any, **options: Any) -> Deferred[None]:
            return (
                fail(failures.pop())
                if not exchange and failures
                else publish(exchange, *rest, **options)
            )

        self.publisher.publish = flaky  # type: ignore[method-assign] # a fault is injected here
        self.die(1)
        self.network.advance(RETRY_PAUSE_S)
        self.assertEqual((self.state(1), self.messages(PARKED_QUEUE)), (State.FAILED, 0))
        self.network.advance(RETRY_PAUSE_S)
        self.assertEqual(
            (len(self.finished()), self.messages(PARKED_QUEUE), self.left()), (1, 1, 0)
        )

    def test_parking_never_succeeds(self) -> None:
        """A letter that could not be parked is still in the queue when the worker stops."""
        self.publisher.publish = lambda *rest, **options: fail(Overloaded("full"))  # type: ignore[method-assign] # a fault is injected here
        self.die(1, body=b"no task")
        self.assertEqual((self.left(), self.messages(PARKED_QUEUE)), (1, 0))

    def test_the_connection_goes(self) -> None:
        """A letter that was unsettled when the connection was lost is delivered again, and ends its
        task once.
        """
        barrier = self.replica.barrier
        self.replica.barrier = Deferred  # type: ignore[method-assign] # a fault is injected here
        self.die(1)
        self.network.cut("broker")
        self.replica.barrier = barrier  # type: ignore[method-assign] # the method is put back
        self.network.settle()
        self.reconnected(self.connection)
        self.network.settle()
        self.assertEqual(
            (self.state(1), len(self.finished()), self.messages(PARKED_QUEUE), self.left()),
            (State.FAILED, 1, 1, 0),
        )

    def test_stopped(self) -> None:
        """If the worker stops while a letter waits for the broker, no timer is left."""
        self.replica.barrier = lambda: fail(Overloaded("full"))  # type: ignore[method-assign] # a fault is injected here
        self.die(1)
        self.disconnect(self.connection)
        self.disconnect(self.outside_connection)
        self.assertEqual(self.messages(SHARD.dead), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_error_of_ours(self) -> None:
        """An internal error is logged, and the letter is tried again after a pause."""
        needs_no_call = self.store.needs_no_call
        self.store.needs_no_call = lambda *of: 1 // 0 == 0  # type: ignore[method-assign] # a fault is injected here
        self.die(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.store.needs_no_call = needs_no_call  # type: ignore[method-assign] # the method is put back
        self.network.advance(RETURN_PAUSE_S)
        self.assertEqual(
            (self.state(1), self.messages(PARKED_QUEUE), self.left()), (State.FAILED, 1, 0)
        )
