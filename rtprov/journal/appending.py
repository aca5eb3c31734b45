"""Append messages to a shard's journal: publish each one until the broker has confirmed it.

While the channel is open, an event whose confirm is late is not published again: the broker may
still confirm it, and a second copy would make it even slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from rtprov.errors import BrokerError
from rtprov.messaging.topology import TASKS_EXCHANGE, persistent

if TYPE_CHECKING:
    import random

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client.publisher import Publisher
    from rtprov.messaging.topology import Shard

RETRY_PAUSE_S = 0.5


class Appender:
    """Publishes messages to the journal of `shard`, and repeats those that fail.

    `waiting` has the messages that wait for the next try. `rng` spreads the tries of several
    processes over time.
    """

    def __init__(
        self, *, shard: Shard, publisher: Publisher, clock: IReactorTime, rng: random.Random
    ) -> None:
        self._shard = shard
        self._publisher = publisher
        self._clock = clock
        self._rng = rng
        self.waiting: dict[Deferred[None], None] = {}  # an ordered set
        self._retry_call: IDelayedCall | None = None

    def append(self, body: bytes) -> Deferred[None]:
        """See `rtprov.interfaces.Journal.append`."""
        return Deferred.fromCoroutine(self._append(body))

    def publish(self, body: bytes, *, patient: bool = False) -> Deferred[None]:
        """Publish a message once. `patient` and errors are those of `Publisher.publish`."""
        return self._publisher.publish(
            TASKS_EXCHANGE,
            self._shard.event_key,
            body,
            properties=persistent(),
            mandatory=True,
            patient=patient,
        )

    async def _append(self, body: bytes) -> None:
        while True:
            try:
                await self.publish(body, patient=True)
            except BrokerError:
                # Only the confirm may be lost. It is safe to publish the event again, because the
                # store applies each event once.
                await self._pause()
            else:
                return

    def _pause(self) -> Deferred[None]:
        """Fire when it is time to publish again.

        All waiting messages share one timer, because an outage of the broker can leave tens of
        thousands.
        """
        waiter: Deferred[None] = Deferred(self._forget)
        self.waiting[waiter] = None
        if self._retry_call is None:
            self._retry_later()
        return waiter

    def _retry_later(self) -> None:
        self._retry_call = self._clock.callLater(
            RETRY_PAUSE_S * (1 + self._rng.random()), self._retry
        )

    def _forget(self, waiter: Deferred[None]) -> None:
        self.waiting.pop(waiter, None)
        if not self.waiting and self._retry_call is not None:
            self._retry_call.cancel()
            self._retry_call = None

    def _retry(self) -> None:
        # While the publisher refuses everything, do not wake each of the waiting messages.
        if self._publisher.refusal() is not None:
            self._retry_later()
            return
        self._retry_call = None
        waiting, self.waiting = self.waiting, {}
        for waiter in waiting:
            if not waiter.called:  # the callbacks of an earlier one may have cancelled it
                waiter.callback(None)
