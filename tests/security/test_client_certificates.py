"""Client certificates: which ones a server accepts, and the caller's name in them."""

from __future__ import annotations

from typing import Any, cast

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ObjectIdentifier
from OpenSSL.crypto import FILETYPE_ASN1, X509, load_certificate
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import StringTransport
from zope.interface import directlyProvides

from rtprov.http.admission import caller_at
from rtprov.security.certificates import server_options
from tests.support.certificates import CLIENT, DAY, SERVER, Authority, Identity, dns
from tests.support.tls_peers import PING, Peer, TlsTestCase


class Clients(TlsTestCase):
    """Clients of a server with a client CA, with the certificate that they show."""

    ours = Authority()
    between = Authority("between", ours)

    def setUp(self) -> None:
        super().setUp()
        self.file("client-ca.pem").write_bytes(self.ours.pem)

    def connect(self, identity: Identity) -> Peer:
        """Return the server's side of a connection with such a client."""
        identity.write(self.folder, "client")
        server, _ = self.handshake(
            server_options(self.file("a.pem"), self.file("a.key"), self.file("client-ca.pem")),
            self.client(identity="client"),
        )
        return server

    def caller(self, *common_names: str, usage: ObjectIdentifier | None = CLIENT) -> str:
        """Return the caller for a client with these common names."""
        server = self.connect(
            self.ours.issue(dns("client.example"), common_names=common_names, usage=usage)
        )
        self.assertEqual(server.heard, PING)
        return caller_at(cast("Any", server.transport)).name

    def test_refused(self) -> None:
        """A client whose certificate is of another CA, not for clients, or not valid now, is
        refused.
        """
        for what, identity in {
            "of another authority": Authority().issue(dns("client.example"), usage=CLIENT),
            "of another authority of the same name": Authority().issue(
                None, common_names=["billing"], usage=CLIENT
            ),
            "self-signed": self.ours.issue(None, usage=CLIENT, self_signed=True),
            "for servers only": self.ours.issue(dns("client.example"), usage=SERVER),
            "expired": self.ours.issue(None, usage=CLIENT, begins_in=-2 * DAY, ends_in=-DAY),
            "not yet valid": self.ours.issue(None, usage=CLIENT, begins_in=DAY, ends_in=2 * DAY),
            "the intermediate authority is missing": self.between.issue(None, usage=CLIENT),
        }.items():
            server = self.connect(identity)
            self.assert_failed(server, "certificate verify failed")
            self.assertEqual(server.heard, b"", what)

    def test_accepted(self) -> None:
        """A certificate of the CA is accepted, also through an intermediate authority, and if it
        has no extended key usage.
        """
        for identity in (
            self.ours.issue(None, usage=CLIENT),
            self.ours.issue(None, usage=None),
            self.between.issue([], usage=CLIENT, chain=[self.between.certificate]),
        ):
            self.assertEqual(self.connect(identity).heard, PING)

    def test_common_name(self) -> None:
        """A client with a certificate is known by its common name, in one line of limited length.
        Without one it is known by its address.
        """
        self.assertEqual(self.caller("billing 7"), "certificate:billing 7")
        self.assertEqual(self.caller("счёт"), "certificate:счёт")
        self.assertEqual(self.caller("a\nb\x1b"), "certificate:a\ufffdb\ufffd")
        self.assertEqual(self.caller("x" * 64), "certificate:" + "x" * 64)
        self.assertEqual(self.caller("token:billing"), "certificate:token:billing")
        self.assertEqual(self.caller(), "address:127.0.0.1")

    def test_no_name_of_its_own(self) -> None:
        """A client whose name is empty, too long, not the only one, or unreadable is known by its
        address, never by another client's name.
        """
        for common_names in (["billing", "intruder"], ["billing", "billing"], ["x" * 65], [""]):
            self.assertEqual(self.caller(*common_names), "address:127.0.0.1", common_names)
        self.flushWarnings()  # of `cryptography`, about the lengths
        transport = Unreadable(peerAddress=IPv4Address("TCP", "127.0.0.1", 1))
        directlyProvides(transport, ISSLTransport)
        self.assertEqual(caller_at(transport).name, "address:127.0.0.1")


class Unreadable(StringTransport):
    """A connection whose peer shows a certificate with a common name that is not text: a
    PrintableString with other bytes.
    """

    def getPeerCertificate(self) -> X509:
        der = (
            Authority().issue(None, common_names=["ABCDEF"]).certificate.public_bytes(Encoding.DER)
        )
        return load_certificate(
            FILETYPE_ASN1, der.replace(b"\x0c\x06ABCDEF", b"\x13\x06" + b"\xff" * 6)
        )
