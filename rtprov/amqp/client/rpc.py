"""Requests and replies over AMQP, with direct reply-to.

`RpcClient` sends requests, `serve` replies to them. See
https://www.rabbitmq.com/docs/direct-reply-to.

- A request is mandatory: it fails at once if there is no queue for it.
- A request expires when the caller stops waiting for the reply.
- A reply is delivered at most once.
- A request of `RpcClient.subscribe` can have many replies; `serve_many` sends them.
"""

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
TAKEN_WITHIN_S = 2.0  # a subscription's request expires if no server receives it in this time

Reply = Callable[[bytes], None]
"""Sends one reply to a request. Does nothing once the channel is closed."""


@attrs.define(eq=False)
class _Request:
    reply: Deferred[bytes]
    timer: IDelayedCall
    each: Callable[[bytes], None] | None = None  # called with each reply to a subscription


class RpcClient:
    """Sends requests to a queue, or to all queues bound with a routing key.

    It is a session of a `BrokerConnection`.
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
        """Fail all pending requests with `NoReply`: the connection is closed."""
        self._on_lost(BrokerUnavailable("detached"))
        self._publisher.detach()

    def _on_lost(self, reason: BrokerError) -> None:
        self._ready = False
        for correlation_id in list(self._requests):
            self._end(correlation_id, NoReply(f"The connection was lost before a reply: {reason}"))

    def call(
        self, routing_key: str, body: bytes, *, exchange: str = "", timeout_s: float
    ) -> Deferred[bytes]:
        """Send `body` as a request. The Deferred fires with the body of the first reply.

        With the default `exchange`, `routing_key` is the name of a queue. Fails with `Unroutable`
        if there is no queue for the request, `NoReply` if no reply arrives within `timeout_s`
        seconds or the connection is lost, `BrokerUnavailable` or `Overloaded` if nothing was sent.
        Cancelling drops the request; a later reply is ignored.
        """
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
        """Send `body` as a request, and call `each` with every reply for `timeout_s` seconds.

        The Deferred never fires with a result. It fails as that of `call` does, and with `NoReply`
        when the time is over. Cancelling ends the subscription.
        """
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
            # The broker may have routed the request anyway, so wait for the reply or the deadline.
            return
        self._end(correlation_id, reason.value or NoReply("The request could not be sent"))

    def _on_reply(self, delivery: Delivery) -> None:
        correlation_id = str(delivery.properties.correlation_id)
        request = self._requests.get(correlation_id)
        if request is not None and request.each is not None:
            self._pass_on(request.each, delivery.body)
        else:
            self._end(correlation_id, delivery.body)

    def _pass_on(self, each: Callable[[bytes], None], body: bytes) -> None:
        try:
            each(body)
        except Exception:  # in a consumer it would end the connection
            self._log.failure("a reply to a subscription could not be handled; ignoring it")

    def _end(self, correlation_id: str, result: bytes | BaseException) -> None:
        request = self._forget(correlation_id)
        if request is None:
            return  # timed out or cancelled before
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
    """Reply to the requests in `queue`. Return the consumer tag.

    `handler` is called with the body of a request and returns the body of the reply. At most
    `prefetch` (1 to 65535) handlers run at a time. If a handler raises, the error is logged and the
    request is dropped; its caller times out. When the channel is closed, running handlers are
    cancelled. Raises `BrokerError`.
    """

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
    """Do the same as `serve`, with a handler that sends the replies itself.

    `handler` is called with the body of a request and a function that sends one reply. It may call
    this function any number of times. Once the handler has returned, the request is acknowledged
    and no longer counts for `prefetch`, but the function still works.
    """
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
        self._at_work: dict[Deferred[None], None] = {}  # used as an ordered set

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
                self._log.failure(
                    "the handler of a request from {queue} failed; the request is dropped and its"
                    " caller times out",
                    queue=self._queue,
                )
        delivery.ack()

    def _reply(self, delivery: Delivery, body: bytes) -> None:
        if not self._channel.closed:
            sent = Deferred.fromCoroutine(self._send(delivery, body))
            sent.addErrback(
                lambda reason: self._log.failure(
                    "could not send a reply to a request from {queue}; the reply is lost",
                    reason,
                    queue=self._queue,
                )
            )

    async def _send(self, delivery: Delivery, reply: bytes) -> None:
        properties = delivery.properties
        if properties.reply_to:
            content = Content(
                reply, None, Basic.Properties(correlation_id=properties.correlation_id)
            )
            await self._channel.basic_publish(routing_key=properties.reply_to, content=content)
