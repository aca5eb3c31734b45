"""Test peers for a TLS connection in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import time
from typing import Any, cast

import trustme
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rtprov.security.certificates import (
    server_options,
)
from rtprov.security.tls_client import VerifiedServers
from tests.support.memory import MemoryNetwork

PING = b"ping"


class Peer(Protocol):
    """Sends "ping", and keeps what it receives, and why the connection ended."""

    def __init__(self) -> None:
        self.heard = b""
        self.reason: Failure | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(PING)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason

    @property
    def tls(self) -> SSL.Connection:
        """The TLS connection's pyOpenSSL object."""
        return cast("SSL.Connection", cast("TLSMemoryBIOProtocol", self.transport).getHandle())


class Peers(Factory):
    """A factory of one peer."""

    noisy = False

    def __init__(self) -> None:
        self.peer = Peer()

    def buildProtocol(self, addr: object) -> Peer:
        return self.peer


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class Old:
    """Options of an end that speaks at most this TLS version, and verifies nothing."""

    def __init__(
        self, version: int, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_cipher_list(b"ALL:@SECLEVEL=0")
        self._context.set_max_proto_version(version)
        if certificate is not None and key is not None:
            self._context.use_certificate_file(str(certificate))
            self._context.use_privatekey_file(str(key))

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    clientConnectionForTLS = serverConnectionForTLS


class TlsTestCase(SynchronousTestCase):
    """Certificates in `folder`: "a" (.pem, .key) is for a.example, 127.0.0.1 and ::1, "client" for
    a client. "ca.pem" signed both.
    """

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(self.file("ca.pem")))
        trustme.CA().cert_pem.write_to_path(str(self.file("other-ca.pem")))
        self.issue("a", self.ca, "a.example", "127.0.0.1", "::1")
        self.issue("client", self.ca, "client.example")

    def file(self, name: str) -> Path:
        return self.folder / name

    def issue(self, name: str, ca: trustme.CA, *hosts: str) -> None:
        leaf = ca.issue_cert(*hosts)
        self.file(f"{name}.key").write_bytes(leaf.private_key_pem.bytes())
        self.file(f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))

    def handshake(self, server: Any, client: Any) -> tuple[Peer, Peer]:
        """Connect, and let both sides send and receive."""
        clock = Clock()
        network = MemoryNetwork(clock)
        here, there = Peers(), Peers()
        network.listen("a").listen(TLSMemoryBIOFactory(server, False, there, clock))
        self.successResultOf(self.connected(network, clock, client, here))
        return there.peer, here.peer

    def connected(
        self, network: MemoryNetwork, clock: Clock, client: Any, here: Peers
    ) -> Deferred[Any]:
        connecting = network.connect("a").connect(TLSMemoryBIOFactory(client, True, here, clock))
        network.advance(1)
        return connecting

    def server(self, client_ca: str | None = None) -> Any:
        return server_options(
            self.file("a.pem"),
            self.file("a.key"),
            None if client_ca is None else self.file(client_ca),
        )

    def client(
        self, host: str = "a.example", ca: str = "ca.pem", identity: str | None = None
    ) -> Any:
        files = (
            () if identity is None else (self.file(f"{identity}.pem"), self.file(f"{identity}.key"))
        )
        return VerifiedServers(self.file(ca), *files, wall_clock=time).server(host)

    def assert_agreed(self, peers: tuple[Peer, Peer]) -> None:
        for peer in peers:
            self.assertEqual((peer.heard, peer.reason), (PING, None))

    def assert_failed(self, peer: Peer, text: str) -> None:
        """Check that the connection of `peer` failed before it received data, for a reason that
        contains `text`.
        """
        assert peer.reason is not None
        self.assertEqual(peer.heard, b"")
        self.assertIn(text, repr(peer.reason.value))
