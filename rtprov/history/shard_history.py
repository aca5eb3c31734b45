"""The history of one shard: which ends are written, which are missing, and how to add those.

The replica in memory has all ends within the retention. So an end that is not written at once is
not lost: it is read from the replica later. The ends of a replay, and those that came while the
disk was full, are added in this way.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Protocol, TypeVar

from twisted.internet.defer import Deferred

from rtprov.history.search import HistorySearch, count
from rtprov.intervals import union, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.history.folder import Folder
    from rtprov.intervals import Interval
    from rtprov.messaging.topology import Shard
    from rtprov.reports import Cursor, FoundTask, FoundTasks, HistoryCounts, TaskFilter

# The longest expected delay between the end of a task and its event in the journal. It is long if
# the worker could not reach the broker.
LATEST_S = 86400.0
PIECE = 500  # tasks that are read from memory at once
SEARCH_DEADLINE_S = 1.0
COUNT_DEADLINE_S = 2.0
SEARCH_PIECE_S = 0.1
COUNT_FOR_S = 1.0


T = TypeVar("T")


class Writer(Protocol):
    """What the history of a shard needs from that of the worker (`rtprov.history.history`)."""

    folder: Folder
    wall_clock: Callable[[], float]
    used: bool
    """Whether the folder had a history before this process."""
    trouble: str | None
    """Why the history cannot be written now, None if it can."""

    def add(self, shard: ShardHistory, task: FoundTask) -> None:
        """Write a task soon; if too many wait already, call `ShardHistory.missed`."""

    def flush(self) -> None:
        """Give what is collected to the thread, so that a later call in it sees that."""

    def wake(self) -> None:
        """Check soon whether something must be written."""

    async def write(self, tasks: Sequence[tuple[Shard, FoundTask]]) -> None:
        """Write tasks, and store what is covered. Raises `HistoryUnavailable`."""

    def read(
        self, deadline_s: float, piece_s: float, piece: Callable[[Callable[[], bool]], T]
    ) -> Deferred[T]:
        """Call `piece` in the thread; it gets a function that tells whether `piece_s` seconds are
        over. Fails with `HistoryUnavailable`.
        """

    def intervals(self, shard: Shard) -> list[Interval]:
        """Return from which times a shard's ends are written."""

    def note(self, shard: ShardHistory) -> None:
        """Note up to when a shard's journal was followed; it is stored with the next write."""

    def keep(self, shard: Shard, interval: Interval) -> None:
        """Note that a gap follows these times."""

    def oldest(self, now: float) -> float:
        """Return the time before which nothing is kept."""

    def damaged(self) -> list[Interval]:
        """Return the days whose files cannot be read."""


