"""Direct reply-to: replies that pass no queue (https://www.rabbitmq.com/docs/direct-reply-to)."""

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
    """The replies to one channel's requests. `tag` is that of the reply consumer, None while there
    is none.

    The broker knows it by its `address`, which stands in the requests' ``reply-to`` in place of
    `REPLY_TO`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._broker = channel.client.broker
        self.tag: str | None = None
        self.address: str | None = None

    def open(self, method: Basic.Consume, tag: str) -> None:
        """Take replies for this consumer. Raises `AmqpError` 406."""
        if not method.no_ack:
            raise AmqpError(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", 60, 20)
        if self.address is not None:
            raise AmqpError(406, "PRECONDITION_FAILED - reply consumer already set", 60, 20)
        self.tag, self.address = tag, f"{REPLY_TO}.{self._broker.new_token()}"
        self._broker.replies[self.address] = self

    def request(self, message: Message) -> Message:
        """The message with the address to reply to. Raises `AmqpError` 406."""
        if self.address is None:
            raise AmqpError(406, "PRECONDITION_FAILED - fast reply consumer does not exist", 60, 40)
        return message.with_parts(
            {**split(message.header), "reply_to": encode.short_string(self.address)}
        )

    def deliver(self, message: Message) -> None:
        """A reply; at most once, so one that cannot be written now is dropped."""
        channel = self._channel
        if self.tag is None or channel.closing or not channel.client.writable:
            return
        method = Deliver(self.tag, channel.new_delivery_tag(), False, "", message.routing_key)
        channel.send_content(method, message.header, message.body)

    def close(self) -> None:
        """Take no more."""
        if self.address is not None:
            self._broker.replies.pop(self.address, None)
            self.tag = self.address = None
