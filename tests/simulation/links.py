"""One connection with its two ends: a stream of bytes in each direction, which arrive late, in
pieces, or not at all. See `network`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from zlib import crc32

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IPushProducer, ITransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall
    from twisted.internet.interfaces import IProtocol

    from tests.simulation.clock import Role
    from tests.simulation.network import Network

HIGH_WATER = 65536
HERE = IPv4Address("TCP", "127.0.0.1", 1)

_log = Logger()


@define(eq=False)
class Link:
    """One connection, from `client_role` to the server `name`. The client began to connect at
    `dialed_at`; the connection was established at `since`.
    """

    network: Network
    number: int
    client_role: Role
    server_role: Role
    name: str
    latency_s: float
    dialed_at: float
    since: float
    cut: bool = False
    # A fault affected the link or one of its roles: no deadline is checked on it.
    disturbed: bool = False
    harmed: bool = False  # a fault affected the link: its data may be lost
    client: End = field(init=False)
    server: End = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.client = End(self, self.client_role)
        self.server = End(self, self.server_role)
        self.client.other, self.server.other = self.server, self.client

    def __str__(self) -> str:
        return f"{self.client_role.name}→{self.name}#{self.number}"

    @property
    def ends(self) -> tuple[End, End]:
        return self.client, self.server

    @property
    def over(self) -> bool:
        return not (self.client.connected or self.server.connected)

    def break_off(self) -> None:
        """Cut the connection. Of the data in flight, a part of random length still arrives."""
        self.cut = self.disturbed = self.harmed = True
        for end in self.ends:
            end.lose_tail()
            end.schedule()

    def mute(self, directions: Iterable[End], seconds: float) -> None:
        """Deliver nothing that these ends send, for this many seconds."""
        self.disturbed = self.harmed = True
        for end in directions:
            end.mute = True
            self.network.world.call_later(None, seconds, end.unmute)


@implementer(ITransport, IPushProducer)
class End:
    """One end of a link, as the transport of its role. `connected` becomes false before the
    protocol is notified, `notified` when it is.
    """

    def __init__(self, link: Link, role: Role) -> None:
        self.link = link
        self.role = role
        self.other: End
        self.protocol: IProtocol
        self.connected = True
        self.disconnecting = False
        self.notified = False
        self.mute = False
        self.last_write = 0.0
        self.lost_at: float | None = None
        self._network = link.network
        self._outgoing = bytearray()
        self._scheduled: DelayedCall | None = None
        self._goodbye: Exception | None = None  # what the other end gets after all data
        self._producer: IPushProducer | None = None
        self._producer_paused = False
        self._reading = True

    # Called by the protocol.

    def write(self, data: bytes) -> None:
        if not self.connected or self.disconnecting or not data or not self.role.alive:
            return
        self.last_write = self._network.world.now
        if self.link.cut:
            return
        self._outgoing += data
        self._check_producer()
        self.schedule()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self.schedule()

    def abortConnection(self) -> None:
        if self.connected and self.role.alive:
            self._outgoing.clear()
            self._goodbye = ConnectionLost()
            self._lose(ConnectionAborted())
            self.schedule()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        assert self._producer is None, "a producer is registered already"
        self._producer, self._producer_paused = producer, False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None
        if self.disconnecting:
            self.schedule()

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        self._reading = True
        if self.connected:
            self.other.schedule()

    def stopProducing(self) -> None:
        self.loseConnection()

    def getHost(self) -> IAddress:
        return HERE

    def getPeer(self) -> IAddress:
        """Return an address of its own for each role, so that clients are different callers."""
        return IPv4Address("TCP", f"10.0.0.{crc32(self.other.role.name.encode()) % 256}", 1)

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    # Called by the network.

    def lose_tail(self) -> None:
        """Drop a random part of the end of the data in flight."""
        if self._outgoing:
            del self._outgoing[self._network.rng.randrange(len(self._outgoing) + 1) :]

    def orphan(self) -> None:
        """Mark the end as one whose role has died."""
        if self.connected:
            self.connected = False
            self.lost_at = self._network.world.now
            self._goodbye = ConnectionLost()
            self.lose_tail()
            self.schedule()

    def unmute(self) -> None:
        """Deliver again what this end sends."""
        self.mute = False
        self.schedule()

    def bury(self) -> None:
        """Finish the protocol of a dead role. What it sends goes nowhere."""
        if not self.notified:
            self.notified = True
            self.protocol.connectionLost(Failure(ConnectionLost()))

    # Internal.

    def schedule(self) -> None:
        if self._scheduled is None or not self._scheduled.active():
            self._scheduled = self._network.world.call_later(
                None, self._network.delay_s(self.link), self._flush
            )

    def _flush(self) -> None:
        other, world = self.other, self._network.world
        if self.mute or self._network.blocked(self.link):
            if self.disconnecting and self.connected and len(self._outgoing) < HIGH_WATER:
                self._goodbye = ConnectionDone()
                self._lose(ConnectionDone())  # The kernel sends the rest.
            return
        if other.role.frozen_until > world.now:
            self._scheduled = world.call_later(
                None, other.role.frozen_until - world.now, self._flush
            )
            return
        if not other.connected:
            self._outgoing.clear()
            if self.connected:
                self._lose(ConnectionLost() if other._goodbye is None else other._goodbye)
            return
        if self._outgoing and not other._reading:
            return
        if self._outgoing:
            other._receive(self._take())
        if self._outgoing:
            self.schedule()
            return
        if self.disconnecting and self.connected and self._producer is None:
            self._goodbye = ConnectionDone()
            self._lose(ConnectionDone())
        if self._goodbye is not None:
            other._lose(self._goodbye)
        elif self.link.cut:
            other._lose(ConnectionLost())

    def _take(self) -> bytes:
        rng, size = self._network.rng, len(self._outgoing)
        if size > 1 and rng.random() < self._network.split:
            size = rng.randrange(1, size)
        data = bytes(self._outgoing[:size])
        del self._outgoing[:size]
        self._check_producer()
        return data

    def _receive(self, data: bytes) -> None:
        try:
            self.protocol.dataReceived(data)
        except Exception:
            _log.failure("{end} failed on what it received", end=str(self.link))
            self.abortConnection()

    def _check_producer(self) -> None:
        producer = self._producer
        if producer is None or not self.role.alive:
            return
        if len(self._outgoing) >= HIGH_WATER and not self._producer_paused:
            self._producer_paused = True
            producer.pauseProducing()
        elif not self._outgoing and self._producer_paused:
            self._producer_paused = False
            producer.resumeProducing()

    def _lose(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            self.lost_at = self._network.world.now
            self._network.world.call_later(self.role, 0, self._tell, reason)

    def _tell(self, reason: Exception) -> None:
        self.notified = True
        self.protocol.connectionLost(Failure(reason))
