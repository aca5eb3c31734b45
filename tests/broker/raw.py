"""A client that says what it is told to, right or wrong."""

from __future__ import annotations

from typing import Any

from pamqp import base
from pamqp.commands import Connection
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtprov.amqp.framing import Assembler, FrameParser, encode_method

LOGIN = Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US")


class RawClient(Protocol):
    """Says what it is told to, and keeps what it hears: whole methods, heartbeats as None, and at the end the loss."""

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
            command = self._assemblers.setdefault(frame.channel, Assembler(frame.channel, 1 << 24)).feed(frame)
            if command is not None:
                self.heard.put(command.method)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)

    def say(self, *items: base.Frame | bytes, channel: int = 0) -> None:
        """Send methods or bytes."""
        assert self.transport is not None
        self.transport.write(b"".join(item if isinstance(item, bytes) else encode_method(channel, item) for item in items))

    async def hear(self, kind: type[base.Frame] | None) -> Any:
        """The next method, which must be of this kind; heartbeats are passed over, unless they are waited for."""
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
