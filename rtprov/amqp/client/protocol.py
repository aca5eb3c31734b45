"""The client's end of an AMQP 0-9-1 connection: txAMQP's model on pamqp's codec.

In order of use: make an `AmqpConnection`, let an endpoint connect it, wait for `handshake`,
`open_channel`, and work on channels until `when_lost` fires; `close` ends it in agreement with the
broker, `drop` at once. The first thing that goes wrong with a connection is kept as its `failure`,
and everything that waits on it fails with that.

txAMQP's `AMQClient` gives the model and is overridden where it meets the wire: its codec damages
what is not ASCII, its writer dies of the first error, its queues grow without bound and import the
global reactor."""

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
MAX_BODY_BYTES = 16 * 1024 * 1024  # RabbitMQ 4's own limit
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
    """One connection, from connect to loss; never used twice.

    `heartbeat_s` is what we ask for (0 leaves it to the broker); `handshake_deadline_s` bounds all
    from the first byte to the broker's ``open-ok``. `blocked` tells that the broker bids publishers
    wait (``connection.blocked``), `paused` that it does not read as fast as we write; `closed` that
    it is of no more use, `failure` why, and `lost` that the transport is gone."""

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
        # Not txAMQP's own __init__: it imports the global reactor and starts the queues that must
        # not be used.
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
        # then "greeting", "login", "opening", "open", and at the end "closing"
        self._stage = "silence"
        self._last_channel, self._max_channels = 0, MAX_CHANNELS
        # written since the transport's buffer was full; None while it is not
        self._held_back_bytes: int | None = None
        self._parser = FrameParser()
        self._heartbeat = Heartbeat(
            clock=clock, beat=lambda: self.send(HEARTBEAT), dead=self._on_silence
        )
        self._timer: IDelayedCall | None = None
        self.channels[0] = CHANNEL_CLASS(0, self, fatal=True)

    # For the user.

    def handshake(self) -> Deferred[None]:
        """Fire once the virtual host is open. Fails with `AmqpError` where the broker refuses us,
        else with `BrokerUnavailable`.
        """
        return self.started.wait().addCallback(lambda _: None)

    def when_lost(self) -> Deferred[None]:
        """Fire once the transport is gone, for whatever reason; never fails."""
        return self.disconnected.wait().addCallback(lambda _: None)

    def open_channel(self, *, fatal: bool = True) -> Deferred[AmqpChannel]:
        """Open a channel under a number that no living channel has.

        With `fatal`, a channel that the broker closes, or a consumer that it cancels, drops the
        whole connection: one failure domain, and the loop comes back. Without, only what waits on
        the channel fails. Fails with `BrokerError`."""
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
        """Both sides have closed this channel: its number may be used again."""
        self.channels.pop(id, None)

    def send(self, data: bytes) -> None:
        """Write finished frames, in one piece. Nothing happens once the connection is closed."""
        if not self.closed:
            self._heartbeat.sent_at = self.clock.seconds()
            if self._held_back_bytes is not None:
                self._held_back_bytes += len(data)
            assert self.transport is not None
            self.transport.write(data)

    @property
    def paused(self) -> bool:
        """Whether more waits to be sent than a burst explains: nothing but what must be sent should
        be.
        """
        return self._held_back_bytes is not None and self._held_back_bytes > MAX_HELD_BACK_BYTES

    def drop(self, reason: str, error: BrokerError | None = None) -> None:
        """End the connection at once, without a word to the broker; what waits on it fails with
        `error` or `BrokerUnavailable`.
        """
        self._fail(error or BrokerUnavailable(reason))
        self._abort()

    def close(self) -> Deferred[None]:
        """End the connection in agreement with the broker, or without it after 2 s. Fires once it
        is lost.
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

    # The transport's side.

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
        """The transport's buffer is full, be it of a broker that does not read or of one turn's
        burst.
        """
        self._held_back_bytes = 0

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self._held_back_bytes = None

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""

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
                "the connection to {url} is dropped for an error of ours", url=self.url
            )
            self.drop("An error of ours")

    def connectionLost(self, reason: Failure = Failure(Exception("lost"))) -> None:  # noqa: B008 - Twisted's signature
        self._fail(BrokerUnavailable(self._describe_loss(reason)))
        self._stop_timer()
        self.lost = True
        self.disconnected.fire()

    # The handshake; called by the delegate.

    def _check_first_byte(self, data: bytes) -> None:
        self._stage = "greeting"
        if data[:1] != b"\x01":
            raise AmqpError(
                501,
                "FRAME_ERROR - the peer does not speak AMQP 0-9-1 in the clear; is the port right,"
                " or TLS meant?",
            )

    def on_start(self, channel: AmqpChannel, message: Message) -> None:
        """``connection.start``: log in."""
        self._advance("greeting", "login", message)
        if (message.version_major, message.version_minor) != (0, 9):
            raise AmqpError(
                540,
                f"NOT_IMPLEMENTED - AMQP {message.version_major}-{message.version_minor} is not"
                " spoken here",
            )
        mechanisms = message.mechanisms if isinstance(message.mechanisms, str) else ""
        if "PLAIN" not in mechanisms.split():
            raise AmqpError(540, f"NOT_IMPLEMENTED - the broker offers {mechanisms}, not PLAIN")
        self.server_properties = message.server_properties
        response = f"\0{self.url.username}\0{self.url.password}"
        channel.connection_start_ok(
            client_properties=CLIENT_PROPERTIES,
            mechanism="PLAIN",
            response=response,
            locale="en_US",
        )

    def on_tune(self, channel: AmqpChannel, message: Message) -> None:
        """``connection.tune``: settle the limits and ask for the virtual host."""
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
            raise AmqpError(503, f"COMMAND_INVALID - {message.method.command.name} out of turn")
        self._stage = following

    def _on_late_handshake(self) -> None:
        self._timer = None
        self.drop(
            f"The broker did not finish the handshake within {self._handshake_deadline_s:g} s"
        )

    # The end.

    def on_close(self, error: AmqpError) -> None:
        """``connection.close``: the broker wants to end, and has our agreement."""
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
        self.drop("Nothing came from the broker for two heartbeats")

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
            return (
                "The broker hung up after the login, most likely for a wrong user name or"
                f" password: {text}"
            )
        if self._stage == "opening":
            return f"The broker hung up instead of opening the virtual host {self.vhost!r}: {text}"
        return f"The connection to the broker was lost: {text}"
