"""Dead letters on the embedded broker: each ends its task, or is parked, and none is lost."""

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
    """A session of somebody else, who dead-letters a message with a string that is not UTF-8 among
    its headers.
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
        """A task, or whatever `body` is, is dead-lettered."""
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
        """How many dead letters the broker still has, handed out or not."""
        self.disconnect(self.connection)
        return self.messages(SHARD.dead)


class Burial(DeadLettersTestCase):
    def test_delivered_too_often(self) -> None:
        """A task that was delivered more often than allowed has failed, by the broker's newest
        reason; its letter is parked as it was.
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
        """A task whose every delivery ends with a lost connection has failed after the limit, and
        no client waits for ever.
        """
        self.publish_task(make_task(1))
        for _ in range(DELIVERY_LIMIT + 1):
            with self.consuming(SHARD.work) as taken:
                self.assertEqual(len(taken), 1)
        self.network.settle()
        self.assertIs(self.state(1), State.FAILED)
        self.assertIn("delivery_limit", self.finished()[0].reason)

    def test_refused(self) -> None:
        """A letter that the broker made itself carries its reason."""
        self.publish_task(make_task(1))
        with self.consuming(SHARD.work) as (delivery,):
            delivery.nack(requeue=False)
            self.network.settle()
        self.assertEqual([event.reason for event in self.finished()], ["dead-lettered: rejected"])

    def test_a_marker(self) -> None:
        """A marker of the census, which an earlier version of the worker refuses, is dropped."""
        self.die(1, body=encode_census("marker"))
        self.assertEqual((self.finished(), self.messages(PARKED_QUEUE), self.left()), ([], 0, 0))

    def test_no_reason(self) -> None:
        """A letter that says nothing sensible of its death is dealt with all the same."""
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
        """A task that has finished keeps its state; its letter is parked."""
        self.publish_event(Requested(task_id(1), "DEVICE1", EPOCH))
        self.publish_event(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        self.die(1)
        self.assertEqual(
            (self.state(1), len(self.finished()), self.messages(PARKED_QUEUE)),
            (State.COMPLETED, 1, 1),
        )

    def test_no_task(self) -> None:
        """What is no task is parked as it is, and logged without what is in it."""
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
        """A letter whose headers cannot be written again is parked with the broker's reason
        alone.
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
        """So is one whose headers, with what the broker has added, are too large to be published
        again.
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
        """More letters than are taken at a time are all dealt with."""
        for number in range(50):
            self.die(number)
        self.assertEqual(
            (len(self.finished()), self.messages(PARKED_QUEUE), self.left()), (50, 50, 0)
        )


class Keys(DeadLettersTestCase):
    def test_another_body(self) -> None:
        """The message of a key's second body is parked, and the first one's task goes on."""
        self.publish_event(Requested(task_id(1), "DEVICE1", EPOCH, "f1"))
        second = evolve(make_task(1), fingerprint="f2")
        self.die(1, body=encode_task(second))
        self.assertEqual(
            (self.state(1), self.finished(), self.messages(PARKED_QUEUE)), (State.RUNNING, [], 1)
        )

    def test_the_order(self) -> None:
        """The message that is the key's order ends its task, like that of any other."""
        self.publish_event(Requested(task_id(1), "DEVICE1", EPOCH, "f1"))
        self.die(1, body=encode_task(evolve(make_task(1), fingerprint="f1")))
        self.assertEqual((self.state(1), self.messages(PARKED_QUEUE)), (State.FAILED, 1))


class Trouble(DeadLettersTestCase):
    def test_finished_in_front_of_the_barrier(self) -> None:
        """Whether the task has finished is judged behind the barrier, not by a replica that
        lags.
        """
        self.replica._apply = lambda _: None  # the replica learns of it with the barrier only

        def barrier() -> Deferred[None]:
            self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
            return Deferred()

        self.replica.barrier = barrier  # type: ignore[method-assign]
        self.die(1)
        self.assertEqual((len(self.finished()), self.messages(PARKED_QUEUE)), (1, 0))

    def test_a_barrier_that_fails(self) -> None:
        """While the barrier fails the letter waits; then its task is failed and it is parked, on
        the same connection.
        """
        barrier, failures = self.replica.barrier, [BrokerUnavailable("away"), Overloaded("full")]
        self.replica.barrier = lambda: fail(failures.pop()) if failures else barrier()  # type: ignore[method-assign]
        self.die(1)
        self.network.advance(RETRY_PAUSE_S)
        self.assertEqual((failures, self.state(1), self.messages(PARKED_QUEUE)), ([], None, 0))
        self.network.advance(RETRY_PAUSE_S)
        self.assertEqual(
            (self.state(1), self.messages(PARKED_QUEUE), self.left()), (State.FAILED, 1, 0)
        )

    def test_parking_fails(self) -> None:
        """While the broker takes no message the letter stays unsettled; the task has failed once,
        whatever comes.
        """
        publish, failures = self.publisher.publish, [Overloaded("full")] * 2

        def flaky(exchange: str, *rest: Any, **options: Any) -> Deferred[None]:
            return (
                fail(failures.pop())
                if not exchange and failures
                else publish(exchange, *rest, **options)
            )

        self.publisher.publish = flaky  # type: ignore[method-assign]
        self.die(1)
        self.network.advance(RETRY_PAUSE_S)
        self.assertEqual((self.state(1), self.messages(PARKED_QUEUE)), (State.FAILED, 0))
        self.network.advance(RETRY_PAUSE_S)
        self.assertEqual(
            (len(self.finished()), self.messages(PARKED_QUEUE), self.left()), (1, 1, 0)
        )

    def test_parking_never_succeeds(self) -> None:
        """A letter that could not be parked is still with the broker when the worker stops."""
        self.publisher.publish = lambda *rest, **options: fail(Overloaded("full"))  # type: ignore[method-assign]
        self.die(1, body=b"no task")
        self.assertEqual((self.left(), self.messages(PARKED_QUEUE)), (1, 0))

    def test_the_connection_goes(self) -> None:
        """A letter that was not done when the connection went comes again, and ends in the same
        state.
        """
        barrier = self.replica.barrier
        self.replica.barrier = Deferred  # type: ignore[method-assign]
        self.die(1)
        self.network.cut("broker")
        self.replica.barrier = barrier  # type: ignore[method-assign]
        self.network.settle()
        self.reconnected(self.connection)
        self.network.settle()
        self.assertEqual(
            (self.state(1), len(self.finished()), self.messages(PARKED_QUEUE), self.left()),
            (State.FAILED, 1, 1, 0),
        )

    def test_stopped(self) -> None:
        """A letter that waits for the broker leaves nothing behind when the worker stops."""
        self.replica.barrier = lambda: fail(Overloaded("full"))  # type: ignore[method-assign]
        self.die(1)
        self.disconnect(self.connection)
        self.disconnect(self.outside_connection)
        self.assertEqual(self.messages(SHARD.dead), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_error_of_ours(self) -> None:
        """A letter over which we fail is logged and, after a while, tried again."""
        over = self.store.over
        self.store.over = lambda *of: 1 // 0 == 0  # type: ignore[method-assign]
        self.die(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.store.over = over  # type: ignore[method-assign]
        self.network.advance(RETURN_PAUSE_S)
        self.assertEqual(
            (self.state(1), self.messages(PARKED_QUEUE), self.left()), (State.FAILED, 1, 0)
        )
