"""The queues of dead and parked letters, ``rtprov.dead.K`` and ``rtprov.parked``.

A *letter* is a message in one of these queues. RabbitMQ 4 drops a message of a quorum queue after
20 deliveries, unless the queue has an ``x-delivery-limit``. Each lost connection and each look at a
parked letter counts as a delivery. So the queues are declared with a limit that is never reached.
That works on all versions.

A queue that an earlier rtprov declared has no limit, and AMQP cannot change the arguments of an
existing queue. RabbitMQ 3 and the embedded broker have no default limit; there such a queue stays
as it is. On RabbitMQ 4 a worker replaces it, while no worker consumes dead letters:

1. It moves the letters to a second queue.
2. It deletes the first queue and declares it with a limit.
3. It moves the letters back.

Each letter is confirmed in one queue before it is acknowledged in the other. If a worker stops in
between, the next one that connects completes the replacement.
"""

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
MAX_HEADERS = 1000  # bytes. This also limits the number of fields; brokers limit both.
LOCK_QUEUE = "rtprov.replacing"  # exclusive: the worker that declared it does the replacement
_NOT_FOUND, _PRECONDITION_FAILED = 404, 406
# headers that a quorum queue adds to the messages that it delivers
COUNTS = ("x-delivery-count", "x-acquired-count")


@attrs.frozen
class LetterQueue:
    """A queue of letters, bound to `exchange` with `keys`.

    Without keys, letters are published to the queue by its name.
    """

    name: str
    exchange: str = ""
    keys: tuple[str, ...] = ()

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments that it is declared with."""
        return {"x-queue-type": "quorum", "x-delivery-limit": LETTER_DELIVERY_LIMIT}

    @property
    def temporary(self) -> str:
        """The name of the queue that holds the letters while this one is replaced."""
        return f"{self.name}.moving"


class Letters:
    """Declares and replaces the queues of letters, over one connection."""

    _log = Logger()

    def __init__(self, connection: AmqpConnection, queues: Sequence[LetterQueue]) -> None:
        self._connection = connection
        self._queues = tuple(queues)

    async def declare(self) -> list[LetterQueue]:
        """Declare the queues; return those that exist without a delivery limit.

        Raises `BrokerError`.
        """
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
        """Replace the queues `old`, and complete a replacement that another worker began.

        Does nothing if the broker has no default delivery limit. If one of the queues `consumed`
        has a consumer, another worker is running, perhaps of an earlier version; then none of `old`
        is replaced. Returns True once all queues are known to have a delivery limit. Raises
        `BrokerError`; its code is 405 if another worker is replacing queues.
        """
        if not has_default_limit(self._connection.server_properties):
            return False
        begun = [
            queue for queue in self._queues if await self._consumers(queue.temporary) is not None
        ]
        if old and any([await self._consumers(name) for name in consumed]):
            for queue in old:
                self._log.warn(
                    "{queue} was declared by an earlier rtprov, without a delivery limit: the"
                    " broker drops a letter after 20 deliveries. The queue cannot be replaced while"
                    " a worker runs. Stop all workers and start one; it replaces the queue and"
                    " keeps the letters",
                    queue=queue.name,
                )
            kept, old = old, ()
        else:
            kept = ()
        if old or any(queue not in kept for queue in begun):
            await self._replace_alone(kept)
        return not kept

    async def _replace_alone(self, kept: Sequence[LetterQueue]) -> None:
        """Replace all queues but `kept`; an exclusive queue locks out other workers."""
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
                    await self._move_out(channel, publisher, queue)
                if await self._consumers(queue.temporary) is not None:
                    await self._move_back(channel, publisher, queue)
        finally:
            publisher.detach()
        await channel.queue_delete(queue=LOCK_QUEUE)
        await channel.channel_close(reply_code=200, reply_text="done")

    async def _move_out(
        self, channel: AmqpChannel, publisher: Publisher, queue: LetterQueue
    ) -> None:
        """Move the letters to the second queue, with those that still arrive; delete the first."""
        await _declare(channel, queue.temporary, {"x-delivery-limit": LETTER_DELIVERY_LIMIT})
        for key in queue.keys:
            await channel.queue_bind(
                queue=queue.temporary, exchange=queue.exchange, routing_key=key
            )
            await channel.queue_unbind(queue=queue.name, exchange=queue.exchange, routing_key=key)
        await _move(channel, publisher, queue.name, queue.temporary)
        await channel.queue_delete(queue=queue.name)

    async def _move_back(
        self, channel: AmqpChannel, publisher: Publisher, queue: LetterQueue
    ) -> None:
        """Declare the queue again and move its letters back."""
        await _declare(channel, queue.name, {"x-delivery-limit": LETTER_DELIVERY_LIMIT})
        for key in queue.keys:
            await channel.queue_bind(queue=queue.name, exchange=queue.exchange, routing_key=key)
            await channel.queue_unbind(
                queue=queue.temporary, exchange=queue.exchange, routing_key=key
            )
        moved = await _move(channel, publisher, queue.temporary, queue.name)
        await channel.queue_delete(queue=queue.temporary)
        self._log.info(
            "{queue}: replaced by a queue with a delivery limit; {n} letters were moved",
            queue=queue.name,
            n=moved,
        )

    async def _consumers(self, name: str) -> int | None:
        """Return the number of consumers of a queue, None if there is no such queue."""
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
    """Return whether the broker has a delivery limit for quorum queues that do not set one.

    RabbitMQ has one since version 4.0.
    """
    found = re.match(r"\d+", str(server_properties.get("version", "")))
    return (
        server_properties.get("product") == "RabbitMQ" and found is not None and int(found[0]) >= 4
    )


async def _declare(channel: AmqpChannel, name: str, arguments: dict[str, object]) -> None:
    await channel.queue_declare(
        queue=name, durable=True, arguments={"x-queue-type": "quorum", **arguments}
    )


async def _move(channel: AmqpChannel, publisher: Publisher, source: str, target: str) -> int:
    """Move all letters from `source` to `target`, in order; return their number."""
    moved = 0
    while (answer := await channel.basic_get(queue=source)).content is not None:
        properties = answer.content.properties
        headers = writable(
            {
                name: value
                for name, value in (properties.headers or {}).items()
                if name not in COUNTS
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
    """Publish a letter to a queue; done once the broker has confirmed it. Raises `BrokerError`."""
    properties = Basic.Properties(content_type="application/json", delivery_mode=2, headers=headers)
    await publisher.publish("", queue, body, properties=properties, mandatory=True)


def writable(headers: FieldTable | None) -> FieldTable | None:
    """Return `headers` if every broker accepts them, else None.

    The headers may come from any client, so they may be too large or impossible to encode.
    """
    try:
        return (
            headers
            if len(encode_header(Basic.Properties(headers=headers), 0)) <= MAX_HEADERS
            else None
        )
    except (TypeError, ValueError):
        return None
