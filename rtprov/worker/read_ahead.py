"""Tasks that the window does not reach: their messages are read from the journal.

A broker delivers a queue in its order, and a worker holds at most a window of its messages. If one
caller fills the window, the tasks of the others wait behind it, although they have a right to the
next free slots. The window may also be full of tasks that wait for an earlier task of their device.
The message of that task may come later in the queue, or be lost.

The journal has the messages too. So the worker makes jobs of the first few tasks of each such
caller, and of the tasks that others wait for. Their messages stay in the queue; when they are
delivered, the jobs adopt them, or the messages are acknowledged because the tasks have ended.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rtprov.errors import BrokerError
from rtprov.model import LEAST_URGENCY
from rtprov.worker.census import order_of
from rtprov.worker.job import Job, UndeliveredMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.interfaces import Delivery
    from rtprov.journal.backlog import CallerShare
    from rtprov.journal.open_tasks import OpenTask, OpenTasks
    from rtprov.journal.reader import JournalReader
    from rtprov.journal.store import Store
    from rtprov.worker.call_limiter import CallLimiter

LOOK_AFTER_S = 0.5
# How many tasks of a caller shall wait here for a slot. If fewer than half do, more are read.
ENOUGH = 50
MOST_AT_ONCE = 200  # tasks that are read together
MOST_LOOKED_AT = 5000  # waiting tasks of one caller


class ReadAhead:
    """Finds and reads the tasks of one shard that the window does not reach.

    A session of the worker's connection: attach it after the shard's worker. `name` is the queue's,
    `window` the prefetch, `jobs` the worker's jobs. `key_ids` returns the ids of the keys that this
    process has; tasks that were sealed with another one stay in the queue. `take` is called with
    each order that was read.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        name: str,
        window: int,
        store: Store,
        open_tasks: OpenTasks,
        reader: JournalReader,
        call_limiter: CallLimiter,
        jobs: Mapping[str, Job],
        key_ids: Callable[[], Sequence[str]],
        take: Callable[[Delivery], None],
        clock: IReactorTime,
    ) -> None:
        self._name = name
        self._window = window
        self._store = store
        self._open_tasks = open_tasks
        self._reader = reader
        self._call_limiter = call_limiter
        self._jobs = jobs
        self._key_ids = key_ids
        self._take = take
        self._clock = clock
        self._connection: AmqpConnection | None = None
        self._taken: set[str] = set()  # on this connection
        self._timer: IDelayedCall | None = None
        self._work: Deferred[None] | None = None

    async def attach(self, connection: AmqpConnection) -> None:
        """Begin to look, when the window is full."""
        self._connection = connection
        self._taken.clear()

    def detach(self) -> None:
        """Stop: the connection is closed."""
        self._connection = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._work is not None:
            self._work.cancel()

    def look_soon(self) -> None:
        """Call this when the worker holds more tasks, or fewer, or the journal has a new one."""
        if (
            self._timer is None
            and self._work is None
            and self._connection is not None
            and len(self._jobs) >= self._window
        ):
            self._timer = self._clock.callLater(LOOK_AFTER_S, self._look)

    def _look(self) -> None:
        self._timer = None
        deliveries = [job.delivery for job in self._jobs.values()]
        if sum(each.live for each in deliveries) < self._window:
            return  # the broker delivers more by itself
        room = self._window - sum(isinstance(each, UndeliveredMessage) for each in deliveries)
        tasks = self._wanted(room)
        if not tasks:
            return
        work = Deferred.fromCoroutine(self._read(tasks))
        if not work.called:
            self._work = work
        work.addBoth(self._done)

    def _wanted(self, room: int) -> list[OpenTask]:
        """Return the tasks to read from the journal.

        They are the tasks that tasks here wait for, and the first waiting tasks of two kinds of
        callers: those with few tasks here that wait for a slot, and those whose tasks here are less
        urgent. At most `room` are returned. The first task of each caller that has none here, and
        those that others wait for, may exceed that, by up to one window.
        """
        enough = min(ENOUGH, self._call_limiter.concurrency)
        self._taken = {task_id for task_id in self._taken if task_id in self._open_tasks}
        held = {job.task.task_id for job in self._jobs.values()} | self._taken
        least_urgent = self._least_urgent()
        first = list(islice(self._waited_for(held), MOST_AT_ONCE))
        held.update(task.task_id for task in first)
        more: list[OpenTask] = []
        for caller, share in self._store.backlog.shares.items():
            waiting = self._call_limiter.waiting(caller)
            below = LEAST_URGENCY + 1 if 2 * waiting < enough else least_urgent.get(caller, 0)
            missing = enough - waiting if 2 * waiting < enough else enough
            tasks = list(islice(self._ready(share, held, below), missing))
            first += tasks[: not waiting]
            more += tasks[not waiting :]
            if len(first) >= MOST_AT_ONCE:
                break
        first = first[: max(0, room + self._window)]
        return (first + more[: max(0, room - len(first))])[:MOST_AT_ONCE]

    def _waited_for(self, held: set[str]) -> Iterator[OpenTask]:
        """Yield the first tasks of the devices whose tasks wait here, if they are not `held`."""
        waiting = (job for job in self._jobs.values() if job.running is None)
        for device in dict.fromkeys(job.task.equipment_id for job in waiting):
            task = self._open_tasks.first_of_device(device)
            if task is not None and task.task_id not in held and task.request is not None:
                yield task

    def _least_urgent(self) -> dict[str | None, int]:
        """Return the urgency of each caller's least urgent task that waits here for a slot."""
        found: dict[str | None, int] = {}
        for job in self._jobs.values():
            if job.running is not None and not job.calling:
                caller = job.task.caller
                found[caller] = max(job.task.urgency, found.get(caller, 0))
        return found

    def _ready(self, share: CallerShare, held: set[str], below: int) -> Iterator[OpenTask]:
        """Yield the tasks of one caller that may be called and that the worker does not hold, with
        an urgency below `below`.
        """
        keys = (None, *self._key_ids())
        for record in islice(share, MOST_LOOKED_AT):
            if record.origin.urgency >= below:
                return
            task = None if record.task_id in held else self._open_tasks.get(record.task_id)
            if (
                task is not None
                and record.origin.key in keys
                and task.request is not None
                and self._open_tasks.is_first_of_device(task.task_id, task.equipment_id)
            ):
                yield task

    async def _read(self, tasks: list[OpenTask]) -> None:
        assert self._connection is not None
        offsets = [task.request for task in tasks if task.request is not None]
        messages = await self._reader.read(self._connection, offsets)
        for task in tasks:
            self._taken.add(task.task_id)
            order = order_of(task, messages, self._store)
            if order is not None and self._open_tasks.get(task.task_id) is task:
                self._take(order)

    def _done(self, result: Failure | None) -> None:
        self._work = None
        if result is None:
            self.look_soon()
        elif not result.check(CancelledError, BrokerError):
            self._log.failure(
                "{queue}: could not read tasks from the journal; they wait until the broker"
                " delivers them",
                result,
                queue=self._name,
            )
