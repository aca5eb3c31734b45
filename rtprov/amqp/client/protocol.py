"""An AMQP 0-9-1 client connection: txAMQP's `AMQClient` with pamqp's codec.

In order of use:

1. Make an `AmqpConnection` and connect it with an endpoint.
2. Wait for `handshake`.
3. Call `open_channel`, and work on channels until `when_lost` fires.
4. `close` ends the connection with ``connection.close``; `drop` ends it at once.

The first error of a connection is kept as its `failure`. All pending calls fail with it.

rtprov overrides the parts of `AMQClient` that read and write the wire, for these reasons: its codec
corrupts text that is not ASCII, its writer stops silently after the first error, and its queues
have no limit and import the global reactor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pamqp.commands import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtprov import __version__
from rtprov.amqp.client._txamqp import ClientBase, Message, TwistedEvent
from rtprov.amqp.client.channel import CHANNEL_CLASS, AmqpChannel
from rtprov.amqp.client.delegate import AmqpDelegate
from rtprov.amqp.client.spec import SPEC
from rtprov.amqp.framing import (
    CLOSES,
    DEFAULT_FRAME_MAX,
    FRAME_MIN_SIZE,
    HEARTBEAT,
    HEARTBEAT_KIND,
    METHOD,
    PROTOCOL_HEADER,
    Frame,
    FrameParser,
    encode_method,
)
from rtprov.amqp.heartbeat import Heartbeat
from rtprov.errors import AmqpError, BrokerError, BrokerUnavailable
from rtprov.security.tls_failures import explain

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client.url import BrokerUrl
    from rtprov.amqp.transport import IAmqpTransport

CALL_DEADLINE_S = 10.0
CLOSE_DEADLINE_S = 2.0
MAX_BODY_BYTES = 16 * 1024 * 1024  # the limit of RabbitMQ 4
MAX_CHANNELS = 2047
MAX_HELD_BACK_BYTES = 4 * 1024 * 1024

CLIENT_PROPERTIES = {
    "product": "rtprov",
    "version": __version__,
    "capabilities": {
        "publisher_confirms": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "authentication_failure_close": True,
    },
}


@implementer(IPushProducer)
class AmqpConnection(ClientBase):
    """One connection, from connecting until it is lost. It cannot be used again.

    - `heartbeat_s`: the heartbeat interval to ask for; 0 leaves it to the broker.
    - `handshake_deadline_s`: the time from the transport's connection to ``connection.open-ok``.
    - `call_deadline_s`: the time in which the broker must reply to a method.
    - `max_body_bytes`: the largest body of a received message.

    State: `blocked` while the broker blocks publishers (``connection.blocked``), `paused` while it
    does not read as fast as this side writes, `closed` once the connection cannot be used any more
    (`failure` says why), `lost` once the transport is closed.
    """

    _log = Logger()
    transport: IAmqpTransport | None

    def __init__(
        self,
        *,
        url: BrokerUrl,
        clock: IReactorTime,
        heartbeat_s: float = 10,
        handshake_deadline_s: float = 5.0,
        call_deadline_s: float = CALL_DEADLINE_S,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        # Does not call txAMQP's __init__: that imports the global reactor and starts queues that
        # rtprov does not use.
        self.spec = SPEC
        self.vhost = url.virtual_host
        self.clock = clock
        self.delegate = AmqpDelegate()
        self.delegate.client = self
        self.channels: dict[int, AmqpChannel] = {}
        self.started, self.disconnected = TwistedEvent(), TwistedEvent()
        self.closed = self.lost = self.blocked = False
        self.failure: BrokerError | None = None
        self.server_properties: dict[str, object] = {}
        self.frame_max = DEFAULT_FRAME_MAX
        self.call_deadline_s = call_deadline_s
        self.max_body_bytes = max_body_bytes
        self.url = url
        self._heartbeat_s = heartbeat_s
        self._handshake_deadline_s = handshake_deadline_s
        # One of "silence", "greeting", "login", "opening", "open", "closing", in this order.
        self._stage = "silence"
        self._last_channel, self._max_channels = 0, MAX_CHANNELS
        # Bytes written since the transport's buffer became full; None while it is not full.
        self._held_back_bytes: int | None = None
        self._parser = FrameParser()
        self._heartbeat = Heartbeat(
            clock=clock, beat=lambda: self.send(HEARTBEAT), dead=self._on_silence
        )
        self._timer: IDelayedCall | None = None
        self.channels[0] = CHANNEL_CLASS(0, self, fatal=True)

    # For the caller.

    def handshake(self) -> Deferred[None]:
        """Return a Deferred that fires once the virtual host is open.

        Fails with `AmqpError` if the broker refuses the connection with a reply code, otherwise
        with `BrokerUnavailable`.
        """
        return self.started.wait().addCallback(lambda _: None)

    def when_lost(self) -> Deferred[None]:
        """Return a Deferred that fires once the transport is closed. It never fails."""
        return self.disconnected.wait().addCallback(lambda _: None)

    def open_channel(self, *, fatal: bool = True) -> Deferred[AmqpChannel]:
        """Open a channel. The Deferred fires with it once the broker has replied.

        With `fatal`, the whole connection is dropped if the broker closes the channel or cancels a
        consumer on it, so that `BrokerConnection` reconnects and sets up everything again. Without,
        only the pending calls of the channel fail. Fails with `BrokerError`.
        """
        return Deferred.fromCoroutine(self._open_channel(fatal))

    async def _open_channel(self, fatal: bool) -> AmqpChannel:
        if self.closed or self._stage != "open":
            raise self.failure or BrokerUnavailable("The connection to the broker is not open")
        channel = CHANNEL_CLASS(self._free_number(), self, fatal=fatal)
        self.channels[channel.id] = channel
        await channel.channel_open()
        return channel

    def _free_number(self) -> int:
        for _ in range(self._max_channels):
            self._last_channel = self._last_channel % self._max_channels + 1
            if self._last_channel not in self.channels:
                return self._last_channel
        raise BrokerUnavailable(f"All {self._max_channels} channels are in use")

    def forget_channel(self, id: int) -> None:
        """Make the number of a channel available again, after both sides have closed it."""
        self.channels.pop(id, None)

    def send(self, data: bytes) -> None:
        """Write encoded frames in one piece. Does nothing once the connection is closed."""
        if not self.closed:
            self._heartbeat.sent_at = self.clock.seconds()
            if self._held_back_bytes is not None:
                self._held_back_bytes += len(data)
            assert self.transport is not None
            self.transport.write(data)

    @property
    def paused(self) -> bool:
        """Whether more than 4 MiB were written since the transport's buffer became full.

        A burst of messages is smaller than that, so the broker does not read fast enough.
        Publishers must not send then.
        """
        return self._held_back_bytes is not None and self._held_back_bytes > MAX_HELD_BACK_BYTES

    def drop(self, reason: str, error: BrokerError | None = None) -> None:
        """Close the transport at once, without ``connection.close``.

        All pending calls fail with `error`, or with `BrokerUnavailable(reason)` if there is none.
        """
        self._fail(error or BrokerUnavailable(reason))
        self._abort()

    def close(self) -> Deferred[None]:
        """Send ``connection.close`` and wait for the reply, for at most 2 s, then close.

        A connection that is not open yet is dropped. The Deferred fires once the transport is
        closed.
        """
        lost = self.when_lost()
        if self._stage == "open" and not self.closed:
            self.send(encode_method(0, Connection.Close(200, "goodbye", 0, 0)))
            self._fail(BrokerUnavailable("The connection to the broker was closed"))
            self._stage = "closing"
            self._timer = self.clock.callLater(CLOSE_DEADLINE_S, self._abort)
        elif not self.lost and self._stage != "closing":
            self.drop("The connection to the broker was closed")
        return lost

    # Called by the transport.

    def connectionMade(self) -> None:
        assert self.transport is not None
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        self.transport.registerProducer(self, True)
        self._heartbeat.received_at = self.clock.seconds()
        self._timer = self.clock.callLater(self._handshake_deadline_s, self._on_late_handshake)
        self.send(PROTOCOL_HEADER)

    def pauseProducing(self) -> None:
        """Note that the transport's buffer is full.

        The broker does not read, or this side has just written a burst.
        """
        self._held_back_bytes = 0

    def resumeProducing(self) -> None:
        """Note that the transport's buffer is empty again."""
        self._held_back_bytes = None

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    def dataReceived(self, data: bytes) -> None:
        self._heartbeat.received_at = self.clock.seconds()
        try:
            if self._stage == "silence":
                self._check_first_byte(data)
            for frame in self._parser.feed(data):
                if self.closed:
                    self._on_frame_after_end(frame)
                elif frame.kind != HEARTBEAT_KIND:
                    channel = self.channels.get(frame.channel)
                    if channel is None:
                        raise AmqpError(
                            504,
                            f"CHANNEL_ERROR - frame for channel {frame.channel}, which is not open",
                        )
                    channel.feed(frame)
        except AmqpError as error:
            self.drop(f"The broker broke the protocol: {error}")
        except Exception:
            self._log.failure(
                "internal error in the connection to {url}; dropping the connection", url=self.url
            )
            self.drop("An internal error of the AMQP client; see the log")

    def connectionLost(self, reason: Failure = Failure(Exception("lost"))) -> None:  # noqa: B008 - Twisted's signature
        self._fail(BrokerUnavailable(self._describe_loss(reason)))
        self._stop_timer()
        self.lost = True
        self.disconnected.fire()

    # The handshake, called by the delegate.

    def _check_first_byte(self, data: bytes) -> None:
        self._stage = "greeting"
        if data[:1] != b"\x01":
            raise AmqpError(
                501,
                "FRAME_ERROR - the peer does not speak AMQP 0-9-1 without TLS; check the port, and"
                " whether the URL must begin with amqps://",
            )

    def on_start(self, channel: AmqpChannel, message: Message) -> None:
        """Handle ``connection.start``: log in with PLAIN, or with EXTERNAL by certificate."""
        self._advance("greeting", "login", message)
        if (message.version_major, message.version_minor) != (0, 9):
            raise AmqpError(
                540,
                f"NOT_IMPLEMENTED - the broker speaks AMQP {message.version_major}-"
                f"{message.version_minor}, not 0-9-1",
            )
        mechanisms = message.mechanisms if isinstance(message.mechanisms, str) else ""
        mechanism, response = (
            ("EXTERNAL", "")
            if self.url.external
            else ("PLAIN", f"\0{self.url.username}\0{self.url.password}")
        )
        if mechanism not in mechanisms.split():
            raise AmqpError(
                540,
                f"NOT_IMPLEMENTED - the broker offers the mechanisms {mechanisms!r}, not"
                f" {mechanism}",
            )
        self.server_properties = message.server_properties
        channel.connection_start_ok(
            client_properties=CLIENT_PROPERTIES,
            mechanism=mechanism,
            response=response,
            locale="en_US",
        )

    def on_tune(self, channel: AmqpChannel, message: Message) -> None:
        """Handle ``connection.tune``: agree on the limits and open the virtual host."""
        self._advance("login", "opening", message)
        self.frame_max = min(message.frame_max or DEFAULT_FRAME_MAX, DEFAULT_FRAME_MAX)
        if self.frame_max < FRAME_MIN_SIZE:
            raise AmqpError(501, f"FRAME_ERROR - frames of {self.frame_max} bytes are too small")
        self._parser.frame_max = self.frame_max
        self._max_channels = min(message.channel_max or MAX_CHANNELS, MAX_CHANNELS)
        ours, theirs = int(self._heartbeat_s), message.heartbeat
        heartbeat_s = min(ours, theirs) if ours and theirs else max(ours, theirs)
        channel.connection_tune_ok(self._max_channels, self.frame_max, heartbeat_s)
        self._heartbeat.start(heartbeat_s)
        opened = channel.connection_open(self.vhost)
        opened.addCallbacks(self._on_open, lambda reason: reason.trap(BrokerError) and None)

    def _on_open(self, _: Message) -> None:
        self._stage = "open"
        self._stop_timer()
        self.started.fire()

    def _advance(self, stage: str, following: str, message: Message) -> None:
        if self._stage != stage:
            raise AmqpError(503, f"COMMAND_INVALID - {message.method.command.name} out of order")
        self._stage = following

    def _on_late_handshake(self) -> None:
        self._timer = None
        self.drop(
            f"The broker did not finish the handshake within {self._handshake_deadline_s:g} s"
        )

    # Closing.

    def on_close(self, error: AmqpError) -> None:
        """Handle ``connection.close``, which has been answered: close the transport."""
        self._fail(error)
        self._stage = "closing"
        self._timer = self.clock.callLater(CLOSE_DEADLINE_S, self._abort)
        self._lose()

    def _on_frame_after_end(self, frame: Frame) -> None:
        if (
            self._stage == "closing"
            and frame.kind == METHOD
            and frame.channel == 0
            and frame.payload[:4] in CLOSES
        ):
            self._lose()

    def _lose(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def _on_silence(self) -> None:
        self.drop("The broker sent nothing for two heartbeat intervals")

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()

    def _fail(self, error: BrokerError) -> None:
        if self.closed:
            return
        self.closed, self.failure = True, error
        self._stop_timer()
        self._heartbeat.stop()
        if self.transport is not None:
            self.transport.unregisterProducer()
        for channel in list(self.channels.values()):
            channel.do_close(error)
        self.channels.clear()
        self.started.fail_if_not_fired(Failure(error))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _describe_loss(self, reason: Failure) -> str:
        assert reason.value is not None
        text = explain(reason.value) or reason.getErrorMessage().rstrip(".")
        if self._stage == "login":
            likely = (
                "it has no user for the client certificate"
                if self.url.external
                else "of a wrong user name or password"
            )
            return (
                "The broker closed the connection after the login, most likely because"
                f" {likely}: {text}"
            )
        if self._stage == "opening":
            return (
                "The broker closed the connection instead of opening the virtual host"
                f" {self.vhost!r}: {text}"
            )
        return f"The connection to the broker was lost: {text}"
