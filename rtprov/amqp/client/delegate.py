"""Handlers for methods that the broker sends without a request, such as ``connection.close``.

Deliveries and positive confirms are most of the traffic, and `AmqpChannel.feed` handles them
itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from rtprov.amqp.client._txamqp import DelegateBase, Message, pythonize
from rtprov.amqp.client.channel import AmqpChannel, closed_by
from rtprov.amqp.client.link import Link
from rtprov.errors import AmqpError, BrokerError

if TYPE_CHECKING:
    from rtprov.amqp.client.url import BrokerUrl


class HandshakingLink(Link, Protocol):
    """The part of a connection that the delegate uses.

    `blocked` is true while the broker blocks publishers (``connection.blocked``).
    """

    url: BrokerUrl
    blocked: bool

    def on_start(self, channel: AmqpChannel, message: Message) -> None:
        """Handle ``connection.start``."""

    def on_tune(self, channel: AmqpChannel, message: Message) -> None:
        """Handle ``connection.tune``."""

    def on_close(self, error: AmqpError) -> None:
        """Handle ``connection.close`` after ``close-ok`` was sent; `error` is the given reason."""


class AmqpDelegate(DelegateBase):
    """Has one handler for each AMQP method that the broker may send without a request.

    Handlers are named and called as in txAMQP. Each connection needs a delegate of its own.
    """

    _log = Logger()
    client: HandshakingLink

    def dispatch(self, channel: AmqpChannel, message: Message) -> object:
        """Call the handler of a message.

        Raises `AmqpError` 503 if the broker may not send this method, or not on this channel.
        """
        klass, method = message.method.klass.name, message.method.name
        handler = getattr(self, f"{klass}_{pythonize(method)}", None)
        if handler is None or (klass == "connection") != (channel.id == 0):
            raise AmqpError(
                503, f"COMMAND_INVALID - unexpected {klass}.{method} on channel {channel.id}"
            )
        return super().dispatch(channel, message)

    # The handshake (§2.2.4).

    def connection_start(self, channel: AmqpChannel, message: Message) -> None:
        self.client.on_start(channel, message)

    def connection_tune(self, channel: AmqpChannel, message: Message) -> None:
        self.client.on_tune(channel, message)

    # The connection.

    def connection_blocked(self, channel: AmqpChannel, message: Message) -> None:
        self._log.warn(
            "{url}: the broker blocks publishers: {reason}; publishing nothing until it unblocks"
            " them",
            url=self.client.url,
            reason=message.reason,
        )
        self.client.blocked = True

    def connection_unblocked(self, channel: AmqpChannel, message: Message) -> None:
        self._log.info("{url}: the broker accepts messages again", url=self.client.url)
        self.client.blocked = False

    def connection_close(self, channel: AmqpChannel, message: Message) -> None:
        channel.connection_close_ok()
        self.client.on_close(closed_by(message))

    # The channel.

    def channel_close(self, channel: AmqpChannel, message: Message) -> None:
        channel.channel_close_ok()
        self.client.forget_channel(channel.id)
        error = closed_by(message)
        channel.do_close(error)
        if channel.fatal:
            self.client.drop(f"The broker closed channel {channel.id}: {error}", error)

    def channel_flow(self, channel: AmqpChannel, message: Message) -> None:
        channel.flowing = message.active
        channel.channel_flow_ok(active=message.active)

    def basic_cancel(self, channel: AmqpChannel, message: Message) -> None:
        channel.consumers.pop(message.consumer_tag, None)
        if channel.fatal:
            self.client.drop(
                f"The broker cancelled the consumer {message.consumer_tag}: its queue was deleted"
                " or has moved to another node"
            )

    def basic_nack(self, channel: AmqpChannel, message: Message) -> None:
        channel.on_confirm(message.delivery_tag, multiple=message.multiple, positive=False)

    def basic_return_(self, channel: AmqpChannel, message: Message) -> None:
        if channel.confirms is not None:
            channel.confirms.on_return(message)

    def close(self, reason: BrokerError) -> None:
        """Do nothing: `AmqpConnection.drop` closes the connection. txAMQP requires this method."""
