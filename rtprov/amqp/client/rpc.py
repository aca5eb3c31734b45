"""Requests over AMQP with direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to).

`RpcClient` asks, `serve` answers. A request is mandatory, so that it comes straight back when
nobody serves, and expires together with its caller's patience; a reply is given at most once. A
request of `RpcClient.subscribe`, which `serve_many` takes, may be replied to again and again."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs
from pamqp.commands import Basic
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtprov.amqp.client._txamqp import Content
from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.client.publisher import Publisher
from rtprov.errors import BrokerError, BrokerUnavailable, NoReply, Unconfirmed

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection

REPLY_TO = "amq.rabbitmq.reply-to"
TAKEN_WITHIN_S = 2.0  # or a subscription's request is not taken at all

Reply = Callable[[bytes], None]
"""Sends one reply to a request; does nothing once the connection is gone."""


@attrs.define(eq=False)
class _Request:
    reply: Deferred[bytes]
    timer: IDelayedCall
    each: Callable[[bytes], None] | None = None  # a subscription's replies go here


class RpcClient:
    """Asks a queue, or all that a routing key leads to; the first reply counts. A session of a
    `BrokerConnection`.
    """

    _log = Logger()

    def __init__(self, *, clock: IReactorTime) -> None:
        self._clock = clock
        self._publisher = Publisher(clock=clock)
        self._requests: dict[str, _Request] = {}
        self._last_id = 0
        self._ready = False

    async def attach(self, connection: AmqpConnection) -> None:
        """Open a channel for requests and replies. Raises `BrokerError`."""
        await self._publisher.attach(connection)
        channel = self._publisher.channel
        if channel is None:
            raise BrokerUnavailable("The connection to the broker was lost")
        await consume(channel, REPLY_TO, self._on_reply, prefetch=0, no_ack=True)
        channel.on_closed(self._on_lost)
        self._ready = not channel.closed

    def detach(self) -> None:
        """The connection is gone: no reply can come any more."""
        self._on_lost(BrokerUnavailable("detached"))
        self._publisher.detach()

    def _on_lost(self, reason: BrokerError) -> None:
        self._ready = False
        for correlation_id in list(self._requests):
            self._end(correlation_id, NoReply(f"The reply was lost: {reason}"))

    def call(
        self, routing_key: str, body: bytes, *, exchange: str = "", timeout_s: float
    ) -> Deferred[bytes]:
        """Send `body` to a queue, or to all that `exchange` has for the routing key, and fire with
        the body of the first reply.

        Fails with `Unroutable` when there is no such queue, `NoReply` when nothing came within
        `timeout_s` seconds or the connection was lost, `BrokerUnavailable` or `Overloaded` when
        nothing was sent. Cancelling forgets the request."""
        return self._request(exchange, routing_key, body, timeout_s, timeout_s, None)

    def subscribe(
        self,
        routing_key: str,
        body: bytes,
        *,
        exchange: str = "",
        timeout_s: float,
        each: Callable[[bytes], None],
    ) -> Deferred[bytes]:
        """The same, with `each` called with every reply that comes within `timeout_s` seconds.

        Never fires; fails as `call` does, with `NoReply` when the time is over. Cancelling forgets
        the request."""
        return self._request(
            exchange, routing_key, body, timeout_s, min(timeout_s, TAKEN_WITHIN_S), each
        )

    def _request(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        timeout_s: float,
        expiration_s: float,
        each: Callable[[bytes], None] | None,
    ) -> Deferred[bytes]:
        self._last_id += 1
        correlation_id = str(self._last_id)
        reply: Deferred[bytes] = Deferred(lambda _: self._give_up(correlation_id))
        if not self._ready:
            reply.errback(BrokerUnavailable("There is no connection to the broker"))
            return reply
        late = NoReply(f"No reply within {timeout_s:g} s")
        self._requests[correlation_id] = _Request(
            reply, self._clock.callLater(timeout_s, self._end, correlation_id, late), each
        )
        expiration = str(max(1, math.ceil(expiration_s * 1000)))
        properties = Basic.Properties(
            correlation_id=correlation_id, reply_to=REPLY_TO, expiration=expiration
        )
        published = self._publisher.publish(
            exchange, routing_key, body, properties=properties, mandatory=True
        )
        published.addErrback(lambda reason: self._on_unpublished(correlation_id, reason))
        return reply

    def _on_unpublished(self, correlation_id: str, reason: Failure) -> None:
        if reason.check(Unconfirmed) is not None:
            # The broker may have passed it on all the same; only a refusal or the deadline ends the
            # wait.
            return
        self._end(correlation_id, reason.value or NoReply("The request could not be sent"))

    def _on_reply(self, delivery: Delivery) -> None:
        correlation_id = str(delivery.properties.correlation_id)
        request = self._requests.get(correlation_id)
        if request is not None and request.each is not None:
            request.each(delivery.body)
        else:
            self._end(correlation_id, delivery.body)

    def _end(self, correlation_id: str, result: bytes | BaseException) -> None:
        request = self._forget(correlation_id)
        if request is None:
            return  # it was given up before
        if isinstance(result, bytes):
            request.reply.callback(result)
        else:
            request.reply.errback(result)

    def _give_up(self, correlation_id: str) -> None:
        self._forget(correlation_id)

    def _forget(self, correlation_id: str) -> _Request | None:
        request = self._requests.pop(correlation_id, None)
        if request is not None and request.timer.active():
            request.timer.cancel()
        return request


async def serve(
    channel: AmqpChannel, queue: str, handler: Callable[[bytes], Awaitable[bytes]], *, prefetch: int
) -> str:
    """Answer the requests in `queue` with what `handler` makes of their bodies, at most `prefetch`
    at a time; return the consumer tag.

    A handler that fails is logged, and its request dropped: the caller's deadline tells it. When
    the channel is lost, handlers still at work are cancelled. Raises `BrokerError`."""

    async def once(body: bytes, reply: Reply) -> None:
        reply(await handler(body))

    return await serve_many(channel, queue, once, prefetch=prefetch)


async def serve_many(
    channel: AmqpChannel,
    queue: str,
    handler: Callable[[bytes, Reply], Awaitable[None]],
    *,
    prefetch: int,
) -> str:
    """As `serve`, with a handler that replies itself: once, later, or again and again.

    Once it is done the request is settled, and its place among the `prefetch` free; its `Reply`
    still works."""
    server = _Server(channel, queue, handler)
    tag = await consume(channel, queue, server.on_request, prefetch=prefetch)
    channel.on_closed(server.stop)
    return tag


class _Server:
    _log = Logger()

    def __init__(
        self, channel: AmqpChannel, queue: str, handler: Callable[[bytes, Reply], Awaitable[None]]
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._handler = handler
        self._at_work: dict[Deferred[None], None] = {}  # an ordered set

    def on_request(self, delivery: Delivery) -> None:
        work = Deferred.fromCoroutine(self._answer(delivery))
        if not work.called:
            self._at_work[work] = None
            work.addBoth(lambda _: self._at_work.pop(work, None))

    def stop(self, _: BrokerError) -> None:
        for work in list(self._at_work):
            work.cancel()

    async def _answer(self, delivery: Delivery) -> None:
        try:
            await self._handler(delivery.body, lambda body: self._reply(delivery, body))
        except Exception:
            if delivery.live:
                self._log.failure("a request from {queue} could not be answered", queue=self._queue)
        delivery.ack()

    def _reply(self, delivery: Delivery, body: bytes) -> None:
        if not self._channel.closed:
            sent = Deferred.fromCoroutine(self._send(delivery, body))
            sent.addErrback(
                lambda reason: self._log.failure(
                    "a reply to a request from {queue} broke", reason, queue=self._queue
                )
            )

    async def _send(self, delivery: Delivery, reply: bytes) -> None:
        properties = delivery.properties
        if properties.reply_to:
            content = Content(
                reply, None, Basic.Properties(correlation_id=properties.correlation_id)
            )
            await self._channel.basic_publish(routing_key=properties.reply_to, content=content)
