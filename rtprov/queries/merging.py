"""Merge the answers of all shards to one search into one list, newest first.

Each shard is asked for more when its tasks are used up. Tasks are kept back until no shard can have
a newer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from rtprov.errors import BrokerError, NoWorker
from rtprov.intervals import Interval, gaps
from rtprov.reports import Cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtprov.interfaces import ShardReports
    from rtprov.reports import FoundTask, FoundTasks, TaskFilter


@define(eq=False)
class _Source:
    """One shard: tasks that were found and not yet used, and where its search goes on.

    `upto` is None if the search has come to its end.
    """

    shard: int
    upto: Cursor | None
    tasks: list[FoundTask] = field(factory=list)  # the newest last
    begun: bool = False
    ended: bool = False
    covered: Sequence[Interval] | None = None

    @property
    def asks(self) -> bool:
        """Whether it must ask for more."""
        return not self.tasks and not self.ended

    def take(self, found: FoundTasks) -> None:
        self.tasks = list(reversed(found.tasks))
        self.begun, self.upto, self.ended = True, found.upto, found.upto is None
        self.covered = found.covered


class MergedSearch:
    """The tasks of all shards that `wanted` selects, older than `before`; newest first.

    `piece` is how many tasks a shard is asked for at once. `incomplete` has the names of the shards
    that gave no answer; their tasks are missing.
    """

    def __init__(
        self, reports: ShardReports, wanted: TaskFilter, before: Cursor | None, piece: int
    ) -> None:
        self._reports = reports
        self._wanted = wanted
        self._piece = piece
        self._before = before
        self._sources = [_Source(index, before) for index in range(len(reports.shards))]
        self.incomplete: list[str] = []

    async def more(self) -> list[FoundTask]:
        """Ask the shards that have nothing left, once; return the tasks that are known to be next.

        There may be none although others follow; see `ended`. A shard that gives no answer is left
        out from then on. Raises its error if that is true of all shards.
        """
        asking = [source for source in self._sources if source.asks]
        asked = [Deferred.fromCoroutine(self._ask(source)) for source in asking]
        for (worked, result), source in zip(
            await DeferredList(asked, consumeErrors=True), asking, strict=True
        ):
            if not worked:
                assert isinstance(result, Failure)
                self._leave_out(source, result)
        return self._next()

    @property
    def ended(self) -> bool:
        """Whether no task is left."""
        return all(source.ended and not source.tasks for source in self._sources)

    @property
    def position(self) -> Cursor | None:
        """The position up to which all tasks were returned; None if nothing is known yet."""
        asking = [source.upto for source in self._sources if source.asks]
        known = [upto for upto in asking if upto is not None]
        # All tasks that are kept back are older than the newest of these positions.
        return max(known) if known and len(known) == len(asking) else self._before

    def uncovered(self, oldest: float) -> dict[str, list[Interval]]:
        """Return the times from which no live worker has all tasks, by shard, as far as the tasks
        matter that were accepted at `oldest` or later (seconds since the epoch).
        """
        names = self._reports.shards
        found = {
            names[source.shard]: uncovered(source.covered, self._wanted, oldest)
            for source in self._sources
        }
        return {name: times for name, times in found.items() if times}

    async def _ask(self, source: _Source) -> None:
        source.take(
            await self._reports.search(
                source.shard, self._wanted, source.upto, self._piece, barrier=not source.begun
            )
        )

    def _leave_out(self, source: _Source, reason: Failure) -> None:
        if reason.check(BrokerError, NoWorker) is None:
            reason.raiseException()
        self.incomplete.append(self._reports.shards[source.shard])
        self._sources.remove(source)
        if not self._sources:
            reason.raiseException()

    def _next(self) -> list[FoundTask]:
        """Take the tasks that are newer than all that may still come."""
        taken: list[FoundTask] = []
        while True:
            waiting = [each.upto for each in self._sources if each.asks]
            best = max(
                (each for each in self._sources if each.tasks),
                key=lambda each: each.tasks[-1].cursor,
                default=None,
            )
            if best is None or any(
                upto is None or upto > best.tasks[-1].cursor for upto in waiting
            ):
                return taken
            taken.append(best.tasks.pop())
            self._before = taken[-1].cursor


async def first_tasks(
    search: MergedSearch, count: int, in_time: Callable[[], bool]
) -> list[FoundTask]:
    """Return the first `count` tasks of a search; fewer if there are no more, or if `in_time`
    returns False before they are found. Raises the error of a shard if none answers.
    """
    tasks: list[FoundTask] = []
    while len(tasks) < count and not search.ended and in_time():
        tasks += await search.more()
    return tasks[:count]


def uncovered(
    covered: Sequence[Interval] | None, wanted: TaskFilter, oldest: float = 0.0
) -> list[Interval]:
    """Return the times of ends that a search is for, and that are not in `covered`: none if that is
    None. Tasks that were accepted before `oldest` do not matter.
    """
    if covered is None:
        return []
    since = max(oldest, wanted.accepted_after or 0.0, wanted.ended_after or 0.0)
    upto = float("inf") if wanted.ended_before is None else wanted.ended_before
    return gaps(covered, since, upto)
