"""Change the number of shards: move the messages of all queues and journals to new ones.

The messages of a device keep their order. No worker may run in the meantime; front ends answer 503
until the change is done. Each step can be repeated after a crash:

1. The broker remembers that the number is being changed. From then on no front end or worker can
   connect (`rtprov.messaging.shard_count`).
2. The new queues and journals are declared. The old ones are unbound, so that the POSTs of a front
   end that is still running are returned.
3. The events of the old journals are copied to the new ones. Then the messages of the old work
   queues and dead letters are moved (`rtprov.messaging.moving`).
4. The old queues are deleted, and the broker remembers the new number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from rtprov.errors import ConfigurationError
from rtprov.messaging.moving import Move, unbind
from rtprov.messaging.shard_count import (
    CHANGE_QUEUE,
    MAX_SHARDS,
    MOVED,
    MOVING,
    Remembered,
    check_no_worker,
    count_of_earlier_version,
    delete_queue,
    message_count,
    read,
    remember,
    store,
)
from rtprov.messaging.topology import Shard, Topology
from rtprov.model import shard_of

if TYPE_CHECKING:
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher


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
        moves = [each for shard in old for each in self._moves(shard, new)]
        for _ in range(2):
            await unbind(self._connection, old)
            for move in moves:
                await self._move(move)
        for shard in old:
            for queue in (shard.work, shard.journal, shard.dead):
                await delete_queue(self._connection, queue)
        await store(self._connection, Remembered(count))
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
        if known.changing_to in (MOVING, MOVED):
            raise ConfigurationError(
                "The tasks of this broker are being moved, or were moved, to another one (python -m"
                " rtprov.move)"
            )
        if known.changing_to not in (None, count):
            raise ConfigurationError(
                f"An earlier change to {known.changing_to} shards is not complete: run"
                f" python -m rtprov.shards {known.changing_to} first"
            )
        await check_no_worker(self._connection, known.count)
        self._say(f"Changing from {known.count} to {count} shards")
        changing = Remembered(known.count, count)
        if known != changing:
            await delete_queue(self._connection, CHANGE_QUEUE)
        await remember(self._connection, changing, CHANGE_QUEUE)
        await store(self._connection, changing)
        return changing.count

    async def _count_of_earlier_version(self, count: int) -> Remembered:
        """Return the number that an earlier version of rtprov used with this broker.

        A new broker gets `count`.
        """
        before = await count_of_earlier_version(self._connection)
        return await remember(self._connection, Remembered(before or count))

    def _moves(self, shard: Shard, new: list[Shard]) -> list[Move]:
        """Return the moves of a shard's queues."""

        def queue_of(kind: str) -> Callable[[bytes], str | None]:
            def find(body: bytes) -> str | None:
                try:
                    device = _decode(body).equipment
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    return None  # a barrier's marker, or a message that no worker can decode
                return str(getattr(new[shard_of(device, len(new))], kind))

            return find

        return [
            Move(
                connection=self._connection,
                publisher=self._publisher,
                target=self._publisher,
                queue=getattr(shard, kind),
                queue_of=queue_of(kind),
                stream=stream,
            )
            for kind, stream in (("journal", True), ("work", False), ("dead", False))
        ]

    async def _move(self, move: Move) -> None:
        if await message_count(self._connection, move.queue) is not None:
            moved = await move.run(self._new_id())
            if moved:
                self._say(f"{move.queue}: {moved} messages moved")
