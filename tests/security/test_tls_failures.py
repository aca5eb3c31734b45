"""Descriptions of failed TLS handshakes."""

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
    """Return how the handshake of a client fails that expects `hostname` and trusts one CA, with a
    server ``localhost`` of another CA.
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
        """A certificate of an unknown CA is described as such."""
        text = explain(failure_of_handshake("localhost", self.ours, trustme.CA()))
        self.assertEqual(
            text, "TLS: certificate verify failed (it has expired, or no trusted CA has signed it)"
        )

    def test_certificate(self) -> None:
        """A certificate that was refused for its names is described with the reason."""
        self.assertEqual(
            explain(CertificateRefused("the certificate is for b, and not for a")),
            "TLS: the certificate is for b, and not for a",
        )

    def test_reasons(self) -> None:
        """OpenSSL's verification errors are described in words, for the server's certificate and
        for its CAs. An unknown error is given by its number.
        """
        self.assertEqual(reason_of_refusal(10, 0), "the certificate has expired")
        self.assertEqual(reason_of_refusal(10, 1), "a certificate in the chain has expired")
        self.assertEqual(
            reason_of_refusal(9999, 0), "the certificate was refused (OpenSSL error 9999)"
        )

    def test_no_tls(self) -> None:
        """Of OpenSSL's errors only the reasons are shown."""
        text = explain(
            SSL.Error([("SSL routines", "", "wrong version number"), ("SSL routines", "", "alert")])
        )
        self.assertEqual(text, "TLS: wrong version number (is the other side a TLS server?); alert")

    def test_other_errors(self) -> None:
        """Other errors, and errors without a reason, get no explanation."""
        for error in (
            ConnectionError("refused"),
            SSL.Error(),
            SSL.Error([]),
            SSL.SysCallError(-1, "Unexpected EOF"),
            SSL.ZeroReturnError(),
        ):
            self.assertIsNone(explain(error))
