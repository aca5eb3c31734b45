"""Consume messages: each delivery is passed to a callback as a `Delivery`, which settles it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pamqp.commands import Basic

from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.framing import Command

if TYPE_CHECKING:
    from rtprov.amqp.client.channel import AmqpChannel


async def consume(
    channel: AmqpChannel,
    queue: str,
    on_delivery: Callable[[Delivery], None],
    *,
    prefetch: int,
    arguments: Mapping[str, object] | None = None,
    no_ack: bool = False,
    exclusive: bool = False,
) -> str:
    """Call `on_delivery` with each message of `queue`. Return the consumer tag.

    `prefetch` is the largest number of unsettled deliveries, 1 to 65535; 0 means no limit and makes
    sense only with `no_ack`. `arguments` are those of ``basic.consume``, for example
    ``x-stream-offset`` for a stream.

    If `on_delivery` raises, the connection is dropped, so that the broker delivers the message
    again. Raises `BrokerError`.
    """
    tag = channel.new_consumer_tag()

    def take(command: Command) -> None:
        method, properties = command.method, command.properties
        assert isinstance(method, Basic.Deliver) and properties is not None
        on_delivery(Delivery(channel, method, properties, command.body, settled=no_ack))

    if prefetch:
        await channel.basic_qos(prefetch_count=prefetch)
    channel.consumers[tag] = take
    try:
        await channel.basic_consume(
            queue=queue,
            consumer_tag=tag,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=dict(arguments or {}),
        )
    except Exception:
        channel.consumers.pop(tag, None)
        raise
    return tag


async def cancel(channel: AmqpChannel, tag: str) -> None:
    """Cancel the consumer `tag`.

    Deliveries that are already on their way are still passed to the callback, but none after this
    has returned. Raises `BrokerError`.
    """
    await channel.basic_cancel(consumer_tag=tag)
    channel.consumers.pop(tag, None)
