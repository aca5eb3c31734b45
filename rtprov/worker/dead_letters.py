"""The consumer of one shard's dead letters: fails their tasks and parks the letters.

The broker dead-letters a task that was delivered more often than its queue allows, and any message
that the worker rejected, such as one that is not a task or has an unknown format. If the letter
holds a task that is still open, the task is failed, so that no client waits forever. Then the
letter is moved to the queue of parked letters for an operator, with the broker's reason
(``x-death``) in its headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtprov.amqp.client.consumer import consume
from rtprov.errors import BrokerError, UndecodableMessage
from rtprov.messaging.event_messages import decode_event
from rtprov.messaging.letter_queues import send_letter, writable
from rtprov.messaging.markers import decode_census
from rtprov.messaging.topology import PARKED_QUEUE, Shard
from rtprov.model import Finished, Requested, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher
    from rtprov.interfaces import Journal
    from rtprov.journal.store import Store

PREFETCH = 10
RETRY_PAUSE_S = 5.0  # while the broker is connected but accepts no messages
RETURN_PAUSE_S = 60.0  # before a letter that could not be processed goes to the end of the queue


class DeadLetters:
    """Consumes the dead letters of one shard.

    A session of the worker's connection: attach it after the shard's journal.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        store: Store,
        journal: Journal,
        publisher: Publisher,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self._shard = shard
        self._store = store
        self._journal = journal
        self._publisher = publisher
        self._clock = clock
        self._wall_clock = wall_clock
        self._processing: dict[Deferred[None], None] = {}  # an ordered set

    async def attach(self, connection: AmqpConnection) -> None:
        """Consume the shard's dead letters. Raises `BrokerError`."""
        channel = await connection.open_channel()
        await consume(channel, self._shard.dead, self._on_delivery, prefetch=PREFETCH)

    def detach(self) -> None:
        """Stop: the connection is closed, and the broker delivers unsettled letters again."""
        for processing in list(self._processing):
            processing.cancel()

    def _on_delivery(self, delivery: Delivery) -> None:
        processing = Deferred.fromCoroutine(self._process_or_return(delivery))
        self._processing[processing] = None
        processing.addErrback(self._on_failure)
        processing.addBoth(lambda _: self._processing.pop(processing, None))

    def _on_failure(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self._log.failure(
                "{queue}: could not process a dead letter; it stays unsettled until the connection"
                " is closed",
                reason,
                queue=self._shard.dead,
            )

    async def _process_or_return(self, delivery: Delivery) -> None:
        try:
            await self._process(delivery)
        except CancelledError:
            raise
        except Exception:
            self._log.failure(
                "{queue}: could not process a dead letter; moving it to the end of the queue in"
                " {pause_s:.0f} s",
                queue=self._shard.dead,
                pause_s=RETURN_PAUSE_S,
            )
            await deferLater(self._clock, RETURN_PAUSE_S)
            # A new copy, not a requeue: it lets other letters go first, and does not count towards
            # the queue's delivery limit.
            await self._send(self._shard.dead, delivery)
            delivery.ack()

    async def _process(self, delivery: Delivery) -> None:
        reason = _reason(delivery)
        task = _task_of(delivery.body)
        # Workers of an earlier version reject census markers.
        if task is None and decode_census(delivery.body) is not None:
            delivery.ack()
            return
        if task is None:
            self._log.error(
                "{queue}: parking a message that is not a task ({reason})",
                queue=self._shard.dead,
                reason=reason,
            )
        else:
            await self._until_accepted(self._journal.barrier)
            if not self._store.needs_no_call(task.task_id, task.fingerprint, task.at):
                self._log.error(
                    "task {task_id} has failed: dead-lettered by the broker ({reason})",
                    task_id=task.task_id,
                    reason=reason,
                )
                failed = Finished(
                    task.task_id,
                    task.equipment_id,
                    self._store.event_time(task.task_id, self._wall_clock()),
                    State.FAILED,
                    f"dead-lettered: {reason}",
                )
                await self._journal.append(failed)
        await self._send(PARKED_QUEUE, delivery)
        delivery.ack()

    async def _send(self, queue: str, delivery: Delivery) -> None:
        """Publish a copy of the letter to `queue`. If its headers cannot be encoded again, only the
        broker's reason is kept.
        """
        headers = delivery.properties.headers
        if headers is not None and writable(headers) is None:
            headers = {"x-death": [{"reason": _reason(delivery), "queue": self._shard.work}]}
        await self._until_accepted(
            lambda: send_letter(self._publisher, queue, delivery.body, headers)
        )

    async def _until_accepted(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Call `ask` until it raises no `BrokerError`; `detach` cancels this."""
        while True:
            try:
                await ask()
            except BrokerError:
                await deferLater(self._clock, RETRY_PAUSE_S)
            else:
                return


def _task_of(body: bytes) -> Requested | None:
    """Return the task of a message, or None. Only the fields that identify the task must be valid;
    the worker may have rejected the message for another field.
    """
    try:
        event = decode_event(body)
    except UndecodableMessage:
        return None
    return event if isinstance(event, Requested) else None


def _reason(delivery: Delivery) -> str:
    """Return the broker's reason (``rejected``, ``delivery_limit`` …) from the newest entry of
    ``x-death``.
    """
    deaths = (delivery.properties.headers or {}).get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return str(deaths[0].get("reason"))
    return "unknown reason"
