"""Changing the number of shards: all that the old queues and journals hold moves to new ones,
device by device in its order.

No worker may run meanwhile. Front ends answer 503 until it is done. The steps, each of which may be
repeated after a crash:

1. The broker remembers that the count is being changed: no front end or worker connects any more
   (`rtprov.messaging.shard_count`).
2. The new queues and journals are declared. The old ones are unbound, so that a front end which
   still runs has its POSTs returned.
3. The events of the old journals are appended to the new ones, then the messages of the old work
   queues and dead letters move. What is confirmed in the new place only then leaves the old one. A
   crash leaves copies, which do no harm: journals are folded idempotently, and a task that comes
   twice is called once.
4. The old queues are deleted, and the broker remembers the new count."""

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
    MAX_SHARDS,
    Remembered,
    counts_of_before,
    delete_queue,
    forget,
    message_count,
    queue_counts,
    read,
    remember,
)
from rtprov.messaging.topology import TASKS_EXCHANGE, Shard, Topology
from rtprov.model import shard_of

if TYPE_CHECKING:
    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher

BATCH = 500
MARKER = "x-rtprov-moved-upto"
# headers that the old queue has added
_OF_THE_QUEUE = ("x-stream-offset", "x-delivery-count", "x-acquired-count")


class _OfDevice(msgspec.Struct):
    """What every message about a task has."""

    equipment: str


_decode = msgspec.json.Decoder(_OfDevice).decode


class Resharding:
    """Changes the number of shards over `connection`; `publisher` is attached to it.

    `new_id` makes ids that no other process makes; `say` tells the operator what is done.
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

        Raises `ConfigurationError` if that is not possible, `BrokerError` if the broker failed: it
        may be repeated then."""
        if not 1 <= count <= MAX_SHARDS:
            raise ConfigurationError(f"The number of shards must be from 1 to {MAX_SHARDS}")
        before = await self._begin(count)
        if before is None:
            self._say(f"The broker has {count} shards; there is nothing to move")
            return
        old = [Shard(index, before) for index in range(before)]
        new = [Shard(index, count) for index in range(count)]
        await Topology(new).attach(self._connection)
        # A front end that had begun to connect before the first step may bind again what was
        # unbound: hence twice.
        offsets: dict[str, int] = {}
        for _ in range(2):
            await self._unbind(old)
            for shard in old:
                await self._move_all(shard, new, offsets)
        for shard in old:
            for queue in (shard.work, shard.journal, shard.dead):
                await delete_queue(self._connection, queue)
        await forget(self._connection)
        await remember(self._connection, Remembered(count))
        self._say(f"The broker has {count} shards now: start the workers")

    async def _begin(self, count: int) -> int | None:
        """The old count, once nothing uses it any more; None if it is the new one."""
        known = await read(self._connection, Remembered(count)) or await self._known_of_before(
            count
        )
        if known == Remembered(count):
            return None
        if known.changing_to not in (None, count):
            raise ConfigurationError(
                f"A change to {known.changing_to} shards was begun: finish it first"
            )
        for index in range(known.count):
            queue = Shard(index, known.count).work
            counts = await queue_counts(self._connection, queue)
            if counts is not None and counts[1]:
                raise ConfigurationError(f"A worker still consumes {queue}: stop all workers first")
        self._say(f"Changing from {known.count} to {count} shards")
        changing = Remembered(known.count, count)
        while known != changing:
            await forget(self._connection)
            known = await remember(self._connection, changing)
        return changing.count

    async def _known_of_before(self, count: int) -> Remembered:
        """What a broker that remembers no count has been used with; a new one remembers `count`
        from now on.
        """
        before = await counts_of_before(self._connection)
        if not before:
            return await remember(self._connection, Remembered(count))
        if len(before) > 1:
            held = " and ".join(map(str, before))
            raise ConfigurationError(
                f"The broker holds queues of {held} shards: delete those that are not in use"
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
        """Move what a shard's queues hold; `offsets` are those in the streams up to which all was
        copied before.
        """

        def queue_of(kind: str) -> Callable[[Delivery], str | None]:
            def find(delivery: Delivery) -> str | None:
                try:
                    device = _decode(delivery.body).equipment
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    return None  # a marker of a barrier, or what no worker could read either
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


class _Move:
    """Moves all messages of one queue up to a marker at its end. Those of a stream are copied, from
    `next_offset` on.

    `queue_of` gives each message's new queue, None for what is left out. `next_offset` is None for
    what is no stream."""

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
        """Move all up to now; return how many. Raises `BrokerError`."""
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
        if self.next_offset is not None:
            offset = cast("int", (delivery.properties.headers or {})["x-stream-offset"])
            if offset < self.next_offset:
                return  # RabbitMQ begins with the chunk that holds the offset
            self.next_offset = offset + 1
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
