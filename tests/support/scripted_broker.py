"""A broker that follows a test's script, and the test case that connects to it.

The peer answers each method as a real broker would, unless `ScriptedBroker.answers` has another
answer. A subclass of a test case with ``bytewise = True`` runs its tests once more with every byte
delivered separately, in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pamqp import base
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.channel import AmqpChannel
from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.url import BrokerUrl
from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import (
    PROTOCOL_HEADER,
    Assembler,
    Command,
    FrameParser,
    encode_content,
    encode_method,
)
from tests.support.memory import MemoryNetwork, MemoryTransport

T = TypeVar("T")
M = TypeVar("M", bound=base.Frame)
Answer = Callable[["ScriptedPeer", Command], "base.Frame | None"]

MANY_BYTES = 10_000
URL = BrokerUrl.parse("amqp://alice:secret@broker/")


class ScriptedPeer(Protocol):
    """The broker's end of one connection. `received` holds what was received, `heartbeats` counts
    heartbeats.
    """

    def __init__(self, broker: ScriptedBroker) -> None:
        self.broker = broker
        self.received: list[Command] = []
        self.heartbeats = 0
        self.greeting = b""
        self.lost = False
        self._parser = FrameParser()
        self._assemblers: dict[int, Assembler] = {}

    def dataReceived(self, data: bytes) -> None:
        for piece in pieces(data, self.broker.bytewise):
            if len(self.greeting) < 8:
                data = self.greeting + piece
                self.greeting, piece = data[:8], data[8:]
                if len(self.greeting) == 8:
                    self.broker.greet(self)
            for frame in self._parser.feed(piece):
                if frame.kind == 8:
                    self.heartbeats += 1
                    continue
                assembler = self._assemblers.setdefault(
                    frame.channel, Assembler(frame.channel, 1 << 24)
                )
                command = assembler.feed(frame)
                if command is not None:
                    self.received.append(command)
                    self._answer(command)

    def _answer(self, command: Command) -> None:
        answer = self.broker.answers.get(type(command.method))
        if answer is not None:
            method = answer(self, command)
            if method is not None:
                self.send(method, command.channel)

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True

    def send(self, method: base.Frame, channel: int = 0) -> None:
        self.send_bytes(encode_method(channel, method))

    def send_content(
        self,
        channel: int,
        method: base.Frame,
        body: bytes,
        properties: Basic.Properties | None = None,
        frame_max: int = 4096,
    ) -> None:
        header = encode_header(properties or Basic.Properties(), len(body))
        self.send_bytes(encode_content(channel, method, header, body, frame_max))

    def deliver(
        self,
        channel: int,
        tag: str,
        delivery_tag: int,
        body: bytes,
        properties: Basic.Properties | None = None,
    ) -> None:
        """Send a ``basic.deliver``."""
        self.send_content(
            channel, Basic.Deliver(tag, delivery_tag, False, "exchange", "key"), body, properties
        )

    def send_back(self, publish: Command) -> None:
        """Send the ``basic.return`` for a publish."""
        method = publish.method
        assert isinstance(method, Basic.Publish)
        back = Basic.Return(312, "NO_ROUTE", method.exchange, method.routing_key)
        self.send_bytes(encode_content(publish.channel, back, publish.header, publish.body, 4096))

    def send_bytes(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def cut(self) -> None:
        """Break the connection."""
        assert isinstance(self.transport, MemoryTransport)
        self.transport.cut()

    def commands(self, kind: type[M]) -> list[M]:
        """Return the received methods of this kind, in order."""
        return [command.method for command in self.received if isinstance(command.method, kind)]

    def contents(self, kind: type[base.Frame]) -> list[Command]:
        """Return the received commands of this kind, in order, with their content."""
        return [command for command in self.received if isinstance(command.method, kind)]


class ScriptedBroker(Factory):
    """Makes a `ScriptedPeer` for each connection; `peer` is the newest. A method whose answer is
    None gets no answer.
    """

    noisy = False

    def __init__(self) -> None:
        self.bytewise = False
        self.peers: list[ScriptedPeer] = []
        self.tune = Connection.Tune(2047, 131072, 60)
        self.mechanisms = "AMQPLAIN PLAIN"
        self.answers: dict[type[base.Frame], Answer | None] = {
            Connection.StartOk: lambda peer, _: self.tune,
            Connection.Open: lambda peer, _: Connection.OpenOk(),
            Connection.Close: lambda peer, _: Connection.CloseOk(),
            Channel.Open: lambda peer, _: Channel.OpenOk(),
            Channel.Close: lambda peer, _: Channel.CloseOk(),
            Confirm.Select: lambda peer, _: Confirm.SelectOk(),
            Exchange.Declare: lambda peer, _: Exchange.DeclareOk(),
            Queue.Declare: lambda peer, command: Queue.DeclareOk(command.method["queue"], 0, 0),  # type: ignore[arg-type] # a method's arguments have no types
            Queue.Bind: lambda peer, _: Queue.BindOk(),
            Basic.Qos: lambda peer, _: Basic.QosOk(),
            Basic.Consume: lambda peer, command: Basic.ConsumeOk(command.method["consumer_tag"]),  # type: ignore[arg-type] # a method's arguments have no types
            Basic.Cancel: lambda peer, command: Basic.CancelOk(command.method["consumer_tag"]),  # type: ignore[arg-type] # a method's arguments have no types
        }

    def greet(self, peer: ScriptedPeer) -> None:
        """Answer the protocol header."""
        assert peer.greeting == PROTOCOL_HEADER
        peer.send(Connection.Start(0, 9, {"product": "Scripted"}, self.mechanisms, "en_US"))

    def buildProtocol(self, addr: IAddress | None) -> ScriptedPeer:
        self.peers.append(ScriptedPeer(self))
        return self.peers[-1]

    @property
    def peer(self) -> ScriptedPeer:
        return self.peers[-1]


def pieces(data: bytes, bytewise: bool) -> list[bytes]:
    """Return the same bytes in one piece, or each byte alone. Of more than `MANY_BYTES`, those in
    the middle come in larger pieces.
    """
    if not bytewise:
        return [data]
    first, last = data[: MANY_BYTES // 2], data[MANY_BYTES // 2 :][-MANY_BYTES // 2 :]
    middle = data[len(first) : len(data) - len(last)]
    return [
        *(first[i : i + 1] for i in range(len(first))),
        *(middle[i : i + 997] for i in range(0, len(middle), 997)),
        *(last[i : i + 1] for i in range(len(last))),
    ]


class ConnectionFactory(Factory):
    """Makes `AmqpConnection`s, which get their bytes one at a time with `bytewise`."""

    noisy = False

    def __init__(self, make: Callable[[], AmqpConnection], bytewise: bool) -> None:
        self._make, self._bytewise = make, bytewise

    def buildProtocol(self, addr: IAddress | None) -> AmqpConnection:
        connection = self._make()
        if self._bytewise:
            take = connection.dataReceived

            def take_each(data: bytes) -> None:
                for piece in pieces(data, True):
                    take(piece)

            connection.dataReceived = take_each  # type: ignore[method-assign] # on purpose: each byte alone
        return connection


class AmqpTestCase(SynchronousTestCase):
    """A scripted broker under the name "broker" on `network`, and connections to it."""

    bytewise = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.broker = ScriptedBroker()
        self.broker.bytewise = self.bytewise
        self.network.listen("broker").listen(self.broker)

    @property
    def peer(self) -> ScriptedPeer:
        """The broker's end of the newest connection."""
        return self.broker.peer

    def begin(self, url: BrokerUrl = URL, **options: Any) -> AmqpConnection:
        """Return a connection whose handshake has proceeded as far as the peer allows."""
        factory: IProtocolFactory = ConnectionFactory(
            lambda: AmqpConnection(url=url, clock=self.clock, **options), self.bytewise
        )
        connected = self.network.connect("broker").connect(factory)
        self.clock.advance(0)
        connection = self.successResultOf(connected)
        assert isinstance(connection, AmqpConnection)
        return connection

    def connect(self, **options: Any) -> AmqpConnection:
        """Return a connection whose handshake is complete."""
        connection = self.begin(**options)
        self.network.settle()
        self.successResultOf(connection.handshake())
        return connection

    def channel(self, connection: AmqpConnection, *, fatal: bool = True) -> AmqpChannel:
        """Return an open channel."""
        return self.result(connection.open_channel(fatal=fatal))

    def result(self, work: Deferred[T] | Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, which must be available without time passing."""
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        self.network.settle()
        return self.successResultOf(deferred)

    def error(
        self, work: Deferred[Any] | Coroutine[Any, Any, Any], *kinds: type[Exception]
    ) -> BaseException:
        """Return the exception that `work` raises without time passing."""
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        self.network.settle()
        failure = self.failureResultOf(deferred, *kinds)
        error = failure.value
        assert isinstance(error, BaseException)
        return error

    def assert_idle(self) -> None:
        """Check that no timer is left."""
        self.network.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
