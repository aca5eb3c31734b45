"""The worker's answers to the questions of operators: summaries, searches, and ends of tasks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtprov.errors import HistoryUnavailable
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
from rtprov.reports import FoundTask, FoundTasks, ReasonCounts, merge_found

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client.rpc import Reply
    from rtprov.interfaces import TaskHistory, TaskReports
    from rtprov.queries.pieces import Pieces
    from rtprov.reports import Cursor, HistoryCounts, ReplicaCoverage

MAX_FOUND = 200
# After this time a search answers with what it has; the front end asks for the rest.
SEARCH_FOR_S = 1.0
COUNT_FOR_S = 2.0


class ReportServer:
    """Answers for one shard from `reports`; a part of a `TaskQueryServer`.

    `pieces` limits how long searches hold up the reactor; all shards of a process share it.
    `wall_clock` gives seconds since the epoch. `history` has the tasks beyond the retention; None
    if the worker keeps none.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reports: TaskReports,
        pieces: Pieces,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        history: TaskHistory | None = None,
    ) -> None:
        self._reports = reports
        self._history = history
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
            in_history = Deferred.fromCoroutine(self._count_history(question))
            counts = await self._count(question)
            history, replica = await in_history
            reply(encode_reasons(counts, replica, history))
        else:
            found, replica = await self._find(question)
            reply(encode_found(found, replica))

    async def _find(self, question: TaskSearch) -> tuple[FoundTasks, ReplicaCoverage]:
        """Search in memory, and then in the history, if there is one."""
        until = self._clock.seconds() + SEARCH_FOR_S
        found = await self._search(question, until)
        replica = self._reports.replica(self._wall_clock())
        history, wanted = self._history, question.wanted
        if history is None:
            return found, replica
        if question.history and wanted.open_only:  # all open tasks are in memory
            replica = attrs.evolve(replica, covered=[(0.0, self._wall_clock())])
        elif question.history:
            try:
                older = await self._search_history(history, question, until)
            except HistoryUnavailable as error:
                self._warn(error)
            else:
                found = merge_found([found, older], _limit(question))
                replica = self._covering(replica, history)
        return found, attrs.evolve(replica, history=True)

    async def _search_history(
        self, history: TaskHistory, question: TaskSearch, until: float
    ) -> FoundTasks:
        limit, before = _limit(question), question.before
        found: list[FoundTask] = []
        while True:
            piece = await history.search(question.wanted, before, limit - len(found))
            found += piece.tasks
            before = piece.upto
            if before is None or len(found) == limit or self._clock.seconds() >= until:
                return FoundTasks([each for each in found if not self._in_memory(each)], before)

    def _in_memory(self, task: FoundTask) -> bool:
        """Whether the task is found in memory, too, but at another position. The journal may have
        lost the event of its acceptance since it was written to the history.
        """
        known = self._reports.found(task.details.task_id, self._wall_clock())
        return (
            known is not None
            and known.at != task.at
            and known.details.finished_at == task.details.finished_at
        )

    async def _count_history(
        self, question: ReasonsAsked
    ) -> tuple[HistoryCounts | None, ReplicaCoverage]:
        now = self._wall_clock()
        history, replica, wanted = self._history, self._reports.replica(now), question.wanted
        if history is None:
            return None, replica
        since = max(wanted.accepted_after or 0.0, wanted.ended_after or 0.0)
        if not question.history or since >= replica.covered[0][0]:
            return None, attrs.evolve(replica, history=True)
        try:
            counts = await history.reasons(wanted)
        except HistoryUnavailable as error:
            self._warn(error)
            return None, attrs.evolve(replica, history=True)
        return counts, attrs.evolve(replica, covered=history.covered(now), history=True)

    def _covering(self, replica: ReplicaCoverage, history: TaskHistory) -> ReplicaCoverage:
        covered = history.covered(self._wall_clock())
        return attrs.evolve(replica, covered=[*covered, *replica.covered])

    def _warn(self, error: HistoryUnavailable) -> None:
        self._log.warn(
            "a search left out the history, because it could not be read: {error}", error=error
        )

    async def _search(self, question: TaskSearch, until: float) -> FoundTasks:
        limit = _limit(question)
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


def _limit(question: TaskSearch) -> int:
    return min(max(question.limit, 1), MAX_FOUND)
