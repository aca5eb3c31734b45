"""One client's connection to the broker: frames, heartbeats, flow control (AMQP 0-9-1 §2.2).

The handshake comes first, then methods on channels. All methods received in one turn of the reactor
are executed, then committed, then confirmed. So there is one commit for the turn and one confirm
for each channel, however many messages are published.

The broker stops reading from a client while the client does not read what it is sent. It stops
reading from a publisher while memory is full or the disk is too slow.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pamqp import base
from pamqp.commands import Basic, Connection
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtprov.amqp.codec import cut_short
from rtprov.amqp.framing import (
    CLOSES,
    HEARTBEAT,
    HEARTBEAT_KIND,
    METHOD,
    PROTOCOL_HEADER,
    Command,
    Frame,
    FrameParser,
    encode_method,
)
from rtprov.amqp.heartbeat import Heartbeat
from rtprov.broker.server.channels import Channels
from rtprov.broker.server.commit import PendingCommit
from rtprov.broker.server.consuming import RetryWhenLoaded
from rtprov.broker.server.handshake import Handshake, LoginRefused, OtherProtocol
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from rtprov.amqp.transport import IAmqpTransport
    from rtprov.broker.server.broker import Broker


@implementer(IPushProducer)
class BrokerProtocol(Protocol):
    """The connection of one client. `writable` is False while the client does not read."""

    _log = Logger()
    transport: IAmqpTransport | None

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.handshake = Handshake(credentials=broker.credentials, limits=broker.limits)
        self.writable = True
        self.pending_commit = PendingCommit(broker, self.peer)
        self.channels = Channels(self)
        self._held = self._waits_for_memory = False
        self._parser = FrameParser(broker.limits.frame_bytes)
        self._closing = self._gone = False
        self._timer: IDelayedCall | None = None
        self._reading: IDelayedCall | None = None  # set while a method waits for the disk
        self._heartbeat = Heartbeat(
            clock=broker.clock, beat=lambda: self._write(HEARTBEAT), dead=self._on_silence
        )
        self._unread_bytes = 0  # written since the client stopped reading
        self._frames: deque[Frame] = deque()  # received, but not executed yet

    # The transport.

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.broker.connections[self] = None
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        self.transport.registerProducer(self, True)
        self._timer = self.broker.clock.callLater(self.broker.limits.handshake_s, self._abort)

    def pauseProducing(self) -> None:
        self.writable = False

    def resumeProducing(self) -> None:
        self.writable = True
        self._unread_bytes = 0
        for channel in self.channels:
            channel.consuming.pump()
        self._continue()
        self._end_turn()

    def stopProducing(self) -> None:
        self.writable = False

    def write(self, data: bytes) -> None:
        """Send encoded frames. Does nothing once the connection is closing."""
        if not self._closing:
            self._write(data)

    def _write(self, data: bytes) -> None:
        self._heartbeat.sent_at = self.broker.clock.seconds()
        assert self.transport is not None
        self.transport.write(data)
        if not self.writable:
            self._unread_bytes += len(data)

    def send_method(self, channel: int, method: base.Frame) -> None:
        self.write(encode_method(channel, method))

    def dataReceived(self, data: bytes) -> None:
        self._heartbeat.received_at = self.broker.clock.seconds()
        if not self.handshake.greeted:
            if self._closing:
                return  # TLS may still pass on data after the connection was closed
            data = self._greet(data)
        try:
            self._frames += self._parser.feed(data)
        except AmqpError as error:
            self._close(error)
        self._carry_out()

    @property
    def _may_execute(self) -> bool:
        if self._closing:
            return True  # for the client's connection.close-ok
        return (
            not self._held
            and not self._waits_for_memory
            and self._unread_bytes <= self.broker.limits.backlog_bytes
        )

    def _continue(self) -> None:
        """Execute the frames received so far, then continue reading."""
        if self._may_execute and self._frames:
            self._carry_out()
        if self._may_execute and not self._gone:
            assert self.transport is not None
            self.transport.resumeProducing()

    def _carry_out(self) -> None:
        """Execute received frames, until the client must wait."""
        try:
            while self._frames and self._may_execute:
                frame = self._frames.popleft()
                if (
                    self.broker.virtual_host.memory.full
                    and frame.payload[:4] == _PUBLISH
                    and frame.kind == METHOD
                    and not self._closing
                ):
                    self._frames.appendleft(frame)
                    self._waits_for_memory = True
                elif frame.kind != HEARTBEAT_KIND:
                    self._on_frame(frame)
        except RetryWhenLoaded as wait:
            self._frames.appendleft(frame)
            self._reading = self.broker.clock.callLater(
                self.broker.limits.reading_s, self._on_unreadable
            )
            self.hold(wait.until)
        except AmqpError as error:
            self._close(error)
        except Exception:
            self._log.failure(
                "{peer}: unexpected error; closing the connection with 541", peer=self.peer()
            )
            self._close(AmqpError(541, "INTERNAL_ERROR"))
        if not self._may_execute:
            assert self.transport is not None
            self.transport.pauseProducing()
        self._end_turn()

    def _greet(self, data: bytes) -> bytes:
        try:
            rest = self.handshake.greet(data)
        except OtherProtocol:
            self._write(PROTOCOL_HEADER)
            self._start_closing()
            self._lose()
            return b""
        if self.handshake.greeted:
            self.send_method(0, self.handshake.start)
        return rest

    def _end_turn(self) -> None:
        wait = self.pending_commit.commit()
        if wait is not None:
            self.hold(wait)

    def hold(self, until: Deferred[None]) -> None:
        """Read nothing more from this client until the Deferred fires."""
        if self._held or self._closing:
            return
        self._held = True
        assert self.transport is not None
        self.transport.pauseProducing()
        until.addBoth(self._end_hold)

    def _on_unreadable(self) -> None:
        """Close the connection: a method has waited too long for messages from the disk."""
        self._close(
            AmqpError(
                541,
                "INTERNAL_ERROR - messages could not be read for"
                f" {self.broker.limits.reading_s:g} s",
            )
        )
        self._end_turn()

    def _end_hold(self, _: object) -> None:
        self._stop_reading()
        self._held = False
        self._heartbeat.received_at = self.broker.clock.seconds()
        self._continue()

    def on_memory_free(self) -> None:
        """Continue reading from a publisher that waited for free memory."""
        if self._waits_for_memory:
            self._waits_for_memory = False
            self._heartbeat.received_at = self.broker.clock.seconds()
            self._continue()

    # Frames.

    def _on_frame(self, frame: Frame) -> None:
        if self._closing:
            if frame.channel == 0 and frame.payload[:4] in CLOSES:
                self._lose()
            return
        command = self.channels.assemble(frame)
        if command is None:
            return
        if frame.channel == 0:
            self._on_connection_method(command)
        elif not self.handshake.done:
            raise AmqpError(
                503, f"COMMAND_INVALID - channel {frame.channel} before the connection is open"
            )
        else:
            self.channels.carry_out(command)

    # The handshake and the connection's own methods.

    def _on_connection_method(self, command: Command) -> None:
        method = command.method
        if isinstance(method, Connection.Close):
            self._start_closing()
            self._write(encode_method(0, Connection.CloseOk()))
            self._lose()
        elif not self.handshake.done:
            self._go_on_with_handshake(command)
        else:
            raise AmqpError(
                540, f"NOT_IMPLEMENTED - {method.name}", method.index >> 16, method.index & 0xFFFF
            )

    def _go_on_with_handshake(self, command: Command) -> None:
        try:
            answer = self.handshake.answer(command)
        except LoginRefused as error:
            self._log.warn(
                "{peer}: log-in refused for user {user!r}: wrong user name or password; closing the"
                " connection",
                peer=self.peer(),
                user=error.username[:64],
            )
            if error.send_close:
                raise
            self._start_closing()
            self._lose()
            return
        if answer is not None:
            self.send_method(0, answer)
        if isinstance(command.method, Connection.TuneOk):
            self._parser.frame_max = self.handshake.frame_max
            self._heartbeat.start(self.handshake.heartbeat_s)
        elif self.handshake.done:
            self._stop_timer()
            if self.broker.alarm is not None:
                self.tell_alarm()

    def tell_alarm(self) -> None:
        """Send ``connection.blocked`` or ``connection.unblocked``, if the client supports them.

        See https://www.rabbitmq.com/docs/connection-blocked.
        """
        if self.handshake.done and "connection.blocked" in self.handshake.capabilities:
            alarm = self.broker.alarm
            self.send_method(
                0, Connection.Unblocked() if alarm is None else Connection.Blocked(cut_short(alarm))
            )

    def _on_silence(self) -> None:
        if self._held or self._waits_for_memory:  # the broker does not read the client's heartbeats
            self._heartbeat.received_at = self.broker.clock.seconds()
            return
        trouble = "sent nothing" if self._may_execute else "did not read what it was sent"
        self._log.info(
            "{peer}: the client {trouble} for two heartbeat intervals; closing the connection",
            peer=self.peer(),
            trouble=trouble,
        )
        self._abort()

    # Closing.

    def _close(self, error: AmqpError) -> None:
        """Send ``connection.close`` (§1.4.2.6), and wait for the reply for at most `closing_s`."""
        if self._closing:
            return
        self._log.info("{peer}: closing the connection: {error}", peer=self.peer(), error=error)
        self.send_method(
            0,
            Connection.Close(
                error.reply_code, cut_short(error.reply_text), error.class_id, error.method_id
            ),
        )
        self._start_closing()
        self._continue()

    def _start_closing(self) -> None:
        """Release what the client holds, and ignore all further methods.

        If the client does not close the connection within `closing_s`, abort it.
        """
        self._closing = True
        self._stop_timer()
        self._timer = self.broker.clock.callLater(self.broker.limits.closing_s, self._abort)
        self._release()

    def retire(self) -> None:
        """Stop delivering to this client, because the broker is about to stop."""
        for channel in self.channels:
            channel.consuming.retire()

    def close_for_shutdown(self) -> None:
        """Close the connection, because the broker stops."""
        if self.handshake.done:
            self._close(
                AmqpError(
                    320,
                    "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
                )
            )
        else:
            self._abort()

    def _lose(self) -> None:
        assert self.transport is not None
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _abort(self) -> None:
        self._closing = True
        assert self.transport is not None
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = self._gone = True
        self._frames.clear()
        self.writable = False
        self._stop_timer()
        self._stop_reading()
        self._heartbeat.stop()
        try:
            self._release()
            self._end_turn()
        finally:
            self.broker.forget(self)

    def _release(self) -> None:
        """Close the channels and delete the exclusive queues of the client."""
        self.channels.release()
        self.broker.virtual_host.owner_gone(self)

    def _stop_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None and reading.active():
            reading.cancel()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def peer(self) -> str:
        """Return the client's address, for the log."""
        peer = self.transport.getPeer() if self.transport is not None else None
        return (
            f"{peer.host}:{peer.port}"
            if isinstance(peer, (IPv4Address, IPv6Address))
            else str(peer)
        )


_PUBLISH = Basic.Publish.index.to_bytes(4, "big")
