"""The worker's answers to operators' questions, and the merging of several shards."""

from __future__ import annotations

from typing import cast

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.journal import search as search_module
from rtprov.journal.reports import StoreReports
from rtprov.journal.search import Search
from rtprov.journal.store import Store
from rtprov.messaging.report_messages import (
    EndsAsked,
    ReasonsAsked,
    SummaryAsked,
    TaskSearch,
    decode_ends,
    decode_found,
    decode_reasons,
    decode_summary,
)
from rtprov.model import Active, EquipmentState, Finished, Requested, State
from rtprov.queries.merging import MergedSearch, first_tasks
from rtprov.queries.pieces import PIECE_S, Pieces
from rtprov.queries.report_server import ReportServer
from rtprov.reports import Cursor, FoundTasks, TaskFilter
from tests.support.front import FakeReports
from tests.support.journal_folds import task_id

DEVICE = "ABC123456"
ALL = TaskFilter()


class Serving(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.reactor = cast("IReactorTime", self.clock)
        self.store = Store(86400.0)
        self.store.apply(Active("w1", 1.0, 10, EquipmentState.CLOSED))
        self.replies: list[bytes] = []
        self.server = self.make("w1")

    def make(self, process: str) -> ReportServer:
        return ReportServer(
            reports=StoreReports(self.store, process),
            pieces=Pieces(self.reactor),
            clock=self.reactor,
            wall_clock=lambda: 1000.0 + self.clock.seconds(),
        )

    def ask(self, question: SummaryAsked | TaskSearch | ReasonsAsked | EndsAsked) -> Deferred[None]:
        return Deferred.fromCoroutine(self.server.answer(question, self.replies.append))

    def request(self, count: int) -> None:
        for number in range(count):
            self.store.apply(Requested(task_id(number), f"ABC{number:06}", float(number)))

    def end(self, *numbers: int) -> None:
        for number in numbers:
            self.store.apply(Requested(task_id(number), DEVICE, 5.0))
            self.store.apply(Finished(task_id(number), DEVICE, 6.0, State.FAILED, "lost"))

    def pump(self) -> None:
        """Let all turns of the reactor pass that are due now."""
        self.clock.advance(0)

    def ended(self) -> list[tuple[list[int], int]]:
        reports = [decode_ends(body) for body in self.replies]
        return [
            ([int(each.details.task_id, 16) for each in tasks], skipped)
            for tasks, skipped in reports
        ]

    def test_summary(self) -> None:
        """Each replica answers with its own name."""
        self.server = self.make("w2")
        self.successResultOf(self.ask(SummaryAsked()))
        summary = decode_summary(self.replies[0])
        self.assertEqual((summary.process, summary.active, summary.now), ("w2", "w1", 1000.0))

    def test_a_search_in_pieces(self) -> None:
        """A search that examines many tasks does it in pieces, each in a turn of its own."""
        self.request(25_000)
        for number in range(25_000):
            self.store.apply(
                Finished(task_id(number), DEVICE, number + 1.0, State.COMPLETED, "done")
            )
        asked = self.ask(TaskSearch(TaskFilter(ended_before=3000.0), None, 1, False))
        self.assertNoResult(asked)
        self.pump()
        self.successResultOf(asked)
        (found,) = decode_found(self.replies[0])[0].tasks
        self.assertEqual(found.cursor, Cursor(2998.0, task_id(2998)))

    def test_limits(self) -> None:
        """At most 200 tasks are returned, and at least one."""
        self.request(300)
        for limit, expected in ((1000, 200), (-5, 1), (7, 7)):
            asked = self.ask(TaskSearch(ALL, None, limit, False))
            self.pump()
            self.successResultOf(asked)
            self.assertEqual(len(decode_found(self.replies[-1])[0].tasks), expected)

    def test_reasons(self) -> None:
        """Counts of several pieces are added."""
        self.request(25_000)
        for number in (5, 15_000, 24_000):
            self.store.apply(Finished(task_id(number), DEVICE, 1e6, State.FAILED, "lost"))
        asked = self.ask(ReasonsAsked(TaskFilter(ended_after=0.0)))
        self.pump()
        self.successResultOf(asked)
        reasons = decode_reasons(self.replies[0])
        self.assertEqual((reasons.counts, reasons.whole), ({"lost": 3}, True))

    def test_one_piece_a_turn(self) -> None:
        """Pieces of different searches never run in the same turn; each knows when it must end."""
        pieces = Pieces(self.reactor)
        seen: list[tuple[int, bool]] = []

        def piece(number: int) -> Deferred[None]:
            def run(out_of_time: object) -> None:
                assert callable(out_of_time)
                early = bool(out_of_time())
                self.clock.rightNow += PIECE_S
                seen.append((number, not early and bool(out_of_time())))

            return Deferred.fromCoroutine(pieces.run(run))

        running = [piece(number) for number in range(3)]
        self.assertEqual(seen, [(0, True)])
        running[1].cancel()
        self.failureResultOf(running[1])
        self.clock.advance(0)
        self.assertEqual(seen, [(0, True), (2, True)])

    def test_ends(self) -> None:
        """Ends are reported together, five times a second, and not more than ten at a time."""
        self.successResultOf(self.ask(EndsAsked("f1", 10.0)))
        self.end(*range(13))
        self.assertEqual(self.replies, [])
        self.clock.advance(0.2)
        self.end(20)
        self.clock.advance(0.2)
        self.assertEqual(self.ended(), [(list(range(10)), 3), ([20], 0)])

    def test_an_end_counts_once(self) -> None:
        """A repeated end is not reported, nor is one while another process is the active one."""
        self.successResultOf(self.ask(EndsAsked("f1", 10.0)))
        self.end(1)
        self.end(1)
        self.store.apply(Active("w2", 7.0, 10, EquipmentState.CLOSED))
        self.end(2)
        self.clock.advance(0.2)
        self.assertEqual(self.ended(), [([1], 0)])

    def test_followers(self) -> None:
        """A repeated question of a front end replaces its earlier one. Reports end in time, and
        with the connection.
        """
        self.successResultOf(self.ask(EndsAsked("f1", 10.0)))
        self.clock.advance(8)
        self.successResultOf(self.ask(EndsAsked("f1", 10.0)))
        self.clock.advance(8)
        self.end(1)
        self.clock.advance(0.2)
        self.assertEqual(len(self.replies), 1)
        self.clock.advance(2)
        self.end(2)
        self.clock.advance(0.2)
        self.assertEqual(len(self.replies), 1)
        self.successResultOf(self.ask(EndsAsked("f1", 10.0)))
        self.end(3)
        self.server.detach()
        self.assertEqual(self.clock.getDelayedCalls(), [])


@define(eq=False)
class Shards(FakeReports):
    """Several shards, each with a store of its own. A search stops after `piece` tasks."""

    stores: list[Store] = field(factory=list)
    piece: int = 3

    def search(
        self, shard: int, wanted: TaskFilter, before: Cursor | None, limit: int, *, barrier: bool
    ) -> Deferred[FoundTasks]:
        left = [self.piece]

        def out_of_time() -> bool:
            left[0] -= 1
            return left[0] <= 0

        search = Search(self.stores[shard], wanted, before, out_of_time)
        return succeed(search.tasks(limit, self.now))


class Merging(SynchronousTestCase):
    @given(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.booleans()), max_size=25),
        st.integers(1, 5),
        st.integers(1, 4),
    )
    def test_as_one_store(self, tasks: list[tuple[int, int, bool]], limit: int, piece: int) -> None:
        """Pages over several shards are those of one store with all tasks, even if each page is cut
        short by time.
        """
        self.patch(search_module, "LOOK_EVERY", 1)
        stores = [Store(1e9) for _ in range(3)]
        expected: list[tuple[int, str]] = []
        for number, (shard, at, failed) in enumerate(tasks):
            device = f"ABC{number:06}"
            stores[shard].apply(Requested(task_id(number), device, float(at)))
            if failed:
                stores[shard].apply(Finished(task_id(number), device, 50.0, State.FAILED, ""))
                expected.append((at, task_id(number)))
        reports = Shards(stores=stores, shards=["0of3", "1of3", "2of3"], piece=piece)
        wanted = TaskFilter(states=("failed",), accepted_after=0.0)
        found: list[tuple[int, str]] = []
        before: Cursor | None = None
        for _ in range(200):
            search = MergedSearch(reports, wanted, before, limit + 1)
            rounds = [True, True]
            page = self.successResultOf(
                Deferred.fromCoroutine(
                    first_tasks(search, limit + 1, lambda: bool(rounds and rounds.pop()))  # noqa: B023
                )
            )
            found += [(int(each.at), each.details.task_id) for each in page[:limit]]
            if len(page) > limit:
                before = page[limit - 1].cursor
            elif search.ended:
                break
            else:
                before = search.position
        self.assertEqual(found, sorted(expected, reverse=True))
