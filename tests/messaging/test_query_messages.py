"""Messages of task queries, and a worker's server for them."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.rpc import RpcClient
from rtprov.errors import NoReply, NoWorker, UndecodableMessage
from rtprov.journal.reports import StoreReports
from rtprov.journal.store import Store
from rtprov.messaging.query_messages import (
    KeysAsked,
    Listing,
    TaskQuery,
    Watch,
    decode_ended,
    decode_keys,
    decode_known,
    decode_question,
    encode,
    encode_ended,
    encode_keys,
    encode_known,
)
from rtprov.messaging.topology import STATUS_EXCHANGE
from rtprov.model import Attempt, Details, Requested, State, Waiting
from rtprov.queries.barriers import BARRIER_DEADLINE_S
from rtprov.queries.directory import (
    MAX_LISTED,
    REPLY_DEADLINE_S,
    TaskQueryClient,
    TaskQueryServer,
)
from rtprov.queries.pieces import Pieces
from rtprov.queries.report_server import ReportServer
from tests.support.brokered import EPOCH, SHARD, BrokerTestCase, task_id
from tests.support.held_journal import HeldJournal
from tests.support.strategies import equipment_ids, key_ids, task_ids, texts, times

maybe_times = st.none() | times
attempts = st.builds(
    Attempt, st.integers(min_value=1), maybe_times, maybe_times, st.none() | texts, maybe_times
)
details = st.builds(
    Details,
    task_id=task_ids,
    equipment_id=equipment_ids,
    state=st.sampled_from(State),
    requested_at=maybe_times,
    started_at=maybe_times,
    finished_at=maybe_times,
    reason=st.none() | texts,
    attempt_count=st.integers(min_value=0, max_value=1000),
    attempts=st.lists(attempts, max_size=3).map(tuple),
    waits_for=st.none() | st.sampled_from(Waiting),
    ahead=st.integers(min_value=0, max_value=1000),
    expected_at=maybe_times,
    fingerprint=st.none() | texts,
    key=key_ids,
)
questions = st.one_of(
    st.builds(TaskQuery, task_ids, st.none() | equipment_ids, st.booleans()),
    st.builds(
        Listing, equipment_ids, st.none() | task_ids, st.integers(min_value=1, max_value=100)
    ),
    st.builds(
        Watch,
        st.lists(st.tuples(task_ids, equipment_ids), max_size=5),
        st.floats(min_value=0, max_value=60),
    ),
    st.builds(KeysAsked),
)
final = st.sampled_from([state for state in State if state.final])


class Messages(SynchronousTestCase):
    @given(questions)
    def test_questions(self, question: TaskQuery | Listing | Watch | KeysAsked) -> None:
        """A query decodes to what was encoded. Fields of a later version are ignored."""
        self.assertEqual(decode_question(encode(question)), question)
        self.assertEqual(
            decode_question(
                json.dumps({**json.loads(encode(question)), "v": 1, "later": [{}]}).encode()
            ),
            question,
        )

    @given(
        st.lists(details, max_size=3),
        st.lists(st.tuples(st.integers(min_value=0, max_value=499), final), max_size=3),
    )
    def test_answers(self, tasks: list[Details], ended: list[tuple[int, State]]) -> None:
        """The same holds for replies."""
        self.assertEqual(decode_known(encode_known(tasks)), tasks)
        self.assertEqual(decode_ended(encode_ended(ended)), ended)

    def test_keys(self) -> None:
        """A worker's key ids decode to what was encoded. Fields of a later version are ignored."""
        self.assertEqual(
            json.loads(encode_keys(["0a1b2c3d"])), {"kind": "keys", "v": 1, "keys": ["0a1b2c3d"]}
        )
        self.assertEqual(
            decode_keys(b'{"kind": "keys", "keys": ["0a1b2c3d", "x"], "later": 1}'),
            ["0a1b2c3d", "x"],
        )

    @given(st.lists(details, min_size=1, max_size=3))
    def test_earlier_versions(self, tasks: list[Details]) -> None:
        """A front end of an earlier version, without the state "waits for its key", shows such a
        task as waiting for a slot.
        """
        answer = json.loads(encode_known(tasks))
        for sent, task in zip(answer["tasks"], tasks, strict=True):
            known = Waiting.CONCURRENCY if task.waits_for is Waiting.KEY else task.waits_for
            self.assertEqual(sent["waits_for"], None if known is None else known.value)
        for sent in answer["tasks"]:
            del sent["key"]
        del answer["kind"]
        answer.pop("withheld", None)
        earlier = decode_known(json.dumps({"kind": "known", **answer}).encode())
        self.assertEqual([task.task_id for task in earlier], [task.task_id for task in tasks])
        self.assertEqual({task.key for task in earlier}, {None})

    def test_places_that_are_none(self) -> None:
        """A reply is refused if a task that waits for its key is not in it."""
        for place in (-1, 0):
            self.assertRaises(
                UndecodableMessage,
                decode_known,
                b'{"kind": "known", "tasks": [], "withheld": [%d]}' % place,
            )

    def test_not_ended(self) -> None:
        """A task that ended with a state that is not final is refused."""
        self.assertRaises(UndecodableMessage, decode_ended, encode_ended([(0, State.RUNNING)]))

    @given(st.binary(max_size=100) | texts.map(str.encode) | st.just(b"[" * 100_000))
    def test_any_bytes(self, body: bytes) -> None:
        """Arbitrary bytes raise nothing but `UndecodableMessage`."""
        for decode in (decode_question, decode_known, decode_ended, decode_keys):
            with contextlib.suppress(UndecodableMessage):
                decode(body)


