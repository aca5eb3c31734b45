"""A raw AMQP client that sends whatever a test wants, valid or not, and frames to send."""

from __future__ import annotations

from typing import Any

from pamqp import base
from pamqp.commands import Basic, Channel, Connection
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import (
    PROTOCOL_HEADER,
    Assembler,
    FrameParser,
    encode_content,
    encode_method,
)
from rtprov.amqp.transport import IAmqpTransport
from tests.support.broker_cases import BrokerContract

LOGIN = Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US")


OPENING = (
    PROTOCOL_HEADER + encode_method(0, LOGIN) + encode_method(0, Connection.TuneOk(2047, 131072, 0))
)
OPENING += encode_method(0, Connection.Open("/"))
CHANNEL = OPENING + encode_method(1, Channel.Open())


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return one frame."""
    return (
        bytes([kind])
        + channel.to_bytes(2, "big")
        + len(payload).to_bytes(4, "big")
        + payload
        + b"\xce"
    )


def publish(channel: int, body: bytes, **options: Any) -> bytes:
    """Return the frames of a message."""
    return encode_content(
        channel,
        Basic.Publish(**options),
        encode_header(Basic.Properties(), len(body)),
        body,
        131072,
    )


class RawClient(Protocol):
    """Sends what the test wants, and keeps what it receives: complete methods, heartbeats as None,
    and at the end the loss.
    """

    transport: IAmqpTransport | None

    def __init__(self) -> None:
        self.heard: DeferredQueue[base.Frame | None] = DeferredQueue()
        self.lost: Deferred[None] = Deferred()
        self.greeting = b""
        self._parser = FrameParser()
        self._assemblers: dict[int, Assembler] = {}

    def dataReceived(self, data: bytes) -> None:
        if data.startswith(b"AMQP"):
            self.greeting, data = data[:8], data[8:]
        for frame in self._parser.feed(data):
            if frame.kind == 8:
                self.heard.put(None)
                continue
            command = self._assemblers.setdefault(
                frame.channel, Assembler(frame.channel, 1 << 24)
            ).feed(frame)
            if command is not None:
                self.heard.put(command.method)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)

    def say(self, *items: base.Frame | bytes, channel: int = 0) -> None:
        """Send methods or bytes."""
        assert self.transport is not None
        self.transport.write(
            b"".join(
                item if isinstance(item, bytes) else encode_method(channel, item) for item in items
            )
        )

    async def hear(self, kind: type[base.Frame] | None) -> Any:
        """Return the next method, which must be of this kind. Heartbeats are skipped unless one is
        expected.
        """
        heard = await self.heard.get()
        while heard is None and kind is not None:
            heard = await self.heard.get()
        if kind is None:
            assert heard is None, heard
        else:
            assert isinstance(heard, kind), heard
        return heard

    def end(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class RawContract(BrokerContract):
    """Tests that write their own frames."""

    async def raw(self) -> RawClient:
        """Return a connection on which nothing has been sent."""
        client = await self.open(RawClient())
        self.addCleanup(client.end)
        return client

    async def raw_open(self, heartbeat_s: int = 0, frame_max: int = 131072) -> RawClient:
        """Return an open connection without channels."""
        client = await self.raw()
        client.say(PROTOCOL_HEADER)
        start = await client.hear(Connection.Start)
        self.assertEqual((start.version_major, start.version_minor), (0, 9))
        self.assertIn("PLAIN", start.mechanisms.split())
        client.say(LOGIN)
        await client.hear(Connection.Tune)
        client.say(Connection.TuneOk(2047, frame_max, heartbeat_s), Connection.Open("/"))
        await client.hear(Connection.OpenOk)
        return client

    async def closed(self, client: RawClient, code: int) -> Any:
        """Check that the broker closes the connection with this reply code."""
        close = await client.hear(Connection.Close)
        self.assertEqual(close.reply_code, code, close.reply_text)
        client.say(Connection.CloseOk())
        await client.lost
        return close
