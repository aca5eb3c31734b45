"""The number of shards, which the broker remembers for all front ends and workers.

AMQP has no place to store a number. But when a queue is declared again, a broker compares the
arguments and refuses different ones (406). So the first declaration counts, whichever process makes
it. The number is stored as the argument ``x-delivery-limit`` of ``rtprov.shards``, a queue that
stays empty. While the number is being changed, the argument holds the old and the new one
(`Remembered`).

A broker that earlier versions of rtprov used has no such queue. Then the number is taken from the
names of its work queues.
"""

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
# It exists while SHARDS_QUEUE is replaced, which has to be deleted for that. Its argument is the
# same, with both numbers.
CHANGE_QUEUE = "rtprov.shards.changing"
MAX_SHARDS = 1024
SCAN_AT_ONCE = 32
NOT_FOUND, PRECONDITION_FAILED = 404, 406

_CHANGING = 10_000  # greater than any number of shards
# In place of a new number: the tasks are being moved between two brokers, or they were moved away
# (`rtprov.messaging.relocation`).
MOVING, MOVED = 9999, 9998
# The 406 of RabbitMQ: "… received the value '4' of type 'signedint' but current is the value '1' of
# type …". The embedded broker's text is shorter.
_CURRENT = re.compile(r"current is (?:the value )?'([0-9]+)'")


