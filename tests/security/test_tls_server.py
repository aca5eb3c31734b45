"""A server's TLS: ciphers, certificates that are replaced while it runs, and the limit of
connections.
"""

from __future__ import annotations

from time import time
from typing import Any, cast

import trustme
from OpenSSL import SSL
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory

from rtprov.errors import ConfigurationError
from rtprov.security.limits import Connections
from rtprov.security.tls_client import VerifiedServers
from rtprov.security.tls_server import WARN_EVERY_S, TLSEndpoint
from tests.support.memory import MemoryNetwork
from tests.support.tls_peers import PING, Old, Peers
from tests.support.tls_server_case import Everybody, ServerTestCase


class Suite(Old):
    """A TLS 1.2 client with a single cipher suite."""

    def __init__(self, name: str) -> None:
        super().__init__(SSL.TLS1_2_VERSION)
        self._context.set_cipher_list(f"{name}:@SECLEVEL=0".encode())


class Ciphers(ServerTestCase):
    def test_suites(self) -> None:
        """For TLS 1.2 a server accepts suites with forward secrecy and authenticated encryption,
        and no other that the client supports.
        """
        for name, agreed in (
            ("ECDHE-RSA-AES128-GCM-SHA256", False),  # the certificate has no RSA key
            ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
            ("ECDHE-ECDSA-AES256-GCM-SHA384", True),
            ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
            ("ECDHE-ECDSA-AES128-SHA256", False),
            ("ECDHE-ECDSA-AES256-SHA", False),
            ("ECDHE-ECDSA-AES128-CCM", False),
        ):
            server, client = self.handshake(self.identity, Suite(name))
            if agreed:
                self.assert_agreed((server, client))
                self.assertEqual(server.tls.get_cipher_name(), name)
            else:
                self.assert_failed(server, "no shared cipher")


class Replacing(ServerTestCase):
    def test_reload(self) -> None:
        """After a reload new connections get the new certificate. An existing one continues with
        the old one.
        """
        clock = Clock()
        network = MemoryNetwork(clock)
        everybody = Everybody()
        TLSEndpoint(network.listen("a"), self.identity, cast("IReactorTime", clock)).listen(
            everybody
        )
        here, there = Peers(), Peers()
        self.successResultOf(self.connected(network, clock, self.client(), here))
        self.issue("a", self.ca, "a.example")
        self.identity.reload()
        self.successResultOf(self.connected(network, clock, self.client(), there))
        old, new = (
            self.serial_seen((everybody.peers[0], each)) for each in (here.peer, there.peer)
        )
        self.assertNotEqual(old, new)
        cast("Any", here.peer.transport).write(b"still here")
        network.settle()
        self.assertEqual([peer.heard for peer in everybody.peers], [PING + b"still here", PING])

    def test_changed(self) -> None:
        """A file that is replaced, removed or restored is noticed, until it has been loaded."""
        self.assertFalse(self.identity.changed)
        self.issue("a", self.ca, "a.example")
        self.assertTrue(self.identity.changed)
        self.identity.reload()
        self.assertFalse(self.identity.changed)
        self.file("a.key").unlink()
        self.assertTrue(self.identity.changed)
        self.assertRaises(ConfigurationError, self.identity.reload)
        self.assertTrue(self.identity.changed)
        self.issue("a", self.ca, "a.example")
        self.assertTrue(self.identity.changed)
        self.identity.reload()
        self.assertFalse(self.identity.changed)

    def test_half_replaced(self) -> None:
        """If certificate and key do not match, or a file is damaged, the previous ones stay
        in use.
        """
        before = self.serial_seen(self.handshake(self.identity, self.client()))
        key = self.file("a.key").read_bytes()
        self.issue("a", self.ca, "a.example")
        new_key = self.file("a.key").read_bytes()
        for content in (key, b"", new_key[:50]):
            self.file("a.key").write_bytes(content)
            self.assertRaises(ConfigurationError, self.identity.reload)
            self.assertEqual(self.serial_seen(self.handshake(self.identity, self.client())), before)
        self.file("a.key").write_bytes(new_key)
        self.identity.reload()
        self.assertNotEqual(self.serial_seen(self.handshake(self.identity, self.client())), before)

    def test_client_ca(self) -> None:
        """After the client CA is replaced, its clients are accepted, and those of the old one are
        refused.
        """
        identity = self.new_identity("ca.pem")
        self.assert_agreed(self.handshake(identity, self.client(identity="client")))
        other = trustme.CA()
        self.issue("new-client", other, "client.example")
        other.cert_pem.write_to_path(str(self.file("client-ca.pem")))
        self.file("client-ca.pem").replace(self.file("trusted.pem"))
        identity = self.new_identity("trusted.pem")
        self.assert_agreed(self.handshake(identity, self.client(identity="new-client")))
        self.file("trusted.pem").write_bytes(self.file("ca.pem").read_bytes())
        identity.reload()
        self.assert_agreed(self.handshake(identity, self.client(identity="client")))
        server, _ = self.handshake(identity, self.client(identity="new-client"))
        self.assert_failed(server, "certificate verify failed")

    def test_client(self) -> None:
        """A client reloads its files as a server does: the trusted CA, and its own certificate."""
        policy = VerifiedServers(
            self.file("ca.pem"), self.file("client.pem"), self.file("client.key"), wall_clock=time
        )
        self.assertFalse(policy.changed)
        before = policy.server("a.example")
        identity, old_ca = self.new_identity("ca.pem"), self.ca
        self.assert_agreed(self.handshake(identity, before))
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(self.file("ca.pem")))
        self.issue("a", self.ca, "a.example")
        self.issue("client", old_ca, "client.example")
        identity.reload()
        self.assertTrue(policy.changed)
        policy.reload()
        server, _ = self.handshake(identity, policy.server("a.example"))
        # The client's certificate is of the old CA.
        self.assert_failed(server, "certificate verify failed")
        self.issue("client", self.ca, "client.example")
        policy.reload()
        self.assert_agreed(self.handshake(identity, policy.server("a.example")))
        self.file("client.key").write_bytes(b"")
        self.assertRaises(ConfigurationError, policy.reload)
        self.assert_agreed(self.handshake(identity, policy.server("a.example")))

    def test_whose_time_runs_out(self) -> None:
        """The files that can expire are the certificate and the client CA."""
        self.assertEqual(self.identity.certificates, [self.file("a.pem")])
        self.assertEqual(
            self.new_identity("ca.pem").certificates, [self.file("a.pem"), self.file("ca.pem")]
        )


