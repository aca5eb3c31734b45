"""How many shards there are, as the broker remembers it: one number that front ends and workers
must agree on.

AMQP has no place for a number, but a broker compares the arguments of a queue that is declared
again, and refuses others (406): that makes the first declaration count, whichever process makes it.
So the count is an argument of an empty queue that carries no message, ``rtprov.shards``: its
``x-delivery-limit``. While the count is being changed the argument holds both counts
(`Remembered`).

A broker that earlier versions have used has no such queue. The names of its work queues tell the
count then."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rtprov.amqp.client.gathering import gather
from rtprov.errors import AmqpError, BrokerError, BrokerUnavailable, ConfigurationError
from rtprov.messaging.topology import PARKED_QUEUE, Shard

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from rtprov.amqp.client.protocol import AmqpConnection

SHARDS_QUEUE = "rtprov.shards"
MAX_SHARDS = 1024
SCAN_AT_ONCE = 32
NOT_FOUND, PRECONDITION_FAILED = 404, 406

_CHANGING = 10_000  # more than any count
# RabbitMQ: "… received the value '4' of type 'signedint' but current is the value '1' of type …";
# ours is shorter.
_CURRENT = re.compile(r"current is (?:the value )?'([0-9]+)'")


@attrs.frozen
class Remembered:
    """`count` shards, 1 to 1024; `changing_to` is the count that they are being changed to, None
    while they are not.
    """

    count: int
    changing_to: int | None = None

    @property
    def value(self) -> int:
        """The two as one number."""
        return self.count + _CHANGING * (self.changing_to or 0)

    @classmethod
    def of(cls, value: int) -> Remembered:
        """The reverse of `value`."""
        return cls(value % _CHANGING, value // _CHANGING or None)


async def read(connection: AmqpConnection, guess: Remembered) -> Remembered | None:
    """What the broker remembers, None if it remembers nothing. A right `guess` spares it an error.
    Raises `BrokerError`.
    """
    if await message_count(connection, SHARDS_QUEUE) is None:
        return None
    return await remember(connection, guess)


async def remember(connection: AmqpConnection, wanted: Remembered) -> Remembered:
    """Have the broker remember `wanted` unless it remembers something already; return what it
    remembers. Raises `BrokerError`.
    """
    channel = await connection.open_channel(fatal=False)
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": wanted.value}
    try:
        await channel.queue_declare(queue=SHARDS_QUEUE, durable=True, arguments=arguments)
    except AmqpError as error:
        current = _CURRENT.search(error.reply_text)
        if error.reply_code != PRECONDITION_FAILED or current is None:
            raise
        return Remembered.of(int(current[1]))
    await channel.channel_close(reply_code=200, reply_text="done")
    return wanted


async def forget(connection: AmqpConnection) -> None:
    """Have the broker remember nothing. Raises `BrokerError`."""
    await delete_queue(connection, SHARDS_QUEUE)


async def delete_queue(connection: AmqpConnection, queue: str) -> None:
    """Delete a queue if there is one. Raises `BrokerError`."""
    channel = await connection.open_channel(fatal=False)
    try:
        await channel.queue_delete(queue=queue)
    except AmqpError as error:
        if error.reply_code != NOT_FOUND:
            raise
    else:
        await channel.channel_close(reply_code=200, reply_text="done")


async def message_count(connection: AmqpConnection, queue: str) -> int | None:
    """How many messages wait in a queue, None if there is no such queue. Raises `BrokerError`."""
    counts = await queue_counts(connection, queue)
    return None if counts is None else counts[0]


async def queue_counts(connection: AmqpConnection, queue: str) -> tuple[int, int] | None:
    """How many messages and consumers a queue has, None if there is no such queue. Raises
    `BrokerError`.
    """
    channel = await connection.open_channel(fatal=False)
    try:
        declared = await channel.queue_declare(queue=queue, passive=True)
    except AmqpError as error:
        if error.reply_code != NOT_FOUND:
            raise
        return None
    await channel.channel_close(reply_code=200, reply_text="done")
    return declared.message_count, declared.consumer_count


async def counts_of_before(connection: AmqpConnection) -> list[int]:
    """The counts of shards for which the broker holds a work queue, where no count is remembered.
    Raises `BrokerError`.
    """
    if await message_count(connection, PARKED_QUEUE) is None:
        return []  # every version declares it: the broker is new
    found: list[int] = []
    for start in range(1, MAX_SHARDS + 1, SCAN_AT_ONCE):
        counts = range(start, min(start + SCAN_AT_ONCE, MAX_SHARDS + 1))
        looks = [
            Deferred.fromCoroutine(message_count(connection, Shard(0, count).work))
            for count in counts
        ]
        sizes = await gather(looks)
        found += [count for count, size in zip(counts, sizes, strict=True) if size is not None]
    return found


class ShardCount:
    """Makes sure on each connection that the broker has as many shards as this role is made for.
    Its first session.

    `made_for` is that number; with `given` the operator asks for it. Without, `on_other` is called
    with the broker's number if that is another one, so that the role can be made anew. `on_agreed`
    is called once the numbers agree; it may raise `ConfigurationError`."""

    _log = Logger()

    def __init__(self, made_for: int, *, given: bool) -> None:
        self._connection: AmqpConnection | None = None
        self._verifying: Deferred[None] | None = None
        self._made_for = made_for
        self._given = given
        self._agreed = False
        self._guess = Remembered(made_for)
        self.on_other: Callable[[int], None] = lambda count: None
        self.on_agreed: Callable[[], None] = lambda: None

    async def attach(self, connection: AmqpConnection) -> None:
        """Raises `ConfigurationError` if another number was asked for, `BrokerUnavailable` while it
        is being changed, else `BrokerError`.

        A role that has worked with its number before is not ended by another one: it is of no use
        until the number is back, or it is started anew."""
        self._connection = connection
        remembered = await read(connection, self._guess) or await self._remember_first(connection)
        if remembered.changing_to is not None:
            raise BrokerUnavailable(
                f"The number of shards is being changed from {remembered.count} to"
                f" {remembered.changing_to}; waiting until that is done"
            )
        self._guess = remembered
        self._check(remembered.count)
        self.on_agreed()
        self._agreed = True

    def detach(self) -> None:
        """The number is known still."""
        self._connection = None
        if self._verifying is not None:
            self._verifying.cancel()

    def verify(self) -> None:
        """Compare the numbers again, unless that is under way: the broker's may have changed. The
        connection is dropped if they differ.
        """
        if self._connection is None or self._verifying is not None:
            return
        verifying = Deferred.fromCoroutine(self._verify(self._connection))
        if not verifying.called:
            self._verifying = verifying
        verifying.addBoth(self._verified)

    async def _verify(self, connection: AmqpConnection) -> None:
        try:
            await self.attach(connection)
        except (BrokerError, ConfigurationError) as error:
            connection.drop(f"The number of shards was compared again: {error}")

    def _verified(self, result: Failure | None) -> None:
        self._verifying = None
        if result is not None and not result.check(CancelledError):
            self._log.failure("the number of shards could not be compared again", result)

    async def _remember_first(self, connection: AmqpConnection) -> Remembered:
        before = await counts_of_before(connection)
        if len(before) > 1 and not (self._given and self._made_for in before):
            held = " and ".join(map(str, before))
            raise ConfigurationError(
                f"--shards: the broker holds queues of {held} shards; give the number that is"
                " in use"
            )
        if before and self._made_for not in before:
            self._check(before[0])
        return await remember(connection, Remembered(self._made_for))

    def _check(self, count: int) -> None:
        if count == self._made_for:
            return
        if not self._given:
            self.on_other(count)
            raise BrokerUnavailable(
                f"The broker has {count} shards, not {self._made_for}; beginning anew with {count}"
            )
        text = (
            f"--shards {self._made_for}: the broker holds the tasks of {count} shards; start"
            " without --shards, or change the number with python -m rtprov.shards"
        )
        raise BrokerUnavailable(text) if self._agreed else ConfigurationError(text)
