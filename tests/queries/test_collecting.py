"""Answers of several replicas with histories: all are collected, and merged into one."""

from __future__ import annotations

from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.rpc import RpcClient
from rtprov.errors import NoReply, NoWorker, Unroutable
from rtprov.messaging.report_messages import encode_found, encode_reasons
from rtprov.queries.collecting import OTHERS_WITHIN_S, REPLY_DEADLINE_S, best_of_days
from rtprov.queries.report_client import ReportClient
from rtprov.reports import (
    Cursor,
    FoundTasks,
    HistoryCounts,
    ReasonCounts,
    ReplicaCoverage,
    ShardReasons,
    TaskFilter,
    merge_found,
)
from tests.support.ended_tasks import EPOCH, ended_task, numbers

ALL = TaskFilter()
FIRST, SECOND = [ended_task(number, float(number), 50.0) for number in (1, 2)]


@define(eq=False)
class Asked:
    """A question that was asked; the test answers it."""

    each: Any
    over: Deferred[bytes] = field(factory=Deferred)


@define(eq=False)
class FakeRpc:
    clock: Clock
    asked: list[Asked] = field(factory=list)

    def subscribe(
        self, routing_key: str, body: bytes, *, exchange: str, timeout_s: float, each: Any
    ) -> Deferred[bytes]:
        asked = Asked(each)
        late = self.clock.callLater(timeout_s, asked.over.errback, NoReply("No reply"))

        def over(result: Any) -> Any:
            if late.active():
                late.cancel()
            return result

        asked.over.addBoth(over)
        self.asked.append(asked)
        return asked.over


