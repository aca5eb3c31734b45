"""One delivered message, and its settling (AMQP 0-9-1 §1.8.3.9, §1.8.3.13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pamqp.commands import Basic

from rtprov.amqp.framing import encode_method


class DeliveringChannel(Protocol):
    """What a delivery needs of the channel it came by. Deliveries up to the tag `settled_upto`
    have been acknowledged together.
    """

    id: int
    closed: bool
    settled_upto: int

    def send(self, data: bytes) -> None:
        """Write finished frames."""


class Delivery:
    """One message that the broker delivered on `channel`; an `rtprov.interfaces.Delivery`.

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
