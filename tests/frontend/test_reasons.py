"""``/api/v1/tasks/failures`` of a front end (B), with fake workers of several shards."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from rtprov.errors import NoWorker
from rtprov.reports import ShardReasons, TaskFilter
from tests.support.front import FakeReports, FrontendTestCase

PATH = "/api/v1/tasks/failures"
GAP = "0of2 before 1970-01-01T00:10:00.000Z"


@define(eq=False)
class TwoShards(FakeReports):
    """Two shards. Each answers with its entry in `answers`, or as no worker does if it has none."""

    shards: tuple[str, ...] = ("0of2", "1of2")
    answers: dict[int, ShardReasons] = field(factory=dict)

    def reasons(self, shard: int, wanted: TaskFilter) -> Deferred[ShardReasons]:
        answer = self.answers.get(shard)
        return fail(NoWorker("No worker is connected")) if answer is None else succeed(answer)


class Reasons(FrontendTestCase):
    reports: TwoShards

    def make_reports(self) -> FakeReports:
        return TwoShards(self.store)

    def test_one_shard_answers(self) -> None:
        """What one shard has is the answer, even if it knows of no failure and its history has
        gaps. The other one is named.
        """
        for counts in ({}, {"A answered 500": 2}):
            self.reports.answers = {0: ShardReasons(counts, False, [(600.0, 1e12)])}
            answer = self.ask("GET", PATH)
            self.assertEqual(answer.status, 200)
            self.assertEqual(
                [(each["reason"], each["count"]) for each in answer.json["failures"]],
                list(counts.items()),
            )
            self.assertEqual(set(answer.json["incomplete"]), {"0of2", GAP, "1of2"})

    def test_no_shard_answers(self) -> None:
        """Without any answer it is a 503."""
        self.assertError(self.ask("GET", PATH), 503, "No worker is connected")
