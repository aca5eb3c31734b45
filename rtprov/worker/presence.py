"""Which worker process is a shard's active one, and the log lines that only that one writes.

AMQP does not tell a consumer whether it is the active one or a standby. A worker assumes that it is
active if nothing else consumes the work queue when it connects, and when it gets a delivery. It
then appends an `Active` event to the journal. The event has the worker's concurrency and the state
of its circuit breaker, which replicas use for estimates. All replicas treat the process of the
latest `Active` event as the active one. Only that process logs the ends of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.metrics.counting import TASKS_S, Counts, Histograms
from rtprov.model import Active, Started, State
from rtprov.worker.end_reasons import end_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.interfaces import Journal
    from rtprov.journal.record import Record
    from rtprov.journal.store import Store
    from rtprov.messaging.topology import Shard
    from rtprov.model import Event
    from rtprov.worker.call_limiter import CallLimiter

ANNOUNCE_EVERY_S = 60.0  # `Active` is repeated this often while tasks are open
# On deliveries, `Active` is repeated after this time if the journal names another process.
ANNOUNCE_AGAIN_AFTER_S = 1.0


class Presence:
    """Finds out which process is the active one of a shard; announces it if it is this process.

    A session of the worker's connection: attach it after the journal, and before the work queue is
    consumed. `process_id` names this process in the journal; `wall_clock` gives seconds since the
    epoch. Call `on_event` with each of the journal's events, after `store`, and `delivered` for
    each message from the work queue. `trace_of` returns the trace id of a task, for its log line;
    the arguments are the task's id and fingerprint.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        store: Store,
        journal: Journal,
        call_limiter: CallLimiter,
        process_id: str,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        trace_of: Callable[[str, str | None], str | None] = lambda task_id, fingerprint: None,
    ) -> None:
        self._shard = shard
        self._store = store
        self._journal = journal
        self._call_limiter = call_limiter
        self._process_id = process_id
        self._clock = clock
        self._wall_clock = wall_clock
        self._trace_of = trace_of
        self._active_process: str | None = None  # the active process, as the journal says
        # Whether the journal has been replayed once; later events are current ones.
        self._live = False
        self._role: str | None = None  # the role that was logged last
        self._consuming = False  # whether this worker assumes it is active, on this connection
        self._announced_at: float | None = None
        self.rival_at: float | None = None
        """When the journal last showed another process at work, on this connection."""
        self._outdated = False  # whether the last `Active` does not show the present state
        self._announcing: Deferred[None] | None = None
        self._timer = LoopingCall(self._announce_again)
        self._timer.clock = clock
        # The ends of tasks that this process has logged, for metrics.
        self.ended = Counts()
        self.task_seconds = Histograms(TASKS_S)
        call_limiter.watchers.append(self._announce)
        store.on_end.append(self._on_end)

    @property
    def active(self) -> bool:
        """Whether the journal names this process."""
        return self._active_process == self._process_id

    @property
    def active_here(self) -> bool:
        """Whether this process is the active one, as far as it knows: it also consumes."""
        return self._consuming and self.active

    @property
    def consuming(self) -> bool:
        """Whether this worker assumes that it is the active one, on this connection."""
        return self._consuming

    # The session.

    async def attach(self, connection: AmqpConnection) -> None:
        """Ask the broker whether another worker consumes the queue. Raises `BrokerError`."""
        self._live, self.rival_at = True, None
        channel = await connection.open_channel()
        declared = await channel.queue_declare(queue=self._shard.work, passive=True)
        await channel.channel_close(reply_code=200, reply_text="done")
        announcing = self._timer.start(ANNOUNCE_EVERY_S, now=False)
        announcing.addErrback(
            lambda reason: self._log.failure(
                "shard {shard}: no longer announcing in the journal that this worker is active",
                reason,
                shard=str(self._shard),
            )
        )
        if declared.consumer_count:
            self._note("standby", "another worker is active")
        else:
            self._consuming = True
            if self.active:
                self._note("active", f"this process, {self._process_id}")
            self._announce()

    def detach(self) -> None:
        """The connection is closed: another worker may become the active one."""
        self._consuming = False
        if self._timer.running:
            self._timer.stop()
        if self._announcing is not None:
            self._announcing.cancel()

    def delivered(self) -> None:
        """The broker has delivered a message here: this worker is the active one."""
        if self._consuming and self.active:
            return
        now = self._clock.seconds()
        if (
            not self._consuming
            or self._announced_at is None
            or now - self._announced_at >= ANNOUNCE_AGAIN_AFTER_S
        ):
            self._consuming = True
            self._announce()

    # `Active` events of this process.

    def _announce_again(self) -> None:
        if self._store.backlog.open:
            self._announce()

    def _announce(self) -> None:
        """Append an `Active` event, if this worker is active. One append is under way at a time;
        changes during it are in the next one.
        """
        if not self._consuming:
            return
        self._outdated = True
        self._announced_at = self._clock.seconds()
        if self._announcing is None:
            announcing = Deferred.fromCoroutine(self._append())
            if not announcing.called:
                self._announcing = announcing
            announcing.addBoth(self._on_appended)

    async def _append(self) -> None:
        while self._outdated:
            self._outdated = False
            await self._journal.append(
                Active(
                    self._process_id,
                    self._wall_clock(),
                    self._call_limiter.concurrency,
                    self._call_limiter.state,
                    self._call_limiter.per_second,
                )
            )

    def _on_appended(self, result: Failure | None) -> None:
        self._announcing = None
        if result is not None and not result.check(CancelledError):
            self._log.failure(
                "shard {shard}: could not write to the journal that this worker is active",
                result,
                shard=str(self._shard),
            )

    # Events of the journal.

    def on_event(self, event: Event) -> None:
        """Note which process is at work. Call this with each of the journal's events."""
        if isinstance(event, (Active, Started)) and event.by not in (None, self._process_id):
            self.rival_at = self._clock.seconds()
        if isinstance(event, Active):
            self._see_active(event)

    def _see_active(self, event: Active) -> None:
        if event.by == self._active_process:
            return
        self._active_process = event.by
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
                "shard {shard}: {role}: {why}",
                event=f"shard.{role}",
                shard=str(self._shard),
                role=role,
                why=why,
            )

    def _on_end(self, record: Record) -> None:
        """Count and log the end of a task, if this process is the active one."""
        if not (self._live and self.active):
            return
        cancelled = record.state is State.CANCELLED
        reason = record.reason or ""
        self.ended.add((record.state.value, end_reason(record.state, "" if cancelled else reason)))
        if record.requested_at is not None:
            took_s = max(0.0, record.finished_at - record.requested_at)
            self.task_seconds.observe(record.state.value, took_s)
        self._log.info(
            "{state}: task {task_id} for {equipment_id} from {who}: {reason}",
            event=f"task.{record.state.value}",
            trace=self._trace_of(record.task_id, record.fingerprint),
            state=record.state.value,
            task_id=record.task_id,
            equipment_id=record.equipment_id,
            caller=record.origin.caller,
            who=record.origin.caller or "an unknown caller",
            reason="by a client, before it was sent" if cancelled else reason,
        )
