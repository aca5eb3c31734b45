"""A worker's history: collects ended tasks in batches, which one thread writes.

What cannot be written stays in the replica in memory, and is added once the disk works again. So
nothing waits in a queue without an end, and no task waits for the history.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rtprov.errors import HistoryUnavailable
from rtprov.history.folder import DAY_S, Folder, times_of
from rtprov.history.shard_history import ShardHistory
from rtprov.history.thread import HistoryThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.intervals import Interval
    from rtprov.messaging.topology import Shard
    from rtprov.reports import FoundTask

T = TypeVar("T")

WRITE_AFTER_S = 1.0
LOOK_EVERY_S = 60.0  # how often what is covered is stored, if no task ends
RETRY_S = 10.0
REMOVE_EVERY_S = 3600.0
BATCH = 1000  # tasks that are written at once without waiting for more
MAX_BUFFERED = 10_000  # tasks that are not written yet; further ones are added later
WRITE_DEADLINE_S = 30.0
CLOSE_DEADLINE_S = 10.0


class History(Service):
    """The history of all shards of a worker process, in `directory`, for `days` days.

    `run` calls a function in the history's thread, one call at a time and in order. Its Deferred
    fires with the result, or fails with the error. `monotonic` returns seconds, in that thread.
    `wall_clock` returns seconds since the epoch.

    The folder is opened when the service starts, not earlier: twistd may fork before that, and an
    open SQLite database does not survive a fork.
    """

    _log = Logger()

    def __init__(
        self,
        directory: Path,
        days: int,
        *,
        run: Callable[..., Deferred[Any]],
        monotonic: Callable[[], float],
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._days = days
        self._thread = HistoryThread(run, clock)
        self._monotonic = monotonic
        self._clock = clock
        self.wall_clock = wall_clock
        self.folder: Folder
        self._intervals: dict[str, list[Interval]] = {}
        self.used = False
        """Whether the folder had a history before this process."""
        self._shards: dict[str, ShardHistory] = {}
        self._buffer: list[tuple[ShardHistory, FoundTask]] = []
        self._unwritten = 0  # tasks that the thread has, and has not written yet
        self._timer: IDelayedCall | None = None
        self._work: Deferred[None] | None = None
        self._removed_at: float | None = None
        self._open = False
        self.trouble: str | None = None
        """Why the history cannot be written now, None if it can."""

    def shard(
        self,
        shard: Shard,
        *,
        ended_before: Callable[[tuple[float, str]], Iterator[FoundTask]],
        whole: Callable[[], bool],
    ) -> ShardHistory:
        """Return the history of a shard; the arguments are those of `ShardHistory`."""
        made = self._shards[str(shard)] = ShardHistory(
            shard, self, ended_before=ended_before, whole=whole
        )
        return made

    # The service.

    def privilegedStartService(self) -> None:
        """Open the folder. Raises `ConfigurationError`."""
        super().privilegedStartService()
        self.folder = Folder(self._directory)
        self._intervals = self.folder.coverage
        self.used = bool(self._intervals)
        self._open = True

    def startService(self) -> None:
        super().startService()
        self._wake_in(WRITE_AFTER_S)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self.close())

    async def close(self) -> None:
        """Write what is left, and close the folder."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._work is not None:
            self._work.cancel()
        try:
            await self._write_buffer()
            self._open = False
            await self._thread.call(CLOSE_DEADLINE_S, self.folder.close)
        except HistoryUnavailable as error:
            self._log.warn(
                "{folder}: the last tasks of the history could not be written: {error}; they are"
                " added from the journal at the next start",
                folder=self._directory,
                error=error,
            )
        finally:
            self._open = False

    # What a `ShardHistory` needs.

    def intervals(self, shard: Shard) -> list[Interval]:
        """Return from which times a shard's ends are written, without gaps between."""
        return list(self._intervals.get(str(shard), ()))

    def note(self, shard: ShardHistory) -> None:
        """Note up to when a shard's journal was followed; it is stored with the next write."""
        latest = shard.interval(self.wall_clock())
        if latest is not None and not self._buffer:
            self._note(str(shard.shard), latest)

    def keep(self, shard: Shard, interval: Interval) -> None:
        """Store the times before a gap, and log the gap."""
        self._note(str(shard), interval)
        self._log.error(
            "shard {shard}: the history has a gap: tasks that ended after {at} were forgotten"
            " before they could be written",
            shard=str(shard),
            at=datetime.fromtimestamp(interval[1], timezone.utc).isoformat(timespec="seconds"),
        )

    def _note(self, shard: str, interval: Interval) -> None:
        known = self._intervals.setdefault(shard, [])
        if known and known[-1][0] == interval[0]:
            known.pop()
        known.append(interval)

    def oldest(self, now: float) -> float:
        """Return the time before which nothing is kept."""
        return now - self._days * DAY_S

    def damaged(self) -> list[Interval]:
        """Return the days whose files cannot be read."""
        return [times_of(day) for day in sorted(self.folder.damaged)]

    def add(self, shard: ShardHistory, task: FoundTask) -> None:
        """Write a task soon; if too many wait already, later from memory."""
        if self.trouble is not None or self._unwritten + len(self._buffer) >= MAX_BUFFERED:
            shard.missed(task.details.finished_at or 0.0)
            return
        self._buffer.append((shard, task))
        self._wake_in(0.0 if len(self._buffer) == BATCH else WRITE_AFTER_S)

    def flush(self) -> None:
        """Give what is collected to the thread, so that a later call in it sees that."""
        if self._buffer:
            self._own(self._write_now())

    def wake(self) -> None:
        """Check soon whether something must be written."""
        self._wake_in(0.0)

    async def write(self, tasks: Sequence[tuple[Shard, FoundTask]]) -> None:
        """Write tasks, and store what is covered. Raises `HistoryUnavailable`."""
        now = self.wall_clock()
        covered = [
            (name, interval)
            for name, shard in self._shards.items()
            if (interval := shard.interval(now)) is not None and not self._buffer
        ]
        kept = [(name, each) for name, known in self._intervals.items() for each in known]
        self._unwritten += len(tasks)
        try:
            await self._thread.call(WRITE_DEADLINE_S, self.folder.write, tasks, [*kept, *covered])
        finally:
            self._unwritten -= len(tasks)
        for name, interval in covered:
            self._note(name, interval)

    def read(
        self, deadline_s: float, piece_s: float, piece: Callable[[Callable[[], bool]], T]
    ) -> Deferred[T]:
        """Call `piece` in the thread; it gets a function that tells whether `piece_s` seconds are
        over. Fails with `HistoryUnavailable`.
        """

        def run() -> T:
            end = self._monotonic() + piece_s
            return piece(lambda: self._monotonic() >= end)

        if not self._open:
            failed: Deferred[T] = Deferred()
            failed.errback(HistoryUnavailable("the history is closed"))
            return failed
        return self._thread.call(deadline_s, run)

    # Writing.

    def _wake_in(self, delay_s: float) -> None:
        if not self.running or not self._open:
            return
        if self._timer is not None:
            if self._timer.getTime() <= self._clock.seconds() + delay_s:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._work is None:
            self._work = self._own(self._write_all())
            if self._work.called:
                self._work = None

    def _own(self, work: Any) -> Deferred[None]:
        running: Deferred[None] = Deferred.fromCoroutine(work)
        running.addErrback(lambda reason: reason.trap(CancelledError) and None)
        running.addErrback(
            lambda reason: self._log.failure(
                "{folder}: writing the history failed unexpectedly; it is tried again",
                reason,
                folder=self._directory,
            )
        )
        return running

    async def _write_all(self) -> None:
        """Write what has been collected, and then what is missing."""
        delay_s = RETRY_S
        try:
            await self._write_buffer()
            caught_up = [await shard.catch_up() for shard in list(self._shards.values())]
            if any(caught_up):
                await self._write_buffer()  # and what is covered now
            await self._remove_old()
            self._report(None)
            delay_s = WRITE_AFTER_S if self._buffer else LOOK_EVERY_S
        except HistoryUnavailable as error:
            self._report(str(error))
        finally:
            self._work = None
            self._wake_in(delay_s)

    async def _write_now(self) -> None:
        try:
            await self._write_buffer()
        except HistoryUnavailable as error:
            self._report(str(error))
            self._wake_in(RETRY_S)

    async def _write_buffer(self) -> None:
        tasks, self._buffer = self._buffer, []
        try:
            await self.write([(shard.shard, task) for shard, task in tasks])
        except BaseException:
            for shard, task in tasks:
                shard.missed(task.details.finished_at or 0.0)
            raise

    async def _remove_old(self) -> None:
        now = self._clock.seconds()
        if self._removed_at is not None and now - self._removed_at < REMOVE_EVERY_S:
            return
        self._removed_at = now
        oldest = self.oldest(self.wall_clock())
        removed = await self._thread.call(WRITE_DEADLINE_S, self.folder.remove_before, oldest)
        for known in self._intervals.values():
            known[:] = [each for each in known if each[1] >= oldest]
        if removed:
            self._log.info(
                "{folder}: removed {count} days of the history that are older than {days} days",
                folder=self._directory,
                count=removed,
                days=self._days,
            )

    def _report(self, trouble: str | None) -> None:
        """Log the start of a problem, and its end, once each."""
        before, self.trouble = self.trouble, trouble
        if (trouble is None) == (before is None):
            return
        if trouble is None:
            self._log.info("{folder}: the history is written again", folder=self._directory)
        else:
            self._log.error(
                "{folder}: the history cannot be written: {error}; tasks are not affected; their"
                " ends are added later, if --retention still keeps them; trying again every"
                " {seconds:.0f} s",
                folder=self._directory,
                error=trouble,
                seconds=RETRY_S,
            )
