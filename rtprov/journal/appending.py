"""Appending to a shard's journal: each message is published until the broker has confirmed it."""

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
    """`waiting` are the appends that wait for the broker; `rng` spreads their retries."""

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

    def publish(self, body: bytes) -> Deferred[None]:
        """Publish it once. Fails as `Publisher.publish` does."""
        return self._publisher.publish(
            TASKS_EXCHANGE, self._shard.event_key, body, properties=persistent(), mandatory=True
        )

    async def _append(self, body: bytes) -> None:
        while True:
            try:
                await self.publish(body)
            except BrokerError:
                # Whether it was lost or only its confirm: publishing again is safe, the fold takes
                # each event once.
                await self._pause()
            else:
                return

    def _pause(self) -> Deferred[None]:
        """Fire when it is time to publish again: one timer for all that wait, however many the
        broker's outage has gathered."""
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
        # tens of thousands need not be told so, one by one, each second
        if self._publisher.refusal() is not None:
            self._retry_later()
            return
        self._retry_call = None
        waiting, self.waiting = self.waiting, {}
        for waiter in waiting:
            if not waiter.called:  # what an earlier one set off may have cancelled it
                waiter.callback(None)
