"""One channel of a client's connection. It executes the client's methods on the virtual host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pamqp import base
from pamqp.commands import Basic, Channel, Confirm, Exchange, Queue

from rtprov.amqp.framing import Command, encode_content
from rtprov.broker.server.consuming import Consuming
from rtprov.broker.server.direct_reply import REPLY_TO, DirectReplies
from rtprov.broker.server.methods import DeclareOk
from rtprov.broker.server.publishing import Publishing
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from rtprov.broker.engine.virtual_host import AnyQueue
    from rtprov.broker.server.interface import Client


class BrokerChannel:
    """One channel. `publishing` and `consuming` do the work of the basic class.

    `id` is the channel's number on the connection `client`. `closing` is True once the channel
    ignores all methods. Methods raise `AmqpError`; the caller then closes the channel or the
    connection.
    """

    def __init__(self, id: int, client: Client) -> None:
        self.id = id
        self.client = client
        self.closing = False
        self.replies = DirectReplies(self)
        self.publishing = Publishing(self, self.replies)
        self.consuming = Consuming(self, self.replies)
        self._virtual_host = client.broker.virtual_host
        self._last_queue = ""
        self._last_delivery_tag = 0

    # Sending.

    def send(self, method: base.Frame) -> None:
        self.client.send_method(self.id, method)

    def send_content(self, method: base.Frame, header: bytes, body: bytes) -> None:
        self.client.write(
            encode_content(self.id, method, header, body, self.client.handshake.frame_max)
        )

    def answer(self, method: base.Frame, answer: base.Frame) -> None:
        """Send the reply to a method, unless the client has set ``no-wait``."""
        if not getattr(method, "nowait", False):
            self.send(answer)

    def new_delivery_tag(self) -> int:
        """Return the next delivery tag.

        Tags start at 1 on each channel. Direct replies have tags too.
        """
        self._last_delivery_tag += 1
        return self._last_delivery_tag

    # Receiving.

    def handle(self, command: Command) -> None:
        """Execute a method. Raises `AmqpError`, with 540 for methods that are not implemented."""
        method = command.method
        if isinstance(method, Basic.Publish):
            self.publishing.on_publish(method, command)
            return
        handler = _HANDLERS.get(type(method))
        if handler is None:
            raise AmqpError(
                540, f"NOT_IMPLEMENTED - {method.name}", method.index >> 16, method.index & 0xFFFF
            )
        handler(self, method)

    # The channel's own methods, exchanges and queues.

    def _on_flow(self, method: Channel.Flow) -> None:
        if not method.active:
            raise AmqpError(540, "NOT_IMPLEMENTED - active=false", 20, 20)
        self.send(Channel.FlowOk(True))

    def _on_exchange_declare(self, method: Exchange.Declare) -> None:
        self._virtual_host.routing.declare(
            method.exchange,
            method.exchange_type,
            passive=method.passive,
            durable=method.durable,
            auto_delete=method.auto_delete,
            internal=method.internal,
            arguments=method.arguments or {},
        )
        self.answer(method, Exchange.DeclareOk())

    def _on_exchange_delete(self, method: Exchange.Delete) -> None:
        self._virtual_host.routing.delete(method.exchange, if_unused=method.if_unused)
        self.answer(method, Exchange.DeleteOk())

    def _name(self, name: str) -> str:
        """Return the name of a queue; for "" that of the last one declared on this channel.

        Raises `AmqpError` 404 for "" if none was declared.
        """
        if not name and not self._last_queue:
            raise AmqpError(404, "NOT_FOUND - no previously declared queue")
        return name or self._last_queue

    def queue(self, name: str) -> AnyQueue:
        """Return the queue of this name; for "" the last one declared on this channel.

        Raises `AmqpError`: 404 if there is none, 405 if it is another connection's exclusive queue.
        """
        return self._virtual_host.queue(self._name(name), self.client)

    def _on_queue_declare(self, method: Queue.Declare) -> None:
        if method.queue == REPLY_TO or method.queue in self.client.broker.replies:
            self.answer(method, DeclareOk(method.queue, 0, 1))
            return
        queue = self._virtual_host.declare_queue(
            method.queue,
            passive=method.passive,
            durable=method.durable,
            exclusive=method.exclusive,
            auto_delete=method.auto_delete,
            arguments=method.arguments or {},
            owner=self.client,
        )
        self._last_queue = queue.name
        self.answer(method, DeclareOk(queue.name, queue.message_count, len(queue.consumers)))

    def _on_queue_bind(self, method: Queue.Bind) -> None:
        name = self._name(method.queue)
        # As in RabbitMQ, an unknown exchange has precedence over an unknown queue.
        self._virtual_host.routing.named(method.exchange)
        self._virtual_host.bind(self.queue(name), method.exchange, self._key(method))
        self.answer(method, Queue.BindOk())

    def _on_queue_unbind(self, method: Queue.Unbind) -> None:
        self._virtual_host.unbind(
            self._name(method.queue), method.exchange, self._key(method), self.client
        )
        self.send(Queue.UnbindOk())

    def _key(self, method: Queue.Bind | Queue.Unbind) -> str:
        """Return the binding key.

        If both the queue name and the key are empty, it is the queue's name (§1.7.2.3.3).
        """
        return method.routing_key if method.queue or method.routing_key else self._last_queue

    def _on_queue_purge(self, method: Queue.Purge) -> None:
        self.answer(method, Queue.PurgeOk(self.queue(method.queue).purge()))

    def _on_queue_delete(self, method: Queue.Delete) -> None:
        count, name = 0, self._name(method.queue)
        if name in self._virtual_host.queues:  # as in RabbitMQ, deleting no queue succeeds
            count = self._virtual_host.delete_queue(
                self.queue(name), if_unused=method.if_unused, if_empty=method.if_empty
            )
        self.answer(method, Queue.DeleteOk(count))

    # Closing.

    def close(self) -> None:
        """Close the channel: remove its consumers and requeue its unsettled messages."""
        self.closing = True
        self.replies.close()
        self.consuming.close()


_HANDLERS: dict[type[base.Frame], Callable[[BrokerChannel, Any], None]] = {
    Channel.Flow: BrokerChannel._on_flow,
    Exchange.Declare: BrokerChannel._on_exchange_declare,
    Exchange.Delete: BrokerChannel._on_exchange_delete,
    Queue.Declare: BrokerChannel._on_queue_declare,
    Queue.Bind: BrokerChannel._on_queue_bind,
    Queue.Unbind: BrokerChannel._on_queue_unbind,
    Queue.Purge: BrokerChannel._on_queue_purge,
    Queue.Delete: BrokerChannel._on_queue_delete,
    Confirm.Select: lambda channel, method: channel.publishing.on_confirm_select(method),
    Basic.Qos: lambda channel, method: channel.consuming.on_qos(method),
    Basic.Consume: lambda channel, method: channel.consuming.on_consume(method),
    Basic.Cancel: lambda channel, method: channel.consuming.on_cancel(method),
    Basic.Get: lambda channel, method: channel.consuming.on_get(method),
    Basic.Ack: lambda channel, method: channel.consuming.on_ack(method),
    Basic.Nack: lambda channel, method: channel.consuming.on_nack(method),
    Basic.Reject: lambda channel, method: channel.consuming.on_reject(method),
    Basic.Recover: lambda channel, method: channel.consuming.on_recover(method),
}
