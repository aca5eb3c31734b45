"""Append messages to a shard's journal: publish each one until the broker has confirmed it.

With `batches`, the events of one reactor turn share a message (`rtprov.messaging.event_batches`).

While the channel is open, an event whose confirm is late is not published again: the broker may
still confirm it, and a second copy would make it even slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen
from twisted.internet.defer import Deferred

from rtprov.errors import BrokerError
from rtprov.messaging.event_batches import encode_batch
from rtprov.messaging.topology import TASKS_EXCHANGE, persistent

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.publisher import Publisher
    from rtprov.messaging.topology import Shard

RETRY_PAUSE_S = 0.5
# A batch is smaller than one frame, and its confirm continues so many tasks in one reactor turn.
MAX_EVENTS = 100
MAX_BATCH_BYTES = 100_000


@frozen(eq=False)
class _Append:
    """A message to append. If it is `alone`, it is not put into a batch."""

    body: bytes
    alone: bool
    waiter: Deferred[None]


class Appender:
    """Publishes messages to the journal of `shard`, and repeats those that fail.

    `waiting` has the messages that wait for the next try. `rng` spreads the tries of several
    processes over time.
    """

    def __init__(
        self,
        *,
        shard: Shard,
        publisher: Publisher,
        clock: IReactorTime,
        rng: random.Random,
        batches: bool,
    ) -> None:
        self._shard = shard
        self._publisher = publisher
        self._clock = clock
        self._rng = rng
        self._batches = batches
        self._turn: dict[Deferred[None], _Append] = {}  # the next batch; an ordered dictionary
        self._turn_call: IDelayedCall | None = None
        self.waiting: dict[Deferred[None], _Append] = {}  # ordered
        self._retry_call: IDelayedCall | None = None

    def append(self, body: bytes, *, alone: bool) -> Deferred[None]:
        """See `rtprov.interfaces.Journal.append`.

        A message is `alone` if its offset in the journal has to be its own.
        """
        waiter: Deferred[None] = Deferred(self._forget)
        append = _Append(body, alone or not self._batches, waiter)
        if append.alone:
            self.end_turn()
            self._publish_all([append])
        else:
            self._turn[waiter] = append
            if self._turn_call is None:
                self._turn_call = self._clock.callLater(0, self.end_turn)
        return waiter

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

    def _forget(self, waiter: Deferred[None]) -> None:
        self._turn.pop(waiter, None)
        if not self._turn and self._turn_call is not None:
            self._turn_call.cancel()
            self._turn_call = None
        self.waiting.pop(waiter, None)
        if not self.waiting and self._retry_call is not None:
            self._retry_call.cancel()
            self._retry_call = None

    def end_turn(self) -> None:
        """Publish the events of this reactor turn now, before what is published next."""
        if self._turn_call is not None and self._turn_call.active():
            self._turn_call.cancel()
        self._turn_call = None
        turn, self._turn = self._turn, {}
        self._publish_all(turn.values())

    def _publish_all(self, appends: Iterable[_Append]) -> None:
        for group in _groups(appends):
            bodies = [append.body for append in group]
            body = bodies[0] if len(bodies) == 1 else encode_batch(bodies)
            # Without a deadline: see the top of this module.
            self.publish(body, patient=True).addCallbacks(
                self._confirmed, self._failed, callbackArgs=(group,), errbackArgs=(group,)
            )

    def _confirmed(self, _: None, group: Sequence[_Append]) -> None:
        for append in group:
            if not append.waiter.called:  # it may be cancelled, also by an earlier one's callback
                append.waiter.callback(None)

    def _failed(self, reason: Failure, group: Sequence[_Append]) -> None:
        """Wait for the next try. Only the confirm may be lost; the store applies each event once.

        All waiting messages share one timer, because an outage of the broker can leave tens of
        thousands.
        """
        live = [append for append in group if not append.waiter.called]
        if not reason.check(BrokerError):
            for append in live:
                append.waiter.errback(reason)
            return
        self.waiting.update((append.waiter, append) for append in live)
        if self.waiting and self._retry_call is None:
            self._retry_later()

    def _retry_later(self) -> None:
        self._retry_call = self._clock.callLater(
            RETRY_PAUSE_S * (1 + self._rng.random()), self._retry
        )

    def _retry(self) -> None:
        # While the publisher refuses everything, do not try each of the waiting messages.
        if self._publisher.refusal() is not None:
            self._retry_later()
            return
        self._retry_call = None
        waiting, self.waiting = self.waiting, {}
        self._publish_all(waiting.values())


def _groups(appends: Iterable[_Append]) -> Iterator[list[_Append]]:
    """Group messages, in order: each group becomes one message of the journal."""
    group: list[_Append] = []
    size = 0
    for append in appends:
        full = len(group) == MAX_EVENTS or size + len(append.body) > MAX_BATCH_BYTES
        if group and (full or append.alone or group[-1].alone):
            yield group
            group, size = [], 0
        group.append(append)
        size += len(append.body)
    if group:
        yield group
