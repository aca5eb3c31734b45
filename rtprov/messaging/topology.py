"""The exchanges, queues and streams of rtprov, their names, and their declaration.

K is a shard, for example ``3of8``: its index, from 0, and the number of shards. ::

    rtprov.tasks ──┬─ requested.K ──────────▶ rtprov.work.K     the tasks (quorum queue)
                   └─ requested.K, event.K ─▶ rtprov.journal.K  the events (stream)
    rtprov.dead ──── requested.K, work queue ▶ rtprov.dead.K    tasks rejected by rtprov.work.K
    rtprov.status ── status.K, inquiry.K ───▶ two queues of each worker, for status requests and
                                              other questions; deleted with its connection
    rtprov.parked    letters that rtprov cannot process; rtprov only writes to this queue

Everything but the workers' own queues is durable. Declaring it again has no effect.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from pamqp.commands import Basic
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger

from rtprov.errors import BrokerError, BrokerUnavailable, ConfigurationError, Unconfirmed
from rtprov.messaging.letter_queues import LetterQueue, Letters

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection

TASKS_EXCHANGE = "rtprov.tasks"
DEAD_EXCHANGE = "rtprov.dead"
STATUS_EXCHANGE = "rtprov.status"
PARKED_QUEUE = "rtprov.parked"

# Each restart of the broker or a worker counts as a delivery.
DELIVERY_LIMIT = 100
# A stream deletes whole segments only, and never the newest one, so segments are small. The
# retention of the store must not be longer.
JOURNAL_MAX_AGE = "7D"
JOURNAL_MAX_AGE_S = 7 * 86400.0
JOURNAL_SEGMENT_BYTES = 16 * 1024 * 1024


@attrs.frozen
class Shard:
    """One shard: its index, 0 to `count` - 1, and the names of its queues and routing keys."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}of{self.count}"

    @property
    def work(self) -> str:
        """The name of the queue of tasks."""
        return f"rtprov.work.{self}"

    @property
    def journal(self) -> str:
        """The name of the stream of events."""
        return f"rtprov.journal.{self}"

    @property
    def status(self) -> str:
        """The routing key of status requests."""
        return f"status.{self}"

    @property
    def inquiry(self) -> str:
        """The routing key of other questions about tasks."""
        return f"inquiry.{self}"

    @property
    def dead(self) -> str:
        """The name of the queue of tasks that were rejected, or delivered too often."""
        return f"rtprov.dead.{self}"

    @property
    def dead_letters(self) -> LetterQueue:
        """The queue of dead letters with its bindings.

        A letter keeps its routing key. That is the name of the work queue if the message was
        published to the queue directly.
        """
        return LetterQueue(self.dead, DEAD_EXCHANGE, (self.requested_key, self.work))

    @property
    def requested_key(self) -> str:
        """The routing key to the work queue and the journal."""
        return f"requested.{self}"

    @property
    def event_key(self) -> str:
        """The routing key to the journal only."""
        return f"event.{self}"


class ShardCountCheck(Protocol):
    """Checks that the number of shards is unchanged (`rtprov.messaging.shard_count.ShardCount`)."""

    async def attach(self, connection: AmqpConnection) -> None:
        """Raise `BrokerError` or `ConfigurationError` if the check fails."""


class _Changed(BrokerUnavailable):
    """The number of shards has changed, or could not be compared."""


