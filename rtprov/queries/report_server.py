"""The worker's answers to the questions of operators: summaries, searches, and ends of tasks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rtprov.messaging.report_messages import (
    EndsAsked,
    ReasonsAsked,
    ReportQuestion,
    SummaryAsked,
    TaskSearch,
    encode_found,
    encode_reasons,
    encode_summary,
)
from rtprov.queries.end_feed import EndFeed
from rtprov.reports import FoundTask, FoundTasks, ReasonCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client.rpc import Reply
    from rtprov.interfaces import TaskReports
    from rtprov.queries.pieces import Pieces
    from rtprov.reports import Cursor

MAX_FOUND = 200
# After this time a search answers with what it has; the front end asks for the rest.
SEARCH_FOR_S = 1.0
COUNT_FOR_S = 2.0


class ReportServer:
    """Answers for one shard from `reports`; a part of a `TaskQueryServer`.

    `pieces` limits how long searches hold up the reactor; all shards of a process share it.
    `wall_clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        reports: TaskReports,
        pieces: Pieces,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self._reports = reports
        self._pieces = pieces
        self._clock = clock
        self._wall_clock = wall_clock
        self._feed = EndFeed(reports=reports, clock=clock, wall_clock=wall_clock)

    def detach(self) -> None:
        """End all reports, because the connection is closed."""
        self._feed.end_all()

    async def answer(self, question: ReportQuestion, reply: Reply) -> None:
        """Answer a question; a barrier that it needs was passed before."""
        if isinstance(question, SummaryAsked):
            reply(encode_summary(self._reports.summary(self._wall_clock())))
        elif isinstance(question, EndsAsked):
            self._feed.begin(question, reply)
        elif isinstance(question, ReasonsAsked):
            reply(encode_reasons(await self._count(question)))
        else:
            reply(encode_found(await self._search(question)))

    async def _search(self, question: TaskSearch) -> FoundTasks:
        limit = min(max(question.limit, 1), MAX_FOUND)
        until = self._clock.seconds() + SEARCH_FOR_S
        found: list[FoundTask] = []
        before = question.before
        while True:
            search = partial(
                self._reports.search,
                question.wanted,
                before,
                limit - len(found),
                self._wall_clock(),
            )
            piece = await self._pieces.run(search)
            found += piece.tasks
            before = piece.upto
            if before is None or len(found) == limit or self._clock.seconds() >= until:
                return FoundTasks(found, before)

    async def _count(self, question: ReasonsAsked) -> ReasonCounts:
        until = self._clock.seconds() + COUNT_FOR_S
        counts: dict[str, int] = {}
        before: Cursor | None = None
        while True:
            count_some = partial(self._reports.reasons, question.wanted, before)
            piece = await self._pieces.run(count_some)
            for reason, count in piece.counts.items():
                counts[reason] = counts.get(reason, 0) + count
            before = piece.upto
            if before is None or self._clock.seconds() >= until:
                return ReasonCounts(counts, before)
