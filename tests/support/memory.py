"""An in-memory network on a virtual clock: endpoints whose bytes arrive at the clock's next turn,
and connections that can be cut.

    clock = Clock()
    network = MemoryNetwork(clock)
    network.listen("broker").listen(factory)
    network.connect("broker").connect(other_factory)
    network.settle()      # advance the clock by 0 s until no byte is in flight
    network.advance(60)   # the same, while a minute passes

Every byte, connect and close is a call of the clock. So a test decides when, and in which order,
things happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from treq.client import HTTPClient
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

HIGH_WATER = 65536


@implementer(ITransport, IPushProducer)
class MemoryTransport:
    """One end of a connection: an `ITransport` with push producers, like TCP's."""

    disconnecting = False
    connected = True

    def __init__(self, clock: Clock, host: IAddress, peer: IAddress) -> None:
        self._clock = clock
        self._host, self._peer = host, peer
        self.other: MemoryTransport
        self.protocol: IProtocol
        self._outgoing: list[bytes] = []
        self._outgoing_size = 0
        self._flush_due = False
        self._producer: IPushProducer | None = None
        self._producer_paused = False
        self.reading = True
        self.written = 0

    # Called by the protocol.

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes), f"bytes wanted, not {type(data)}"
        if not self.connected or self.disconnecting or not data:
            return
        self.written += len(data)
        self._outgoing.append(data)
        self._outgoing_size += len(data)
        self._check_producer()
        self._schedule()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._schedule()

    def abortConnection(self) -> None:
        self.cut(ConnectionLost("aborted"))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        assert self._producer is None, "a producer is registered already"
        self._producer = producer
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True
        self.other._schedule()

    def stopProducing(self) -> None:
        self.loseConnection()

    def getHost(self) -> IAddress:
        return self._host

    def getPeer(self) -> IAddress:
        return self._peer

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    # Called by the test.

    def cut(self, reason: Exception | None = None) -> None:
        """Break the connection. Data in flight is lost. Both ends are notified at the clock's next
        turn.
        """
        for end in (self, self.other):
            if end.connected:
                end._outgoing.clear()
                end._lost(reason or ConnectionLost("cut by the test"))

    # Internal.

    def _schedule(self) -> None:
        if not self._flush_due and self.connected:
            self._flush_due = True
            self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if not self.connected or not self.other.reading:
            return
        if self._outgoing:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            self._outgoing_size = 0
            self._check_producer()
            if self.other.connected:
                self.other.protocol.dataReceived(data)
        if self._outgoing:
            self._schedule()
        elif self.disconnecting and self._producer is None:
            self._lost(ConnectionDone())
            self.other._lost(ConnectionDone())

    def _check_producer(self) -> None:
        producer = self._producer
        if producer is None:
            return
        if self._outgoing_size >= HIGH_WATER and not self._producer_paused:
            self._producer_paused = True
            producer.pauseProducing()
        elif not self._outgoing_size and self._producer_paused:
            self._producer_paused = False
            producer.resumeProducing()

    def _lost(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            self._clock.callLater(0, self.protocol.connectionLost, Failure(reason))


@implementer(IListeningPort)
class _Port:
    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network, self._name = network, name

    def startListening(self) -> None:
        pass

    def stopListening(self) -> Deferred[None]:
        self._network.factories.pop(self._name, None)
        return succeed(None)

    def getHost(self) -> IAddress:
        return IPv4Address("TCP", "127.0.0.1", 1)


@implementer(IStreamServerEndpoint)
class _ServerEndpoint:
    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network, self._name = network, name

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        factory.doStart()
        self._network.factories[self._name] = factory
        return succeed(_Port(self._network, self._name))


@implementer(IStreamClientEndpoint)
class _ClientEndpoint:
    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network, self._name = network, name

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._network._connect(self._name, factory)


class MemoryNetwork:
    """Named servers, and connections to them. Connecting to a name without a server is refused.

    `source` is the address of the clients that connect.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.factories: dict[str, IProtocolFactory] = {}
        self.connections: list[tuple[str, MemoryTransport]] = []
        self.source = "127.0.0.1"
        self._ports = 40000

    def listen(self, name: str) -> IStreamServerEndpoint:
        return _ServerEndpoint(self, name)

    def connect(self, name: str) -> IStreamClientEndpoint:
        return _ClientEndpoint(self, name)

    def cut(self, name: str) -> int:
        """Break every connection to `name`; return their number."""
        ends = [end for server, end in self.connections if server == name and end.connected]
        for end in ends:
            end.cut()
        return len(ends)

    def settle(self, turns: int = 10_000) -> None:
        """Advance the clock by 0 s until no call is due. Fail the test if there is no end
        to them.
        """
        for _ in range(turns):
            now = self.clock.seconds()
            if not any(call.getTime() <= now for call in self.clock.getDelayedCalls()):
                return
            self.clock.advance(0)
        raise AssertionError(f"still busy after {turns} turns")

    def advance(self, seconds: float, step: float | None = None) -> None:
        """Advance the clock timer by timer, and settle after each, so that what a timer causes
        happens at its time.
        """
        end = self.clock.seconds() + seconds
        self.settle()
        while (now := self.clock.seconds()) < end:
            next_due = min((call.getTime() for call in self.clock.getDelayedCalls()), default=end)
            self.clock.advance(max(0.0, min(next_due, end, now + (step or seconds)) - now))
            self.settle()

    def until(self, condition: Callable[[], bool], limit_s: float = 3600.0) -> None:
        """Advance the clock timer by timer until `condition` is true."""
        end = self.clock.seconds() + limit_s
        self.settle()
        while not condition():
            next_due = min((call.getTime() for call in self.clock.getDelayedCalls()), default=None)
            if next_due is None or next_due > end:
                raise AssertionError("the condition never came to hold")
            self.clock.advance(max(0.0, next_due - self.clock.seconds()))
            self.settle()

    def _connect(self, name: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        connected: Deferred[IProtocol] = Deferred(lambda _: call.cancel())

        def finish() -> None:
            server_factory = self.factories.get(name)
            if server_factory is None:
                connected.errback(ConnectionRefusedError(f"nothing listens on {name}"))
                return
            self._ports += 1
            kind = IPv6Address if ":" in self.source else IPv4Address
            here: IAddress = kind("TCP", self.source, self._ports)
            there = IPv4Address("TCP", "127.0.0.1", 1)
            client = MemoryTransport(self.clock, here, there)
            server = MemoryTransport(self.clock, there, here)
            client.other, server.other = server, client
            server_protocol = server_factory.buildProtocol(here)
            if server_protocol is None:
                connected.errback(ConnectionRefusedError(f"{name} takes no more connections"))
                return
            client_protocol = factory.buildProtocol(there)
            if client_protocol is None:
                connected.errback(ConnectionRefusedError("no protocol"))
                return
            client.protocol, server.protocol = client_protocol, server_protocol
            self.connections = [pair for pair in self.connections if pair[1].connected]
            self.connections.append((name, client))
            server_protocol.makeConnection(server)
            client_protocol.makeConnection(client)
            connected.callback(client_protocol)

        call = self.clock.callLater(0, finish)
        return connected


@implementer(IAgentEndpointFactory)
class _AgentEndpoints:
    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self._network.connect(uri.host.decode())


def http_agent(network: MemoryNetwork) -> Agent:
    """Return Twisted's HTTP client on the network: the host of a URL is a server's name. ``https``
    URLs are used without TLS.
    """
    pool = HTTPConnectionPool(network.clock, persistent=True)
    pool.maxPersistentPerHost = 1000
    agent: Agent = Agent.usingEndpointFactory(network.clock, _AgentEndpoints(network), pool)
    return agent


def http_client(network: MemoryNetwork) -> HTTPClient:
    """Return the same client with treq's interface."""
    return HTTPClient(http_agent(network))