class ShardHistory:
    """The implementation of `rtprov.interfaces.TaskHistory`, and a session of the worker's
    connection: attach it after the shard's journal.

    `ended_before` yields the ended tasks in memory before a time of end and an id, latest first.
    `whole` returns whether the journal, as it was read, has its very first event.
    """

    def __init__(
        self,
        shard: Shard,
        history: Writer,
        *,
        ended_before: Callable[[tuple[float, str]], Iterator[FoundTask]],
        whole: Callable[[], bool],
    ) -> None:
        self._whole = whole
        self.shard = shard
        self._history = history
        self._ended_before = ended_before
        self._begun = False
        self.replayed = False
        """Whether ends are written as they come. Those of the first replay are added after it."""
        self._live = False
        self._since = 0.0
        self._written_upto = 0.0  # by an earlier process, until what is missing has been added
        self._adding = False
        self.behind: float | None = 0.0
        """Ends at this time or later may be missing (seconds since the epoch); None if none is."""

    # What the worker reports.

    def began(self, at: float) -> None:
        """The first event of the journal that this process has read was written at this time."""
        if self._begun:
            return
        self._begun = True
        # The replay has all ends since `at`, so intervals that reach `at` are joined to one.
        known = self._history.intervals(self.shard)
        reached = [each for each in known if self._whole() or each[1] >= at]
        if reached:
            self._since, self._written_upto = reached[0]
            self.behind = self._written_upto - LATEST_S
        elif self._whole() and not self._history.used:
            self._since = 0.0  # the journal was read from its first event
        else:
            self._since = at

    async def attach(self, connection: AmqpConnection) -> None:
        """The journal was replayed."""
        self.began(self._history.wall_clock())
        self._live = self.replayed = True
        self._history.wake()

    def detach(self) -> None:
        """The connection is closed, so ends may happen that this process does not see."""
        self._history.note(self)
        self._live = False

    def ended(self, task: FoundTask) -> None:
        """A task has ended, after the first replay."""
        self._history.add(self, task)

    def missed(self, since: float) -> None:
        """Ends at this time or later were not written."""
        self.behind = since if self.behind is None else min(self.behind, since)

    def forgotten(self, before: float) -> None:
        """The replica in memory may no longer have ends before this time. If they are missing in
        the history, there is a gap.
        """
        if self.behind is None or not self.replayed or self.behind >= before:
            return
        end = max(self.behind, self._written_upto)
        self.behind = before
        if end < before:
            if self._since < end:
                self._history.keep(self.shard, (self._since, end))
            self._since = before

    # Adding what is missing.

    @property
    def catching_up(self) -> bool:
        """Whether the replica must not forget tasks yet, because they are still to be written."""
        return self._adding or (self.behind is not None and self._history.trouble is None)

    async def catch_up(self) -> bool:
        """Write what is missing; return whether something was. Raises `HistoryUnavailable`."""
        caught_up = False
        while self.replayed and self.behind is not None and not self._adding:
            after, self.behind, self._adding = self.behind, None, True
            try:
                await self._add_from(after)
                caught_up, self._written_upto = True, 0.0
            except BaseException:
                self.missed(after)
                raise
            finally:
                self._adding = False
        return caught_up

    async def _add_from(self, after: float) -> None:
        before = (inf, "")
        while True:
            piece = [
                task
                for task in islice(self._ended_before(before), PIECE)
                if _end_of(task)[0] >= after
            ]
            if not piece:
                return
            await self._history.write([(self.shard, task) for task in piece])
            before = _end_of(piece[-1])

    def interval(self, now: float) -> Interval | None:
        """Return the latest times without a gap, up to `now` (seconds since the epoch); None if
        they end at another time, because ends are missing or the journal is not followed.
        """
        if not self._live or self._adding or self.behind is not None or now <= self._since:
            return None
        return self._since, now

    # See `rtprov.interfaces.TaskHistory`.

    def covered(self, now: float) -> Sequence[Interval]:
        known = self._history.intervals(self.shard)
        latest = self.interval(now)
        if latest is not None:
            known.append(latest)
        found = union(known)
        for day in self._history.damaged():
            found = without(found, day)
        # What is older is not kept on purpose, so it is not missing.
        oldest = self._history.oldest(now)
        if found and found[0][0] <= oldest:
            found[0] = (0.0, found[0][1])
        return found

    def search(self, wanted: TaskFilter, before: Cursor | None, limit: int) -> Deferred[FoundTasks]:
        def piece(out_of_time: Callable[[], bool]) -> FoundTasks:
            folder = self._history.folder
            return HistorySearch(folder, self.shard, wanted, before, out_of_time).tasks(limit)

        return self._history.read(SEARCH_DEADLINE_S, SEARCH_PIECE_S, piece)

    def reasons(self, wanted: TaskFilter) -> Deferred[HistoryCounts]:
        return Deferred.fromCoroutine(self._reasons(wanted))

    async def _reasons(self, wanted: TaskFilter) -> HistoryCounts:
        self._history.flush()
        return await self._history.read(
            COUNT_DEADLINE_S,
            COUNT_FOR_S,
            lambda out_of_time: count(self._history.folder, self.shard, wanted, out_of_time),
        )


def _end_of(task: FoundTask) -> tuple[float, str]:
    return task.details.finished_at or 0.0, task.details.task_id