class Collecting(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.rpc = FakeRpc(self.clock)
        self.client = ReportClient(
            rpc=cast("RpcClient", self.rpc),
            shards=1,
            clock=cast("IReactorTime", self.clock),
            name="f1",
        )

    def search(self, *, barrier: bool = True) -> Deferred[FoundTasks]:
        return self.client.search(0, ALL, None, 10, barrier=barrier)

    def answer(
        self,
        process: str,
        *tasks: Any,
        upto: Cursor | None = None,
        since: float = 0.0,
        history: bool = True,
    ) -> None:
        replica = ReplicaCoverage(process, [(EPOCH + since, EPOCH + 100.0)], history)
        self.rpc.asked[-1].each(encode_found(FoundTasks(tasks, upto), replica))

    def learn(self, *processes: str) -> None:
        """The client gets to know these replicas."""
        first = self.search()
        for each in processes:
            self.answer(each)
        self.clock.advance(OTHERS_WITHIN_S)
        self.successResultOf(first)

    def test_all_are_asked(self) -> None:
        """An answer is complete when all known histories have answered. Each task is in it once."""
        self.learn("w1", "w2")
        found = self.search()
        self.answer("w1", SECOND)
        self.assertNoResult(found)
        self.answer("w2", SECOND, FIRST)
        self.assertEqual(numbers(list(self.successResultOf(found).tasks)), [2, 1])

    def test_nothing_beyond_a_position(self) -> None:
        """Of a replica that has searched further than another one, older tasks are kept back."""
        self.learn("w1", "w2")
        found = self.search()
        self.answer("w1", SECOND, upto=SECOND.cursor)
        self.answer("w2", FIRST)
        self.assertEqual(
            self.successResultOf(found),
            FoundTasks([SECOND], SECOND.cursor, [(EPOCH, EPOCH + 100.0)]),
        )

    def test_a_replica_that_is_lost(self) -> None:
        """A replica that no longer answers is waited for once. What only it covers is not covered
        then.
        """
        self.learn("w1", "w2")
        found = self.search()
        self.answer("w2", since=70.0)
        self.clock.advance(OTHERS_WITHIN_S)
        self.assertEqual(self.successResultOf(found).covered, [(EPOCH + 70.0, EPOCH + 100.0)])
        found = self.search()
        self.answer("w2")
        self.successResultOf(found)

    def test_a_new_replica(self) -> None:
        """A replica whose first answer comes late is waited for from the next question on."""
        self.learn("w1")
        found = self.search()
        self.answer("w1")
        self.successResultOf(found)
        self.answer("w2")
        found = self.search()
        self.answer("w1")
        self.assertNoResult(found)
        self.answer("w2")
        self.successResultOf(found)

    def test_without_histories(self) -> None:
        """If no replica keeps a history, the first answer counts, and nothing is said of times."""
        first = self.search()
        self.answer("w1", FIRST, history=False)
        self.clock.advance(OTHERS_WITHIN_S)
        self.assertIsNone(self.successResultOf(first).covered)
        found = self.search()
        self.answer("w1", FIRST, history=False)
        self.assertEqual(numbers(list(self.successResultOf(found).tasks)), [1])

    def test_the_last_history_is_lost(self) -> None:
        """If the only worker with a history is lost, its times are not covered by the others."""
        self.learn("w1")
        found = self.search()
        self.answer("w2", since=90.0, history=False)
        self.clock.advance(OTHERS_WITHIN_S)
        self.assertEqual(self.successResultOf(found).covered, [(EPOCH + 90.0, EPOCH + 100.0)])

    def test_earlier_versions(self) -> None:
        """Workers of earlier versions do not say who they are."""
        found = self.search()
        self.rpc.asked[-1].each(b"nonsense")
        self.rpc.asked[-1].each(encode_found(FoundTasks([FIRST])))
        self.clock.advance(OTHERS_WITHIN_S)
        self.assertEqual(self.successResultOf(found), FoundTasks([FIRST]))
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_no_answer(self) -> None:
        """Without any answer, or without any worker, the question fails."""
        found = self.search()
        self.clock.advance(REPLY_DEADLINE_S)
        self.failureResultOf(found, NoReply)
        found = self.search()
        self.rpc.asked[-1].over.errback(Unroutable("no queue"))
        self.failureResultOf(found, NoWorker)

    def test_cancelled(self) -> None:
        """A question that is cancelled leaves no timer."""
        self.learn("w1", "w2")
        self.clock.advance(REPLY_DEADLINE_S)
        found = self.search()
        self.answer("w1")
        found.cancel()
        self.failureResultOf(found)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_further_pieces_end_at_once(self) -> None:
        """A question that continues a search does not listen for late answers."""
        self.learn("w1")
        self.clock.advance(REPLY_DEADLINE_S)
        found = self.search(barrier=False)
        self.answer("w1")
        self.successResultOf(found)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reasons(self) -> None:
        """Of each day the counts of the replica that knows most of it are used; memory counts the
        same tasks, and may know more of the last day.
        """
        asked = self.client.reasons(0, ALL)
        first = {"2024-10-04": {"lost": 3}, "2024-10-05": {"lost": 1}}
        second = {"2024-10-05": {"lost": 2, "A answered 500": 1}}
        for name, days in (("w1", first), ("w2", second)):
            body = encode_reasons(
                ReasonCounts({"lost": 1, "late": 4}),
                ReplicaCoverage(name, [(0.0, EPOCH)], True),
                HistoryCounts(days, name == "w1"),
            )
            self.rpc.asked[-1].each(body)
        self.clock.advance(OTHERS_WITHIN_S)
        expected = {"lost": 5, "A answered 500": 1, "late": 4}
        self.assertEqual(self.successResultOf(asked), ShardReasons(expected, False, [(0.0, EPOCH)]))

    def test_best_of_days(self) -> None:
        """Without histories there are no counts."""
        self.assertEqual(best_of_days([]), {})


class Merging(SynchronousTestCase):
    def test_limit(self) -> None:
        """A merged answer has at most so many tasks as were asked for."""
        merged = merge_found([FoundTasks([FIRST]), FoundTasks([SECOND])], 1)
        self.assertEqual(merged, FoundTasks([SECOND], SECOND.cursor))
