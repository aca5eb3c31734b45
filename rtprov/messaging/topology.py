"""Exchanges, queues and streams of rtprov, and their names. All is durable; declaring it again
changes nothing.

::

    rtprov.tasks ─┬─ requested.K ─▶ rtprov.work.K ── too many deliveries ──▶ rtprov.dead
                  ─────────────▶ rtprov.dead.K └─ requested.K, event.K ─▶ rtprov.journal.K

    rtprov.parked      what can be neither used nor dropped; rtprov only fills it rtprov.status ─
    status.K, inquiry.K ─▶ queues of each worker's own, which go with its connection: status
    requests, other questions

K is a shard such as ``3of8``: its number, from 0, and how many there are.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
from pamqp.commands import Basic
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rtprov.errors import BrokerError, ConfigurationError
from rtprov.messaging.letter_queues import LetterQueue, Letters

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection

TASKS_EXCHANGE = "rtprov.tasks"
DEAD_EXCHANGE = "rtprov.dead"
STATUS_EXCHANGE = "rtprov.status"
PARKED_QUEUE = "rtprov.parked"

# Every bounce of broker or worker counts as a delivery.
DELIVERY_LIMIT = 100
# A stream forgets whole segments only, and never the newest one: keep them small. The store's own
# retention may be shorter, never longer.
JOURNAL_MAX_AGE = "7D"
JOURNAL_MAX_AGE_S = 7 * 86400.0
JOURNAL_SEGMENT_BYTES = 16 * 1024 * 1024


@attrs.frozen
class Shard:
    """Shard `index`, 0 to `count` - 1, of `count`, and what its queues and routing keys are
    called.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}of{self.count}"

    @property
    def work(self) -> str:
        """The queue of tasks."""
        return f"rtprov.work.{self}"

    @property
    def journal(self) -> str:
        """The stream of events."""
        return f"rtprov.journal.{self}"

    @property
    def status(self) -> str:
        """The routing key of status requests."""
        return f"status.{self}"

    @property
    def inquiry(self) -> str:
        """The routing key of questions about tasks."""
        return f"inquiry.{self}"

    @property
    def dead(self) -> str:
        """The queue of tasks that were delivered too often, or refused."""
        return f"rtprov.dead.{self}"

    @property
    def dead_letters(self) -> LetterQueue:
        """The same with its bindings: a letter keeps its routing key, which is the work queue's
        name if it was published there directly.
        """
        return LetterQueue(self.dead, DEAD_EXCHANGE, (self.requested_key, self.work))

    @property
    def requested_key(self) -> str:
        """The routing key that leads to work queue and journal."""
        return f"requested.{self}"

    @property
    def event_key(self) -> str:
        """The routing key that leads to the journal alone."""
        return f"event.{self}"


class Guard(Protocol):
    """What must agree before anything is declared again; see
    `rtprov.messaging.shard_count.ShardCount`.
    """

    async def attach(self, connection: AmqpConnection) -> None:
        """Raises `BrokerError` or `ConfigurationError` if it does not agree."""


