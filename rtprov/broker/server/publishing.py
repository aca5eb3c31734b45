"""The publishing part of a channel: messages to exchanges, returned messages, and confirms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pamqp.commands import Basic, Confirm

from rtprov.broker.content_header import refusal
from rtprov.broker.messages import Message, expiration_s
from rtprov.broker.server.direct_reply import REPLY_TO, DirectReplies
from rtprov.broker.server.methods import Return
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from rtprov.amqp.framing import Command
    from rtprov.broker.server.interface import Channel


class Publishing:
    """Executes ``basic.publish`` and ``confirm.select``.

    `published` counts the messages published in confirm mode; see
    https://www.rabbitmq.com/docs/confirms.
    """

    def __init__(self, channel: Channel, replies: DirectReplies) -> None:
        self._channel = channel
        self._client = channel.client
        self._replies = replies
        self._confirming = False
        self.published = 0
        self._confirmed = 0

    def on_confirm_select(self, method: Confirm.Select) -> None:
        """Put the channel in confirm mode."""
        self._confirming = True
        self._channel.answer(method, Confirm.SelectOk())

    def on_publish(self, method: Basic.Publish, command: Command) -> None:
        """Route a message. Return it to the client if it is mandatory and no queue gets it.

        Raises `AmqpError`: 403 for an internal exchange, 404 for an unknown one, 406 for invalid
        properties, 540 for ``immediate``.
        """
        message = self._message(method, command)
        if message.properties.reply_to == REPLY_TO:
            message = self._replies.request(message)
        if self._confirming:
            self.published += 1
            self._client.pending_commit.confirm_due(self)
        if not self._route(message) and method.mandatory:
            returned = Return(312, "NO_ROUTE", method.exchange, method.routing_key)
            self._channel.send_content(returned, command.header, command.body)

    def _message(self, method: Basic.Publish, command: Command) -> Message:
        properties = command.properties
        assert properties is not None
        if method.immediate:
            raise AmqpError(540, "NOT_IMPLEMENTED - immediate=true", 60, 40)
        too_much = refusal(command.header)
        if too_much is not None:
            raise AmqpError(406, f"PRECONDITION_FAILED - {too_much}", 60, 40)
        wrong = self._invalid_properties(properties)
        if wrong is not None:
            if method.exchange:
                self._client.broker.virtual_host.routing.exchange(
                    method.exchange
                )  # as in RabbitMQ, an unknown exchange (404) has precedence
            raise AmqpError(406, f"PRECONDITION_FAILED - {wrong}", 60, 40)
        return Message(
            method.exchange, method.routing_key, properties, command.header, command.body
        )

    def _invalid_properties(self, properties: Basic.Properties) -> str | None:
        """Return why RabbitMQ would refuse the properties of a message, or None if it would not."""
        username = self._client.handshake.username
        if properties.user_id is not None and properties.user_id != username:
            return (
                f"user_id property set to '{properties.user_id}' but authenticated user was"
                f" '{username}'"
            )
        try:
            expiration_s(properties)
        except ValueError:
            return f"invalid expiration '{properties.expiration}'"
        if properties.delivery_mode not in (None, 1, 2):
            return f"invalid message: delivery mode {properties.delivery_mode} is unknown"
        for name in ("CC", "BCC"):
            if not isinstance((properties.headers or {}).get(name, []), list):
                return f"invalid message: unacceptable type in header {name}"
        return None

    def _route(self, message: Message) -> bool:
        if message.exchange == "" and message.routing_key.startswith(f"{REPLY_TO}."):
            replies = self._client.broker.replies.get(message.routing_key)
            if replies is not None:
                replies.deliver(message)
            return False  # as in RabbitMQ: a reply address does not count as a queue
        return self._client.broker.virtual_host.publish(message)

    def confirm(self, upto: int) -> None:
        """Confirm the first `upto` published messages, in one frame."""
        if upto > self._confirmed and not self._channel.closing:
            self._confirmed = upto
            self._channel.send(Basic.Ack(upto, True))