class Serving(BrokerTestCase):
    """`TaskQueryServer`, with a `TaskQueryClient`."""

    def setUp(self) -> None:
        super().setUp()
        self.store = Store(86400.0)
        self.held = HeldJournal()
        self.server = TaskQueryServer(
            shard=SHARD,
            replica=self.store,
            journal=self.held,
            reports=ReportServer(
                reports=StoreReports(self.store, "w1"),
                pieces=Pieces(self.clock),
                clock=self.clock,
                wall_clock=self.wall_clock,
            ),
            key_ids=lambda: ["k1"],
            clock=self.clock,
            wall_clock=self.wall_clock,
        )
        self.rpc = RpcClient(clock=self.clock)
        self.directory = TaskQueryClient(rpc=self.rpc, shards=1)
        self.connect([self.rpc])

    def serve(self) -> None:
        self.serving = self.connect([self.server])

    def requested(self, number: int, equipment_id: str = "DEVICE1") -> None:
        self.store.apply(Requested(task_id(number), equipment_id, EPOCH))

    def test_known(self) -> None:
        """What the replica knows is returned, after a barrier if one is requested."""
        self.serve()
        self.requested(1)
        told = self.result(self.directory.details(task_id(1), "DEVICE1", barrier=False))
        self.assertEqual(told, self.store.details(task_id(1), None, self.wall_clock()))
        behind = self.directory.details(task_id(1), "DEVICE1", barrier=True)
        self.network.settle()
        self.assertNoResult(behind)
        self.held.barriers[0].callback(None)
        self.assertEqual(self.result(behind), told)
        self.assertIsNone(self.result(self.directory.details(task_id(1), "DEVICE2", barrier=False)))

    def test_found_behind_the_barrier(self) -> None:
        """A task that is requested without its equipment is unknown only if it is unknown after a
        barrier.
        """
        self.serve()
        found: Deferred[Details | None] = self.directory.find(task_id(1))
        self.network.settle()
        self.requested(1)
        self.held.barriers[0].callback(None)
        details = self.result(found)
        assert details is not None
        self.assertEqual(details.equipment_id, "DEVICE1")

    def test_pages(self) -> None:
        """A reply has at most one page, and one more task that shows that there is a next page,
        whatever limit is requested.
        """
        self.serve()
        for number in range(150):
            self.requested(number)
        for limit, size in ((10, 10), (1000, MAX_LISTED), (-5, 0)):
            listed = self.directory.tasks_of("DEVICE1", None, limit)
            self.network.settle()
            self.held.barriers.pop().callback(None)
            self.assertEqual(len(self.result(listed)), size)

    def test_no_barrier(self) -> None:
        """A query whose barrier fails or takes too long is not answered. That is one log line
        without a traceback.
        """
        self.serve()
        asked = [self.directory.details(task_id(1), "DEVICE1", barrier=True)]
        self.network.advance(BARRIER_DEADLINE_S)
        self.held.error = NoReply("away")
        asked.append(self.directory.details(task_id(1), "DEVICE1", barrier=True))
        self.network.advance(REPLY_DEADLINE_S)
        for each in asked:
            self.failureResultOf(each, NoReply)
        lines = [line for line in self.logged if "a question about tasks was not" in line]
        self.assertEqual(len(lines), 2)
        self.assertIn("it did not pass within 1.8 s", lines[0])

    def test_nobody(self) -> None:
        """Without a worker, or with one of an earlier version, a query is refused at once."""
        self.failureResultOf(
            self.settled(self.directory.details(task_id(1), "DEVICE1", barrier=False)), NoWorker
        )
        self.failureResultOf(self.settled(self.directory.find(task_id(1))), NoWorker)

    def settled(self, asked: Deferred[Details | None]) -> Deferred[Details | None]:
        self.network.settle()
        return asked

    def test_nonsense(self) -> None:
        """A message that is not a query is logged and not answered. Other queries are not
        affected.
        """
        self.serve()
        asked = self.rpc.call(SHARD.inquiry, b"?", exchange=STATUS_EXCHANGE, timeout_s=1.0)
        self.requested(1)
        self.assertIsNotNone(
            self.result(self.directory.details(task_id(1), "DEVICE1", barrier=False))
        )
        self.network.advance(1.0)
        self.failureResultOf(asked, NoReply)
        self.assertEqual(len(self.flushLoggedErrors(UndecodableMessage)), 1)

    def test_watches_end(self) -> None:
        """A watch ends with its time or with the connection, and leaves no timer."""
        self.serve()
        heard: list[bytes] = []
        for wait_s in (5.0, 50.0):
            watch = encode(Watch([(task_id(1), "DEVICE1"), (task_id(2), "DEVICE1")], wait_s))
            subscription = self.rpc.subscribe(
                SHARD.inquiry, watch, exchange=STATUS_EXCHANGE, timeout_s=60.0, each=heard.append
            )
            subscription.addErrback(lambda reason: None)
        self.network.advance(6.0)
        self.assertEqual(self.server.watched, 2)
        self.disconnect(self.serving)
        self.assertEqual((self.server.watched, heard), (0, []))
