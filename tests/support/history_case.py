"""A history in a temporary folder, whose thread and replica are replaced by fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.history.history import History
from rtprov.history.shard_history import ShardHistory
from rtprov.messaging.topology import Shard
from rtprov.reports import FoundTask, TaskFilter
from tests.support.ended_tasks import EPOCH, numbers
from tests.support.storage_cases import Writer

SHARD = Shard(0, 1)
ALL = TaskFilter()


@define(eq=False)
class Memory:
    """The replica in memory: tasks that have ended."""

    tasks: list[FoundTask] = field(factory=list)

    def ended_before(self, before: tuple[float, str]) -> Iterator[FoundTask]:
        ordered = sorted(self.tasks, key=_end, reverse=True)
        return (task for task in ordered if _end(task) < before)


class Thread(Writer):
    """A fake thread. Its calls fail with `error`, if that is not None."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None

    def run(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return super().run(function, *arguments) if self.error is None else fail(self.error)


class HistoryCase(SynchronousTestCase):
    """Starts a history. The wall clock begins at `EPOCH`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.memory = Memory()
        self.directory = Path(self.mktemp())
        self.start()

    def start(self, *, offset: int = 0, at: float = 0.0) -> None:
        """Start a process. Its journal begins with this offset, at `at` seconds after `EPOCH`."""
        self.thread = Thread()
        self.history = History(
            self.directory,
            30,
            run=self.thread.run,
            monotonic=self.clock.seconds,
            clock=cast("IReactorTime", self.clock),
            wall_clock=self.now,
        )
        self.shard = self.history.shard(
            SHARD, ended_before=self.memory.ended_before, whole=lambda: offset == 0
        )
        self.history.privilegedStartService()
        self.history.startService()
        self.shard.began(EPOCH + at)
        self.addCleanup(self.stop, self.history)

    def attach(self) -> None:
        """The journal is replayed."""
        self.successResultOf(
            Deferred.fromCoroutine(self.shard.attach(None))  # type: ignore[arg-type] # not used
        )
        self.clock.advance(0)

    def stop(self, history: History) -> None:
        """Stop the process, as twistd would; check that no timer is left."""
        if history.running:
            self.thread.held, self.thread.error = False, None
            self.shard.detach()
            self.successResultOf(history.stopService())
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def restart(self, *, offset: int = 0, at: float = 0.0) -> None:
        self.stop(self.history)
        self.start(offset=offset, at=at)

    def now(self) -> float:
        return EPOCH + self.clock.seconds()

    def end(self, *tasks: FoundTask, shard: ShardHistory | None = None) -> None:
        """Tasks end: the replica knows them, and reports them."""
        for task in tasks:
            self.memory.tasks.append(task)
            if self.shard.replayed:
                (shard or self.shard).ended(task)

    def forget(self, before: float) -> None:
        """The replica forgets the tasks that ended before this time, unless they are needed."""
        if not self.shard.catching_up:
            self.shard.forgotten(EPOCH + before)
            kept = [task for task in self.memory.tasks if _end(task)[0] >= EPOCH + before]
            self.memory.tasks[:] = kept

    def found(self) -> list[int]:
        """Return the numbers of all tasks in the history."""
        return numbers(self.successResultOf(self.shard.search(ALL, None, 100)).tasks)

    def covered(self) -> list[tuple[float, float]]:
        """Return what is covered, in seconds after `EPOCH`; from the beginning of time is -1."""
        return [
            (since - EPOCH if since else -1.0, upto - EPOCH)
            for since, upto in self.shard.covered(self.now())
        ]


def _end(task: FoundTask) -> tuple[float, str]:
    return task.details.finished_at or 0.0, task.details.task_id
