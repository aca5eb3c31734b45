"""One shard's journal at the broker: read its stream, append events, and pass barriers.

The front end's `TaskPublisher` publishes each task to the work queue and the journal with one
message. A worker's `ShardJournal` reads the stream from its beginning, follows it, and passes each
event to the store. It appends the worker's own events. Its barrier fires when the store has every
event that was confirmed before. After a lost connection it continues at the last event it has read.
Some events may be delivered twice; the store ignores repeated events.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.amqp.client.consumer import consume
from rtprov.errors import BrokerUnavailable, UndecodableMessage
from rtprov.journal.appending import Appender
from rtprov.messaging.event_batches import events_in
from rtprov.messaging.event_messages import decode_event, encode_event
from rtprov.messaging.topology import Shard
from rtprov.model import Event, Finished, Marker, Postponed, Started, Withheld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher

PREFETCH = 2000
# One acknowledgement for many deliveries: on a stream it only grants credit.
ACK_EVERY = 500
# But the broker closes the channel if a delivery is not acknowledged within 30 minutes.
SETTLE_EVERY_S = 300.0
STALL_S = 30.0
# The events that may be in a batch. The messages of the others are read again by their offsets.
MAY_SHARE_A_MESSAGE = (Started, Postponed, Withheld, Finished)


@define(eq=False)
class _PendingMarker:
    """A marker that was published and not yet read, and the barriers that wait for it."""

    marker_id: str
    waiters: dict[Deferred[None], None]  # an ordered set
    events_seen: int = 0
    watchdog: IDelayedCall | None = None
    publish: Deferred[None] | None = field(default=None)


class ShardJournal:
    """The implementation of `rtprov.interfaces.Journal` on a stream.

    A session of the worker's connection; attach it after topology and publisher. `apply` is called
    with each event, in the journal's order; the offset of its message is then `next_offset` - 1.
    `lost` is called if the broker has another journal than before; the new one is read from its
    beginning. `new_marker_id` returns an id that no other process has. With `batches`, several
    events may be appended as one message (`rtprov.messaging.event_batches`).
    """

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        apply: Callable[[Event], None],
        publisher: Publisher,
        clock: IReactorTime,
        rng: random.Random,
        new_marker_id: Callable[[], str],
        lost: Callable[[], None] = lambda: None,
        batches: bool = False,
    ) -> None:
        self._shard = shard
        self._apply = apply
        self._clock = clock
        self._new_marker_id = new_marker_id
        self._lost = lost
        self._appender = Appender(
            shard=shard, publisher=publisher, clock=clock, rng=rng, batches=batches
        )
        self._connection: AmqpConnection | None = None
        # The offset and message of the last event that was read.
        self._newest: tuple[int, bytes] | None = None
        # Whether that event was found again on this connection, so the journal is the same.
        self._same_journal = True
        # Whether to read the journal from its beginning to find that event.
        self._read_from_start = False
        self._seen = 0  # messages
        self._applied = 0  # events, and markers
        self.first_offset: int | None = None
        """The offset of the first event that this process has read, None before that."""
        self.replay_s: float | None = None
        """How long the latest replay took, None before the first one."""
        self._last: Delivery | None = None
        self._settling: LoopingCall | None = None
        self._pending_marker: _PendingMarker | None = None
        self._waiting: dict[Deferred[None], None] = {}

    @property
    def next_offset(self) -> int:
        """The offset after that of the last event that was read."""
        return 0 if self._newest is None else self._newest[0] + 1

    # The session.

    async def attach(self, connection: AmqpConnection) -> None:
        """Read and follow the stream; done once every event confirmed before this call was read.

        Raises `BrokerError`.
        """
        channel = await connection.open_channel()
        # Begin with the last event that was read, to check that the journal is the same.
        offset = "first" if self._newest is None or self._read_from_start else self._newest[0]
        self._same_journal = self._newest is None
        self._connection = connection
        self._settle_regularly(channel)
        started, applied = self._clock.seconds(), self._applied
        await consume(
            channel,
            self._shard.journal,
            lambda delivery: self._on_delivery(channel, delivery),
            prefetch=PREFETCH,
            arguments={"x-stream-offset": offset},
        )
        await self.barrier()
        self.replay_s = self._clock.seconds() - started
        self._log.info(
            "{journal}: replayed {events} events in {seconds:.1f} s",
            journal=self._shard.journal,
            events=self._applied - applied,
            seconds=self.replay_s,
        )

    def detach(self) -> None:
        """Let all barriers fail, because the connection is closed."""
        self._connection = self._last = None
        if self._settling is not None:
            self._settling.stop()
            self._settling = None
        pending, self._pending_marker = self._pending_marker, None
        waiting, self._waiting = self._waiting, {}
        lost = BrokerUnavailable(
            "The connection to the broker was lost while waiting for the journal's barrier"
        )
        if pending is not None:
            self._end(pending)
            waiting = pending.waiters | waiting
        _fire_all(waiting, lost)

    def _settle_regularly(self, channel: AmqpChannel) -> None:
        self._settling = LoopingCall(self._settle, channel)
        self._settling.clock = self._clock
        settling = self._settling.start(SETTLE_EVERY_S, now=False)
        settling.addErrback(
            lambda reason: self._log.failure(
                "{journal}: periodic acknowledgements stopped after an error",
                reason,
                journal=self._shard.journal,
            )
        )

    def _settle(self, channel: AmqpChannel) -> None:
        if self._last is not None:
            channel.ack_all(self._last)

    def _on_delivery(self, channel: AmqpChannel, delivery: Delivery) -> None:
        offset = cast("int", delivery.headers["x-stream-offset"])
        self._seen += 1
        self._last = delivery
        if self.first_offset is None:
            self.first_offset = offset
        if self._seen % ACK_EVERY == 0:
            channel.ack_all(delivery)
        if self._newest is None or offset > self._newest[0]:
            self._same_journal, self._newest = True, (offset, delivery.body)
            self._take(offset, delivery.body)
        elif not self._same_journal:
            self._expect_last_event(offset, delivery.body)
        elif offset <= self._newest[0]:
            self._begin_anew()

    def _expect_last_event(self, offset: int, body: bytes) -> None:
        """Check that this is the last event that was read before; if not, the journal is new."""
        assert self._newest is not None
        if (offset, body) == self._newest:
            self._same_journal, self._read_from_start = True, False
        elif offset == self._newest[0] or not self._read_from_start or self._is_our_marker(body):
            self._begin_anew()

    def _take(self, offset: int, body: bytes) -> None:
        try:
            messages = events_in(body)
        except UndecodableMessage as error:
            self._ignore(offset, error)
            return
        failed: Exception | None = None
        for message in messages:
            self._applied += 1
            try:
                self._take_event(message)
            except UndecodableMessage as error:
                self._ignore(offset, error)
            except Exception as error:
                failed = error  # raised below; this message is not read again
        if failed is not None:
            raise failed

    def _take_event(self, message: bytes) -> None:
        event = decode_event(message)
        if isinstance(event, Marker):
            self._on_marker(event)
        else:
            self._apply(event)

    def _ignore(self, offset: int, error: UndecodableMessage) -> None:
        self._log.error(
            "{journal}: ignoring the message at offset {offset}: {error}",
            journal=self._shard.journal,
            offset=offset,
            error=error,
        )

    def _is_our_marker(self, body: bytes) -> bool:
        pending = self._pending_marker
        return pending is not None and body == encode_event(Marker(pending.marker_id))

    def _begin_anew(self) -> None:
        """The broker has lost the journal and begun a new one: read it from its beginning."""
        self._log.error(
            "{journal}: the broker has lost this journal and begun a new one; reading the new one"
            " from its beginning, and adding what this process knows to it",
            journal=self._shard.journal,
        )
        self._newest, self._same_journal, self._read_from_start = None, True, False
        self._lost()
        if self._connection is not None:
            self._connection.drop(f"The broker has begun a new {self._shard.journal}")

    # Appending.

    def append(self, event: Event) -> Deferred[None]:
        """See `rtprov.interfaces.Journal.append`."""
        return self._appender.append(
            encode_event(event), alone=not isinstance(event, MAY_SHARE_A_MESSAGE)
        )

    def append_message(self, body: bytes) -> Deferred[None]:
        """See `rtprov.interfaces.Journal.append_message`."""
        return self._appender.append(body, alone=True)

    # The barrier. One marker is on its way at a time. Later callers share the next marker, because
    # the present one may have been published before the events that they wait for.

    def barrier(self) -> Deferred[None]:
        """See `rtprov.interfaces.Journal.barrier`."""
        waiter: Deferred[None] = Deferred(self._forget)
        self._waiting[waiter] = None
        if self._pending_marker is None:
            self._send_marker()
        return waiter

    def _forget(self, waiter: Deferred[None]) -> None:
        self._waiting.pop(waiter, None)
        if self._pending_marker is not None:
            self._pending_marker.waiters.pop(waiter, None)

    def _send_marker(self) -> None:
        waiters, self._waiting = self._waiting, {}
        marker = Marker(self._new_marker_id())
        pending = self._pending_marker = _PendingMarker(marker.marker_id, waiters, self._seen)
        pending.watchdog = self._clock.callLater(STALL_S, self._check_stall, pending)
        self._appender.end_turn()
        pending.publish = self._appender.publish(encode_event(marker))
        pending.publish.addErrback(self._marker_failed, pending)

    def _on_marker(self, marker: Marker) -> None:
        pending = self._pending_marker
        if pending is not None and marker.marker_id == pending.marker_id:
            self._end_marker(pending)
            _fire_all(pending.waiters, None)

    def _marker_failed(self, reason: Failure, pending: _PendingMarker) -> None:
        if pending is self._pending_marker:
            self._end_marker(pending)
            _fire_all(pending.waiters, reason.value)

    def _end_marker(self, pending: _PendingMarker) -> None:
        self._pending_marker = None
        self._end(pending)
        if self._waiting:
            self._send_marker()

    def _end(self, pending: _PendingMarker) -> None:
        if pending.watchdog is not None and pending.watchdog.active():
            pending.watchdog.cancel()
        if pending.publish is not None:
            pending.publish.cancel()

    def _check_stall(self, pending: _PendingMarker) -> None:
        """Drop the connection if the stream delivers nothing while a marker is on its way.

        A long replay is not a stall: it keeps delivering events.
        """
        if self._seen != pending.events_seen:
            pending.events_seen = self._seen
            pending.watchdog = self._clock.callLater(STALL_S, self._check_stall, pending)
        elif self._connection is not None:
            # The journal may be a new one that has not reached the requested offset yet. RabbitMQ
            # delivers nothing then.
            self._read_from_start = True
            self._connection.drop(
                f"{self._shard.journal} delivered nothing for {STALL_S:.0f} s while a marker was"
                " expected"
            )


def _fire_all(waiters: Iterable[Deferred[None]], error: BaseException | None) -> None:
    """Fire each waiter that the callbacks of an earlier one have not cancelled."""
    for waiter in list(waiters):
        if waiter.called:
            continue
        if error is None:
            waiter.callback(None)
        else:
            waiter.errback(error)
