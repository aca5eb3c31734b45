"""The consuming part of a channel: consumers, ``basic.get``, and unsettled messages."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import attrs
from pamqp.commands import Basic

from rtprov.broker.messages import Entry
from rtprov.broker.server.direct_reply import REPLY_TO, DirectReplies
from rtprov.broker.server.methods import Deliver, GetOk
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.broker.engine.virtual_host import AnyQueue
    from rtprov.broker.server.interface import Channel

MAX_CONSUMERS = 2000


class RetryWhenLoaded(Exception):
    """A method cannot be executed before `until` has fired.

    The connection then executes it again, before all methods received after it.
    """

    def __init__(self, until: Deferred[None]) -> None:
        super().__init__()
        self.until = until


@attrs.define(eq=False)
class ChannelConsumer:
    """A consumer of a queue, made by ``basic.consume`` on a channel.

    Implements `rtprov.broker.engine.queue.Consumer`. A `prefetch` of 0 means no limit. `unsettled`
    is the number of its messages that are not settled.
    """

    consuming: Consuming
    tag: str
    queue: AnyQueue
    no_ack: bool
    prefetch: int
    unsettled: int = 0

    @property
    def ready(self) -> bool:
        return self.consuming.writable and (
            self.no_ack or not self.prefetch or self.unsettled < self.prefetch
        )

    def deliver(self, entry: Entry, header: bytes) -> None:
        self.consuming.deliver(self, entry, header)

    def cancelled(self) -> None:
        self.consuming.on_queue_gone(self)


@attrs.define(eq=False)
class _Unsettled:
    queue: AnyQueue
    consumer: ChannelConsumer | None  # None if delivered by basic.get
    entry: Entry


class Consuming:
    """The consumers and the unsettled messages of one channel.

    `unsettled` maps delivery tags to delivered messages that are not settled, in order. The ``on_``
    methods execute the client's methods, and raise `AmqpError`.
    """

    def __init__(self, channel: Channel, replies: DirectReplies) -> None:
        self._channel = channel
        self._client = channel.client
        self._replies = replies
        self._virtual_host = channel.client.broker.virtual_host
        self._prefetch = 0
        self._consumers: dict[str, ChannelConsumer] = {}
        self.unsettled: dict[int, _Unsettled] = {}

    # Delivering.

    @property
    def writable(self) -> bool:
        """Whether the client reads fast enough."""
        return self._client.writable

    def deliver(self, consumer: ChannelConsumer, entry: Entry, header: bytes) -> None:
        """Send a message to a consumer (``basic.deliver``)."""
        message = entry.message
        tag = self._new_delivery(consumer.queue, consumer, entry, consumer.no_ack)
        method = Deliver(
            consumer.tag, tag, entry.redelivered, message.exchange, message.routing_key
        )
        self._channel.send_content(method, header, message.body)

    def _new_delivery(
        self, queue: AnyQueue, consumer: ChannelConsumer | None, entry: Entry, no_ack: bool
    ) -> int:
        """Record a message as unsettled, or settle it if `no_ack`. Return its delivery tag."""
        tag = self._channel.new_delivery_tag()
        if no_ack:
            queue.ack(entry)
        else:
            self.unsettled[tag] = _Unsettled(queue, consumer, entry)
            if consumer is not None:
                consumer.unsettled += 1
        return tag

    # Consuming.

    def on_qos(self, method: Basic.Qos) -> None:
        if method.prefetch_size:
            raise AmqpError(540, "NOT_IMPLEMENTED - prefetch_size!=0", 60, 10)
        if method.global_:
            raise AmqpError(540, "NOT_IMPLEMENTED - global qos", 60, 10)
        self._prefetch = method.prefetch_count
        self._channel.send(Basic.QosOk())

    def on_consume(self, method: Basic.Consume) -> None:
        tag = method.consumer_tag or f"amq.ctag-{self._client.broker.new_token()}"
        if tag in self._consumers or (tag == self._replies.tag and method.queue != REPLY_TO):
            raise AmqpError(530, f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'", 60, 20)
        if len(self._consumers) >= MAX_CONSUMERS:
            raise AmqpError(
                506, f"RESOURCE_ERROR - at most {MAX_CONSUMERS} consumers a channel", 60, 20
            )
        if method.queue == REPLY_TO:
            self._replies.open(method, tag)
            self._channel.answer(method, Basic.ConsumeOk(tag))
            return
        queue = self._channel.queue(method.queue)
        _check_consumer(queue, method, self._prefetch)
        consumer = ChannelConsumer(self, tag, queue, method.no_ack, self._prefetch)
        self._consumers[tag] = consumer
        queue.exclusive_consumer = method.exclusive
        self._channel.answer(method, Basic.ConsumeOk(tag))
        try:
            queue.add_consumer(consumer, method.arguments or {})
        except AmqpError:
            del self._consumers[tag]
            queue.exclusive_consumer = False
            raise

    def on_cancel(self, method: Basic.Cancel) -> None:
        tag = method.consumer_tag or ""
        consumer = self._consumers.pop(tag, None)
        self._channel.answer(method, Basic.CancelOk(tag))
        if tag == self._replies.tag:
            self._replies.close()
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)
            self._virtual_host.consumer_gone(consumer.queue)

    def on_queue_gone(self, consumer: ChannelConsumer) -> None:
        """Remove a consumer whose queue was deleted.

        Send ``basic.cancel`` to the client if it supports ``consumer_cancel_notify``.
        """
        self._consumers.pop(consumer.tag, None)
        if (
            "consumer_cancel_notify" in self._client.handshake.capabilities
            and not self._channel.closing
        ):
            self._channel.send(Basic.Cancel(consumer.tag, True))

    def on_get(self, method: Basic.Get) -> None:
        queue = self._channel.queue(method.queue)
        if queue.kind == "quorum" and queue.single_active:
            text = (
                f"cannot obtain access to locked queue '{queue.name}' in vhost '/'. basic.get"
                " operations are not supported"
            )
            raise AmqpError(
                405, f"RESOURCE_LOCKED - {text} by quorum queues with single active consumer"
            )
        entry = queue.pop()
        loaded = queue.when_loaded()
        if entry is None and loaded is not None and queue.message_count:
            raise RetryWhenLoaded(loaded)
        if entry is None:
            self._channel.send(Basic.GetEmpty())
            return
        header = queue.header_for(entry)
        tag = self._new_delivery(queue, None, entry, method.no_ack)
        message = entry.message
        answer = GetOk(
            tag, entry.redelivered, message.exchange, message.routing_key, queue.message_count
        )
        self._channel.send_content(answer, header, message.body)

    # Settling.

    def on_ack(self, method: Basic.Ack) -> None:
        for each in self._take(method.delivery_tag, method.multiple):
            each.queue.ack(each.entry)

    def on_nack(self, method: Basic.Nack) -> None:
        self._give_back(self._take(method.delivery_tag, method.multiple), requeue=method.requeue)

    def on_reject(self, method: Basic.Reject) -> None:
        self._give_back(self._take(method.delivery_tag or 0, False), requeue=method.requeue)

    def on_recover(self, method: Basic.Recover) -> None:
        if not method.requeue:
            raise AmqpError(540, "NOT_IMPLEMENTED - requeue=false", 60, 110)
        self._give_back(self._take(0, True), requeue=True)
        self._channel.send(Basic.RecoverOk())

    def _take(self, tag: int, multiple: bool) -> list[_Unsettled]:
        """Remove and return an unsettled message.

        With `multiple`, all up to the delivery tag `tag`, or all if `tag` is 0. Raises `AmqpError`
        406 for an unknown tag.
        """
        if multiple and tag == 0:
            taken = list(self.unsettled.values())
            self.unsettled.clear()
        elif tag not in self.unsettled:
            raise AmqpError(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}", 60, 80)
        elif multiple:
            tags = list(itertools.takewhile(lambda each: each <= tag, self.unsettled))
            taken = [self.unsettled.pop(each) for each in tags]
        else:
            taken = [self.unsettled.pop(tag)]
        for each in taken:
            if each.consumer is not None:
                each.consumer.unsettled -= 1
                self._client.pending_commit.pump_due(each.queue)
        return taken

    def _give_back(self, taken: list[_Unsettled], *, requeue: bool, lost: bool = False) -> None:
        by_queue: dict[AnyQueue, list[Entry]] = {}
        for each in taken:
            if self._virtual_host.queues.get(each.queue.name) is each.queue:
                by_queue.setdefault(each.queue, []).append(each.entry)
        for queue, entries in by_queue.items():
            if requeue:
                queue.requeue(entries, lost=lost)
            else:
                for entry in entries:
                    queue.reject(entry)
        streams = [queue.name for queue in by_queue if queue.kind == "stream"]
        if streams and not lost:
            raise AmqpError(
                540,
                "NOT_IMPLEMENTED - basic.nack and basic.reject not supported by stream queues"
                f" queue '{streams[0]}'",
            )

    # Closing.

    def retire(self) -> None:
        """Stop delivering to all consumers. `close` must follow."""
        for consumer in self._consumers.values():
            consumer.queue.remove_consumer(consumer)

    def close(self) -> None:
        """Remove all consumers and requeue unsettled messages, before others are served."""
        self.retire()
        consumers, self._consumers = self._consumers, {}
        unsettled, self.unsettled = list(self.unsettled.values()), {}
        self._give_back(unsettled, requeue=True, lost=True)
        for consumer in consumers.values():
            self._virtual_host.consumer_gone(consumer.queue)

    def pump(self) -> None:
        """Deliver messages: the connection can be written to again."""
        for consumer in list(self._consumers.values()):
            consumer.queue.pump()


def _check_consumer(queue: AnyQueue, method: Basic.Consume, prefetch: int) -> None:
    """Raise `AmqpError` if the queue cannot have this consumer.

    403 if it, or another consumer, would be exclusive; 406 for an invalid argument or a missing
    prefetch; 540 for what is not implemented.
    """
    alone = method.exclusive and (
        queue.consumers or (queue.kind == "classic" and queue.single_active)
    )
    if queue.exclusive_consumer or alone:
        raise AmqpError(
            403, f"ACCESS_REFUSED - queue '{queue.name}' in vhost '/' in exclusive use", 60, 20
        )
    if "x-priority" in (method.arguments or {}):
        raise AmqpError(540, "NOT_IMPLEMENTED - x-priority of a consumer", 60, 20)
    if queue.kind != "stream" and "x-stream-offset" in (method.arguments or {}):
        text = (
            f"invalid arg 'x-stream-offset' for queue '{queue.name}' in vhost '/' of queue type"
            f" rabbit_{queue.kind}_queue"
        )
        raise AmqpError(406, f"PRECONDITION_FAILED - {text}", 60, 20)
    if queue.kind == "stream" and method.no_ack:
        raise AmqpError(
            540, f"NOT_IMPLEMENTED - no-ack consumers of stream queue '{queue.name}'", 60, 20
        )
    if queue.kind == "stream" and not prefetch:
        raise AmqpError(
            406,
            "PRECONDITION_FAILED - consumer prefetch count is not set for stream queue"
            f" '{queue.name}'",
            60,
            20,
        )
