"""The queues of letters, ``rtprov.dead.K`` and ``rtprov.parked``: declared so that no broker gives
a letter up.

RabbitMQ 4 drops a message of a quorum queue that came back 20 times, unless the queue was declared
with an ``x-delivery-limit``. Each connection that is lost with a letter in hand, and each look at a
parked one, counts. So these queues have a limit that is never reached, which works on every
version.

A queue of an earlier rtprov has no limit, and the argument of a queue that exists cannot be
changed. RabbitMQ 3 and the embedded broker have no default limit, and there it stays as it is. On
RabbitMQ 4 the first worker that finds it, while no worker consumes dead letters, replaces it: its
letters are moved to a queue beside it, it is deleted and declared anew, and the letters are moved
back. Each letter is confirmed in one queue before it is acknowledged in the other. A replacement
that was cut off is finished by the next worker that connects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
from pamqp.commands import Basic
from twisted.logger import Logger

from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import encode_method
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from pamqp.common import FieldTable

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection

LETTER_DELIVERY_LIMIT = 1_000_000_000
MAX_HEADERS = 1000  # bytes, and so fields: brokers limit both
LOCK_QUEUE = "rtprov.replacing"  # exclusive: whoever has it replaces
_NOT_FOUND, _PRECONDITION_FAILED = 404, 406
# what a quorum queue adds to a message that it hands out
_COUNTS = ("x-delivery-count", "x-acquired-count")


@attrs.frozen
class LetterQueue:
    """A queue of letters, bound to `exchange` by `keys` (none: letters are published to it by its
    name).
    """

    name: str
    exchange: str = ""
    keys: tuple[str, ...] = ()

    @property
    def arguments(self) -> dict[str, object]:
        """What it is declared with."""
        return {"x-queue-type": "quorum", "x-delivery-limit": LETTER_DELIVERY_LIMIT}

    @property
    def beside(self) -> str:
        """The queue that has the letters while this one is replaced."""
        return f"{self.name}.moving"


class Letters:
    """The queues of letters on one connection."""

    _log = Logger()

    def __init__(self, connection: AmqpConnection, queues: Sequence[LetterQueue]) -> None:
        self._connection = connection
        self._queues = tuple(queues)

    async def declare(self) -> list[LetterQueue]:
        """Declare them; return those that exist without a delivery limit. Raises `BrokerError`."""
        old = []
        channel = await self._connection.open_channel(fatal=False)
        for queue in self._queues:
            try:
                await _declare(channel, queue.name, {"x-delivery-limit": LETTER_DELIVERY_LIMIT})
            except AmqpError as error:
                if (
                    error.reply_code != _PRECONDITION_FAILED
                    or "x-delivery-limit" not in error.reply_text
                ):
                    raise
                channel = await self._connection.open_channel(fatal=False)
                await _declare(channel, queue.name, {})
                old.append(queue)
        await channel.channel_close(reply_code=200, reply_text="done")
        return old

    async def replace(self, old: Sequence[LetterQueue], consumed: Sequence[str]) -> bool:
        """Replace `old`, and finish what another worker has begun, where the broker has a default
        delivery limit.

        While any of the queues `consumed` has a consumer, another worker lives, perhaps one of the
        earlier version, and none of `old` is replaced. Return whether nothing is left to do. Raises
        `BrokerError`: 405 while another worker replaces."""
        if not has_default_limit(self._connection.server_properties):
            return False
        begun = [queue for queue in self._queues if await self._consumers(queue.beside) is not None]
        if old and any([await self._consumers(name) for name in consumed]):
            for queue in old:
                self._log.warn(
                    "{queue} was declared by an earlier rtprov, without a delivery limit: the"
                    " broker drops a letter that came back 20 times. Stop all workers and start"
                    " one: it replaces the queue and keeps the letters",
                    queue=queue.name,
                )
            kept, old = old, ()
        else:
            kept = ()
        if old or any(queue not in kept for queue in begun):
            await self._replace_alone(kept)
        return not kept

    async def _replace_alone(self, kept: Sequence[LetterQueue]) -> None:
        """Do so for all queues but `kept`, as the only worker."""
        channel = await self._connection.open_channel()
        await channel.queue_declare(queue=LOCK_QUEUE, exclusive=True)
        publisher = Publisher(clock=self._connection.clock)
        await publisher.attach(self._connection)
        try:
            old = await self.declare()  # again: another worker may have been here in between
            for queue in self._queues:
                if queue in kept:
                    continue
                if queue in old:
                    await self._take_away(channel, publisher, queue)
                if await self._consumers(queue.beside) is not None:
                    await self._bring_back(channel, publisher, queue)
        finally:
            publisher.detach()
        await channel.queue_delete(queue=LOCK_QUEUE)
        await channel.channel_close(reply_code=200, reply_text="done")

    async def _take_away(
        self, channel: AmqpChannel, publisher: Publisher, queue: LetterQueue
    ) -> None:
        """Move the letters beside, with those that come meanwhile, and delete the queue."""
        await _declare(channel, queue.beside, {"x-delivery-limit": LETTER_DELIVERY_LIMIT})
        for key in queue.keys:
            await channel.queue_bind(queue=queue.beside, exchange=queue.exchange, routing_key=key)
            await channel.queue_unbind(queue=queue.name, exchange=queue.exchange, routing_key=key)
        await _move(channel, publisher, queue.name, queue.beside)
        await channel.queue_delete(queue=queue.name)

    async def _bring_back(
        self, channel: AmqpChannel, publisher: Publisher, queue: LetterQueue
    ) -> None:
        """Declare the queue anew, and move its letters back."""
        await _declare(channel, queue.name, {"x-delivery-limit": LETTER_DELIVERY_LIMIT})
        for key in queue.keys:
            await channel.queue_bind(queue=queue.name, exchange=queue.exchange, routing_key=key)
            await channel.queue_unbind(queue=queue.beside, exchange=queue.exchange, routing_key=key)
        moved = await _move(channel, publisher, queue.beside, queue.name)
        await channel.queue_delete(queue=queue.beside)
        self._log.info(
            "{queue}: replaced by a queue with a delivery limit; {n} letters were kept",
            queue=queue.name,
            n=moved,
        )

    async def _consumers(self, name: str) -> int | None:
        """How many consumers a queue has; None where there is no such queue."""
        channel = await self._connection.open_channel(fatal=False)
        try:
            declared = await channel.queue_declare(queue=name, passive=True)
        except AmqpError as error:
            if error.reply_code != _NOT_FOUND:
                raise
            return None
        await channel.channel_close(reply_code=200, reply_text="done")
        return int(declared.consumer_count)


def has_default_limit(server_properties: dict[str, object]) -> bool:
    """Whether a quorum queue that says nothing of a delivery limit has one: since RabbitMQ 4.0."""
    found = re.match(r"\d+", str(server_properties.get("version", "")))
    return (
        server_properties.get("product") == "RabbitMQ" and found is not None and int(found[0]) >= 4
    )


async def _declare(channel: AmqpChannel, name: str, arguments: dict[str, object]) -> None:
    await channel.queue_declare(
        queue=name, durable=True, arguments={"x-queue-type": "quorum", **arguments}
    )


async def _move(channel: AmqpChannel, publisher: Publisher, source: str, target: str) -> int:
    """Move all letters, in order; return how many."""
    moved = 0
    while (answer := await channel.basic_get(queue=source)).content is not None:
        properties = answer.content.properties
        headers = writable(
            {
                name: value
                for name, value in (properties.headers or {}).items()
                if name not in _COUNTS
            }
        )
        await send_letter(
            publisher, target, answer.content.body, {"x-death": []} if headers is None else headers
        )
        channel.send(encode_method(channel.id, Basic.Ack(answer.delivery_tag)))
        moved += 1
    return moved


async def send_letter(
    publisher: Publisher, queue: str, body: bytes, headers: FieldTable | None
) -> None:
    """Put a letter into a queue of letters; done once it is safe there. Raises `BrokerError`."""
    properties = Basic.Properties(content_type="application/json", delivery_mode=2, headers=headers)
    await publisher.publish("", queue, body, properties=properties, mandatory=True)


def writable(headers: FieldTable | None) -> FieldTable | None:
    """These headers, which any client may have written, if they can be written again and are not
    too large for any broker; else None.
    """
    try:
        return (
            headers
            if len(encode_header(Basic.Properties(headers=headers), 0)) <= MAX_HEADERS
            else None
        )
    except (TypeError, ValueError):
        return None
