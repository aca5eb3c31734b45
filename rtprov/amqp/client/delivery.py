"""A delivered message, and how to acknowledge or reject it (AMQP 0-9-1 §1.8.3.9, §1.8.3.13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pamqp.commands import Basic

from rtprov.amqp.framing import encode_method


class DeliveringChannel(Protocol):
    """The part of a channel that a delivery uses.

    Deliveries up to the delivery tag `settled_upto` have been acknowledged together.
    """

    id: int
    closed: bool
    settled_upto: int

    def send(self, data: bytes) -> None:
        """Write encoded frames."""


class Delivery:
    """A message that the broker delivered on `channel`. Implements `rtprov.interfaces.Delivery`.

    `properties.headers` includes headers that the broker adds, such as ``x-stream-offset``. `ack`
    and `nack` do nothing if the message is settled, if its channel is closed, or if the consumer
    uses no acknowledgements.
    """

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
        channel: DeliveringChannel,
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
        """The message's headers; empty if it has none."""
        return self.properties.headers or {}

    @property
    def channel_open(self) -> bool:
        """Whether the channel of this delivery is still open."""
        return not self._channel.closed

    @property
    def live(self) -> bool:
        """Whether the delivery is unsettled and its channel is still open."""
        return not (
            self._settled or self._channel.closed or self.delivery_tag <= self._channel.settled_upto
        )

    def ack(self) -> None:
        """Acknowledge the message: the broker removes it from the queue."""
        if self.live:
            self._settled = True
            self._channel.send(encode_method(self._channel.id, Basic.Ack(self.delivery_tag)))

    def nack(self, *, requeue: bool) -> None:
        """Reject the message.

        With `requeue`, the broker returns it to its queue. Without, the broker dead-letters it, or
        discards it if the queue has no dead-letter exchange.
        """
        if self.live:
            self._settled = True
            self._channel.send(
                encode_method(self._channel.id, Basic.Nack(self.delivery_tag, False, requeue))
            )