@attrs.frozen
class Remembered:
    """The number of shards, 1 to 1024, as the broker remembers it.

    `changing_to` is the new number while the number is being changed, else None; or it is `MOVING`
    or `MOVED`.
    """

    count: int
    changing_to: int | None = None

    @property
    def value(self) -> int:
        """Both numbers encoded in one."""
        return self.count + _CHANGING * (self.changing_to or 0)

    @classmethod
    def of(cls, value: int) -> Remembered:
        """Decode a `value`."""
        return cls(value % _CHANGING, value // _CHANGING or None)

    @property
    def valid(self) -> bool:
        """Whether rtprov can have stored this."""
        to = self.changing_to
        return 1 <= self.count <= MAX_SHARDS and (
            to is None or 1 <= to <= MAX_SHARDS or to in (MOVING, MOVED)
        )


async def read(
    connection: AmqpConnection, guess: Remembered, queue: str = SHARDS_QUEUE
) -> Remembered | None:
    """Return what the broker remembers, None if it remembers nothing.

    If `guess` is right, the broker does not log an error. Raises `BrokerError`.
    """
    if await message_count(connection, queue) is None:
        return None
    return await remember(connection, guess, queue)


async def remember(
    connection: AmqpConnection, wanted: Remembered, queue: str = SHARDS_QUEUE
) -> Remembered:
    """Store `wanted`, unless a number is already stored; return the number that is stored.

    Raises `BrokerError`.
    """
    channel = await connection.open_channel(fatal=False)
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": wanted.value}
    try:
        await channel.queue_declare(queue=queue, durable=True, arguments=arguments)
    except AmqpError as error:
        current = _CURRENT.search(error.reply_text)
        if error.reply_code != PRECONDITION_FAILED or current is None:
            raise
        found = Remembered.of(int(current[1]))
        if not found.valid:
            raise BrokerUnavailable(
                f"The broker's queue {queue} holds {found.value}, which is no number of shards:"
                " another program declared it. Delete the queue; rtprov declares it again"
            ) from None
        return found
    await channel.channel_close(reply_code=200, reply_text="done")
    return wanted


async def forget(connection: AmqpConnection) -> None:
    """Delete the stored number. Raises `BrokerError`."""
    await delete_queue(connection, SHARDS_QUEUE)


async def store(connection: AmqpConnection, wanted: Remembered) -> None:
    """Replace the stored number. `CHANGE_QUEUE` must exist. Raises `BrokerError`.

    The number is missing for a moment. Front ends and workers wait meanwhile, because
    `CHANGE_QUEUE` exists.
    """
    while await read(connection, wanted) != wanted:
        await forget(connection)
        await remember(connection, wanted)


async def check_no_worker(connection: AmqpConnection, count: int) -> None:
    """Raise `ConfigurationError` if a worker consumes one of `count` shards."""
    for index in range(count):
        queue = Shard(index, count).work
        counts = await queue_counts(connection, queue)
        if counts is not None and counts[1]:
            raise ConfigurationError(f"A worker is still consuming {queue}: stop all workers first")


async def count_of_earlier_version(connection: AmqpConnection) -> int | None:
    """Return the number that an earlier version of rtprov used with this broker.

    None if the broker is new. Raises `ConfigurationError` if it used several, and `BrokerError`.
    """
    before = await scan_counts(connection)
    if len(before) > 1:
        held = " and ".join(map(str, before))
        raise ConfigurationError(
            f"The broker has queues of {held} shards: delete those that are not in use"
        )
    return before[0] if before else None


async def delete_queue(connection: AmqpConnection, queue: str) -> None:
    """Delete a queue if it exists. Raises `BrokerError`."""
    channel = await connection.open_channel(fatal=False)
    try:
        await channel.queue_delete(queue=queue)
    except AmqpError as error:
        if error.reply_code != NOT_FOUND:
            raise
    else:
        await channel.channel_close(reply_code=200, reply_text="done")


async def message_count(connection: AmqpConnection, queue: str) -> int | None:
    """Return the number of ready messages of a queue, None if there is no such queue.

    Raises `BrokerError`.
    """
    counts = await queue_counts(connection, queue)
    return None if counts is None else counts[0]


async def queue_counts(connection: AmqpConnection, queue: str) -> tuple[int, int] | None:
    """Return the numbers of ready messages and consumers of a queue, None if it does not exist.

    Raises `BrokerError`.
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


async def scan_counts(connection: AmqpConnection) -> list[int]:
    """Return the numbers of shards for which the broker has work queues, in ascending order.

    It is for a broker that has no stored number. Raises `BrokerError`.
    """
    if await message_count(connection, PARKED_QUEUE) is None:
        return []  # Every version of rtprov declares this queue, so the broker is new.
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


def _why_not(remembered: Remembered) -> str:
    """Return why no front end or worker may use the broker at present."""
    if remembered.changing_to == MOVED:
        return (
            "The tasks of this broker were moved to another one (python -m rtprov.move); connect to"
            " that one"
        )
    if remembered.changing_to == MOVING:
        return (
            "The tasks are being moved from one broker to another (python -m rtprov.move); waiting"
            " until the move is complete"
        )
    return (
        f"The number of shards is being changed from {remembered.count} to"
        f" {remembered.changing_to}; waiting until the change is complete"
    )


class ShardCount:
    """Checks on each connection that the broker has the same number of shards as this role.

    It is the first session of the connection. `made_for` is the role's number; `given` is whether
    the operator set it. If the operator did not, and the broker has another number, `on_other` is
    called with that number, so that the role can be built again. `on_agreed` is called when the
    numbers are equal; it may raise `ConfigurationError`.
    """

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
        """Compare the numbers.

        Raises `ConfigurationError` if the operator set another number, `BrokerUnavailable` while
        the number is being changed, and other `BrokerError`s. If the numbers were equal before,
        another number is a `BrokerUnavailable`: the process does not end, and waits until the
        number is changed back.
        """
        self._connection = connection
        remembered = await read(connection, self._guess)
        if remembered is None or remembered.changing_to is None:
            # While the number is replaced, it may be missing, and `read` may have stored the guess.
            if await message_count(connection, CHANGE_QUEUE) is not None:
                raise BrokerUnavailable(
                    "The number of shards is being changed; waiting until the change is complete"
                )
            remembered = await read(connection, self._guess)
        if remembered is None:
            remembered = await self._remember_first(connection)
        if remembered.changing_to is not None:
            raise BrokerUnavailable(_why_not(remembered))
        self._guess = remembered
        self._check(remembered.count)
        self.on_agreed()
        self._agreed = True

    def detach(self) -> None:
        """Stop a comparison that is under way; the role keeps its number."""
        self._connection = None
        if self._verifying is not None:
            self._verifying.cancel()

    def verify(self) -> None:
        """Compare the numbers again, because the broker's may have changed.

        The connection is dropped if they differ. Does nothing while a comparison is under way.
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
        before = await scan_counts(connection)
        if len(before) > 1 and not (self._given and self._made_for in before):
            held = " and ".join(map(str, before))
            raise ConfigurationError(
                f"--shards: the broker has queues of {held} shards; set --shards to the number"
                " that is in use"
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
                f"The broker has {count} shards, not {self._made_for}; restarting with {count}"
            )
        text = (
            f"--shards {self._made_for}: the broker has {count} shards; start without --shards, or"
            " change the number with python -m rtprov.shards"
        )
        raise BrokerUnavailable(text) if self._agreed else ConfigurationError(text)
