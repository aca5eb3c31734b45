"""Direct reply-to: replies without a queue (https://www.rabbitmq.com/docs/direct-reply-to)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pamqp import encode
from pamqp.commands import Basic

from rtprov.broker.content_header import split
from rtprov.broker.messages import Message
from rtprov.broker.server.methods import Deliver
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from rtprov.broker.server.interface import Channel

REPLY_TO = "amq.rabbitmq.reply-to"


class DirectReplies:
    """Delivers the replies to the requests of one channel.

    `tag` is the tag of the reply consumer, or None if there is none. `address` is the unique name
    that replaces `REPLY_TO` in the ``reply-to`` of requests. Replies are published to it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._broker = channel.client.broker
        self.tag: str | None = None
        self.address: str | None = None

    def open(self, method: Basic.Consume, tag: str) -> None:
        """Start a reply consumer.

        Raises `AmqpError` 406 if it needs acknowledgements, or if there is one already.
        """
        if not method.no_ack:
            raise AmqpError(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", 60, 20)
        if self.address is not None:
            raise AmqpError(406, "PRECONDITION_FAILED - reply consumer already set", 60, 20)
        self.tag, self.address = tag, f"{REPLY_TO}.{self._broker.new_token()}"
        self._broker.replies[self.address] = self

    def request(self, message: Message) -> Message:
        """Return the message with `address` as its ``reply-to``.

        Raises `AmqpError` 406 if there is no reply consumer.
        """
        if self.address is None:
            raise AmqpError(406, "PRECONDITION_FAILED - fast reply consumer does not exist", 60, 40)
        return message.with_parts(
            {**split(message.header), "reply_to": encode.short_string(self.address)}
        )

    def deliver(self, message: Message) -> None:
        """Send a reply to the client. If it cannot be written now, drop it (at most once)."""
        channel = self._channel
        if self.tag is None or channel.closing or not channel.client.writable:
            return
        method = Deliver(self.tag, channel.new_delivery_tag(), False, "", message.routing_key)
        channel.send_content(method, message.header, message.body)

    def close(self) -> None:
        """Stop accepting replies."""
        if self.address is not None:
            self._broker.replies.pop(self.address, None)
            self.tag = self.address = None
