"""The census: finds open tasks whose message is in no queue, and puts the messages back.

A task's message may be lost although the journal has the task: the queue was purged, deleted while
no worker ran, or restored from an older backup. If the journal has open tasks that a worker does
not hold, the worker publishes a *marker* to the end of the work queue. The queue is first in, first
out. So when the marker is delivered, all earlier messages have been delivered to the same worker. A
task is missing if it was open before the marker was published, is still open after a journal
barrier, and is not held by the worker.

The task's message is read from the journal and published to the end of the queue, in the journal's
order. If the original message was only late, no harm is done: a copy is checked like any
redelivered message.

A worker that has received nothing yet may be a standby. It publishes markers too, unless the
journal shows that another worker is active. The active worker receives and acknowledges them. (A
worker of an earlier version treats a marker as a message that is not a task.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.backoff import backoff_s
from rtprov.errors import BrokerError, UndecodableMessage
from rtprov.messaging.event_messages import decode_task
from rtprov.model import Finished, State
from rtprov.worker.pace import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.journal.open_tasks import OpenTask, OpenTasks
    from rtprov.journal.reader import JournalReader
    from rtprov.journal.shard_journal import ShardJournal
    from rtprov.journal.store import Store
    from rtprov.worker.copies import WorkQueue
    from rtprov.worker.presence import Presence
    from rtprov.worker.shard_worker import ShardWorker

LOOK_S = 5.0  # longer than a front end's publish takes
# The pause between two markers. It doubles up to SELDOM_S while markers do not come back: a long
# queue may be before them.
EVERY_S = 30.0
SELDOM_S = 3600.0
# How long another worker counts as active after its last event. An active worker writes `Active`
# every minute while tasks are open.
RIVAL_S = 150.0
BATCH = 200
AT_ONCE = 50
# How often a task must be found missing before it is failed because the journal has no order of it.
SURE_AFTER = 3


@frozen
class _Marker:
    """A published marker. It concerns tasks whose events are before the journal offset `before`.
    `copies` is the number of the last copy that was published before the marker.
    """

    marker_id: str
    before: int
    copies: int


class Census:
    """Runs the census of one shard's work queue, `name`.

    A session of the worker's connection: attach it after the shard's worker, and call `on_marker`
    with the id of each marker that the worker receives. `repair` is called when a task was missing:
    the queue's binding may be missing too. `wall_clock` gives seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        name: str,
        store: Store,
        open_tasks: OpenTasks,
        journal: ShardJournal,
        reader: JournalReader,
        queue: WorkQueue,
        presence: Presence,
        worker: Callable[[], ShardWorker],
        repair: Callable[[], None],
        new_marker_id: Callable[[], str],
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._store = store
        self._open_tasks = open_tasks
        self._journal = journal
        self._reader = reader
        self._queue = queue
        self._presence = presence
        self._worker = worker
        self._repair = repair
        self._new_marker_id = new_marker_id
        self._clock = clock
        self._wall_clock = wall_clock
        self._connection: AmqpConnection | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._seen_before = 0  # the journal's next offset at the last look
        self._unanswered = 0  # markers in succession that have not come back
        self._next_at = 0.0
        self._marker: _Marker | None = None
        self._work: Deferred[None] | None = None

    # The session.

    async def attach(self, connection: AmqpConnection) -> None:
        """Start looking for missing tasks."""
        self._connection = connection
        self._seen_before = self._journal.next_offset
        self._unanswered, self._next_at = 0, 0.0
        looking = self._looking.start(LOOK_S, now=False)
        looking.addErrback(
            lambda reason: self._log.failure(
                "{queue}: the search for lost tasks has stopped", reason, queue=self._name
            )
        )

    def detach(self) -> None:
        """Stop: the connection is closed."""
        self._connection = self._marker = None
        if self._looking.running:
            self._looking.stop()
        if self._work is not None:
            self._work.cancel()

    def _look(self) -> None:
        before, self._seen_before = self._seen_before, self._journal.next_offset
        now = self._clock.seconds()
        if now < self._next_at or self._work is not None or self._is_standby(now):
            return
        if not self._open_tasks.any_missing(before, self._worker().held_tasks()):
            self._unanswered = 0
            return
        self._marker = _Marker(self._new_marker_id(), before, self._queue.published)
        self._unanswered += 1
        self._next_at = now + backoff_s(self._unanswered, first_s=EVERY_S, longest_s=SELDOM_S)
        self._queue.put_marker(self._marker.marker_id).addErrback(
            lambda reason: reason.trap(BrokerError) and None
        )

    def _is_standby(self, now: float) -> bool:
        """Return whether another worker seems to be the active one."""
        rival_at = self._presence.rival_at
        return not self._presence.consuming and rival_at is not None and now - rival_at < RIVAL_S

    def on_marker(self, marker_id: str) -> None:
        """Call this when the worker has received a marker. If it is the latest one of this process,
        missing tasks are put back.
        """
        marker = self._marker
        if marker is None or marker.marker_id != marker_id:
            return  # an earlier marker, or one of another process
        self._marker = None
        self._unanswered, self._next_at = 0, self._clock.seconds() + EVERY_S
        self._queue.delivered_upto(marker.copies)
        held = self._worker().held_tasks() | self._queue.copies.keys()
        missing = self._open_tasks.missing(marker.before, held)
        work = Deferred.fromCoroutine(self._settle(marker.before, held, missing))
        if not work.called:
            self._work = work
        work.addBoth(self._done)

    def _done(self, result: Failure | None) -> None:
        self._work = None
        if result is not None and not result.check(CancelledError, BrokerError):
            self._log.failure(
                "{queue}: could not put lost tasks back; trying again", result, queue=self._name
            )

    # Missing tasks.

    async def _settle(self, before: int, held: set[str], missing: list[OpenTask]) -> None:
        await self._journal.barrier()
        self._open_tasks.messages_gone(before, held)
        missing = [task for task in missing if self._is_missing(task)]
        if not missing:
            return
        self._log.warn(
            "{queue}: {n} open tasks were in no queue; putting them back",
            queue=self._name,
            n=len(missing),
        )
        self._repair()
        for start in range(0, len(missing), BATCH):
            await self._put_back(missing[start : start + BATCH])

    def _is_missing(self, task: OpenTask) -> bool:
        return (
            self._open_tasks.get(task.task_id) is task
            and task.task_id not in self._worker().held_tasks()
        )

    async def _put_back(self, tasks: list[OpenTask]) -> None:
        connection = self._connection
        if connection is None:
            return
        messages = await self._reader.read(connection, _requests(tasks))

        async def put_back(task: OpenTask) -> None:
            order = order_of(task, messages, self._store)
            if order is None:
                await self._without_order(task)
            else:
                await self._queue.put(task.task_id, order.body, order.headers)

        await for_each(
            [task for task in tasks if self._is_missing(task)], put_back, at_once=AT_ONCE
        )

    async def _without_order(self, task: OpenTask) -> None:
        """Fail a task whose order is neither in a queue nor in the journal, once that has been seen
        `SURE_AFTER` times.
        """
        task.missed += 1
        if task.missed < SURE_AFTER:
            return
        self._log.error(
            "task {task_id} has failed: the broker has lost its order", task_id=task.task_id
        )
        at = self._store.event_time(task.task_id, self._wall_clock())
        reason = "the broker has lost its order"
        await self._journal.append(
            Finished(task.task_id, task.equipment_id, at, State.FAILED, reason)
        )


def _requests(tasks: Iterable[OpenTask]) -> list[int]:
    return [task.request for task in tasks if task.request is not None]


def order_of(task: OpenTask, messages: Mapping[int, Delivery], store: Store) -> Delivery | None:
    """Return the message of the task's order; None if it is not in the journal any more.

    `messages` are messages of the journal by offset.
    """
    message = None if task.request is None else messages.get(task.request)
    if message is None:
        return None
    try:
        order = decode_task(message.body)
    except UndecodableMessage:
        return None
    right = order.task_id == task.task_id
    return (
        message
        if right
        and store.needs_no_call(order.task_id, order.fingerprint, order.accepted_at) is False
        else None
    )
