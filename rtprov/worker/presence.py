"""Which worker process is a shard's active one, and the log lines that only that one writes.

A broker does not tell a consumer whether it is the active one or a standby. A worker takes itself
for the active one when no other consumes the work queue as it comes, and when it gets a delivery.
It then says so in the journal (`rtprov.model.Active`), with how many calls it may have under way
and how A looks to it, so that every replica can tell clients what to expect. The process that the
journal named last is the active one for all replicas; it alone logs the ends of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.model import Active, Cancelled, Finished, Started

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.interfaces import Journal
    from rtprov.journal.store import Store
    from rtprov.messaging.topology import Shard
    from rtprov.model import Event
    from rtprov.worker.call_limiter import CallLimiter

SAY_AGAIN_S = 60.0  # while tasks are open
SAY_AGAIN_SOONEST_S = 1.0  # for a delivery while the journal names another process


class Presence:
    """One shard's. A session of the worker's connection: attach it after the journal, and before
    the work queue is consumed.

    `process_id` names this process in the journal; `wall_clock` gives seconds since the epoch. Give
    `saw` each of the journal's events, and call `delivered` for each task from the work queue."""

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        store: Store,
        journal: Journal,
        gate: CallLimiter,
        process_id: str,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self._shard = shard
        self._store = store
        self._journal = journal
        self._gate = gate
        self._process_id = process_id
        self._clock = clock
        self._wall_clock = wall_clock
        self._named: str | None = None  # by the journal
        # whether the journal has been replayed once: what is seen after that happens now
        self._live = False
        self._role: str | None = None  # as it was logged last
        self._taken = False  # whether it takes itself for the active one, on this connection
        self._said_at: float | None = None
        self.rival_at: float | None = None
        """When the journal last told that another process was at work, on this connection."""
        self._due = False
        self._saying: Deferred[None] | None = None
        self._again = LoopingCall(self._say_again)
        self._again.clock = clock
        gate.watchers.append(self._say)

    @property
    def active(self) -> bool:
        """Whether the journal names this process."""
        return self._named == self._process_id

    @property
    def consuming(self) -> bool:
        """Whether this worker takes itself for the active one, on this connection."""
        return self._taken

    # The session.

    async def attach(self, connection: AmqpConnection) -> None:
        """Learn from the broker whether another worker is there already. Raises `BrokerError`."""
        self._live, self.rival_at = True, None
        channel = await connection.open_channel()
        declared = await channel.queue_declare(queue=self._shard.work, passive=True)
        await channel.channel_close(reply_code=200, reply_text="done")
        again = self._again.start(SAY_AGAIN_S, now=False)
        again.addErrback(
            lambda reason: self._log.failure(
                "shard {shard}: the journal is not told again", reason, shard=str(self._shard)
            )
        )
        if declared.consumer_count:
            self._note("standby", "another worker is active")
        else:
            self._taken = True
            if self.active:
                self._note("active", f"this process, {self._process_id}")
            self._say()

    def detach(self) -> None:
        """The connection is gone: another worker may become the active one."""
        self._taken = False
        if self._again.running:
            self._again.stop()
        if self._saying is not None:
            self._saying.cancel()

    def delivered(self) -> None:
        """The broker has handed out a task here: this worker is the active one."""
        if self._taken and self.active:
            return
        now = self._clock.seconds()
        if not self._taken or self._said_at is None or now - self._said_at >= SAY_AGAIN_SOONEST_S:
            self._taken = True
            self._say()

    # Saying.

    def _say_again(self) -> None:
        if self._store.backlog.open:
            self._say()

    def _say(self) -> None:
        """Have the journal told how things stand. Once at a time: what changes meanwhile is said
        next.
        """
        if not self._taken:
            return
        self._due = True
        self._said_at = self._clock.seconds()
        if self._saying is None:
            saying = Deferred.fromCoroutine(self._tell())
            if not saying.called:
                self._saying = saying
            saying.addBoth(self._told)

    async def _tell(self) -> None:
        while self._due:
            self._due = False
            await self._journal.append(
                Active(
                    self._process_id, self._wall_clock(), self._gate.concurrency, self._gate.state
                )
            )

    def _told(self, result: Failure | None) -> None:
        self._saying = None
        if result is not None and not result.check(CancelledError):
            self._log.failure(
                "shard {shard}: the journal could not be told who is active",
                result,
                shard=str(self._shard),
            )

    # Seeing.

    def saw(self, event: Event, apply: Callable[[Event], None]) -> None:
        """Have the replica `apply` an event, and log it if it ends a task, or says that another
        worker is active.
        """
        if isinstance(event, (Active, Started)) and event.by not in (None, self._process_id):
            self.rival_at = self._clock.seconds()
        if isinstance(event, Active):
            apply(event)
            self._see_active(event)
        elif isinstance(event, (Finished, Cancelled)) and self._live and self.active:
            was_over = self._store.finished(event.task_id)
            apply(event)
            if not was_over and self._store.finished(event.task_id):
                self._log_end(event)
        else:
            apply(event)

    def _see_active(self, event: Active) -> None:
        if event.by == self._named:
            return
        self._named = event.by
        if not self._live:
            return
        if self.active:
            self._note("active", f"this process, {self._process_id}")
        else:
            self._role = None  # another standby's change is one, too
            self._note("standby", f"process {event.by} is active")

    def _note(self, role: str, why: str) -> None:
        if role != self._role:
            self._role = role
            self._log.info(
                "shard {shard}: {role}: {why}", shard=str(self._shard), role=role, why=why
            )

    def _log_end(self, event: Finished | Cancelled) -> None:
        state = "cancelled" if isinstance(event, Cancelled) else event.state.value
        self._log.info(
            "{state}: task {task_id} for {equipment_id} from {caller}: {reason}",
            state=state,
            task_id=event.task_id,
            equipment_id=event.equipment_id,
            caller=self._store.caller(event.task_id) or "an unknown caller",
            reason="by a client, before it was sent"
            if isinstance(event, Cancelled)
            else event.reason,
        )
