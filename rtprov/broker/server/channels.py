"""The channels of one connection, by number (AMQP 0-9-1 §1.5): opening, closing, channel errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pamqp.commands import Channel
from twisted.logger import Logger

from rtprov.amqp.codec import cut_short
from rtprov.amqp.framing import METHOD, Assembler, Command, Frame
from rtprov.broker.server.channel import BrokerChannel
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtprov.broker.server.interface import Client

_OPEN, _CLOSE_OK = (method.index.to_bytes(4, "big") for method in (Channel.Open, Channel.CloseOk))


class Channels:
    """The channels of `client`.

    Frames of channel 0, the connection itself, are assembled here too; the connection executes its
    methods. Methods raise `AmqpError` for connection errors. A channel error only closes its
    channel.
    """

    _log = Logger()

    def __init__(self, client: Client) -> None:
        self._client = client
        self._channels: dict[int, BrokerChannel] = {}
        self._assemblers: dict[int, Assembler] = {0: Assembler(0, 0)}

    def __iter__(self) -> Iterator[BrokerChannel]:
        return iter(list(self._channels.values()))

    def assemble(self, frame: Frame) -> Command | None:
        """Return the command that `frame` completes, or None if it does not complete one.

        Raises `AmqpError`: 504 if the channel is not open and `frame` does not open it (§1.5.2.1),
        506 if the incomplete messages of all clients are too large.
        """
        assembler = self._assemblers.get(frame.channel)
        if assembler is None:
            if frame.kind == METHOD and frame.payload[:4] == _CLOSE_OK:
                return None  # both sides closed the channel at the same time
            limits = self._client.broker.limits
            if (
                frame.channel > limits.channels
                or frame.kind != METHOD
                or frame.payload[:4] != _OPEN
            ):
                raise AmqpError(
                    504, f"CHANNEL_ERROR - expected 'channel.open' on channel {frame.channel}"
                )
            assembler = self._assemblers[frame.channel] = Assembler(
                frame.channel, limits.body_bytes
            )
        before = assembler.unfinished
        command = assembler.feed(frame)
        if assembler.unfinished != before:
            self._account(assembler.unfinished - before)
        return command

    def _account(self, unfinished: int) -> None:
        """Change the count of bytes of incomplete messages by `unfinished`."""
        broker = self._client.broker
        broker.unfinished_bytes += unfinished
        if unfinished > 0 and broker.unfinished_bytes > broker.limits.unfinished_bytes:
            most = broker.limits.unfinished_bytes
            raise AmqpError(
                506,
                f"RESOURCE_ERROR - the unfinished messages of all clients take more than {most}"
                " bytes",
            )

    def carry_out(self, command: Command) -> None:
        """Execute a method of a channel. A channel error closes the channel."""
        number, method = command.channel, command.method
        channel = self._channels.get(number)
        if isinstance(method, Channel.Open):
            if channel is not None:
                raise AmqpError(504, f"CHANNEL_ERROR - second 'channel.open' on channel {number}")
            self._channels[number] = BrokerChannel(number, self._client)
            self._client.send_method(number, Channel.OpenOk())
        elif isinstance(method, Channel.Close):
            self._forget(number)
            self._client.send_method(number, Channel.CloseOk())
        elif isinstance(method, Channel.CloseOk):
            self._forget(number)
        elif channel is not None and not channel.closing:
            try:
                channel.handle(command)
            except AmqpError as error:
                class_id, method_id = method.index >> 16, method.index & 0xFFFF
                if error.hard:
                    error.class_id, error.method_id = (
                        error.class_id or class_id,
                        error.method_id or method_id,
                    )
                    raise
                # A passive declaration asks whether something exists. A no is not a mistake.
                if not (error.reply_code == 404 and getattr(method, "passive", False)):
                    self._log.info(
                        "{peer}: closing channel {channel}: {error}",
                        peer=self._client.peer(),
                        channel=number,
                        error=error,
                    )
                channel.close()
                self._client.send_method(
                    number,
                    Channel.Close(
                        error.reply_code, cut_short(error.reply_text), class_id, method_id
                    ),
                )

    def _forget(self, number: int) -> None:
        channel = self._channels.pop(number, None)
        self._account(-self._assemblers.pop(number).unfinished)
        if channel is not None and not channel.closing:
            channel.close()

    def release(self) -> None:
        """Close all channels of a closed connection. Their unsettled messages are requeued."""
        for assembler in self._assemblers.values():
            self._account(-assembler.unfinished)
        self._assemblers.clear()
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            # Retire all channels first, so that requeued messages do not go to another of them.
            channel.consuming.retire()
        for channel in channels:
            if not channel.closing:
                channel.close()