class Topology:
    """Declares the exchanges, queues and bindings of shards, on each connection to the broker.

    The queues of questions are declared by their servers. With `replaces`, which only workers set,
    queues of letters without a delivery limit are replaced if necessary
    (`rtprov.messaging.letter_queues`).

    A change of the number of shards deletes these queues. If it is faster than a front end that
    connects, the front end declares them anew, and no worker will ever read them. So `count`
    compares the number of shards before the queues are bound, because another front end could
    publish to them, and once more when they are. The connection is not used if the number differs.
    A change that begins later finds the queues and moves their messages.
    """

    _log = Logger()

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        replaces: bool = False,
        count: ShardCountCheck | None = None,
    ) -> None:
        self._shards = tuple(shards)
        self._count = count
        self._replaces = replaces
        # Queues of letters that stay as an earlier rtprov has declared them.
        self._old: frozenset[str] = frozenset()
        # Nothing is left to replace. Each check would make RabbitMQ log errors, so it is not
        # repeated.
        self._replaced = False
        self._connection: AmqpConnection | None = None
        self._repairing: Deferred[None] | None = None
        self._repair_waiters: dict[Deferred[None], None] = {}  # an ordered set

    async def attach(self, connection: AmqpConnection) -> None:
        """Declare everything; done once the broker has it.

        Raises `AmqpError` 406 if a queue or exchange exists with other arguments, and what `count`
        raises.
        """
        self._connection = connection
        await self._declare(connection, fatal=True)

    def detach(self) -> None:
        """Stop declaring. What was declared stays at the broker."""
        self._connection = None
        if self._repairing is not None:
            self._repairing.cancel()

    def repair(self) -> None:
        """Declare everything again, because something seems to be missing.

        Does nothing while an earlier call is still declaring.
        """
        if self._connection is None or self._repairing is not None:
            return
        self._log.warn(
            "the broker could not route a message, or a queue has lost messages; declaring all"
            " exchanges, queues and bindings again"
        )
        repairing = Deferred.fromCoroutine(self._declare_again(self._connection))
        if not repairing.called:
            self._repairing = repairing
        repairing.addBoth(self._repaired)

    def repaired(self) -> Deferred[None]:
        """Fire once no repair is under way.

        What the broker confirms during a repair may be in a queue that the repair has declared,
        although the number of shards has changed. So wait for this before relying on a confirm.
        Fails with `Unconfirmed` if the repair dropped the connection, or the connection was lost.
        """
        if self._repairing is None:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._forget)
        self._repair_waiters[waiter] = None
        return waiter

    def _forget(self, waiter: Deferred[None]) -> None:
        self._repair_waiters.pop(waiter, None)

    def _repaired(self, result: Failure | None) -> None:
        self._repairing = None
        lost = self._connection is None or self._connection.closed
        waiters, self._repair_waiters = self._repair_waiters, {}
        for waiter in waiters:
            if waiter.called:  # cancelled by the callbacks of an earlier one
                continue
            if lost:
                waiter.errback(
                    Unconfirmed("The connection was lost while queues were declared again")
                )
            else:
                waiter.callback(None)
        if result is None or result.check(CancelledError):
            return
        if result.check(BrokerError):
            self._log.warn(
                "could not declare exchanges, queues and bindings again: {error}",
                event="broker.not_declared",
                error=result.value,
            )
        else:
            self._log.failure("could not declare exchanges, queues and bindings again", result)

    async def _declare_again(self, connection: AmqpConnection) -> None:
        """Declare everything, if the number of shards is unchanged.

        If it was changed, the old queues were deleted on purpose, and the connection is dropped.
        """
        try:
            await self._compare(connection)
            await self._declare(connection, fatal=False)
        except _Changed as error:
            connection.drop(f"Queues are missing and cannot be declared again: {error}")

    async def _compare(self, connection: AmqpConnection) -> None:
        """Compare the number of shards. Raises `_Changed` if it differs or cannot be compared."""
        if self._count is not None:
            try:
                await self._count.attach(connection)
            except (BrokerError, ConfigurationError) as error:
                raise _Changed(str(error)) from error

    async def _declare(self, connection: AmqpConnection, *, fatal: bool) -> None:
        """Declare and bind everything. Raises `_Changed` and other `BrokerError`s."""
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
        await self._compare(connection)
        for shard in self._shards:
            for binding in task_bindings(shard):
                await channel.queue_bind(**binding)
        try:
            await self._compare(connection)
        except _Changed:
            await self._unbind(connection)
            raise
        await channel.channel_close(reply_code=200, reply_text="done")

    async def _unbind(self, connection: AmqpConnection) -> None:
        """Undo the bindings, as far as their queues still exist."""
        with suppress(BrokerError):
            channel = await connection.open_channel(fatal=False)
            for shard in self._shards:
                for binding in task_bindings(shard):
                    await channel.queue_unbind(**binding)

    @property
    def _letters(self) -> list[LetterQueue]:
        return [LetterQueue(PARKED_QUEUE), *(shard.dead_letters for shard in self._shards)]

    async def keep(self, channel: AmqpChannel, own: Iterable[tuple[str, str]]) -> None:
        """Declare everything again on the connection of `channel`, and wait for one answer only.

        `own` are the worker's own queues, each with its routing key at `STATUS_EXCHANGE`. They are
        bound again. Raises `BrokerError`.
        """
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
            for binding in task_bindings(shard):
                await channel.queue_bind(**binding, nowait=True)
        # Wait for the answer before the bindings: if one of these queues was deleted, the
        # connection is dropped by then.
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


def task_bindings(shard: Shard) -> Sequence[Mapping[str, Any]]:
    """Return the bindings of work queue and journal, as arguments of ``queue.bind``."""
    return [
        {"queue": queue, "exchange": TASKS_EXCHANGE, "routing_key": key}
        for queue, key in (
            (shard.work, shard.requested_key),
            (shard.journal, shard.requested_key),
            (shard.journal, shard.event_key),
        )
    ]


async def declare_status(channel: AmqpChannel, shard: Shard) -> str:
    """Declare a worker's queue for the shard's status requests; return its name.

    The broker deletes the queue with the connection. Raises `BrokerError`.
    """
    return await _declare_own(channel, shard.status)


async def declare_inquiry(channel: AmqpChannel, shard: Shard) -> str:
    """Declare a worker's queue for other questions about the shard's tasks; return its name.

    The broker deletes the queue with the connection. Raises `BrokerError`.
    """
    return await _declare_own(channel, shard.inquiry)


async def _declare_own(channel: AmqpChannel, routing_key: str) -> str:
    """Declare an exclusive queue of this worker.

    Each worker has its own queue. A queue for all workers would live on one node of a cluster and
    be unavailable while that node is down. The name begins with ``rtprov.``, so that permissions
    can be limited to this prefix. It is new for each connection, because the broker may keep the
    queue of a lost connection for a while.
    """
    queue = f"rtprov.{routing_key}.{uuid.uuid4().hex}"
    await channel.queue_declare(queue=queue, exclusive=True)
    await channel.queue_bind(queue=queue, exchange=STATUS_EXCHANGE, routing_key=routing_key)
    return queue


def persistent() -> Basic.Properties:
    """Return the properties of a message that survives a restart of the broker.

    (AMQP 0-9-1 ``delivery-mode`` 2.)
    """
    return Basic.Properties(content_type="application/json", delivery_mode=2)
