"""Which worker process is a shard's active one, and the log lines that only that one writes.

AMQP does not tell a consumer whether it is the active one or a standby. A worker assumes that it is
active if nothing else consumes the work queue when it connects, and when it gets a delivery. It
then appends an `Active` event to the journal, with its concurrency and its view of A's state;
replicas use both for estimates. For all replicas the process that the journal named last is the
active one. Only that process logs the ends of tasks."""

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

SAY_AGAIN_S = 60.0  # `Active` is repeated this often while tasks are open
SAY_AGAIN_SOONEST_S = 1.0  # and this often on deliveries while the journal names another process


class Presence:
    """The presence of one shard's workers, as this process sees it.

    A session of the worker's connection: attach it after the journal, and before the work queue is
    consumed. `process_id` names this process in the journal; `wall_clock` gives seconds since the
    epoch. Call `saw` with each of the journal's events, and `delivered` for each message from the
    work queue."""

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
        self._named: str | None = None  # the active process, as the journal says
        # Whether the journal has been replayed once; later events are current ones.
        self._live = False
        self._role: str | None = None  # the role that was logged last
        self._taken = False  # whether this worker assumes it is active, on this connection
        self._said_at: float | None = None
        self.rival_at: float | None = None
        """When the journal last showed another process at work, on this connection."""
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
        """Whether this worker assumes that it is the active one, on this connection."""
        return self._taken

    # The session.

    async def attach(self, connection: AmqpConnection) -> None:
        """Ask the broker whether another worker consumes the queue. Raises `BrokerError`."""
        self._live, self.rival_at = True, None
        channel = await connection.open_channel()
        declared = await channel.queue_declare(queue=self._shard.work, passive=True)
        await channel.channel_close(reply_code=200, reply_text="done")
        again = self._again.start(SAY_AGAIN_S, now=False)
        again.addErrback(
            lambda reason: self._log.failure(
                "shard {shard}: the journal is no longer told regularly that this worker is active",
                reason,
                shard=str(self._shard),
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
        """The connection is closed: another worker may become the active one."""
        self._taken = False
        if self._again.running:
            self._again.stop()
        if self._saying is not None:
            self._saying.cancel()

    def delivered(self) -> None:
        """The broker has delivered a message here: this worker is the active one."""
        if self._taken and self.active:
            return
        now = self._clock.seconds()
        if not self._taken or self._said_at is None or now - self._said_at >= SAY_AGAIN_SOONEST_S:
            self._taken = True
            self._say()

    # `Active` events of this process.

    def _say_again(self) -> None:
        if self._store.backlog.open:
            self._say()

    def _say(self) -> None:
        """Append an `Active` event, if this worker is active. One append is under way at a time;
        changes during it are in the next one.
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
                "shard {shard}: could not write to the journal that this worker is active",
                result,
                shard=str(self._shard),
            )

    # Events of the journal.

    def saw(self, event: Event, apply: Callable[[Event], None]) -> None:
        """Call `apply`, which applies the event to the replica. Log the end of a task and a change
        of the active worker.
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
            self._role = None  # a change from one other process to another is logged, too
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
