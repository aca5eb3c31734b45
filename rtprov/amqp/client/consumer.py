"""Consuming: each delivery goes straight to a callback, and is settled through the `Delivery` it
brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pamqp.commands import Basic

from rtprov.amqp.framing import Command, encode_method

if TYPE_CHECKING:
    from rtprov.amqp.client.channel import AmqpChannel


class Delivery:
    """One message handed out by the broker; an `rtprov.interfaces.Delivery`.

    `properties.headers` has what the broker adds, such as ``x-stream-offset``. Settling does
    nothing once the message is settled, its channel gone, or where the consumer takes messages
    without acknowledgement."""

    __slots__ = (
        "_channel",
        "_settled",
        "body",
        "delivery_tag",
        "exchange",
        "properties",
        "redelivered",
        "routing_key",
    )

    def __init__(
        self,
        channel: AmqpChannel,
        method: Basic.Deliver,
        properties: Basic.Properties,
        body: bytes,
        *,
        settled: bool,
    ) -> None:
        self._channel = channel
        self._settled = settled
        self.body = body
        self.properties = properties
        self.exchange = method.exchange
        self.routing_key = method.routing_key
        self.redelivered: bool = method.redelivered
        self.delivery_tag: int = method.delivery_tag or 0

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.delivery_tag} by {self.exchange!r} {self.routing_key!r},"
            f" {len(self.body)} bytes>"
        )

    @property
    def headers(self) -> Mapping[str, object]:
        """The message's headers."""
        return self.properties.headers or {}

    @property
    def standing(self) -> bool:
        """Whether the channel it came by still stands."""
        return not self._channel.closed

    @property
    def live(self) -> bool:
        """Whether the channel it came by still stands and it is unsettled."""
        return not (
            self._settled or self._channel.closed or self.delivery_tag <= self._channel.settled_upto
        )

    def ack(self) -> None:
        """Tell the broker that it may forget the message."""
        if self.live:
            self._settled = True
            self._channel.send(encode_method(self._channel.id, Basic.Ack(self.delivery_tag)))

    def nack(self, *, requeue: bool) -> None:
        """Return the message to its queue, or, with `requeue` false, to the queue's dead
        letters.
        """
        if self.live:
            self._settled = True
            self._channel.send(
                encode_method(self._channel.id, Basic.Nack(self.delivery_tag, False, requeue))
            )


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
