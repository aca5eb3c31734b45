"""Change the number of shards: move the messages of all queues and journals to new ones.

The messages of a device keep their order. No worker may run in the meantime; front ends answer 503
until the change is done. Each step can be repeated after a crash:

1. The broker remembers that the number is being changed. From then on no front end or worker can
   connect (`rtprov.messaging.shard_count`).
2. The new queues and journals are declared. The old ones are unbound, so that the POSTs of a front
   end that is still running are returned.
3. The events of the old journals are copied to the new ones. Then the messages of the old work
   queues and dead letters are moved. A message is removed from its old queue once the broker has
   confirmed it in the new one. A crash leaves copies. They do no harm: the store ignores repeated
   events, and a task with two messages is called once.
4. The old queues are deleted, and the broker remembers the new number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import msgspec
from pamqp.commands import Basic
from twisted.internet.defer import Deferred

from rtprov.amqp.client.consumer import cancel, consume
from rtprov.amqp.client.gathering import gather
from rtprov.errors import ConfigurationError
from rtprov.messaging.shard_count import (
    CHANGE_QUEUE,
    MAX_SHARDS,
    Remembered,
    delete_queue,
    forget,
    message_count,
    queue_counts,
    read,
    remember,
    scan_counts,
)
from rtprov.messaging.topology import TASKS_EXCHANGE, Shard, Topology
from rtprov.model import shard_of

if TYPE_CHECKING:
    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher

BATCH = 500
MARKER = "x-rtprov-moved-upto"
# headers that the old queue added
_OF_THE_QUEUE = ("x-stream-offset", "x-delivery-count", "x-acquired-count")


class _OfDevice(msgspec.Struct):
    """The field that every message about a task has."""

    equipment: str


_decode = msgspec.json.Decoder(_OfDevice).decode


class Resharding:
    """Changes the number of shards over `connection`; `publisher` is attached to it.

    `new_id` returns an id that no other process has. `say` is called with each line for the
    operator.
    """

    def __init__(
        self,
        *,
        connection: AmqpConnection,
        publisher: Publisher,
        new_id: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._new_id = new_id
        self._say = say

    async def run(self, count: int) -> None:
        """Change to `count` shards, 1 to 1024.

        Raises `ConfigurationError` if that is not possible. Raises `BrokerError` if the broker
        fails; then run it again.
        """
        if not 1 <= count <= MAX_SHARDS:
            raise ConfigurationError(f"The number of shards must be from 1 to {MAX_SHARDS}")
        before = await self._begin(count)
        if before is None:
            self._say(f"The broker already has {count} shards; nothing to do")
            return
        old = [Shard(index, before) for index in range(before)]
        new = [Shard(index, count) for index in range(count)]
        await Topology(new).attach(self._connection)
        # Twice, because a front end that began to connect before the first step may have bound the
        # old queues again.
        offsets: dict[str, int] = {}
        for _ in range(2):
            await self._unbind(old)
            for shard in old:
                await self._move_all(shard, new, offsets)
        for shard in old:
            for queue in (shard.work, shard.journal, shard.dead):
                await delete_queue(self._connection, queue)
        await self._store(Remembered(count))
        await delete_queue(self._connection, CHANGE_QUEUE)
        self._say(f"The broker now has {count} shards; start the workers")

    async def _begin(self, count: int) -> int | None:
        """Mark the number as changing; return the old one, or None if it is already `count`.

        Raises `ConfigurationError` if a worker is running, or another change was begun.
        """
        known = (
            await read(self._connection, Remembered(count))
            or await read(self._connection, Remembered(count), CHANGE_QUEUE)
            or await self._count_of_earlier_version(count)
        )
        if known == Remembered(count):
            await delete_queue(self._connection, CHANGE_QUEUE)
            return None
        if known.changing_to not in (None, count):
            raise ConfigurationError(
                f"An earlier change to {known.changing_to} shards is not complete: run"
                f" python -m rtprov.shards {known.changing_to} first"
            )
        for index in range(known.count):
            queue = Shard(index, known.count).work
            counts = await queue_counts(self._connection, queue)
            if counts is not None and counts[1]:
                raise ConfigurationError(
                    f"A worker is still consuming {queue}: stop all workers first"
                )
        self._say(f"Changing from {known.count} to {count} shards")
        changing = Remembered(known.count, count)
        if known != changing:
            await delete_queue(self._connection, CHANGE_QUEUE)
        await remember(self._connection, changing, CHANGE_QUEUE)
        await self._store(changing)
        return changing.count

    async def _store(self, wanted: Remembered) -> None:
        """Replace the stored number.

        The number is missing for a moment. Front ends and workers wait meanwhile, because
        `CHANGE_QUEUE` exists.
        """
        while await read(self._connection, wanted) != wanted:
            await forget(self._connection)
            await remember(self._connection, wanted)

    async def _count_of_earlier_version(self, count: int) -> Remembered:
        """Return the number that an earlier version of rtprov used with this broker.

        A new broker gets `count`.
        """
        before = await scan_counts(self._connection)
        if not before:
            return await remember(self._connection, Remembered(count))
        if len(before) > 1:
            held = " and ".join(map(str, before))
            raise ConfigurationError(
                f"The broker has queues of {held} shards: delete those that are not in use"
            )
        return await remember(self._connection, Remembered(before[0]))

    async def _unbind(self, shards: list[Shard]) -> None:
        channel = await self._connection.open_channel()
        for shard in shards:
            for queue, key in (
                (shard.work, shard.requested_key),
                (shard.journal, shard.requested_key),
                (shard.journal, shard.event_key),
            ):
                if await message_count(self._connection, queue) is not None:
                    await channel.queue_unbind(
                        queue=queue, exchange=TASKS_EXCHANGE, routing_key=key
                    )
        await channel.channel_close(reply_code=200, reply_text="done")

    async def _move_all(self, shard: Shard, new: list[Shard], offsets: dict[str, int]) -> None:
        """Move the messages of a shard's queues.

        `offsets` has, for each stream, the offset up to which it was copied before; it is updated.
        """

        def queue_of(kind: str) -> Callable[[Delivery], str | None]:
            def find(delivery: Delivery) -> str | None:
                try:
                    device = _decode(delivery.body).equipment
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    return None  # a barrier's marker, or a message that no worker can decode
                return str(getattr(new[shard_of(device, len(new))], kind))

            return find

        for kind, stream in (("journal", True), ("work", False), ("dead", False)):
            queue = getattr(shard, kind)
            if await message_count(self._connection, queue) is not None:
                move = _Move(
                    self._connection,
                    self._publisher,
                    queue,
                    queue_of(kind),
                    offsets.get(queue, 0) if stream else None,
                )
                moved = await move.run(self._new_id())
                if move.next_offset is not None:
                    offsets[queue] = move.next_offset
                if moved:
                    self._say(f"{queue}: {moved} messages moved")


def _offset(delivery: Delivery) -> int:
    """The offset of a message in its stream."""
    return cast("int", (delivery.properties.headers or {})["x-stream-offset"])


class _Move:
    """Moves the messages of one queue, up to a marker that it publishes to the end of the queue.

    `queue_of` returns the new queue of a message, or None if the message is dropped. A stream is
    copied from `next_offset` on; for other queues it is None.
    """

    def __init__(
        self,
        connection: AmqpConnection,
        publisher: Publisher,
        queue: str,
        queue_of: Callable[[Delivery], str | None],
        next_offset: int | None,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._queue = queue
        self._queue_of = queue_of
        self.next_offset = next_offset
        self._arrived: deque[Delivery] = deque()
        self._arrival: Deferred[None] | None = None

    async def run(self, marker: str) -> int:
        """Move all present messages; return their number. Raises `BrokerError`."""
        mark = Basic.Properties(delivery_mode=2, headers={MARKER: marker})
        await self._publisher.publish("", self._queue, b"{}", properties=mark)
        channel = await self._connection.open_channel()
        channel.on_closed(lambda reason: self._wake(reason))
        arguments = (
            {} if self.next_offset is None else {"x-stream-offset": self.next_offset or "first"}
        )
        tag = await consume(
            channel, self._queue, self._on_delivery, prefetch=BATCH, arguments=arguments
        )
        moved, over = 0, False
        while not over:
            if not self._arrived:
                self._arrival = Deferred()
                await self._arrival
            batch = [self._arrived.popleft() for _ in range(len(self._arrived))]
            over = any((each.properties.headers or {}).get(MARKER) == marker for each in batch)
            moved += await self._forward(batch)
            if self.next_offset is not None:
                # What arrived after this batch was not forwarded; the next move reads it again.
                self.next_offset = _offset(batch[-1]) + 1
            channel.ack_all(batch[-1])
        await cancel(channel, tag)
        await channel.channel_close(reply_code=200, reply_text="done")
        return moved

    async def _forward(self, batch: list[Delivery]) -> int:
        published = []
        for delivery in batch:
            if MARKER in (delivery.properties.headers or {}):
                continue
            queue = self._queue_of(delivery)
            if queue is not None:
                properties = Basic.Properties(
                    content_type=delivery.properties.content_type,
                    delivery_mode=2,
                    headers={
                        key: value
                        for key, value in (delivery.properties.headers or {}).items()
                        if key not in _OF_THE_QUEUE
                    },
                )
                published.append(
                    self._publisher.publish("", queue, delivery.body, properties=properties)
                )
        await gather(published)
        return len(published)

    def _on_delivery(self, delivery: Delivery) -> None:
        if self.next_offset is not None and _offset(delivery) < self.next_offset:
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
