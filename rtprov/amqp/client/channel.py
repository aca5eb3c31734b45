"""An AMQP channel: method calls and their replies, consumers, and publisher confirms.

Methods are called as in txAMQP: ``await channel.queue_declare(queue="q", durable=True)``. See
`rtprov.amqp.client.methods` for the list.

- A channel sends one method at a time and waits for its reply. Further methods wait in a queue.
- Cancelling the Deferred of a method discards its result. The method is still sent and the channel
  still waits for its reply; otherwise a later method would get the wrong reply.
- If a reply does not arrive within the connection's `call_deadline_s`, the connection is dropped.
  A channel opened with ``fatal=False`` is closed instead, and the connection stays open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from pamqp.commands import Basic, Channel
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from rtprov.amqp.client._txamqp import ChannelBase, Content, Message
from rtprov.amqp.client.spec import METHODS, SPEC, PamqpMethod
from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import Assembler, Command, Frame, encode_content, encode_method
from rtprov.errors import AmqpError, BrokerError, BrokerUnavailable, Overloaded

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.link import Link
    from rtprov.amqp.client.methods import Methods

    class _GeneratedBase(ChannelBase, Methods):
        """Shows the generated methods to type checkers. At run time `CHANNEL_CLASS` has them."""
else:
    _GeneratedBase = ChannelBase

MAX_WAITING_CALLS = 1000
_CLOSE = METHODS[Channel.Close]


class ConfirmListener(Protocol):
    """Receives the confirms and returned messages of a channel in confirm mode.

    `rtprov.amqp.client.publisher.Publisher` implements it. Both methods raise `AmqpError` if the
    broker breaks the protocol.
    """

    def on_confirm(self, delivery_tag: int, *, multiple: bool, positive: bool) -> None:
        """Handle ``basic.ack`` (`positive`) or ``basic.nack``."""

    def on_return(self, message: Message) -> None:
        """Handle ``basic.return``."""


@attrs.define(eq=False)
class _Call:
    """A call of a method that has a reply. `data` is its frame; `answer` fires with the reply."""

    method: PamqpMethod
    data: bytes
    answer: Deferred[Message]


class AmqpChannel(_GeneratedBase):
    """One channel of a connection. Get one from `AmqpConnection.open_channel`.

    Once `closed` is true, the channel cannot be used again, and `reason` says why it was closed.

    - `client`: the connection (txAMQP's name for it).
    - `fatal`: whether the connection is dropped if the broker closes this channel.
    - `consumers`: maps a consumer tag to the function that is called with its deliveries. Use
      `rtprov.amqp.client.consumer.consume` to add one.
    - `confirms`: receives confirms and returned messages; None if not in confirm mode.
    - `settled_upto`: deliveries up to this delivery tag have been acknowledged with `ack_all`.
    - `flowing`: false while the broker forbids publishing on this channel (``channel.flow``).
    """

    _log = Logger()

    def __init__(self, id: int, link: Link, *, fatal: bool) -> None:
        # Does not call txAMQP's __init__: that makes queues, which import the global reactor.
        self.id = id
        self.client = self._link = link
        self.fatal = fatal
        self.closed = False
        self.reason: BrokerError | None = None
        self.flowing = True
        self.consumers: dict[str, Callable[[Command], None]] = {}
        self.confirms: ConfirmListener | None = None
        self.settled_upto = 0
        self._tags = 0
        self._closing = False
        self._assembler = Assembler(id, link.max_body_bytes)
        self._calls: deque[_Call] = deque()
        self._deadline: IDelayedCall | None = None
        self._closed_callbacks: list[Callable[[BrokerError], None]] = []

    def on_closed(self, callback: Callable[[BrokerError], None]) -> None:
        """Call `callback` once with the reason when the channel closes.

        If the channel is closed already, `callback` is called at once.
        """
        if self.reason is not None:
            callback(self.reason)
        else:
            self._closed_callbacks.append(callback)

    def new_consumer_tag(self) -> str:
        """Return a consumer tag that has not been used on this channel."""
        self._tags += 1
        return f"rtprov.{self.id}.{self._tags}"

    def ack_all(self, delivery: Delivery) -> None:
        """Acknowledge `delivery` and all earlier deliveries of this channel with one frame."""
        if delivery.live:
            self.settled_upto = delivery.delivery_tag
            self.send(encode_method(self.id, Basic.Ack(delivery.delivery_tag, True)))

    def send(self, data: bytes) -> None:
        """Write encoded frames of this channel. Does nothing once the channel is closed."""
        if not self.closed:
            self._link.send(data)

    # Called by txAMQP's generated methods.

    def invoke(
        self, method: PamqpMethod, args: Sequence[Any], content: Content | None = None
    ) -> Deferred[Any]:
        """Send a method; see `rtprov.amqp.client.methods` for the result of the Deferred.

        The whole method is encoded before any byte is sent. Fails with `Overloaded` if 1,000
        methods already wait for their replies on this channel.
        """
        if self.closed or self._closing:
            return fail(self.reason or BrokerUnavailable("The channel is being closed"))
        try:
            data = self._encode(method, args, content)
        except Exception:
            return fail()
        if not method.responses or (method.nowait is not None and args[method.nowait]):
            self._link.send(data)
            return succeed(None)
        if len(self._calls) >= MAX_WAITING_CALLS:
            return fail(
                Overloaded(
                    f"{MAX_WAITING_CALLS} AMQP methods already wait for replies on channel"
                    f" {self.id}; the new one is not sent"
                )
            )
        self._closing = method is _CLOSE
        call = _Call(method, data, Deferred())
        self._calls.append(call)
        if len(self._calls) == 1:
            self._send_call()
        return call.answer

    def _encode(self, method: PamqpMethod, args: Sequence[Any], content: Content | None) -> bytes:
        command = method.command(*args)
        if not method.content:
            return encode_method(self.id, command)
        body = content.body if content is not None else b""
        properties = content.properties if content is not None else None
        if not isinstance(body, bytes):
            raise TypeError(f"a message body must be bytes, not {type(body).__name__}")
        if not isinstance(properties, Basic.Properties):
            properties = Basic.Properties(**(properties or {}))
        return encode_content(
            self.id, command, encode_header(properties, len(body)), body, self._link.frame_max
        )

    def _send_call(self) -> None:
        self._deadline = self._link.clock.callLater(self._link.call_deadline_s, self._overdue)
        self._link.send(self._calls[0].data)

    def _overdue(self) -> None:
        method = self._calls[0].method
        text = (
            f"The broker did not answer {method.command.name} within"
            f" {self._link.call_deadline_s:g} s"
        )
        self._deadline = None
        if self.fatal:
            self._link.drop(text)
            return
        if method is not _CLOSE:
            self._link.send(encode_method(self.id, Channel.Close(200, "gave up waiting", 0, 0)))
        self.do_close(BrokerUnavailable(text))

    # Called by the connection.

    def feed(self, frame: Frame) -> None:
        """Handle a frame of this channel. Raises `AmqpError` if the broker breaks the protocol."""
        command = self._assembler.feed(frame)
        if command is None:
            return
        method = command.method
        if self.closed or self._closing:
            self._on_late(command)
        elif isinstance(method, Basic.Deliver):
            self._deliver(method, command)
        elif isinstance(method, Basic.Ack):
            self.on_confirm(method.delivery_tag, multiple=method.multiple, positive=True)
        else:
            message = _as_message(command)
            if message.method.response:
                self._on_answer(message)
            else:
                self._link.delegate.dispatch(self, message)

    def _deliver(self, method: Basic.Deliver, command: Command) -> None:
        take = self.consumers.get(str(method.consumer_tag))
        if take is None:
            raise AmqpError(
                503,
                f"COMMAND_INVALID - delivery for an unknown consumer {method.consumer_tag!r}",
                60,
                60,
            )
        try:
            take(command)
        except Exception:
            # The delivery must not stay unsettled for ever. When the connection is dropped, the
            # broker delivers the message again.
            where = f"{method.exchange!r}, {method.routing_key!r}"
            self._log.failure(
                "the consumer {tag} raised an error for a delivery from {where}; dropping the"
                " connection, so that the broker delivers the message again",
                tag=method.consumer_tag,
                where=where,
            )
            self._link.drop(f"The consumer {method.consumer_tag} raised an error for a delivery")

    def on_confirm(self, delivery_tag: int, *, multiple: bool, positive: bool) -> None:
        """Handle ``basic.ack`` (`positive`) or ``basic.nack`` from the broker."""
        if self.confirms is None:
            raise AmqpError(
                503, "COMMAND_INVALID - confirm on a channel that is not in confirm mode", 60, 80
            )
        self.confirms.on_confirm(delivery_tag, multiple=multiple, positive=positive)

    def _on_answer(self, message: Message) -> None:
        if not self._calls or message.method not in self._calls[0].method.responses:
            raise AmqpError(
                503,
                f"COMMAND_INVALID - {message.method.command.name} is not a reply to the pending"
                " method",
            )
        call = self._calls.popleft()
        self._stop_deadline()
        if self._calls:
            self._send_call()
        call.answer.callback(message)

    def _on_late(self, command: Command) -> None:
        """Handle a command received after this side started to close the channel (§1.5.2.5).

        Only ``channel.close``, ``channel.close-ok`` and pending replies matter. All else is
        ignored.
        """
        method = command.method
        if isinstance(method, Channel.Close):
            self._link.send(encode_method(self.id, Channel.CloseOk()))
            if not self.closed and self._calls[0].method is not _CLOSE:
                # Our own channel.close has not been sent, so no close-ok will come.
                self._link.forget_channel(self.id)
            self.do_close(closed_by(method))
        elif isinstance(method, Channel.CloseOk):
            self._link.forget_channel(self.id)
            close = None if self.closed else self._calls.pop()
            self.do_close(BrokerUnavailable("The channel was closed"))
            if close is not None:
                close.answer.callback(_as_message(command))
        elif not self.closed and METHODS[type(method)].response:
            self._on_answer(_as_message(command))

    def do_close(self, reason: BrokerError) -> None:
        """Mark the channel as closed and fail all pending calls with `reason`. Sends nothing."""
        if self.closed:
            return
        self.closed, self.reason = True, reason
        self._stop_deadline()
        self.consumers.clear()
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.answer.errback(reason)
        callbacks, self._closed_callbacks = self._closed_callbacks, []
        for callback in callbacks:
            callback(reason)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def closed_by(method: Any) -> AmqpError:
    """Return the reason given in a ``channel.close`` or ``connection.close``."""
    return AmqpError(method.reply_code, method.reply_text, method.class_id, method.method_id)


def _as_message(command: Command) -> Message:
    method = command.method
    content = (
        None if command.properties is None else Content(command.body, None, command.properties)
    )
    return Message(METHODS[type(method)], [value for _, value in method], content)


CHANNEL_CLASS: Callable[..., AmqpChannel] = type(
    "GeneratedAmqpChannel", (AmqpChannel, SPEC.klass), {}
)
"""`AmqpChannel` with txAMQP's generated methods, as txAMQP's client makes its `channelFactory`."""
