"""What the broker could not get done: one shard's dead letters, so that no client waits for ever.

A task ends here when it was delivered more often than its queue allows; a message that is no task,
or one in another version's form, when the worker rejected it. The task, if there is one, is
finished as failed, unless it has finished meanwhile; the letter is then parked, with the broker's
reason (``x-death``) in its headers, for an operator to look at."""

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
RETRY_PAUSE_S = 5.0  # while the broker is there, but takes no messages
RETURN_PAUSE_S = 60.0  # before a letter over which we failed goes to the queue's end


class DeadLetters:
    """A session of the worker's connection: attach it after the shard's journal."""

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
        self._burials: dict[Deferred[None], None] = {}  # an ordered set

    async def attach(self, connection: AmqpConnection) -> None:
        """Consume the shard's dead letters. Raises `BrokerError`."""
        channel = await connection.open_channel()
        await consume(channel, self._shard.dead, self._on_delivery, prefetch=PREFETCH)

    def detach(self) -> None:
        """The connection is gone: the broker delivers the unsettled letters again."""
        for burial in list(self._burials):
            burial.cancel()

    def _on_delivery(self, delivery: Delivery) -> None:
        burial = Deferred.fromCoroutine(self._try_to_bury(delivery))
        self._burials[burial] = None
        burial.addErrback(self._unburied)
        burial.addBoth(lambda _: self._burials.pop(burial, None))

    def _unburied(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self._log.failure(
                "{queue}: a dead letter is held until the connection ends",
                reason,
                queue=self._shard.dead,
            )

    async def _try_to_bury(self, delivery: Delivery) -> None:
        try:
            await self._bury(delivery)
        except CancelledError:
            raise
        except Exception:
            self._log.failure(
                "{queue}: a dead letter could not be dealt with; it goes to the queue's end",
                queue=self._shard.dead,
            )
            await deferLater(self._clock, RETURN_PAUSE_S)
            # As a fresh copy: it makes way for others, and is not counted by a queue that gives up
            # after so many deliveries.
            await self._send(self._shard.dead, delivery)
            delivery.ack()

    async def _bury(self, delivery: Delivery) -> None:
        reason = _reason(delivery)
        task = _task_of(delivery.body)
        # an earlier version knows no markers
        if task is None and decode_census(delivery.body) is not None:
            delivery.ack()
            return
        if task is None:
            self._log.error(
                "{queue}: parking a message that is no task ({reason})",
                queue=self._shard.dead,
                reason=reason,
            )
        else:
            await self._insist(self._journal.barrier)
            if not self._store.over(task.task_id, task.fingerprint, task.at):
                self._log.error(
                    "task {task_id} has failed: dead-lettered by the broker ({reason})",
                    task_id=task.task_id,
                    reason=reason,
                )
                failed = Finished(
                    task.task_id,
                    task.equipment_id,
                    self._wall_clock(),
                    State.FAILED,
                    f"dead-lettered: {reason}",
                )
                await self._journal.append(failed)
        await self._send(PARKED_QUEUE, delivery)
        delivery.ack()

    async def _send(self, queue: str, delivery: Delivery) -> None:
        """Put a copy of the letter into a queue of letters; one with unusual headers keeps the
        broker's reason alone.
        """
        headers = delivery.properties.headers
        if headers is not None and writable(headers) is None:
            headers = {"x-death": [{"reason": _reason(delivery), "queue": self._shard.work}]}
        await self._insist(lambda: send_letter(self._publisher, queue, delivery.body, headers))

    async def _insist(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask the broker again and again until it has agreed; `detach` puts an end to it."""
        while True:
            try:
                await ask()
            except BrokerError:
                await deferLater(self._clock, RETRY_PAUSE_S)
            else:
                return


def _task_of(body: bytes) -> Requested | None:
    """The task that clients know of, even where the worker can do nothing with the rest of the
    message.
    """
    try:
        event = decode_event(body)
    except UndecodableMessage:
        return None
    return event if isinstance(event, Requested) else None


def _reason(delivery: Delivery) -> str:
    """The broker's word for why (``rejected``, ``delivery_limit`` …), from the newest entry of
    ``x-death``.
    """
    deaths = (delivery.properties.headers or {}).get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return str(deaths[0].get("reason"))
    return "unknown reason"
