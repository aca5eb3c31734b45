"""Move all tasks from one broker to another: from the embedded broker to RabbitMQ, or back.

The journals, the work queues, and the dead and parked letters move, with their order
(`rtprov.messaging.moving`). No worker may run in the meantime. Front ends answer 503 until they
connect to the new broker. Each step can be repeated after a crash:

1. The new broker, and then the old one, remember that tasks are being moved. From then on no front
   end or worker can connect to either (`rtprov.messaging.shard_count`).
2. The queues and journals are declared at the new broker. Those of the old one are unbound, so that
   the POSTs of a front end that is still running are returned.
3. The events of the journals are copied. Then the messages of the other queues are moved.
4. The old broker remembers that its tasks were moved, so no process uses it again. Then the new one
   remembers the number of shards, and front ends and workers can connect to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from rtprov.errors import ConfigurationError
from rtprov.messaging.moving import Move, unbind
from rtprov.messaging.shard_count import (
    CHANGE_QUEUE,
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
from rtprov.messaging.topology import PARKED_QUEUE, Shard, Topology

if TYPE_CHECKING:
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher


@frozen
class Side:
    """One of the two brokers: `publisher` is attached to `connection`."""

    connection: AmqpConnection
    publisher: Publisher


class Relocation:
    """Moves all tasks from `source` to `target`, which must be a new broker or virtual host.

    `new_id` returns an id that no other process has. `say` is called with each line for the
    operator.
    """

    def __init__(
        self,
        *,
        source: Side,
        target: Side,
        new_id: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        self._source = source
        self._target = target
        self._new_id = new_id
        self._say = say

    async def run(self) -> None:
        """Move everything.

        Raises `ConfigurationError` if that is not possible. Raises `BrokerError` if a broker fails;
        then run it again.
        """
        known = await self._known()
        count, target = known.count, await self._known_target(known.count)
        if known.changing_to == MOVED:
            if target is None:
                raise ConfigurationError(
                    "The tasks of this broker were moved to another one before"
                )
            if target.changing_to is None:
                self._say("The tasks were moved before; nothing to do")
                return
        elif target is not None and target.changing_to is None:
            raise ConfigurationError(
                "The new broker is in use: rtprov has run on it. Give it a virtual host of its own"
            )
        else:
            if known.changing_to == MOVING and target is None:
                raise ConfigurationError(
                    "A move to another broker than this one is not complete: complete that one"
                )
            await check_no_worker(self._source.connection, count)
            self._say(f"Moving the tasks of {count} {'shard' if count == 1 else 'shards'}")
            for side in (self._target, self._source):
                await self._mark(side, Remembered(count, MOVING))
            await self._move_all([Shard(index, count) for index in range(count)])
            await store(self._source.connection, Remembered(count, MOVED))
            await delete_queue(self._source.connection, CHANGE_QUEUE)
        await store(self._target.connection, Remembered(count))
        await delete_queue(self._target.connection, CHANGE_QUEUE)
        self._say("All tasks were moved; start the workers on the new broker")

    async def _known(self) -> Remembered:
        """Return what the old broker remembers. Raises `ConfigurationError`."""
        connection = self._source.connection
        guess = Remembered(1)
        known = await read(connection, guess) or await read(connection, guess, CHANGE_QUEUE)
        if known is None:
            count = await count_of_earlier_version(connection)
            if count is None:
                raise ConfigurationError("The old broker has no tasks: rtprov has not run on it")
            return Remembered(count)
        if known.changing_to not in (None, MOVING, MOVED):
            raise ConfigurationError(
                f"A change to {known.changing_to} shards is not complete: run python -m"
                f" rtprov.shards {known.changing_to} first"
            )
        return known

    async def _known_target(self, count: int) -> Remembered | None:
        """Return what the new broker remembers, None if it is new. Raises `ConfigurationError`."""
        connection, guess = self._target.connection, Remembered(count, MOVING)
        known = await read(connection, guess) or await read(connection, guess, CHANGE_QUEUE)
        if known is None:
            used = await count_of_earlier_version(connection)
            return None if used is None else Remembered(used)
        if known.count != count or known.changing_to not in (None, MOVING):
            raise ConfigurationError("The new broker is in use for other tasks")
        return known

    async def _mark(self, side: Side, wanted: Remembered) -> None:
        if await remember(side.connection, wanted, CHANGE_QUEUE) != wanted:
            await delete_queue(side.connection, CHANGE_QUEUE)  # of a change that is complete
            await remember(side.connection, wanted, CHANGE_QUEUE)
        await store(side.connection, wanted)

    async def _move_all(self, shards: list[Shard]) -> None:
        await Topology(shards).attach(self._target.connection)
        moves = [self._move(shard.journal, stream=True) for shard in shards]
        moves += [self._move(queue) for shard in shards for queue in (shard.work, shard.dead)]
        moves.append(self._move(PARKED_QUEUE))
        # Twice, because a front end that began to connect before the first step may have bound the
        # old queues again.
        for _ in range(2):
            await unbind(self._source.connection, shards)
            for move in moves:
                if await message_count(self._source.connection, move.queue) is not None:
                    moved = await move.run(self._new_id())
                    if moved:
                        self._say(f"{move.queue}: {moved} messages moved")

    def _move(self, queue: str, *, stream: bool = False) -> Move:
        def same(_: bytes) -> str:
            return queue

        return Move(
            connection=self._source.connection,
            publisher=self._source.publisher,
            target=self._target.publisher,
            queue=queue,
            queue_of=same,
            stream=stream,
        )
