"""Status questions from a front end's `StatusClient` to a worker's `StatusServer`, on the embedded
broker.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.rpc import RpcClient, serve
from rtprov.amqp.client.service import BrokerConnection
from rtprov.errors import BrokerUnavailable, NoReply, NoWorker, Overloaded
from rtprov.journal.store import Store
from rtprov.messaging.status_messages import decode_status_request, encode_status_reply
from rtprov.messaging.topology import Shard, declare_status
from rtprov.model import Finished, Requested, State, shard_of
from rtprov.queries.barriers import BARRIER_DEADLINE_S
from rtprov.queries.status import (
    HOLD_S,
    MAX_BATCH,
    MAX_PENDING,
    REPLY_DEADLINE_S,
    WATCH_EVERY_S,
    StatusClient,
    StatusServer,
)
from tests.support.brokered import EPOCH, SHARD, BrokerTestCase, task_id
from tests.support.held_journal import HeldJournal
from tests.support.scale import slow

Answer = Deferred["State | None"]


@define(eq=False)
class Worker:
    """A session that answers status requests with the results of `reply`, and keeps the
    requests.
    """

    shard: Shard
    reply: Callable[[list[tuple[str, str]], bool], bytes | Deferred[bytes]]
    requests: list[tuple[list[tuple[str, str]], bool]] = field(factory=list)

    async def attach(self, connection: AmqpConnection) -> None:
        channel = await connection.open_channel()
        queue = await declare_status(channel, self.shard)
        await serve(channel, queue, self._answer, prefetch=100)

    async def _answer(self, body: bytes) -> bytes:
        request = decode_status_request(body)
        self.requests.append(request)
        reply = self.reply(*request)
        return await reply if isinstance(reply, Deferred) else reply

    def detach(self) -> None: ...


def all_running(pairs: list[tuple[str, str]], barrier: bool) -> bytes:
    return encode_status_reply([State.RUNNING] * len(pairs))


class StatusTestCase(BrokerTestCase):
    """A connected front end; each test starts its workers."""

    def setUp(self) -> None:
        super().setUp()
        rpc = RpcClient(clock=self.clock)
        self.client = StatusClient(rpc=rpc, shards=len(self.shards), clock=self.clock)
        self.frontend = self.connect([rpc])

    def worker(
        self,
        reply: Callable[[list[tuple[str, str]], bool], bytes | Deferred[bytes]] = all_running,
        shard: Shard = SHARD,
    ) -> Worker:
        worker = Worker(shard, reply)
        self.worker_connection = self.connect([worker])
        return worker

    def ask(self, *numbers: int, equipment_id: str = "DEVICE1") -> list[Answer]:
        return [self.client.status(task_id(number), equipment_id) for number in numbers]

    def settled(self, answers: list[Answer]) -> list[State | None]:
        """Return the results, which must be available without time passing."""
        self.network.settle()
        return [self.successResultOf(answer) for answer in answers]

    def refused(self, answers: list[Answer], kind: type[Exception], within_s: float = 0.0) -> None:
        self.network.advance(within_s)
        for answer in answers:
            self.failureResultOf(answer, kind)


class Watching(StatusTestCase):
    """The client watches whether a worker answers, without any requests, and logs each change."""

    def setUp(self) -> None:
        super().setUp()
        rpc = RpcClient(clock=self.clock)
        self.client = StatusClient(rpc=rpc, shards=2, clock=self.clock)
        self.watcher = self.connect([rpc, self.client])

    shards = tuple(Shard(index, 2) for index in range(2))

    def told(self) -> list[str]:
        return [line for line in self.logged if "answers on" in line]

    def test_no_worker_at_the_start(self) -> None:
        """A front end that finds no worker logs that for each shard, once, soon after it has
        connected, and again once a worker answers.
        """
        self.assertEqual(self.told(), [])
        self.network.advance(WATCH_EVERY_S)
        self.assertEqual(
            [line.split(":")[0] for line in self.told()],
            [f"no worker answers on status.{k}of2" for k in range(2)],
        )
        self.network.advance(60)
        self.assertEqual(len(self.told()), 2)
        self.worker(shard=self.shards[1])
        self.network.advance(WATCH_EVERY_S)
        self.assertEqual(self.told()[2:], ["a worker answers on status.1of2 again"])

    def test_a_worker_that_goes(self) -> None:
        """A worker that stops is logged. If another one replaces it in time, nothing is logged."""
        for shard in self.shards:
            self.worker(shard=shard)
        self.network.advance(60)
        self.assertEqual(self.told(), [])
        self.disconnect(self.worker_connection)
        self.network.advance(WATCH_EVERY_S)
        self.assertEqual(
            [line.split(":")[0] for line in self.told()], ["no worker answers on status.1of2"]
        )
        self.worker(shard=self.shards[1])
        self.network.advance(WATCH_EVERY_S)
        self.disconnect(self.worker_connection)
        self.worker(shard=self.shards[1])
        self.network.advance(60)
        self.assertEqual(self.told()[1:], ["a worker answers on status.1of2 again"])

    def test_a_worker_that_is_silent(self) -> None:
        """A worker that does not answer gets one question at a time, and is not logged as
        missing.
        """
        asked: list[Deferred[bytes]] = []

        def silent(pairs: list[tuple[str, str]], barrier: bool) -> Deferred[bytes]:
            asked.append(Deferred())
            return asked[-1]

        for shard in self.shards:
            self.worker(silent, shard)
        self.network.advance(WATCH_EVERY_S)
        self.assertEqual(len(asked), 2)
        self.network.advance(REPLY_DEADLINE_S / 2)
        self.assertEqual(len(asked), 2)
        self.network.advance(REPLY_DEADLINE_S + WATCH_EVERY_S)
        self.assertEqual((len(asked), self.told()), (4, []))

    def test_reconnected(self) -> None:
        """Without a connection the client does not watch. A new connection logs nothing twice."""
        self.network.advance(WATCH_EVERY_S)
        self.network.cut("broker")
        self.network.settle()
        self.reconnected(self.watcher)
        self.network.advance(60)
        self.assertEqual(len(self.told()), 2)
        self.disconnect(self.watcher)
        self.network.advance(60)
        self.assertFalse(self.client._watch.running)


class Batching(StatusTestCase):
    shards = tuple(Shard(index, 2) for index in range(2))

    def test_one_message_a_turn_and_shard(self) -> None:
        """The questions of one reactor turn are sent in one message for each shard. Their answers
        keep the order.
        """
        states = [State.RUNNING, State.COMPLETED, State.FAILED, State.NOT_FOUND]

        def reply(pairs: list[tuple[str, str]], barrier: bool) -> bytes:
            return encode_status_reply([states[int(each, 16) % 4] for each, _ in pairs])

        workers = [self.worker(reply, shard) for shard in self.shards]
        answers = [self.client.status(task_id(number), f"DEVICE{number}") for number in range(40)]
        self.assertEqual(self.settled(answers), states * 10)
        for index, worker in enumerate(workers):
            pairs = [
                (task_id(number), f"DEVICE{number}")
                for number in range(40)
                if shard_of(f"DEVICE{number}", 2) == index
            ]
            self.assertEqual(worker.requests, [(pairs, False)])

    def test_the_next_turn(self) -> None:
        """A question of the next turn is sent in a separate message."""
        workers = [self.worker(shard=shard) for shard in self.shards]
        first = self.ask(1)
        self.clock.advance(0)
        self.settled(first + self.ask(2))
        self.assertEqual(sorted(len(worker.requests) for worker in workers), [0, 2])

    def test_two_messages_at_once(self) -> None:
        """While two messages to a shard are under way, further questions wait for a reply, and
        share the next message. They wait for 20 ms at most.
        """
        replies: list[Deferred[bytes]] = []

        def reply(pairs: list[tuple[str, str]], barrier: bool) -> Deferred[bytes]:
            replies.append(Deferred())
            return replies[-1]

        worker = self.worker(reply, self.shards[0])
        equipment_id = next(
            name for name in map("DEVICE{}".format, range(9)) if shard_of(name, 2) == 0
        )
        answers = []
        for _ in range(5):
            answers += self.ask(1, equipment_id=equipment_id)
            self.network.settle()
        self.assertEqual([len(pairs) for pairs, _ in worker.requests], [1, 1])
        replies[1].callback(encode_status_reply([State.RUNNING]))
        self.network.settle()
        self.assertEqual([len(pairs) for pairs, _ in worker.requests], [1, 1, 3])
        answers += self.ask(2, 3, equipment_id=equipment_id)
        self.network.settle()
        self.assertEqual(len(worker.requests), 3)
        self.network.advance(HOLD_S)
        self.assertEqual([len(pairs) for pairs, _ in worker.requests], [1, 1, 3, 2])
        for index, size in ((0, 1), (2, 3), (3, 2)):
            replies[index].callback(encode_status_reply([State.RUNNING] * size))
        self.assertEqual(self.settled(answers), [State.RUNNING] * 7)

    def test_a_dead_shard_harms_no_other(self) -> None:
        """If only one shard has a worker, the questions for that shard are answered, and the others
        refused.
        """
        self.worker(shard=self.shards[1])
        for number in range(20):
            equipment_id = f"DEVICE{number}"
            (answer,) = self.ask(1, equipment_id=equipment_id)
            if shard_of(equipment_id, 2):
                self.assertEqual(self.settled([answer]), [State.RUNNING])
            else:
                self.refused([answer], NoWorker)


class Size(StatusTestCase):
    def test_large_batches_are_split(self) -> None:
        """A message has at most 500 questions."""
        worker = self.worker()
        self.assertEqual(self.settled(self.ask(*range(1201))), [State.RUNNING] * 1201)
        self.assertEqual([len(pairs) for pairs, _ in worker.requests], [MAX_BATCH, MAX_BATCH, 201])

    def test_too_many(self) -> None:
        """Questions over the limit are refused at once. When others are answered, there is room
        again.
        """
        self.worker()
        answers = self.ask(*range(MAX_PENDING))
        self.refused(self.ask(1), Overloaded)
        self.assertEqual(set(self.settled(answers)), {State.RUNNING})
        self.assertEqual(self.settled(self.ask(1)), [State.RUNNING])

    @slow
    def test_refused_questions_make_room(self) -> None:
        """Questions that fail, or are sent twice, are counted once."""
        for _ in range(2):
            self.refused(self.ask(*range(MAX_PENDING)), NoWorker)
        self.worker(lambda pairs, barrier: encode_status_reply([None] * len(pairs)))
        for _ in range(2):
            self.assertEqual(set(self.settled(self.ask(*range(MAX_PENDING)))), {None})


class Doubt(StatusTestCase):
    def test_unknown_tasks_are_asked_for_again(self) -> None:
        """A task that a replica does not know is asked for once more, with a barrier. Other
        questions are answered meanwhile.
        """
        behind: Deferred[bytes] = Deferred()

        def reply(pairs: list[tuple[str, str]], barrier: bool) -> bytes | Deferred[bytes]:
            known = encode_status_reply(
                [State.RUNNING if each == task_id(1) else None for each, _ in pairs]
            )
            return behind if barrier else known

        worker = self.worker(reply)
        known, late, bogus = self.ask(1, 2, 3)
        self.assertEqual(self.settled([known]), [State.RUNNING])
        self.assertNoResult(late)
        self.assertEqual(
            worker.requests[1:], [([(task_id(2), "DEVICE1"), (task_id(3), "DEVICE1")], True)]
        )
        behind.callback(encode_status_reply([State.RUNNING, None]))
        self.assertEqual(self.settled([late, bogus]), [State.RUNNING, None])
        self.assertEqual(len(worker.requests), 2)

    def test_doubtful_questions_are_asked_apart(self) -> None:
        """Questions with a barrier are never in one message with questions without."""

        def reply(pairs: list[tuple[str, str]], barrier: bool) -> bytes:
            return encode_status_reply(
                [State.RUNNING if each == task_id(1) else None for each, _ in pairs]
            )

        worker = self.worker(reply)
        known, unknown = self.ask(1, 2)
        more: list[Answer] = []

        def ask_more(_: object) -> None:  # in the same turn in which the unknown one is asked again
            more.extend(self.ask(3))

        known.addCallback(ask_more)
        self.assertEqual(self.settled([unknown]), [None])
        self.assertEqual(self.settled(more), [None])
        numbers = [
            ([int(each, 16) for each, _ in pairs], barrier) for pairs, barrier in worker.requests
        ]
        self.assertEqual(numbers, [([1, 2], False), ([3], False), ([2], True), ([3], True)])


class Trouble(StatusTestCase):
    def no_worker_lines(self) -> list[str]:
        return [line for line in self.logged if "answers on" in line]

    def test_no_worker(self) -> None:
        """Without a worker every question is refused at once, and that is logged once. The next
        answer is logged too.
        """
        for _ in range(3):
            self.refused(self.ask(1, 2), NoWorker)
        self.assertEqual(len(self.no_worker_lines()), 1)
        self.assertIn("another --shards", self.no_worker_lines()[0])
        self.worker()
        for _ in range(2):
            self.assertEqual(self.settled(self.ask(1)), [State.RUNNING])
        self.assertEqual(len(self.no_worker_lines()), 2)
        self.disconnect(self.worker_connection)
        self.refused(self.ask(1), NoWorker)
        self.assertEqual(len(self.no_worker_lines()), 3)

    def test_a_worker_that_is_silent(self) -> None:
        """A question without an answer within 2 s is refused. A later answer is dropped."""
        late: Deferred[bytes] = Deferred()
        self.worker(lambda pairs, barrier: late)
        answers = self.ask(1)
        self.network.advance(REPLY_DEADLINE_S - 0.1)
        self.assertNoResult(answers[0])
        self.refused(answers, NoReply, 0.1)
        late.callback(encode_status_reply([State.RUNNING]))
        self.network.settle()

    def test_answers_that_make_no_sense(self) -> None:
        """An answer that cannot be decoded, or has the wrong length, refuses its questions. Others
        are not affected.
        """
        replies = [
            b"?",
            b"\xff",
            encode_status_reply([]),
            encode_status_reply([State.RUNNING] * 2),
            b'{"kind":"states","states":["gone"]}',
        ]
        worker = self.worker()
        for reply in replies:
            worker.reply = lambda pairs, barrier, reply=reply: reply  # type: ignore[misc] # mypy cannot infer the default's type
            self.refused(self.ask(1), NoReply)
        worker.reply = all_running
        self.assertEqual(self.settled(self.ask(1)), [State.RUNNING])
        self.assertEqual(len(self.flushLoggedErrors()), 3)

    def test_what_cannot_be_asked(self) -> None:
        """A question that cannot be encoded is refused at once."""
        self.worker()
        self.refused([self.client.status("\ud800", "DEVICE1")], NoReply)
        self.assertEqual(len(self.flushLoggedErrors(UnicodeEncodeError)), 1)

    def test_cancelled(self) -> None:
        """The answer to a cancelled question is dropped. The others of its batch get theirs."""
        self.worker()
        gone, kept = self.ask(1, 2)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.assertEqual(self.settled([kept]), [State.RUNNING])

    def test_cancelled_under_way(self) -> None:
        """The same holds for a question that is cancelled while its batch is under way, whether it
        is answered or refused.
        """
        reply: Deferred[bytes] = Deferred()
        self.worker(lambda pairs, barrier: reply)
        gone, kept = self.ask(1, 2)
        self.network.settle()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.refused([kept], NoReply, REPLY_DEADLINE_S)

    def test_the_connection_goes(self) -> None:
        """When the front end's connection is lost, its questions are refused at once, and so are
        new ones until it reconnects.
        """
        self.worker(lambda pairs, barrier: Deferred())
        answers = self.ask(1)
        self.network.settle()
        self.network.cut("broker")
        self.refused(answers, NoReply)
        self.refused(self.ask(1), BrokerUnavailable)

    def test_a_worker_that_restarts(self) -> None:
        """When a worker stops, its questions fail. The next worker answers new ones."""
        self.worker(lambda pairs, barrier: Deferred())
        answers = self.ask(1)
        self.network.settle()
        self.disconnect(self.worker_connection)
        self.refused(answers, NoReply, REPLY_DEADLINE_S)
        self.worker()
        self.assertEqual(self.settled(self.ask(1)), [State.RUNNING])


class Serving(StatusTestCase):
    """`StatusServer`, with a `StatusClient`."""

    def setUp(self) -> None:
        super().setUp()
        self.store = Store(86400.0)
        self.held = HeldJournal()
        self.serving = self.serve()

    def serve(self) -> BrokerConnection:
        return self.connect(
            [StatusServer(shard=SHARD, replica=self.store, journal=self.held, clock=self.clock)]
        )

    def finish(self, number: int, state: State) -> None:
        self.store.apply(Finished(task_id(number), "DEVICE1", EPOCH, state, ""))

    def test_known(self) -> None:
        """A known task is answered without a barrier."""
        self.store.apply(Requested(task_id(0), "DEVICE1", EPOCH))
        for number, state in enumerate((State.COMPLETED, State.FAILED, State.NOT_FOUND), 1):
            self.finish(number, state)
        self.assertEqual(
            self.settled(self.ask(0, 1, 2, 3)),
            [State.RUNNING, State.COMPLETED, State.FAILED, State.NOT_FOUND],
        )
        self.assertEqual(self.held.barriers, [])

    def test_unknown(self) -> None:
        """For an unknown task the server waits for a barrier, and answers with what it
        knows then.
        """
        answers = self.ask(1, 2)
        self.network.settle()
        (barrier,) = self.held.barriers
        self.finish(1, State.COMPLETED)
        self.assertNoResult(answers[0])
        barrier.callback(None)
        self.assertEqual(self.settled(answers), [State.COMPLETED, None])

    def test_another_equipments_task(self) -> None:
        """A task of other equipment counts as unknown."""
        self.finish(1, State.COMPLETED)
        answers = self.ask(1, equipment_id="DEVICE2")
        self.network.settle()
        self.held.barriers[0].callback(None)
        self.assertEqual(self.settled(answers), [None])

    def test_a_barrier_that_takes_too_long(self) -> None:
        """If the barrier takes too long, its questions are refused, with one log line and no
        traceback. Known tasks are answered meanwhile.
        """
        self.finish(1, State.COMPLETED)
        answers = self.ask(2)
        self.network.settle()
        self.assertEqual(self.settled(self.ask(1)), [State.COMPLETED])
        self.refused(answers, NoReply, BARRIER_DEADLINE_S)
        (line,) = (line for line in self.logged if "request for unknown tasks" in line)
        self.assertIn("it did not pass within 1.8 s", line)

    def test_a_barrier_that_fails(self) -> None:
        """If the barrier fails, the question is refused at once. It is not answered with
        "unknown".
        """
        self.held.error = Overloaded("full")
        self.refused(self.ask(1), NoReply)
        self.held.error = None
        answers = self.ask(1)
        self.network.settle()
        self.held.barriers[0].callback(None)
        self.assertEqual(self.settled(answers), [None])

    def test_stopped_behind_the_barrier(self) -> None:
        """If a worker stops while a question waits for its barrier, nothing is left."""
        answers = self.ask(1)
        self.network.settle()
        self.disconnect(self.serving)
        self.assertTrue(self.held.barriers[0].called)
        self.refused(answers, NoReply, REPLY_DEADLINE_S)

    def test_two_replicas(self) -> None:
        """With two replicas, one may stop and questions are still answered."""
        self.finish(1, State.COMPLETED)
        second = self.serve()
        for _ in range(4):
            self.assertEqual(self.settled(self.ask(1)), [State.COMPLETED])
        self.disconnect(self.serving)
        self.assertEqual(self.settled(self.ask(1)), [State.COMPLETED])
        self.disconnect(second)
        self.refused(self.ask(1), NoWorker)