class Topology:
    """Declares what the shards need, but for the queues of questions. The first session of each
    connection of front end and worker.

    With `replaces`, which is a worker's, queues of letters that an earlier rtprov declared are
    replaced where they must be. `count` must agree before anything is declared again on a
    connection."""

    _log = Logger()

    def __init__(
        self, shards: Sequence[Shard], *, replaces: bool = False, count: Guard | None = None
    ) -> None:
        self._shards = tuple(shards)
        self._count = count
        self._replaces = replaces
        # queues of letters that stay as an earlier rtprov has declared them
        self._old: frozenset[str] = frozenset()
        # nothing is left to replace: not looked for again, which RabbitMQ would log as errors
        self._replaced = False
        self._connection: AmqpConnection | None = None
        self._repairing: Deferred[None] | None = None

    async def attach(self, connection: AmqpConnection) -> None:
        """Declare; done once the broker has it all. Raises `AmqpError` 406 where something of the
        name exists and differs.
        """
        self._connection = connection
        await self._declare(connection, fatal=True)

    def detach(self) -> None:
        """What is declared outlives the connection."""
        self._connection = None
        if self._repairing is not None:
            self._repairing.cancel()

    def repair(self) -> None:
        """Declare all again, unless that is under way: something of it seems to be gone."""
        if self._connection is None or self._repairing is not None:
            return
        self._log.warn(
            "a message found no queue, or a queue misses messages; declaring all exchanges, queues"
            " and bindings again"
        )
        repairing = Deferred.fromCoroutine(self._declare_again(self._connection))
        if not repairing.called:
            self._repairing = repairing
        repairing.addBoth(self._repaired)

    def _repaired(self, result: Failure | None) -> None:
        self._repairing = None
        if result is None or result.check(CancelledError):
            return
        if result.check(BrokerError):
            self._log.warn(
                "exchanges, queues and bindings could not be declared again: {error}",
                error=result.value,
            )
        else:
            self._log.failure("exchanges, queues and bindings could not be declared again", result)

    async def _declare_again(self, connection: AmqpConnection) -> None:
        """The queues may be gone because the number of shards was changed: these must not come back
        then.
        """
        if self._count is not None:
            try:
                await self._count.attach(connection)
            except (BrokerError, ConfigurationError) as error:
                connection.drop(f"The queues are not declared again: {error}")
                return
        await self._declare(connection, fatal=False)

    async def _declare(self, connection: AmqpConnection, *, fatal: bool) -> None:
        channel = await connection.open_channel(fatal=fatal)
        for exchange in (TASKS_EXCHANGE, DEAD_EXCHANGE, STATUS_EXCHANGE):
            await channel.exchange_declare(exchange=exchange, exchange_type="direct", durable=True)
        letters = Letters(connection, self._letters)
        old = await letters.declare()
        self._old = frozenset(queue.name for queue in old)
        if self._replaces and (old or not self._replaced):
            count = self._shards[0].count
            self._replaced = await letters.replace(
                old, [Shard(index, count).dead for index in range(count)]
            )
        for shard in self._shards:
            await _declare_shard(channel, shard)
        await channel.channel_close(reply_code=200, reply_text="done")

    @property
    def _letters(self) -> list[LetterQueue]:
        return [LetterQueue(PARKED_QUEUE), *(shard.dead_letters for shard in self._shards)]

    async def keep(self, channel: AmqpChannel, own: Iterable[tuple[str, str]]) -> None:
        """Declare all again on a connection that this is attached to, at the cost of one answer.

        `own` are queues of the connection, each with its routing key at `STATUS_EXCHANGE`. Raises
        `BrokerError`."""
        for exchange in (TASKS_EXCHANGE, DEAD_EXCHANGE):
            await channel.exchange_declare(
                exchange=exchange, exchange_type="direct", durable=True, nowait=True
            )
        for letters in self._letters:
            if letters.name not in self._old:
                await channel.queue_declare(
                    queue=letters.name, durable=True, arguments=letters.arguments, nowait=True
                )
        for shard in self._shards:
            await _declare_shard(channel, shard, nowait=True)
        # What has an answer comes before the bindings: if a queue is gone, the connection is about
        # to be dropped.
        await channel.exchange_declare(
            exchange=STATUS_EXCHANGE, exchange_type="direct", durable=True
        )
        for queue, key in own:
            await channel.queue_bind(
                queue=queue, exchange=STATUS_EXCHANGE, routing_key=key, nowait=True
            )


async def _declare_shard(channel: AmqpChannel, shard: Shard, *, nowait: bool = False) -> None:
    letters = shard.dead_letters
    for key in letters.keys:
        await channel.queue_bind(
            queue=letters.name, exchange=letters.exchange, routing_key=key, nowait=nowait
        )
    work = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD_EXCHANGE,
    }
    await channel.queue_declare(queue=shard.work, durable=True, arguments=work, nowait=nowait)
    journal = {
        "x-queue-type": "stream",
        "x-max-age": JOURNAL_MAX_AGE,
        "x-stream-max-segment-size-bytes": JOURNAL_SEGMENT_BYTES,
    }
    await channel.queue_declare(queue=shard.journal, durable=True, arguments=journal, nowait=nowait)
    for queue, key in (
        (shard.work, shard.requested_key),
        (shard.journal, shard.requested_key),
        (shard.journal, shard.event_key),
    ):
        await channel.queue_bind(
            queue=queue, exchange=TASKS_EXCHANGE, routing_key=key, nowait=nowait
        )


async def declare_status(channel: AmqpChannel, shard: Shard) -> str:
    """Make a queue for the shard's status requests, which goes away with the connection, and return
    its name. Raises `BrokerError`.
    """
    return await _declare_own(channel, shard.status)


async def declare_inquiry(channel: AmqpChannel, shard: Shard) -> str:
    """Make a queue for questions about the shard's tasks, which goes with the connection, and
    return its name. Raises `BrokerError`.
    """
    return await _declare_own(channel, shard.inquiry)


async def _declare_own(channel: AmqpChannel, routing_key: str) -> str:
    """A queue of this worker's.

    One for each worker, not one for all: that would live on one node of a cluster, and while it is
    down nobody could have another. Its name is ours, so that permissions can be given for
    ``rtprov.`` alone; it is a new one for each connection, since the broker may keep the queue of a
    lost connection until it notices the loss."""
    queue = f"rtprov.{routing_key}.{uuid.uuid4().hex}"
    await channel.queue_declare(queue=queue, exclusive=True)
    await channel.queue_bind(queue=queue, exchange=STATUS_EXCHANGE, routing_key=routing_key)
    return queue


def persistent() -> Basic.Properties:
    """Properties of a message that survives a restart of the broker (AMQP 0-9-1 ``delivery-mode``
    2).
    """
    return Basic.Properties(content_type="application/json", delivery_mode=2)