class ConnectionLimits(ServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.connections = Connections(total=2, per_address=2)
        self.everybody = Everybody()
        reactor = cast("IReactorTime", self.clock)
        TLSEndpoint(self.network.listen("a"), self.identity, reactor, self.connections).listen(
            self.everybody
        )
        self.warnings: list[str] = []
        observer = cast("ILogObserver", self._observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _observe(self, event: LogEvent) -> None:
        if event["log_namespace"] == "rtprov.security.tls_server":
            self.warnings.append(formatEvent(event))

    def connect(self) -> bool:
        """Return whether a client is served."""
        before = len(self.everybody.peers)
        connecting = self.network.connect("a").connect(
            TLSMemoryBIOFactory(self.client(), True, Peers(), self.clock)
        )
        connecting.addErrback(lambda _: None)
        self.network.advance(1)
        return len(self.everybody.peers) > before

    def test_limit(self) -> None:
        """One connection too many is closed. When another is closed, there is room again."""
        self.assertEqual([self.connect() for _ in range(4)], [True, True, False, False])
        self.assertEqual(self.connections.open, 2)
        self.network.cut("a")
        self.network.settle()
        self.assertEqual(self.connections.open, 0)
        self.assertEqual([self.connect() for _ in range(3)], [True, True, False])

    def test_limit_below(self) -> None:
        """A connection that the factory above TLS refuses is closed too."""
        self.everybody.room = 1
        self.assertEqual([self.connect(), self.connect()], [True, False])
        self.assertEqual(self.connections.open, 1)

    def test_failed_handshakes(self) -> None:
        """A connection whose handshake fails is no longer counted once it is closed."""
        old = Old(SSL.TLS1_1_VERSION)
        for _ in range(5):
            self.network.connect("a").connect(
                TLSMemoryBIOFactory(cast("Any", old), True, Peers(), self.clock)
            )
            self.network.advance(1)
        self.assertEqual((len(self.everybody.peers), self.connections.open), (5, 0))

    def test_told(self) -> None:
        """This is logged once a minute, however many connections are closed."""
        for _ in range(10):
            self.connect()
        self.assertEqual(
            self.warnings,
            ["too many connections: closed one from 127.0.0.1; more are not logged for 60 s"],
        )
        self.network.advance(WARN_EVERY_S)
        self.connect()
        self.assertEqual(len(self.warnings), 2)
