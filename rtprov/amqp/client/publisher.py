"""Publish messages with confirms (https://www.rabbitmq.com/docs/confirms).

A message is safe once its Deferred has fired, and not before.
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
from rtprov.metrics.counting import FAST_S, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client._txamqp import Message
    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection

SWEEP_S = 0.25
# A message without a deadline fails after this time, in case the broker has lost it.
LOST_AFTER_S = 60.0

_Mark = tuple[str, str, "str | None", "str | None", int]
"""Identifies a returned message: exchange, routing key, message id, correlation id, body hash."""


@attrs.define(eq=False)
class _Publish:
    """A message that is not confirmed yet.

    `waiter` is None once the deadline has passed. `mark` is None if the message is not mandatory.
    `patient` says that the message has no deadline. `returned` is the reply code and text of its
    ``basic.return``.
    """

    waiter: Deferred[None] | None
    mark: _Mark | None
    patient: bool = False
    returned: str | None = None
    sent_at: float = 0.0


class Publisher:
    """Publishes messages on a channel of its own, and waits for their confirms.

    It is a session of a `BrokerConnection`. Attach it before the sessions that publish with it.

    - `max_unconfirmed`: the largest number of messages without a confirm.
    - `confirm_deadline_s`: seconds in which the broker must confirm a message, more than 1.
      After that the message's Deferred fails with `Unconfirmed`. The message still counts for
      `max_unconfirmed` until the broker confirms it or the channel is lost. While the reactor is
      busy with other things, the time runs slower: confirms may wait in the socket.
    - `on_unroutable`: called each time a mandatory message is returned.
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
        self._confirmed_upto = 0  # highest tag confirmed with `multiple`
        self._unconfirmed: dict[int, _Publish] = {}
        self._sweep_call: IDelayedCall | None = None
        self._swept_at = 0.0
        self._age_s = 0.0  # the time that counts for deadlines
        # An entry for each sweep: the age then, and the last tag published before it. `_sweeps` has
        # the sweeps within the confirm deadline, `_older` the earlier ones within `LOST_AFTER_S`.
        # Of messages from that time, only patient ones still wait.
        self._sweeps: deque[tuple[float, int]] = deque()
        self._older: deque[tuple[float, int]] = deque()
        self.confirm_seconds = Histogram(FAST_S)
        """How long confirms took."""

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
        """Fail all unconfirmed messages with `Unconfirmed`: the connection is closed."""
        self._on_lost(BrokerUnavailable("detached"))

    def _on_lost(self, reason: BrokerError) -> None:
        self._connection = self.channel = None
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None
        self._sweeps.clear()
        self._older.clear()
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for publish in unconfirmed.values():
            _settle(
                publish, Unconfirmed(f"The channel was lost before the message's confirm: {reason}")
            )

    # Publishing.

    @property
    def unconfirmed(self) -> int:
        """The number of messages without a confirm."""
        return len(self._unconfirmed)

    def refusal(self) -> BrokerError | None:
        """Return the error that `publish` would fail with now, or None if it would send."""
        channel, connection = self.channel, self._connection
        if channel is None or connection is None:
            return BrokerUnavailable("There is no connection to the broker")
        if connection.blocked or connection.paused or not channel.flowing:
            return Overloaded("The broker accepts no messages at present")
        if len(self._unconfirmed) >= self._max_unconfirmed:
            return Overloaded(f"{self._max_unconfirmed} messages already wait for their confirms")
        return None

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        properties: Basic.Properties,
        mandatory: bool = True,
        patient: bool = False,
    ) -> Deferred[None]:
        """Publish a message.

        The Deferred fires once the broker has confirmed it, that is, once all queues to which it is
        routed have stored it. It fails with

        - `BrokerUnavailable` or `Overloaded` if nothing was sent,
        - `Unroutable` if the message is `mandatory` and is not routed to any queue,
        - `Unconfirmed` if the broker rejected it, did not confirm it in time, or was lost,
        - ValueError or TypeError if it cannot be encoded.

        A `patient` message has no deadline: its publisher would publish it again, while the broker
        may still confirm it. It fails only after a minute without a confirm.

        Cancelling the Deferred does not recall the message.
        """
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
            waiter,
            _mark(exchange, routing_key, properties, body) if mandatory else None,
            patient,
            sent_at=self._clock.seconds(),
        )
        if self._sweep_call is None:
            self._swept_at = self._clock.seconds()
            self._sweep_call = self._clock.callLater(SWEEP_S, self._sweep)
        connection.send(data)
        return waiter

    # Called by the channel.

    def on_return(self, message: Message) -> None:
        """Handle ``basic.return``: no queue has the message.

        The broker sends it before the confirm of the same message.
        """
        content = message.content
        assert content is not None
        mark = _mark(message.exchange, message.routing_key, content.properties, content.body)
        for publish in self._unconfirmed.values():
            if publish.mark == mark and publish.returned is None:
                publish.returned = f"{message.reply_code} {message.reply_text}"
                return
        self._log.debug(
            "the broker returned a message that is not pending: exchange {exchange!r}, routing"
            " key {key!r}",
            exchange=message.exchange,
            key=message.routing_key,
        )

    def on_confirm(self, delivery_tag: int, *, multiple: bool, positive: bool) -> None:
        """Handle the confirm of one message, or with `multiple` of all up to this tag (0: of all).

        A tag without a pending message was confirmed before, and is ignored. Raises `AmqpError` 503
        for a tag that was not published.
        """
        if delivery_tag > self._last_tag or (delivery_tag < 1 and not multiple):
            raise AmqpError(
                503,
                f"COMMAND_INVALID - confirm for message {delivery_tag} of {self._last_tag}",
                60,
                80,
            )
        now = self._clock.seconds()
        if not multiple:
            self._confirm(delivery_tag, positive, now)
            return
        first, last = self._confirmed_upto + 1, delivery_tag or self._last_tag
        self._confirmed_upto = max(self._confirmed_upto, last)
        for tag in range(first, last + 1):
            self._confirm(tag, positive, now)

    def _confirm(self, tag: int, positive: bool, now: float) -> None:
        publish = self._unconfirmed.pop(tag, None)
        if publish is None:
            return
        if positive:
            self.confirm_seconds.observe(now - publish.sent_at)
        if publish.returned is not None:
            self._on_unroutable()
            _settle(publish, Unroutable(f"No queue for the message: {publish.returned}"))
        elif positive:
            _settle(publish, None)
        else:
            _settle(publish, Unconfirmed("The broker rejected the message (basic.nack)"))

    # Deadlines. A timer for each message would cost too much, so one timer checks all messages
    # every 0.25 s while any is unconfirmed.

    def _sweep(self) -> None:
        now = self._clock.seconds()
        # A sweep is late if the reactor was busy. Confirms that arrived meanwhile may still be in
        # the socket. So at most two intervals are counted, and no message fails for that reason.
        self._age_s += min(now - self._swept_at, 2 * SWEEP_S)
        self._swept_at = now
        self._sweeps.append((self._age_s, self._last_tag))
        # A publish time is known to within one interval, and deadlines are checked once in each
        # interval. So a message fails up to two intervals early, and never late.
        overdue_upto = lost_upto = 0
        while self._sweeps and self._is_over(self._sweeps[0], self._confirm_deadline_s):
            overdue_upto = self._sweeps[0][1]
            self._older.append(self._sweeps.popleft())
        while self._older and self._is_over(self._older[0], LOST_AFTER_S):
            lost_upto = self._older.popleft()[1]
        overdue = self._overdue(overdue_upto, lost_upto)
        self._sweep_call = (
            self._clock.callLater(SWEEP_S, self._sweep) if self._unconfirmed else None
        )
        if self._sweep_call is None:
            self._sweeps.clear()
            self._older.clear()
        for publish in overdue:
            within_s = LOST_AFTER_S if publish.patient else self._confirm_deadline_s
            _settle(
                publish,
                Unconfirmed(f"The broker did not confirm the message within {within_s:g} s"),
            )

    def _is_over(self, sweep: tuple[float, int], deadline_s: float) -> bool:
        return sweep[0] <= self._age_s - deadline_s + 2 * SWEEP_S

    def _overdue(self, overdue_upto: int, lost_upto: int) -> list[_Publish]:
        """Return the messages up to these tags that wait; of the patient ones, those up to
        `lost_upto`.
        """
        overdue = []
        for tag, publish in self._unconfirmed.items():
            if tag > overdue_upto and tag > lost_upto:
                break
            if publish.waiter is not None and tag <= (
                lost_upto if publish.patient else overdue_upto
            ):
                overdue.append(publish)
        return overdue


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
