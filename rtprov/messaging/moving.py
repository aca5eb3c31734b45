"""Move the messages of one queue or stream to others, at the same broker or at another one.

A message is removed from its old queue once the broker has confirmed it in the new one. A stream
is copied: it keeps its messages. If a move is interrupted, another one completes it. That leaves
copies of some messages. They do no harm: the store ignores repeated events, and a task with two
messages is called once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from pamqp.commands import Basic
from twisted.internet.defer import Deferred

from rtprov.amqp.client.consumer import cancel, consume
from rtprov.amqp.client.gathering import gather
from rtprov.errors import UndecodableMessage
from rtprov.messaging.event_batches import encode_batch, events_in
from rtprov.messaging.letter_queues import COUNTS
from rtprov.messaging.markers import rebase_copy
from rtprov.messaging.shard_count import message_count
from rtprov.messaging.topology import task_bindings

if TYPE_CHECKING:
    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher
    from rtprov.messaging.topology import Shard

BATCH = 500
MAX_BYTES = 1024 * 1024  # without a confirm
MARKER = "x-rtprov-moved-upto"
_OF_THE_QUEUE = ("x-stream-offset", *COUNTS)  # headers that the old queue added


async def unbind(connection: AmqpConnection, shards: Iterable[Shard]) -> None:
    """Unbind work queues and journals, so that the broker returns what is published to them.

    Raises `BrokerError`.
    """
    channel = await connection.open_channel()
    for shard in shards:
        for binding in task_bindings(shard):
            if await message_count(connection, binding["queue"]) is not None:
                await channel.queue_unbind(**binding)
    await channel.channel_close(reply_code=200, reply_text="done")


def _offset(delivery: Delivery) -> int:
    """The offset of a message in its stream."""
    return cast("int", (delivery.properties.headers or {})["x-stream-offset"])


class Move:
    """Moves the messages of one queue, up to a marker that it publishes to the end of the queue.

    `connection` is the old broker's, and so is `publisher`; `target` is a publisher of the new one.
    `queue_of` returns the new queue of a message, or None if the message is dropped; it is called
    with each event of a batch. With `stream`, the queue is a stream, and each `run` copies what the
    one before did not.
    """

    def __init__(
        self,
        *,
        connection: AmqpConnection,
        publisher: Publisher,
        target: Publisher,
        queue: str,
        queue_of: Callable[[bytes], str | None],
        stream: bool = False,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._target = target
        self.queue = queue
        self._queue_of = queue_of
        self._next_offset = 0 if stream else None
        self._first_offset: int | None = None
        self._arrived: deque[Delivery] = deque()
        self._arrival: Deferred[None] | None = None

    async def run(self, marker: str) -> int:
        """Move all present messages; return their number.

        `marker` is an id that no other move has. Raises `BrokerError`.
        """
        mark = Basic.Properties(delivery_mode=2, headers={MARKER: marker})
        await self._publisher.publish("", self.queue, b"{}", properties=mark)
        channel = await self._connection.open_channel()
        channel.on_closed(lambda reason: self._wake(reason))
        arguments = (
            {} if self._next_offset is None else {"x-stream-offset": self._next_offset or "first"}
        )
        tag = await consume(
            channel, self.queue, self._on_delivery, prefetch=BATCH, arguments=arguments
        )
        moved, over = 0, False
        while not over:
            if not self._arrived:
                self._arrival = Deferred()
                await self._arrival
            batch = [self._arrived.popleft() for _ in range(len(self._arrived))]
            over = any((each.properties.headers or {}).get(MARKER) == marker for each in batch)
            moved += await self._forward(batch)
            if self._next_offset is not None:
                # What arrived after this batch was not forwarded; the next move reads it again.
                self._next_offset = _offset(batch[-1]) + 1
            channel.ack_all(batch[-1])
        await cancel(channel, tag)
        await channel.channel_close(reply_code=200, reply_text="done")
        return moved

    async def _forward(self, batch: list[Delivery]) -> int:
        published: list[Deferred[None]] = []
        count = size = 0
        for delivery in batch:
            if MARKER in (delivery.properties.headers or {}):
                continue
            properties = Basic.Properties(
                content_type=delivery.properties.content_type,
                delivery_mode=2,
                headers={
                    key: value
                    for key, value in (delivery.properties.headers or {}).items()
                    if key not in _OF_THE_QUEUE
                },
            )
            for queue, body in self._copies(self._body(delivery)):
                published.append(self._target.publish("", queue, body, properties=properties))
                count, size = count + 1, size + len(body)
                if len(published) >= BATCH or size >= MAX_BYTES:
                    await gather(published)
                    published, size = [], 0
        await gather(published)
        return count

    def _copies(self, body: bytes) -> Iterable[tuple[str, bytes]]:
        """Return the new queues of a message, and what each gets: all of it, or of a batch the
        events that belong there.
        """
        events: Sequence[bytes] = (body,)
        if self._next_offset is not None:
            with suppress(UndecodableMessage):
                events = events_in(body)
        of_queues: dict[str, list[bytes]] = {}
        for event in events:
            queue = self._queue_of(event)
            if queue is not None:
                of_queues.setdefault(queue, []).append(event)
        for queue, mine in of_queues.items():
            yield queue, mine[0] if len(mine) == 1 else encode_batch(mine)

    def _body(self, delivery: Delivery) -> bytes:
        if self._next_offset is None:
            return delivery.body
        if self._first_offset is None:
            self._first_offset = _offset(delivery)
        return rebase_copy(delivery.body, self._first_offset)

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._next_offset is not None and _offset(delivery) < self._next_offset:
            return  # RabbitMQ starts at the beginning of the chunk that has the offset
        self._arrived.append(delivery)
        self._wake(None)

    def _wake(self, reason: Exception | None) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is None:
            return
        if reason is None:
            arrival.callback(None)
        else:
            arrival.errback(reason)
