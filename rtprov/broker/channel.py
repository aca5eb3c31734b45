"""One channel of a client's connection: carries out methods on the engine, hands out messages, and keeps what is not yet settled."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from pamqp import base
from pamqp.commands import Basic, Channel, Confirm, Exchange, Queue

from rtprov.amqp.framing import Command, encode_content
from rtprov.broker.messages import Entry, Message, expiration_s
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.broker import queues, streams
    from rtprov.broker.connection import BrokerProtocol

    AnyQueue = queues.Queue | streams.Stream

REPLY_TO = "amq.rabbitmq.reply-to"
MAX_CONSUMERS = 2000


class NotYet(Exception):
    """A method cannot be carried out before `until` has fired; it is then to be tried again, before anything that came behind it."""

    def __init__(self, until: Deferred[None]) -> None:
        super().__init__()
        self.until = until


@attrs.define(eq=False)
class ChannelConsumer:
    """A `rtprov.broker.queues.Consumer`: one ``basic.consume`` on a channel. `prefetch` 0 is no limit."""

    channel: BrokerChannel
    tag: str
    queue: AnyQueue
    no_ack: bool
    prefetch: int
    unsettled: int = 0

    @property
    def ready(self) -> bool:
        return self.channel.connection.writable and (self.no_ack or not self.prefetch or self.unsettled < self.prefetch)

    def deliver(self, entry: Entry, header: bytes) -> None:
        channel, message = self.channel, entry.message
        tag = channel.hand_out(self.queue, self, entry, self.no_ack)
        method = Basic.Deliver(self.tag, tag, entry.redelivered, message.exchange, message.routing_key)
        channel.send_content(method, header, message.body)

    def cancelled(self) -> None:
        self.channel.on_queue_gone(self)


@attrs.define(eq=False)
class _Unsettled:
    queue: AnyQueue
    consumer: ChannelConsumer | None  # None: handed out by basic.get
    entry: Entry


class BrokerChannel:
    """`id` is the channel's number on `connection`; `published` counts what was published in confirm mode.

    Methods raise `AmqpError`; the connection turns it into a close.
    """

    def __init__(self, id: int, connection: BrokerProtocol) -> None:
        self.id = id
        self.connection = connection
        self.engine = connection.engine
        self.closing = False
        self._prefetch = 0
        self._consumers: dict[str, ChannelConsumer] = {}
        self._unsettled: dict[int, _Unsettled] = {}
        self._last_delivery_tag = 0
        self._last_queue = ""
        self._confirming = False
        self.published = 0
        self._confirmed = 0
        self._reply_tag: str | None = None
        self._reply_token: str | None = None

    # Out.

    def send(self, method: base.Frame) -> None:
        self.connection.send_method(self.id, method)

    def send_content(self, method: base.Frame, header: bytes, body: bytes) -> None:
        self.connection.write(encode_content(self.id, method, header, body, self.connection.handshake.frame_max))

    def hand_out(self, queue: AnyQueue, consumer: ChannelConsumer | None, entry: Entry, no_ack: bool) -> int:
        """Note a message as unsettled, or as settled with `no_ack`; return its delivery tag."""
        self._last_delivery_tag += 1
        if no_ack:
            queue.ack(entry)
        else:
            self._unsettled[self._last_delivery_tag] = _Unsettled(queue, consumer, entry)
            if consumer is not None:
                consumer.unsettled += 1
        return self._last_delivery_tag

    # In.

    def handle(self, command: Command) -> None:
        """Carry out a method. Raises `AmqpError`; 540 for what is not implemented."""
        method = command.method
        if isinstance(method, Basic.Publish):
            self._on_publish(method, command)
            return
        handler = _HANDLERS.get(type(method))
        if handler is None:
            raise AmqpError(540, f"NOT_IMPLEMENTED - {method.name}", method.index >> 16, method.index & 0xFFFF)
        handler(self, method)

    def _on_flow(self, method: Channel.Flow) -> None:
        if not method.active:
            raise AmqpError(540, "NOT_IMPLEMENTED - active=false", 20, 20)
        self.send(Channel.FlowOk(True))

    def _on_exchange_declare(self, method: Exchange.Declare) -> None:
        self.engine.declare_exchange(
            method.exchange,
            method.exchange_type,
            passive=method.passive,
            durable=method.durable,
            auto_delete=method.auto_delete,
            internal=method.internal,
            arguments=method.arguments or {},
        )
        self._answer(method, Exchange.DeclareOk())

    def _on_exchange_delete(self, method: Exchange.Delete) -> None:
        self.engine.delete_exchange(method.exchange, if_unused=method.if_unused)
        self._answer(method, Exchange.DeleteOk())

    def _queue(self, name: str) -> AnyQueue:
        """The queue of this name; the empty name is the last one declared on this channel."""
        if not name and not self._last_queue:
            raise AmqpError(404, "NOT_FOUND - no previously declared queue")
        return self.engine.queue(name or self._last_queue, self.connection)

    def _on_queue_declare(self, method: Queue.Declare) -> None:
        if method.queue == REPLY_TO or method.queue in self.connection.factory.reply_channels:
            self._answer(method, Queue.DeclareOk(method.queue, 0, 1))
            return
        queue = self.engine.declare_queue(
            method.queue,
            passive=method.passive,
            durable=method.durable,
            exclusive=method.exclusive,
            auto_delete=method.auto_delete,
            arguments=method.arguments or {},
            owner=self.connection,
        )
        self._last_queue = queue.name
        self._answer(method, Queue.DeclareOk(queue.name, queue.message_count, len(queue.consumers)))

    def _on_queue_bind(self, method: Queue.Bind) -> None:
        queue = self._queue(method.queue)
        self.engine.bind(queue, method.exchange, method.routing_key)
        self._answer(method, Queue.BindOk())

    def _on_queue_unbind(self, method: Queue.Unbind) -> None:
        if method.queue in self.engine.queues or not method.queue:  # unbinding what is not there succeeds, as in RabbitMQ
            self.engine.unbind(self._queue(method.queue), method.exchange, method.routing_key)
        self.send(Queue.UnbindOk())

    def _on_queue_purge(self, method: Queue.Purge) -> None:
        self._answer(method, Queue.PurgeOk(self._queue(method.queue).purge()))

    def _on_queue_delete(self, method: Queue.Delete) -> None:
        count = 0
        if method.queue in self.engine.queues or not method.queue:  # deleting what is not there succeeds, as in RabbitMQ
            count = self.engine.delete_queue(self._queue(method.queue), if_unused=method.if_unused, if_empty=method.if_empty)
        self._answer(method, Queue.DeleteOk(count))

    def _answer(self, method: base.Frame, answer: base.Frame) -> None:
        if not getattr(method, "nowait", False):
            self.send(answer)

    # Publishing.

    def _on_confirm_select(self, method: Confirm.Select) -> None:
        self._confirming = True
        self._answer(method, Confirm.SelectOk())

    def _on_publish(self, method: Basic.Publish, command: Command) -> None:
        properties = command.properties
        assert properties is not None
        if method.immediate:
            raise AmqpError(540, "NOT_IMPLEMENTED - immediate=true", 60, 40)
        try:
            expiration_s(properties)
        except ValueError:
            raise AmqpError(406, f"PRECONDITION_FAILED - invalid expiration '{properties.expiration}'", 60, 40) from None
        if properties.user_id and properties.user_id != self.connection.handshake.username:
            text = f"user_id property set to '{properties.user_id}' but authenticated user was '{self.connection.handshake.username}'"
            raise AmqpError(406, f"PRECONDITION_FAILED - {text}", 60, 40)
        message = Message(method.exchange, method.routing_key, properties, command.header, command.body)
        self.connection.published()
        if properties.reply_to == REPLY_TO:
            message = self._with_reply_address(message)
        if self._confirming:
            self.published += 1
            self.connection.confirm_due(self)
        if not self._route(message) and method.mandatory:
            self.send_content(Basic.Return(312, "NO_ROUTE", method.exchange, method.routing_key), command.header, command.body)

    def _route(self, message: Message) -> bool:
        if message.exchange == "" and message.routing_key.startswith(f"{REPLY_TO}."):
            channel = self.connection.factory.reply_channels.get(message.routing_key)
            if channel is not None:
                channel.deliver_reply(message)
            return False  # an address is no queue, says RabbitMQ
        return self.engine.publish(message)

    def confirm(self, upto: int) -> None:
        """The first `upto` messages that were published are safe: say so, in one frame. More may have come while they were written."""
        if upto > self._confirmed and not self.closing:
            self._confirmed = upto
            self.send(Basic.Ack(upto, True))

    # Direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to).

    def _with_reply_address(self, message: Message) -> Message:
        if self._reply_token is None:
            raise AmqpError(406, "PRECONDITION_FAILED - fast reply consumer does not exist", 60, 40)
        header = message.with_properties(reply_to=self._reply_token)
        return Message(message.exchange, message.routing_key, message.properties, header, message.body)

    def _consume_replies(self, method: Basic.Consume, tag: str) -> None:
        if not method.no_ack:
            raise AmqpError(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", 60, 20)
        if self._reply_token is not None:
            raise AmqpError(406, "PRECONDITION_FAILED - reply consumer already set", 60, 20)
        self._reply_tag, self._reply_token = tag, f"{REPLY_TO}.{self.connection.factory.new_token()}"
        self.connection.factory.reply_channels[self._reply_token] = self

    def deliver_reply(self, message: Message) -> None:
        """A reply for this channel's requests; at most once, so one that cannot be written now is dropped."""
        if self._reply_tag is None or self.closing or not self.connection.writable:
            return
        self._last_delivery_tag += 1
        method = Basic.Deliver(self._reply_tag, self._last_delivery_tag, False, "", message.routing_key)
        self.send_content(method, message.header, message.body)

    def _stop_replies(self) -> None:
        if self._reply_token is not None:
            self.connection.factory.reply_channels.pop(self._reply_token, None)
            self._reply_tag = self._reply_token = None

    # Consuming.

    def _on_qos(self, method: Basic.Qos) -> None:
        if method.prefetch_size:
            raise AmqpError(540, "NOT_IMPLEMENTED - prefetch_size!=0", 60, 10)
        if method.global_:
            raise AmqpError(540, "NOT_IMPLEMENTED - global qos", 60, 10)
        self._prefetch = method.prefetch_count
        self.send(Basic.QosOk())

    def _on_consume(self, method: Basic.Consume) -> None:
        tag = method.consumer_tag or f"amq.ctag-{self.connection.factory.new_token()}"
        if tag in self._consumers or tag == self._reply_tag:
            raise AmqpError(530, f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'", 60, 20)
        if len(self._consumers) >= MAX_CONSUMERS:
            raise AmqpError(506, f"RESOURCE_ERROR - at most {MAX_CONSUMERS} consumers a channel", 60, 20)
        if method.queue == REPLY_TO:
            self._consume_replies(method, tag)
            self._answer(method, Basic.ConsumeOk(tag))
            return
        queue = self._queue(method.queue)
        alone = method.exclusive and (queue.consumers or (queue.kind == "classic" and queue.single_active))
        if queue.exclusive_consumer or alone:
            raise AmqpError(403, f"ACCESS_REFUSED - queue '{queue.name}' in vhost '/' in exclusive use", 60, 20)
        if queue.kind == "stream" and method.no_ack:
            raise AmqpError(540, f"NOT_IMPLEMENTED - no-ack consumers of stream queue '{queue.name}'", 60, 20)
        if queue.kind == "stream" and not self._prefetch:
            raise AmqpError(406, f"PRECONDITION_FAILED - consumer prefetch count is not set for stream queue '{queue.name}'", 60, 20)
        consumer = ChannelConsumer(self, tag, queue, method.no_ack, self._prefetch)
        self._consumers[tag] = consumer
        queue.exclusive_consumer = method.exclusive
        self._answer(method, Basic.ConsumeOk(tag))
        try:
            queue.add_consumer(consumer, method.arguments or {})
        except AmqpError:
            del self._consumers[tag]
            raise

    def _on_cancel(self, method: Basic.Cancel) -> None:
        tag = method.consumer_tag or ""
        consumer = self._consumers.pop(tag, None)
        self._answer(method, Basic.CancelOk(tag))
        if tag == self._reply_tag:
            self._stop_replies()
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)
            self.engine.consumer_gone(consumer.queue)

    def on_queue_gone(self, consumer: ChannelConsumer) -> None:
        """The engine has deleted the queue; a client that can bear it is told."""
        self._consumers.pop(consumer.tag, None)
        if "consumer_cancel_notify" in self.connection.handshake.capabilities and not self.closing:
            self.send(Basic.Cancel(consumer.tag, True))

    def _on_get(self, method: Basic.Get) -> None:
        queue = self._queue(method.queue)
        if queue.kind == "quorum" and queue.single_active:
            text = f"cannot obtain access to locked queue '{queue.name}' in vhost '/'. basic.get operations are not supported"
            raise AmqpError(405, f"RESOURCE_LOCKED - {text} by quorum queues with single active consumer")
        entry = queue.pop()
        loaded = queue.when_loaded()
        if entry is None and loaded is not None and queue.message_count:
            raise NotYet(loaded)
        if entry is None:
            self.send(Basic.GetEmpty())
            return
        header = queue.header_for(entry)
        tag = self.hand_out(queue, None, entry, method.no_ack)
        message = entry.message
        answer = Basic.GetOk(tag, entry.redelivered, message.exchange, message.routing_key, queue.message_count)
        self.send_content(answer, header, message.body)

    # Settling.

    def _on_ack(self, method: Basic.Ack) -> None:
        for each in self._take(method.delivery_tag, method.multiple):
            each.queue.ack(each.entry)

    def _on_nack(self, method: Basic.Nack) -> None:
        self._give_back(self._take(method.delivery_tag, method.multiple), requeue=method.requeue)

    def _on_reject(self, method: Basic.Reject) -> None:
        self._give_back(self._take(method.delivery_tag or 0, False), requeue=method.requeue)

    def _on_recover(self, method: Basic.Recover) -> None:
        if not method.requeue:
            raise AmqpError(540, "NOT_IMPLEMENTED - requeue=false", 60, 110)
        self._give_back(self._take(0, True), requeue=True)
        self.send(Basic.RecoverOk())

    def _take(self, tag: int, multiple: bool) -> list[_Unsettled]:
        """Remove from the unsettled; with `multiple` all up to `tag`, or all for tag 0. Raises `AmqpError` 406."""
        if multiple and tag == 0:
            taken = list(self._unsettled.values())
            self._unsettled.clear()
        elif tag not in self._unsettled and not (multiple and 0 < tag <= self._last_delivery_tag):
            raise AmqpError(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}", 60, 80)
        elif multiple:
            tags = list(itertools.takewhile(lambda each: each <= tag, self._unsettled))
            taken = [self._unsettled.pop(each) for each in tags]
        else:
            taken = [self._unsettled.pop(tag)]
        for each in taken:
            if each.consumer is not None:
                each.consumer.unsettled -= 1
                self.connection.pump_due(each.queue)
        return taken

    def _give_back(self, taken: list[_Unsettled], *, requeue: bool, lost: bool = False) -> None:
        by_queue: dict[AnyQueue, list[Entry]] = {}
        for each in taken:
            if self.engine.queues.get(each.queue.name) is each.queue:
                by_queue.setdefault(each.queue, []).append(each.entry)
        for queue, entries in by_queue.items():
            if queue.kind == "stream" and not lost:
                raise AmqpError(540, f"NOT_IMPLEMENTED - basic.nack and basic.reject not supported by stream queues queue '{queue.name}'")
            if requeue:
                queue.requeue(entries, lost=lost)
            else:
                for entry in entries:
                    queue.reject(entry)

    # The end.

    def close(self) -> None:
        """The channel is over: its consumers leave, and what it held goes back, before any other consumer is served."""
        self.closing = True
        self._stop_replies()
        consumers, self._consumers = self._consumers, {}
        for consumer in consumers.values():
            consumer.queue.remove_consumer(consumer)
        unsettled, self._unsettled = list(self._unsettled.values()), {}
        self._give_back(unsettled, requeue=True, lost=True)
        for consumer in consumers.values():
            self.engine.consumer_gone(consumer.queue)

    def pump(self) -> None:
        """The connection can be written to again."""
        for consumer in list(self._consumers.values()):
            consumer.queue.pump()


_HANDLERS: dict[type[base.Frame], Callable[[BrokerChannel, Any], None]] = {
    Channel.Flow: BrokerChannel._on_flow,
    Exchange.Declare: BrokerChannel._on_exchange_declare,
    Exchange.Delete: BrokerChannel._on_exchange_delete,
    Queue.Declare: BrokerChannel._on_queue_declare,
    Queue.Bind: BrokerChannel._on_queue_bind,
    Queue.Unbind: BrokerChannel._on_queue_unbind,
    Queue.Purge: BrokerChannel._on_queue_purge,
    Queue.Delete: BrokerChannel._on_queue_delete,
    Confirm.Select: BrokerChannel._on_confirm_select,
    Basic.Qos: BrokerChannel._on_qos,
    Basic.Consume: BrokerChannel._on_consume,
    Basic.Cancel: BrokerChannel._on_cancel,
    Basic.Get: BrokerChannel._on_get,
    Basic.Ack: BrokerChannel._on_ack,
    Basic.Nack: BrokerChannel._on_nack,
    Basic.Reject: BrokerChannel._on_reject,
    Basic.Recover: BrokerChannel._on_recover,
}
