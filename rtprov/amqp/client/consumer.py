"""Consuming: each delivery goes straight to a callback, and is settled through the `Delivery` it
brings.
"""

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
    """Have `on_delivery` called with each message of `queue`; return the consumer tag.

    The broker leaves at most `prefetch` deliveries unsettled (1 to 65535; 0, only sensible with
    `no_ack`, is no limit). `arguments` go to ``basic.consume``, a stream's ``x-stream-offset``
    among them. A callback that raises costs the connection: no message may stay unsettled for good.
    Raises `BrokerError`."""
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
    """Consume no more. Deliveries that are on their way still come; none does after this has
    returned. Raises `BrokerError`.
    """
    await channel.basic_cancel(consumer_tag=tag)
    channel.consumers.pop(tag, None)
