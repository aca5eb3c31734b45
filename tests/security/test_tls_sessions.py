"""Resumed TLS sessions: when they are used, and what ends them. All handshakes are real."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import time
from typing import Any, cast

from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import NotConnected
from rtprov.network.connecting import ServerEndpoint
from rtprov.security.tls_client import VerifiedServers
from rtprov.security.tls_sessions import MAX_CERTIFICATES, MAX_FAILURES, KnownServer
from tests.support.certificates import DAY, Authority, Identity, dns
from tests.support.memory import MemoryNetwork

OURS, OTHERS = Authority(), Authority("another authority")
BOTH_NAMES = OURS.issue(dns("a.example", "b.example"))


def with_tickets(identity: Identity) -> CertificateOptions:
    """Return a server that sends session tickets, as most servers do."""
    return CertificateOptions(
        privateKey=PKey.from_cryptography_key(identity.key),
        certificate=X509.from_cryptography(identity.certificate),
        enableSessionTickets=True,
    )


class Closing(Protocol):
    """Ends the handshake of a client."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class Speaker(Protocol):
    """Sends one byte at once."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"!")


class Sessions(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.ca = Path(folder.name) / "ca.pem"
        self.ca.write_bytes(OURS.pem)
        self.now = time()
        self.servers = VerifiedServers(self.ca, wall_clock=lambda: self.now)
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.listen(with_tickets(BOTH_NAMES))

    def listen(self, options: Any) -> None:
        """Let this server answer from now on."""
        factory = TLSMemoryBIOFactory(
            options, False, Factory.forProtocol(Speaker), cast("IReactorTime", self.clock)
        )
        self.network.listen("a").listen(factory)

    def fail_next(self) -> None:
        """Let the server end the handshake of the next connection."""
        working = self.network.factories["a"]

        def close() -> Protocol:
            self.network.factories["a"] = working
            return Closing()

        self.network.listen("a").listen(Factory.forProtocol(close))

    def connecting(self, host: str, port: int) -> Deferred[IProtocol]:
        endpoint = ServerEndpoint(
            self.network.connect("a"),
            where=f"{host}:{port}",
            secure=lambda: self.servers.server(host, port),
            timeout_s=10.0,
            at_once=10,
            clock=cast("IReactorTime", self.clock),
        )
        connecting = endpoint.connect(Factory.forProtocol(Speaker))
        self.network.settle()
        return connecting

    def connect(self, host: str = "a.example", port: int = 443) -> bool:
        """Connect; return whether the handshake was resumed."""
        before = self.servers.known(host, port).resumed
        self.successResultOf(self.connecting(host, port))
        return self.servers.known(host, port).resumed > before

    def test_resumed(self) -> None:
        """All connections after the first one resume its session."""
        self.assertEqual([self.connect() for _ in range(4)], [False, True, True, True])

    def test_tls_1_2(self) -> None:
        """So do connections of TLS 1.2."""
        options = with_tickets(BOTH_NAMES)
        options.getContext().set_options(SSL.OP_NO_TLSv1_3)
        self.listen(options)
        self.assertEqual([self.connect() for _ in range(3)], [False, True, True])

    def test_no_sessions(self) -> None:
        """A server without sessions is verified each time."""
        self.listen(BOTH_NAMES.options())
        self.assertEqual([self.connect() for _ in range(3)], [False, False, False])

    def test_other_host(self) -> None:
        """A session belongs to one host and port."""
        self.assertEqual([self.connect() for _ in range(2)], [False, True])
        self.assertFalse(self.connect("b.example"))
        self.assertFalse(self.connect("a.example", 444))
        self.assertTrue(self.connect("b.example"))

    def test_restarted(self) -> None:
        """A server that does not know the session any more is verified, and its new session is
        resumed.
        """
        self.connect()
        self.listen(with_tickets(BOTH_NAMES))
        self.assertEqual([self.connect() for _ in range(3)], [False, True, True])

    def test_reloaded(self) -> None:
        """New files end all sessions and all earlier checks of certificates."""
        self.assertEqual([self.connect() for _ in range(2)], [False, True])
        self.servers.load()
        self.assertEqual([self.connect() for _ in range(2)], [False, True])
        self.ca.write_bytes(OTHERS.pem)
        self.servers.load()
        failing = self.connecting("a.example", 443)
        self.failureResultOf(failing, NotConnected)

    def test_reloaded_during_a_handshake(self) -> None:
        """A session that was verified with the files before is not resumed."""
        server = self.servers.server("a.example", 443)
        self.servers.load()
        endpoint = ServerEndpoint(
            self.network.connect("a"),
            where="a",
            secure=lambda: server,
            timeout_s=10.0,
            at_once=1,
            clock=cast("IReactorTime", self.clock),
        )
        connecting = endpoint.connect(Factory.forProtocol(Speaker))
        self.network.settle()
        self.successResultOf(connecting)
        self.assertFalse(self.connect())

    def test_expired(self) -> None:
        """A session is not resumed after the end of a certificate that was verified for it."""
        self.connect()
        end = BOTH_NAMES.certificate.not_valid_after_utc.timestamp()
        self.now = end - 1.0
        self.assertTrue(self.connect())
        self.now = end
        self.assertFalse(self.connect())

    def test_expired_authority(self) -> None:
        """The certificates of the authorities count, too."""
        self.listen(with_tickets(OURS.issue(dns("a.example"), ends_in=100 * DAY)))
        self.assertEqual([self.connect() for _ in range(2)], [False, True])
        self.now = OURS.certificate.not_valid_after_utc.timestamp()
        self.assertFalse(self.connect())

    def test_fails(self) -> None:
        """If a resumed handshake fails, a full one follows at once, and its session is used."""
        self.connect()
        self.fail_next()
        self.assertFalse(self.connect())
        self.assertEqual(len(self.network.connections), 2)  # without the failed one
        self.assertTrue(self.connect())

    def test_fails_again_and_again(self) -> None:
        """After three failed handshakes in succession, no more sessions are resumed."""
        self.connect()
        for _ in range(MAX_FAILURES):
            self.fail_next()
            self.assertFalse(self.connect())
        self.assertEqual([self.connect() for _ in range(2)], [False, False])
        self.servers.load()
        self.assertEqual([self.connect() for _ in range(2)], [False, True])

    def test_failed_for_another_reason(self) -> None:
        """A handshake without a session is not repeated."""
        self.listen(OTHERS.issue(dns("a.example")).options())
        before = self.network._ports
        self.failureResultOf(self.connecting("a.example", 443), NotConnected)
        self.assertEqual(self.network._ports, before + 1)


class Certificates(SynchronousTestCase):
    def test_remembered(self) -> None:
        """The number of remembered certificates is limited."""
        known = KnownServer(time)
        for number in range(MAX_CERTIFICATES):
            known.checked(b"%d" % number)
        self.assertTrue(known.has_checked(b"0"))
        known.checked(b"one more")
        self.assertEqual((known.has_checked(b"0"), known.has_checked(b"one more")), (False, True))
