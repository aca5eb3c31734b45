"""ALPN: the protocols that a server negotiates (RFC 7301)."""

from __future__ import annotations

from typing import cast

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from zope.interface import implementer

from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.memory import MemoryStorage
from rtprov.http.site import JsonSite
from rtprov.security.tls_server import TLSEndpoint
from tests.support.memory import MemoryNetwork
from tests.support.tls_peers import Peer
from tests.support.tls_server_case import ServerTestCase


@implementer(IOpenSSLClientConnectionCreator)
class Offering:
    """A client that offers these protocols, or does not use ALPN. It verifies nothing."""

    def __init__(self, protocols: list[bytes] | None, version: int) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_min_proto_version(version)
        self._context.set_max_proto_version(version)
        if protocols is not None:
            self._context.set_alpn_protos(protocols)

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class Talker(Peer):
    """Sends data that no server understands, and keeps the answer and the negotiated protocol."""

    agreed: bytes | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"nonsense\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.agreed = self.tls.get_alpn_proto_negotiated()
        super().dataReceived(data)


class Alpn(ServerTestCase):
    def offer(
        self,
        factory: IProtocolFactory,
        protocols: list[bytes] | None,
        version: int = SSL.TLS1_3_VERSION,
    ) -> Talker:
        """Connect a client to a server of `factory`, and exchange data; return the client."""
        clock = Clock()
        network = MemoryNetwork(clock)
        TLSEndpoint(network.listen("a"), self.identity, cast("IReactorTime", clock)).listen(factory)
        client = Talker()
        factory = TLSMemoryBIOFactory(
            Offering(protocols, version), True, Factory.forProtocol(lambda: client), clock
        )
        network.connect("a").connect(factory)
        network.advance(1)
        network.cut("a")
        network.settle()
        return client

    def site(self) -> JsonSite:
        return JsonSite(Resource(), reactor=cast("IReactorTime", Clock()))

    def test_in_common(self) -> None:
        """HTTP/1.1 is negotiated, or otherwise HTTP/1.0, whatever else a client offers and in
        whatever order.
        """
        for protocols, agreed in (
            ([b"http/1.1"], b"http/1.1"),
            ([b"http/1.0"], b"http/1.0"),
            ([b"http/1.0", b"http/1.1"], b"http/1.1"),
            ([b"h2", b"http/1.1"], b"http/1.1"),
            ([b"h2", b"http/1.0", b"spdy/3"], b"http/1.0"),
        ):
            for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
                peer = self.offer(self.site(), protocols, version)
                self.assertEqual(peer.agreed, agreed)
                self.assertIn(b"HTTP/1.1 400", peer.heard)

    def test_nothing_in_common(self) -> None:
        """A client that offers only other protocols gets alert 120, and is not served."""
        for protocols in (
            [b"h2"],
            [b"http/0.9"],
            [b"HTTP/1.1"],
            [b"http/1.1x"],
            [b"amqp"],
            [b"h2", b"h3"],
        ):
            for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
                peer = self.offer(self.site(), protocols, version)
                assert peer.reason is not None
                self.assertIn("alert no application protocol", str(peer.reason.value).lower())
                self.assertEqual(peer.heard, b"")

    def test_not_offered(self) -> None:
        """A client that does not use ALPN is served."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.assertIn(b"HTTP/1.1 400", self.offer(self.site(), None, version).heard)

    def test_after_a_reload(self) -> None:
        """The same holds after certificates are reloaded."""
        self.identity.reload()
        self.assertEqual(self.offer(self.site(), [b"h2", b"http/1.1"]).agreed, b"http/1.1")
        self.assertEqual(self.offer(self.site(), [b"h2"]).heard, b"")

    def test_broker(self) -> None:
        """AMQP 0-9-1 has no ALPN name: the embedded broker serves a client whatever it offers, as
        RabbitMQ does.
        """
        for protocols in (None, [b"amqp"], [b"h2", b"http/1.1"]):
            broker = make_broker(clock=cast("IReactorTime", Clock()), storage=MemoryStorage())
            peer = self.offer(BrokerFactory(broker), protocols)
            self.assertEqual(
                (peer.agreed, peer.heard[:4]), (b"", b"AMQP")
            )  # the protocol version that the client should use
