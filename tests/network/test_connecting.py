"""Connecting: the phases of a connection attempt, and the error for each that fails."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from time import time
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionRefusedError, NoRouteError, UserError
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import NotConnected, OutOfResources
from rtprov.network.connecting import ServerEndpoint
from rtprov.network.host_endpoint import ATTEMPT_DELAY_S, Address, HostEndpoint
from rtprov.security.tls_client import VerifiedServers
from tests.support.certificates import Authority, dns
from tests.support.memory import MemoryNetwork, MemoryTransport

OURS = Authority()
SERVER = OURS.issue(dns("a.example"))
V4, OTHER_V4, V6 = (
    IPv4Address("TCP", "127.0.0.1", 0),
    IPv4Address("TCP", "127.0.0.2", 0),
    IPv6Address("TCP", "::1", 0),
)


class Talker(Protocol):
    """Sends "hello" at once, and keeps what it receives and why its connection ended."""

    def __init__(self) -> None:
        self.heard = b""
        self.reason: Failure | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


class Slow(TLSMemoryBIOProtocol):
    """A TLS server that does not read until `resumeProducing`."""

    def makeConnection(self, transport: Any) -> None:
        cast("Any", super()).makeConnection(transport)
        transport.pauseProducing()


class Phases(SynchronousTestCase):
    """TLS on an in-memory network. "a" is a server with TLS. "silent" accepts connections and sends
    nothing.
    """

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.ca = Path(folder.name) / "ca.pem"
        self.ca.write_bytes(OURS.pem)
        self.servers = VerifiedServers(self.ca, wall_clock=time)
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.made: list[Talker] = []
        self.heard: list[Talker] = []
        self.tls = TLSMemoryBIOFactory(
            SERVER.options(),
            False,
            Factory.forProtocol(self.new_server),
            cast("IReactorTime", self.clock),
        )
        self.network.listen("a").listen(self.tls)
        self.network.listen("silent").listen(Factory.forProtocol(Protocol))
        self.network.listen("smtp").listen(Factory.forProtocol(self.new_server))

    def new_server(self) -> Talker:
        self.heard.append(Talker())
        return self.heard[-1]

    def new_client(self) -> Talker:
        self.made.append(Talker())
        return self.made[-1]

    def endpoint(
        self, name: str, host: str = "a.example", tls: bool = True, at_once: int = 10
    ) -> ServerEndpoint:
        return ServerEndpoint(
            self.network.connect(name),
            where=f"{name}:443",
            secure=(lambda: self.servers.server(host)) if tls else None,
            timeout_s=10.0,
            at_once=at_once,
            clock=cast("IReactorTime", self.clock),
        )

    def connect(self, endpoint: ServerEndpoint) -> Deferred[IProtocol]:
        return endpoint.connect(Factory.forProtocol(self.new_client))

    def assert_not_connected(self, connecting: Deferred[IProtocol], text: str) -> None:
        error = self.failureResultOf(connecting, NotConnected).value
        self.assertIn(text, str(error))
        self.assertEqual(self.made, [])

    def transport(self) -> MemoryTransport:
        return self.network.connections[-1][1]

    def test_tls(self) -> None:
        """The application's protocol is made after the server is verified. Connecting fires with
        it, and it exchanges data with its server.
        """
        connecting = self.connect(self.endpoint("a"))
        self.network.settle()
        self.assertEqual(self.made, [self.successResultOf(connecting)])
        self.assertEqual((self.made[0].heard, self.heard[0].heard), (b"hello", b"hello"))
        self.transport().cut()
        self.network.settle()
        self.assertIsNotNone(self.made[0].reason)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_tls(self) -> None:
        """Without TLS it is made when the connection is established."""
        connecting = self.connect(self.endpoint("smtp", tls=False))
        self.network.settle()
        self.assertEqual(self.made, [self.successResultOf(connecting)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_tls_never_finished(self) -> None:
        """If a server accepts TCP but does not finish TLS, the attempt fails after the deadline,
        and the connection is closed.
        """
        connecting = self.connect(self.endpoint("silent"))
        self.network.advance(9.9)
        self.assertNoResult(connecting)
        self.network.advance(0.2)
        self.assert_not_connected(
            connecting,
            "TLS: silent:443 accepted the connection and did not finish the handshake within 10 s",
        )
        self.assertFalse(self.transport().connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_tls_finished_late(self) -> None:
        """If the handshake finishes after the deadline, no protocol is made."""
        self.tls.protocol = Slow
        connecting = self.connect(self.endpoint("a"))
        self.network.advance(11)
        self.assert_not_connected(connecting, "did not finish the handshake within 10 s")
        self.transport().other.resumeProducing()
        self.network.settle()
        self.assertEqual(self.made, [])

    def test_tls_finished_in_time(self) -> None:
        """A slow handshake within the deadline succeeds."""
        self.tls.protocol = Slow
        connecting = self.connect(self.endpoint("a"))
        self.network.advance(9)
        self.transport().other.resumeProducing()
        self.network.settle()
        self.successResultOf(connecting)

    def test_closed_during_tls(self) -> None:
        """A connection that is closed during the handshake is reported as such."""
        connecting = self.connect(self.endpoint("silent"))
        self.network.settle()
        self.transport().other.loseConnection()
        self.network.settle()
        self.assert_not_connected(connecting, "TLS: the connection was closed during the handshake")

    def test_no_tls_there(self) -> None:
        """If the server does not speak TLS, the error asks whether it should."""
        connecting = self.connect(self.endpoint("smtp"))
        self.network.settle()
        self.assert_not_connected(connecting, "is the other side a TLS server?")

    def test_refused_certificate(self) -> None:
        """An error in the certificate is reported, and sent to the server as an alert."""
        connecting = self.connect(self.endpoint("a", "b.example"))
        self.network.settle()
        self.assert_not_connected(
            connecting, "TLS: the certificate is for a.example, and not for b.example"
        )
        reason = self.heard[0].reason
        assert reason is not None
        self.assertIn("alert", str(reason.value))

    def test_replaced_ca(self) -> None:
        """A replaced CA file is used from the next connection on, instead of the previous one."""
        endpoint = self.endpoint("a")
        self.ca.write_bytes(Authority("another").pem)
        self.servers.reload()
        connecting = self.connect(endpoint)
        self.network.settle()
        self.assert_not_connected(connecting, "no trusted CA (--ca) has signed the certificate")
        self.ca.write_bytes(OURS.pem)
        self.servers.reload()
        connecting = self.connect(endpoint)
        self.network.settle()
        self.successResultOf(connecting)

    def test_never_accepted(self) -> None:
        """TCP that is not established fails after the same deadline."""
        self.network.connect = lambda name: cast("Any", Never())  # type: ignore[method-assign] # no connection is ever made
        connecting = self.connect(self.endpoint("a"))
        self.network.advance(10)
        self.assert_not_connected(connecting, "could not connect to a:443 within 10 s")

    def test_cancelled(self) -> None:
        """Cancelling ends a connection attempt in any phase, and the next waiting attempt
        begins.
        """
        endpoint = self.endpoint("silent", at_once=1)
        for seconds in (0.0, 1.0):
            connecting = self.connect(endpoint)
            if seconds:
                self.network.advance(seconds)
            connecting.cancel()
            self.failureResultOf(connecting, CancelledError)
            self.network.settle()
        self.assertFalse(self.transport().connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_once(self) -> None:
        """The number of simultaneous attempts is limited. The time of the others does not
        run yet.
        """
        endpoint = self.endpoint("silent", at_once=2)
        three = [self.connect(endpoint) for _ in range(3)]
        self.network.advance(9)
        self.assertEqual(len(self.network.connections), 2)
        three[1].addErrback(lambda _: None).cancel()
        self.network.advance(2)
        self.failureResultOf(three[0], NotConnected)
        self.assertNoResult(three[2])
        self.network.advance(9)
        self.failureResultOf(three[2], NotConnected)

    def test_no_protocol(self) -> None:
        """If the application's factory refuses the connection, no protocol is made."""
        factory = Factory.forProtocol(Protocol)
        cast("Any", factory).buildProtocol = lambda _: None
        connecting = self.endpoint("a").connect(factory)
        self.network.settle()
        self.failureResultOf(connecting, NotConnected)
        self.assertFalse(self.transport().connected)


