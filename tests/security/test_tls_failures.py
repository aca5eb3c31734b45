"""What is said where TLS did not come about."""

from __future__ import annotations

import trustme
from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtprov.security.tls_failures import CertificateRefused, explain, reason_of_refusal


class _Client(Protocol):
    reason: Failure | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


def failure_of_handshake(hostname: str, trusted: trustme.CA, issuer: trustme.CA) -> BaseException:
    """How a client fails that calls `hostname` and trusts one CA, at a server that is called
    ``localhost`` by another.
    """
    identity = issuer.issue_cert("localhost")
    pem = identity.private_key_pem.bytes() + identity.cert_chain_pems[0].bytes()
    server_options: CertificateOptions = PrivateCertificate.loadPEM(pem).options()
    trust_root = trustRootFromCertificates([Certificate.loadPEM(trusted.cert_pem.bytes())])
    protocol = _Client()
    client = TLSMemoryBIOFactory(
        optionsForClientTLS(hostname, trust_root), True, Factory.forProtocol(lambda: protocol)
    ).buildProtocol(None)
    server = TLSMemoryBIOFactory(
        server_options, False, Factory.forProtocol(Protocol)
    ).buildProtocol(None)
    ends: list[tuple[TLSMemoryBIOProtocol, StringTransport]] = [
        (client, StringTransport()),
        (server, StringTransport()),
    ]
    for end, transport in ends:
        end.makeConnection(transport)
    for _ in range(4):
        for (_, source), (target, _) in (ends, reversed(ends)):
            data = source.value()
            source.clear()
            if data:
                target.dataReceived(data)
    client.connectionLost(Failure(ConnectionError()))
    assert protocol.reason is not None and protocol.reason.value is not None
    return protocol.reason.value


class Explanations(SynchronousTestCase):
    def setUp(self) -> None:
        self.ours = trustme.CA()

    def test_unknown_ca(self) -> None:
        """A certificate of a CA that is not ours is called that."""
        text = explain(failure_of_handshake("localhost", self.ours, trustme.CA()))
        self.assertEqual(
            text, "TLS: certificate verify failed (it has expired, or no trusted CA has signed it)"
        )

    def test_certificate(self) -> None:
        """A certificate that was refused for its names is told of in the words of the refusal."""
        self.assertEqual(
            explain(CertificateRefused("the certificate is for b, and not for a")),
            "TLS: the certificate is for b, and not for a",
        )

    def test_reasons(self) -> None:
        """What OpenSSL objects to is said in words, of the server's own certificate or of one of
        its CAs'; what is new by its number.
        """
        self.assertEqual(reason_of_refusal(10, 0), "the certificate has expired")
        self.assertEqual(reason_of_refusal(10, 1), "a certificate in the chain has expired")
        self.assertEqual(
            reason_of_refusal(9999, 0), "the certificate was refused (OpenSSL error 9999)"
        )

    def test_no_tls(self) -> None:
        """Of what OpenSSL says only the reasons are told."""
        text = explain(
            SSL.Error([("SSL routines", "", "wrong version number"), ("SSL routines", "", "alert")])
        )
        self.assertEqual(text, "TLS: wrong version number (is the other side a TLS server?); alert")

    def test_other_errors(self) -> None:
        """What is no failure of TLS, or has no reason, is not explained."""
        for error in (
            ConnectionError("refused"),
            SSL.Error(),
            SSL.Error([]),
            SSL.SysCallError(-1, "Unexpected EOF"),
            SSL.ZeroReturnError(),
        ):
            self.assertIsNone(explain(error))
