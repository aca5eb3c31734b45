"""Publishing with confirms (https://www.rabbitmq.com/docs/confirms): a message is safe when its
Deferred has fired, and not before.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
from pamqp.commands import Basic
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import encode_content
from rtprov.errors import (
    AmqpError,
    BrokerError,
    BrokerUnavailable,
    Overloaded,
    Unconfirmed,
    Unroutable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client._txamqp import Message
    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection

SWEEP_S = 0.25

_Mark = tuple[str, str, "str | None", "str | None", int]
"""Exchange, routing key, message id, correlation id and the body's hash: by these a returned
message is known again.
"""


@attrs.define(eq=False)
class _Publish:
    """A message on its way. `waiter` is None once its deadline has passed."""

    waiter: Deferred[None] | None
    mark: _Mark | None
    returned: str | None = None


class Publisher:
    """Publishes on a channel of its own. A session of a `BrokerConnection`: attach it before
    whatever publishes with it.

    At most `max_unconfirmed` messages are under way; each is confirmed within `confirm_deadline_s`
    seconds (over 1) or counts as `Unconfirmed`, though it keeps its place among those under way
    until the broker has spoken. `on_unroutable` is called when no queue took a mandatory message.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        max_unconfirmed: int = 10_000,
        confirm_deadline_s: float = 4.0,
        on_unroutable: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._on_unroutable = on_unroutable
        self._max_unconfirmed = max_unconfirmed
        self._confirm_deadline_s = confirm_deadline_s
        self._connection: AmqpConnection | None = None
        self.channel: AmqpChannel | None = None
        self._last_tag = 0
        self._confirmed_upto = 0  # tags up to this one are settled, by `multiple` confirms
        self._unconfirmed: dict[int, _Publish] = {}
        self._sweep_call: IDelayedCall | None = None
        self._sweeps: deque[tuple[float, int]] = deque()  # when, and the last tag published by then

    # The session.

    async def attach(self, connection: AmqpConnection) -> None:
        """Open a channel in confirm mode. Raises `BrokerError`."""
        channel = await connection.open_channel()
        await channel.confirm_select()
        channel.confirms = self
        self._last_tag = self._confirmed_upto = 0  # tags start at 1 on each channel
        self._connection, self.channel = connection, channel
        channel.on_closed(self._on_lost)

    def detach(self) -> None:
        """The connection is gone."""
        self._on_lost(BrokerUnavailable("detached"))

    def _on_lost(self, reason: BrokerError) -> None:
        self._connection = self.channel = None
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None
        self._sweeps.clear()
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for publish in unconfirmed.values():
            _settle(publish, Unconfirmed(f"The message's confirm was lost: {reason}"))

    # Publishing.

    @property
    def unconfirmed(self) -> int:
        """How many messages are on their way."""
        return len(self._unconfirmed)

    def refusal(self) -> BrokerError | None:
        """What a publish would fail with at once; None where it would be sent."""
        channel, connection = self.channel, self._connection
        if channel is None or connection is None:
            return BrokerUnavailable("There is no connection to the broker")
        if connection.blocked or connection.paused or not channel.flowing:
            return Overloaded("The broker takes no messages at present")
        if len(self._unconfirmed) >= self._max_unconfirmed:
            return Overloaded(f"{self._max_unconfirmed} messages wait for their confirm")
        return None

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        properties: Basic.Properties,
        mandatory: bool = True,
    ) -> Deferred[None]:
        """Fire once the broker has confirmed the message: every queue that it goes to has it.

        Fails with `BrokerUnavailable` or `Overloaded` when nothing was sent, `Unroutable` when no
        queue took a `mandatory` message, `Unconfirmed` when the broker said no, nothing in time, or
        was lost; ValueError or TypeError when the message cannot be encoded. Cancelling forgets the
        caller; the message stays on its way."""
        refusal = self.refusal()
        if refusal is not None:
            return fail(refusal)
        channel, connection = self.channel, self._connection
        assert channel is not None and connection is not None
        try:
            method = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
            data = encode_content(
                channel.id, method, encode_header(properties, len(body)), body, connection.frame_max
            )
        except Exception:
            return fail()
        waiter: Deferred[None] = Deferred()
        self._last_tag += 1
        self._unconfirmed[self._last_tag] = _Publish(
            waiter, _mark(exchange, routing_key, properties, body) if mandatory else None
        )
        if self._sweep_call is None:
            self._sweep_call = self._clock.callLater(SWEEP_S, self._sweep)
        connection.send(data)
        return waiter

    # What the channel tells.

    def on_return(self, message: Message) -> None:
        """``basic.return`` comes before the confirm of the same message, which then means: handled,
        and nobody has it.
        """
        content = message.content
        assert content is not None
        mark = _mark(message.exchange, message.routing_key, content.properties, content.body)
        for publish in self._unconfirmed.values():
            if publish.mark == mark and publish.returned is None:
                publish.returned = f"{message.reply_code} {message.reply_text}"
                return
        self._log.debug(
            "a message came back that is not on its way: {exchange} {key}",
            exchange=message.exchange,
            key=message.routing_key,
        )

    def on_confirm(self, delivery_tag: int, *, multiple: bool, positive: bool) -> None:
        """One confirm, or with `multiple` that of all up to this tag (0: of all). Unknown tags were
        settled before.
        """
        if delivery_tag > self._last_tag or (delivery_tag < 1 and not multiple):
            raise AmqpError(
                503,
                f"COMMAND_INVALID - confirm for message {delivery_tag} of {self._last_tag}",
                60,
                80,
            )
        if not multiple:
            self._confirm(delivery_tag, positive)
            return
        first, last = self._confirmed_upto + 1, delivery_tag or self._last_tag
        self._confirmed_upto = max(self._confirmed_upto, last)
        for tag in range(first, last + 1):
            self._confirm(tag, positive)

    def _confirm(self, tag: int, positive: bool) -> None:
        publish = self._unconfirmed.pop(tag, None)
        if publish is None:
            return
        if publish.returned is not None:
            self._on_unroutable()
            _settle(publish, Unroutable(f"No queue takes the message: {publish.returned}"))
        elif positive:
            _settle(publish, None)
        else:
            _settle(publish, Unconfirmed("The broker could not take care of the message"))

    # Deadlines: no timer for each message, but a look at all of them every quarter of a second
    # while any is on its way.

    def _sweep(self) -> None:
        now = self._clock.seconds()
        self._sweeps.append((now, self._last_tag))
        overdue_upto = 0
        # A mark's messages may be one sweep older than it, and the next look is one sweep away:
        # never late, at most two sweeps early.
        while self._sweeps and self._sweeps[0][0] <= now - self._confirm_deadline_s + 2 * SWEEP_S:
            overdue_upto = self._sweeps.popleft()[1]
        overdue = []
        for tag, publish in self._unconfirmed.items():
            if tag > overdue_upto:
                break
            if publish.waiter is not None:
                overdue.append(publish)
        self._sweep_call = (
            self._clock.callLater(SWEEP_S, self._sweep) if self._unconfirmed else None
        )
        if self._sweep_call is None:
            self._sweeps.clear()
        for publish in overdue:
            _settle(
                publish,
                Unconfirmed(
                    f"The broker did not confirm the message within {self._confirm_deadline_s:g} s"
                ),
            )


def _settle(publish: _Publish, error: BrokerError | None) -> None:
    waiter, publish.waiter = publish.waiter, None
    if waiter is None:
        return
    if error is None:
        waiter.callback(None)
    else:
        waiter.errback(error)


def _mark(exchange: str, routing_key: str, properties: Basic.Properties, body: bytes) -> _Mark:
    return exchange, routing_key, properties.message_id, properties.correlation_id, hash(body)