class Never:
    """An endpoint that never connects."""

    def connect(self, factory: object) -> Deferred[IProtocol]:
        return Deferred()


class FixedNames:
    """A resolver with fixed addresses."""

    def __init__(self, *addresses: Address) -> None:
        self.addresses = addresses
        self.forgotten: list[str] = []

    def look_up(self, host: str) -> Deferred[list[Address]]:
        if not self.addresses:
            return fail(NotConnected(f"the name {host} was not found"))
        return succeed(list(self.addresses))

    def forget(self, host: str) -> None:
        self.forgotten.append(host)


class Hosts(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.unusable: set[str] = set()

    def connect(self, *addresses: Address) -> Deferred[IProtocol]:
        self.names = FixedNames(*addresses)
        endpoint = HostEndpoint(
            self.reactor,
            "my_a.example",
            8444,
            self.names,
            lambda address, port: address not in self.unusable,
        )
        return endpoint.connect(Factory.forProtocol(Protocol))

    @property
    def tried(self) -> list[tuple[str, int]]:
        return [each[:2] for each in self.reactor.tcpClients]

    def refuse(self, number: int, error: Exception | None = None) -> None:
        """Let attempt `number` fail."""
        factory, connector = self.reactor.tcpClients[number][2], self.reactor.connectors[number]
        factory.clientConnectionFailed(
            connector, Failure(error or ConnectionRefusedError(osError=errno.ECONNREFUSED))
        )

    def accept(self, number: int) -> StringTransport:
        transport = StringTransport()
        transport.abortConnection = transport.loseConnection  # type: ignore[method-assign] # StringTransport cannot abort
        protocol = self.reactor.tcpClients[number][2].buildProtocol(None)
        assert protocol is not None
        protocol.makeConnection(transport)
        return transport

    def test_first(self) -> None:
        """The first address is tried first, the next one a moment later. The first success counts,
        and the other attempts end.
        """
        connecting = self.connect(V6, V4, OTHER_V4)
        self.assertEqual(self.tried, [("::1", 8444)])
        self.reactor.advance(ATTEMPT_DELAY_S)
        self.assertEqual(self.tried, [("::1", 8444), ("127.0.0.1", 8444)])
        self.accept(1)
        self.assertIsInstance(self.successResultOf(connecting), Protocol)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_look_up_again(self) -> None:
        """A name is looked up again if none of its addresses answers, also if the connection is
        given up.
        """
        self.connect(V4)
        self.accept(0)
        self.assertEqual(self.names.forgotten, [])
        failing = self.connect(V4)
        self.refuse(1)
        self.failureResultOf(failing, NotConnected)
        self.assertEqual(self.names.forgotten, ["my_a.example"])
        given_up = self.connect(V4)
        given_up.cancel()
        self.failureResultOf(given_up)
        self.assertEqual(self.names.forgotten, ["my_a.example"])

    def test_next(self) -> None:
        """When an attempt fails, the next one begins at once."""
        connecting = self.connect(V6, V4)
        self.refuse(0)
        self.assertEqual(len(self.tried), 2)
        self.accept(1)
        self.successResultOf(connecting)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_zone(self) -> None:
        """An address with a zone is used with its zone."""
        self.connect(IPv6Address("TCP", "fe80::1", 0, 0, 3))
        self.assertEqual(self.tried, [("fe80::1%3", 8444)])

    def test_all_fail(self) -> None:
        """When all attempts have failed, each reason is reported once."""
        connecting = self.connect(V6, V4, OTHER_V4)
        self.refuse(0, NoRouteError(osError=errno.ENETUNREACH))
        self.refuse(1)
        self.refuse(2)
        error = self.failureResultOf(connecting, NotConnected).value
        self.assertNotIsInstance(error, OutOfResources)
        self.assertEqual(
            str(error),
            "could not connect to my_a.example:8444: Network is unreachable; Connection refused",
        )

    def test_no_name(self) -> None:
        """If the name is not found, no connection is attempted."""
        self.assertIn(
            "the name my_a.example was not found",
            str(self.failureResultOf(self.connect(), NotConnected).value),
        )
        self.assertEqual(self.tried, [])

    def test_cancelled(self) -> None:
        """Cancelling ends all attempts and begins no other."""
        connecting = self.connect(V6, V4)
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertEqual(len(self.tried), 1)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_shortage(self) -> None:
        """A shortage on this machine is not reported as the server's error."""
        for number, text in (
            (errno.EMFILE, "ulimit -n"),
            (errno.ENFILE, "fs.file-max"),
            (errno.ENOBUFS, "ENOBUFS"),
            (errno.ENOMEM, "ENOMEM"),
            (errno.EADDRNOTAVAIL, "ip_local_port_range"),
        ):
            self.reactor = MemoryReactorClock()
            connecting = self.connect(V4)
            self.refuse(0, ConnectError(osError=number))
            self.assertIn(text, str(self.failureResultOf(connecting, OutOfResources).value))

    def test_shortage_beside_an_answer(self) -> None:
        """If one of the addresses has refused, the server cannot be reached, whatever happened to
        the others.
        """
        connecting = self.connect(V6, V4)
        self.refuse(0, ConnectError(osError=errno.EMFILE))
        self.refuse(1)
        error = self.failureResultOf(connecting, NotConnected).value
        self.assertNotIsInstance(error, OutOfResources)
        self.assertEqual(str(error), "could not connect to my_a.example:8444: Connection refused")

    def test_no_such_address_here(self) -> None:
        """If this machine has no suitable address of its own (::1 without IPv6), the server cannot
        be reached. That is no shortage, since waiting would not help.
        """
        self.unusable.add("::1")
        connecting = self.connect(V6)
        self.refuse(0, ConnectError(osError=errno.EADDRNOTAVAIL))
        error = self.failureResultOf(connecting, NotConnected).value
        self.assertNotIsInstance(error, OutOfResources)
        self.assertIn("Cannot assign requested address", str(error))

    def test_error_without_a_number(self) -> None:
        """Other errors are reported with their own text."""
        connecting = self.connect(V4)
        self.refuse(0, UserError("something else"))
        self.assertIn("something else", str(self.failureResultOf(connecting, NotConnected).value))
