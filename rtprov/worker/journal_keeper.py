"""Upkeep of a journal: events that are still needed are written again before the broker drops them.

A journal drops events that are older than its maximum age, and a task may stay open for longer.
When an open task's events have reached half of that age, the active worker writes them to the end
of the journal again. It copies the messages byte for byte, so that fields of other versions are
kept. The request comes last and carries the task's place. A standby does the same at three quarters
of the age, because the active worker may be of a version that does not write events again.

A task that has ended must not look open to a later reader. If an event follows its task's end in
the journal, the end is written again. The cancellation of a task whose message still waits in a
queue is written again like an open task.

If the broker has lost the journal and begun a new one, each worker writes all that it knows to the
new one.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.errors import BrokerError
from rtprov.journal.reconstruct import end_of, events_of
from rtprov.messaging.event_batches import events_of_task
from rtprov.messaging.markers import copy_event
from rtprov.model import Copied, Requested
from rtprov.worker.pace import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.journal.open_tasks import CancelledTask, OpenTask, OpenTasks
    from rtprov.journal.reader import JournalReader
    from rtprov.journal.record import Record
    from rtprov.journal.shard_journal import ShardJournal
    from rtprov.journal.store import Store
    from rtprov.worker.presence import Presence
    from rtprov.worker.shard_worker import ShardWorker

LOOK_S = 60.0
ACTIVE_SHARE, STANDBY_SHARE = 0.5, 0.75  # of the journal's age
BATCH = 200
AT_ONCE = 20


class JournalKeeper:
    """Keeps one shard's journal, `name`, complete.

    A session of the worker's connection: attach it after the shard's worker. `max_age_s` is how
    long the broker keeps the journal's events, in seconds. `wall_clock` gives seconds since the
    epoch.
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
        presence: Presence,
        worker: ShardWorker,
        max_age_s: float,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._store = store
        self._open_tasks = open_tasks
        self._journal = journal
        self._reader = reader
        self._presence = presence
        self._worker = worker
        self._max_age_s = max_age_s
        self._wall_clock = wall_clock
        self._connection: AmqpConnection | None = None
        self._lost = False
        self._work: Deferred[None] | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    async def attach(self, connection: AmqpConnection) -> None:
        """Start checking for old events, every minute."""
        self._connection = connection
        looking = self._looking.start(LOOK_S, now=self._lost)
        looking.addErrback(
            lambda reason: self._log.failure(
                "{journal}: old events are no longer written again", reason, journal=self._name
            )
        )

    def detach(self) -> None:
        """Stop: the connection is closed."""
        self._connection = None
        if self._looking.running:
            self._looking.stop()
        if self._work is not None:
            self._work.cancel()

    def journal_lost(self) -> None:
        """The broker has lost the journal and begun a new one. Once the new journal has been read,
        write to it all that this worker's store has.
        """
        self._lost = True

    @property
    def complete(self) -> bool:
        """Whether the broker's journal has all that this worker's store has. It is False from the
        loss of a journal until everything is written to the new one.
        """
        return not self._lost

    def keeps(self, task_id: str) -> bool:
        """Return whether the end of this task must not be forgotten yet."""
        return task_id in self._open_tasks.cancelled or task_id in self._open_tasks.ends_to_repeat

    def _look(self) -> None:
        if self._work is None and (self._lost or self._due()):
            work = Deferred.fromCoroutine(self._keep())
            if not work.called:
                self._work = work
            work.addBoth(self._done)

    def _done(self, result: Failure | None) -> None:
        self._work = None
        if result is not None and not result.check(CancelledError, BrokerError):
            self._log.failure(
                "{journal}: could not write old events again; trying again in {pause_s:.0f} s",
                result,
                journal=self._name,
                pause_s=LOOK_S,
            )

    # What is old.

    @property
    def _written_before(self) -> float:
        share = ACTIVE_SHARE if self._presence.consuming else STANDBY_SHARE
        return self._wall_clock() - share * self._max_age_s

    def _due(self) -> bool:
        return bool(self._old_tasks() or self._old_cancellations() or self._ends())

    def _old_tasks(self) -> list[OpenTask]:
        now, before = self._wall_clock(), self._written_before
        old: list[OpenTask] = []
        for task in self._open_tasks:
            task.written_at = min(task.written_at, now)  # another machine's clock may be ahead
            if task.written_at < before and len(old) < BATCH:
                old.append(task)
        return old

    def _old_cancellations(self) -> list[CancelledTask]:
        cancelled, before = self._open_tasks.cancelled, self._written_before
        old = [task for task in cancelled.values() if task.written_at < before]
        if self._presence.consuming:
            return old[:BATCH]
        for task in old:  # only the active worker knows whether the message still waits
            if task.written_at < self._wall_clock() - self._max_age_s:
                del cancelled[task.task_id]
        return []

    def _ends(self) -> list[str]:
        if not self._presence.consuming:
            return []
        return list(islice(self._open_tasks.ends_to_repeat, BATCH))

    async def _keep(self) -> None:
        if self._lost:
            await self._fill_new_journal()
            self._lost = False
        while old := self._old_tasks():
            await self._copy_tasks(old)
        if cancelled := self._old_cancellations():
            await self._copy_cancellations(cancelled)
        if ends := self._ends():
            await for_each(ends, self._end_again, at_once=AT_ONCE)

    async def _end_again(self, task_id: str) -> None:
        record = self._store.record(task_id)
        end = None if record is None else end_of(record)
        if end is None:
            self._open_tasks.ends_to_repeat.pop(task_id, None)
        else:
            await self._journal.append(end)

    # Copying what is in the journal.

    async def _read(self, offsets: Iterable[int]) -> dict[int, Delivery]:
        if self._connection is None:
            return {}
        return await self._reader.read(self._connection, offsets)

    async def _copy_tasks(self, tasks: list[OpenTask]) -> None:
        self._log.info(
            "{journal}: writing {n} open tasks again before their events expire",
            journal=self._name,
            n=len(tasks),
        )
        wanted = {
            offset
            for task in tasks
            for offset in (*task.offsets, task.request)
            if offset is not None
        }
        messages = await self._read(wanted)

        async def copy(task: OpenTask) -> None:
            if self._open_tasks.get(task.task_id) is task:
                await self._copy_task(task, messages)

        await for_each(tasks, copy, at_once=AT_ONCE)
        await self._journal.barrier()
        for task in tasks:  # also those that had no request to copy
            task.written_at = self._wall_clock()

    async def _copy_task(self, task: OpenTask, messages: dict[int, Delivery]) -> None:
        copied = Copied(self._wall_clock(), task.place, max(task.offsets, default=-1))
        for offset in list(task.offsets):
            if offset != task.request and offset in messages:
                for body in events_of_task(messages[offset].body, task.task_id):
                    await self._journal.append_message(body)
        message = None if task.request is None else messages.get(task.request)
        if message is not None:
            await self._journal.append_message(copy_event(message.body, copied))
            return
        record = self._store.record(task.task_id)
        for event in [] if record is None else events_of(record, copied):
            await self._journal.append(event)

    async def _copy_cancellations(self, tasks: list[CancelledTask]) -> None:
        messages = await self._read([task.offset for task in tasks])
        for task in tasks:
            message = messages.get(task.offset)
            if message is None:
                self._open_tasks.cancelled.pop(task.task_id, None)
            else:
                copied = Copied(self._wall_clock(), task.place, task.offset)
                await self._journal.append_message(copy_event(message.body, copied))

    # Filling a new journal.

    async def _fill_new_journal(self) -> None:
        records, messages = list(self._store.records()), self._worker.messages()
        self._log.warn(
            "{journal}: the broker began a new journal; writing {n} known tasks to it",
            journal=self._name,
            n=len(records),
        )

        async def tell(record: Record) -> None:
            task = self._open_tasks.get(record.task_id)
            copied = None if task is None else Copied(self._wall_clock(), task.place, -1)
            message = messages.get(record.task_id)
            for event in events_of(record, copied):
                if isinstance(event, Requested) and copied is not None and message is not None:
                    await self._journal.append_message(copy_event(message, copied))
                else:
                    await self._journal.append(event)

        await for_each(records, tell, at_once=AT_ONCE)
        await self._journal.barrier()
